"""What was inserted, or must not have been, as assertions. River: rivertest.RequireInserted and its kin.

Any thread; owns nothing. Reads the jobs of the kinds in question, on a client's pool or in the test's own transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from river_fast.driver import Statement, stored_rows
from river_fast.errors import ValidationError
from river_fast.job import Job
from river_fast.testing.expected_job import ExpectedJob, expected
from river_fast.testing.place import Steps, run


def require_inserted(where: Any, args: Any, *, schema: str | None = None, **properties: Any) -> Any:
    """The one job of a kind that was inserted; `AssertionError` where there is none, more than one, or one of other
    properties. River: RequireInserted, RequireInsertedTx.

    `where`: a client, or a connection: then its transaction is looked into. `args`: an args type, a kind, or a value
    that must be equal; `properties`: those of `ExpectedJob`. Awaitable for an `AsyncClient` or an async connection.
    """
    __tracebackhide__ = True
    return run(where, schema, _inserted(ExpectedJob(args, **properties)))


def require_many_inserted(where: Any, jobs: Iterable[Any], *, schema: str | None = None) -> Any:
    """Jobs of these kinds were inserted in this order and number, no more and no fewer; they are returned, by id.
    River: RequireManyInserted, RequireManyInsertedTx.

    `jobs`: `ExpectedJob`s, args types, kinds or args values. Else as `require_inserted`.
    """
    __tracebackhide__ = True
    wanted = [expected(job) for job in jobs]
    if not wanted:
        raise ValidationError("jobs", "none are expected: require_not_inserted is for kinds that must not be there")
    return run(where, schema, _many_inserted(wanted))


def require_not_inserted(where: Any, args: Any, *, schema: str | None = None, **properties: Any) -> Any:
    """No job of the kind was inserted, or none that has all of these properties. River: RequireNotInserted,
    RequireNotInsertedTx. Else as `require_inserted`."""
    __tracebackhide__ = True
    return run(where, schema, _not_inserted(ExpectedJob(args, **properties)))


def _inserted(wanted: ExpectedJob) -> Steps[Job[Any]]:
    __tracebackhide__ = True
    jobs = yield _of_kinds([wanted.kind])
    if not jobs:
        raise AssertionError(f"no job of kind {wanted.kind!r} was inserted")
    if len(jobs) > 1:
        raise AssertionError(
            f"{len(jobs)} jobs of kind {wanted.kind!r} were inserted, expected one: ids {_ids(jobs)}"
            " (require_many_inserted takes several)"
        )
    _require_equal(wanted, jobs[0], "")
    return wanted.decoded(jobs[0])


def _many_inserted(wanted: Sequence[ExpectedJob]) -> Steps[list[Job[Any]]]:
    __tracebackhide__ = True
    kinds = [one.kind for one in wanted]
    jobs = yield _of_kinds(sorted(set(kinds)))
    inserted = [job.kind for job in jobs]
    if inserted != kinds:
        same = Counter(inserted) == Counter(kinds)
        raise AssertionError(
            f"the jobs inserted are {'in another order than' if same else 'not'} those expected\n"
            f"  expected: {', '.join(kinds)}\n  inserted: {', '.join(inserted) or 'none'}"
        )
    for index, (one, job) in enumerate(zip(wanted, jobs, strict=True)):
        _require_equal(one, job, f" (jobs[{index}])")
    return [one.decoded(job) for one, job in zip(wanted, jobs, strict=True)]


def _not_inserted(unwanted: ExpectedJob) -> Steps[None]:
    __tracebackhide__ = True
    jobs = yield _of_kinds([unwanted.kind])
    found = [job for job in jobs if all(equal for _, equal, _ in unwanted.compared(job))]
    if found:
        properties = ", ".join(name for name, _, _ in unwanted.compared(found[0]))
        excluded = f" with the excluded {properties}" if properties else ""
        raise AssertionError(
            f"{len(found)} of kind {unwanted.kind!r}{excluded} inserted, expected none: ids {_ids(found)}"
        )


def _require_equal(wanted: ExpectedJob, job: Job[Any], which: str) -> None:
    __tracebackhide__ = True
    wrong = [text for _, equal, text in wanted.compared(job) if not equal]
    if wrong:
        raise AssertionError(f"job {job.id} of kind {job.kind!r}{which} is not as expected\n  " + "\n  ".join(wrong))


def _ids(jobs: Sequence[Job[Any]]) -> str:
    some = ", ".join(str(job.id) for job in jobs[:10])
    return some if len(jobs) <= 10 else f"{some}, ..."


def _of_kinds(kinds: Sequence[str]) -> Statement[list[Job[Any]]]:
    def parse(rows: Any, count: int) -> list[Job[Any]]:
        return [Job(row) for row in stored_rows(rows, count)]

    return Statement("job_get_by_kind_many", {"kinds": list(kinds)}, parse)
