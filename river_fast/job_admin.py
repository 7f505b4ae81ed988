"""Verbs on jobs: get, list, update, cancel, retry, delete. River: Client.JobGet, JobList, JobUpdate, JobCancel, ...

Any thread; owns nothing. Each verb is one statement, run on a connection of the pool, on the caller's transaction
(`_tx`, sync or async: then the answer is awaitable), or in an async transaction (`_async`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from river_fast.control import BIGINT_MAX, CONTROL_TOPIC, INSERT_TOPIC, ControlAction, ControlMessage, channel
from river_fast.driver import Driver, RawRow, Statement
from river_fast.encoding import encode_metadata, encode_object
from river_fast.errors import JobRunningError, NotFoundError, ValidationError
from river_fast.job import Job, JobState
from river_fast.job_filters import JobFilters, check_filters, check_limit, filter_forms
from river_fast.job_list import JobListOptions, JobListResult, job_list_statement
from river_fast.job_row import COLUMNS, StoredRow, loads_exact
from river_fast.job_run import OUTPUT_MAX_BYTES, check_metadata_key
from river_fast.statement_runner import StatementRunner

NOT_GIVEN: Any = object()  # an output may be anything, None too


class JobAdmin:
    """`poke` hears of each cancel made here outside a caller's transaction, `poke_queues` of the queue of each job that
    was made available: for clients that cannot LISTEN."""

    def __init__(
        self,
        driver: Driver,
        *,
        poke: Callable[[ControlMessage], None] = lambda message: None,
        poke_queues: Callable[[Sequence[str]], None] = lambda queues: None,
        statement_timeout: float | None = None,
    ) -> None:
        self._driver = driver
        self._runner = StatementRunner(driver, statement_timeout)
        self._poke = poke
        self._poke_queues = poke_queues

    def job_get(self, job_id: int) -> Job[Any]:
        """The job as stored now. `NotFoundError`. River: JobGet."""
        return self._runner.run(self._get(job_id))

    def job_get_tx(self, conn: Any, job_id: int) -> Any:
        return self._runner.run_tx(conn, self._get(job_id))

    async def job_get_async(self, job_id: int) -> Job[Any]:
        return await self._runner.run_async(self._get(job_id))

    def job_list(self, **options: Unpack[JobListOptions]) -> JobListResult:
        """A page of jobs as they are now. `ValidationError`. River: JobList."""
        return self._runner.run(job_list_statement(**options))

    def job_list_tx(self, conn: Any, **options: Unpack[JobListOptions]) -> Any:
        return self._runner.run_tx(conn, job_list_statement(**options))

    async def job_list_async(self, **options: Unpack[JobListOptions]) -> JobListResult:
        return await self._runner.run_async(job_list_statement(**options))

    def job_update(
        self, job: Job[Any] | int, *, output: Any = NOT_GIVEN, metadata: Mapping[str, Any] | bytes | None = None
    ) -> Job[Any]:
        """Merge into a job's metadata, whatever its state: its `output`, and keys of one's own. River: JobUpdate.

        With neither, of a job that runs here: the output it has recorded so far; else nothing is written. Returns the
        job as stored. `NotFoundError`, `ValidationError` for a reserved key and above 32 MB, `EncodeError`.
        """
        return self._runner.run(self._update(job, output, metadata))

    def job_update_tx(
        self,
        conn: Any,
        job: Job[Any] | int,
        *,
        output: Any = NOT_GIVEN,
        metadata: Mapping[str, Any] | bytes | None = None,
    ) -> Any:
        return self._runner.run_tx(conn, self._update(job, output, metadata))

    async def job_update_async(
        self, job: Job[Any] | int, *, output: Any = NOT_GIVEN, metadata: Mapping[str, Any] | bytes | None = None
    ) -> Job[Any]:
        return await self._runner.run_async(self._update(job, output, metadata))

    def job_cancel(self, job_id: int) -> Job[Any]:
        """Cancel a job for good. River: JobCancel.

        One that waits is cancelled at once; one that runs is told, and becomes cancelled unless it completes or is
        discarded; one in a final state is returned unchanged. `NotFoundError`.
        """
        return self._poked(self._runner.run(self._cancel(job_id)))

    def job_cancel_tx(self, conn: Any, job_id: int) -> Any:
        """The same; nobody is told before the caller commits."""
        return self._runner.run_tx(conn, self._cancel(job_id))

    async def job_cancel_async(self, job_id: int) -> Job[Any]:
        return self._poked(await self._runner.run_async(self._cancel(job_id)))

    def job_retry(self, job_id: int) -> Job[Any]:
        """Make a job available now, with at least one more attempt; running and due ones stay. River: JobRetry.

        `NotFoundError`; `UniqueConflictError` where an equivalent unique job exists meanwhile.
        """
        return self._poked_queue(self._runner.run(self._retry(job_id)))

    def job_retry_tx(self, conn: Any, job_id: int) -> Any:
        return self._runner.run_tx(conn, self._retry(job_id))

    async def job_retry_async(self, job_id: int) -> Job[Any]:
        return self._poked_queue(await self._runner.run_async(self._retry(job_id)))

    def job_delete(self, job_id: int) -> Job[Any]:
        """Delete a job that is not running; the row as it was. `NotFoundError`, `JobRunningError`. River: JobDelete."""
        return self._runner.run(self._delete(job_id))

    def job_delete_tx(self, conn: Any, job_id: int) -> Any:
        return self._runner.run_tx(conn, self._delete(job_id))

    async def job_delete_async(self, job_id: int) -> Job[Any]:
        return await self._runner.run_async(self._delete(job_id))

    def job_delete_many(
        self, *, limit: int = 100, unsafe_all: bool = False, **filters: Unpack[JobFilters]
    ) -> list[Job[Any]]:
        """Delete the first `limit` (1 to 10,000) jobs by id that pass the filters; the rows as they were.

        Running jobs, and those that somebody has locked, are left alone. `ValidationError` where no filter is set,
        unless `unsafe_all` says that every job is meant. River: JobDeleteMany.
        """
        return self._runner.run(self._delete_many(limit, unsafe_all, filters))

    def job_delete_many_tx(
        self, conn: Any, *, limit: int = 100, unsafe_all: bool = False, **filters: Unpack[JobFilters]
    ) -> Any:
        return self._runner.run_tx(conn, self._delete_many(limit, unsafe_all, filters))

    async def job_delete_many_async(
        self, *, limit: int = 100, unsafe_all: bool = False, **filters: Unpack[JobFilters]
    ) -> list[Job[Any]]:
        return await self._runner.run_async(self._delete_many(limit, unsafe_all, filters))

    # The statements.

    def _get(self, job_id: int) -> Statement[Job[Any]]:
        return Statement("job_get_by_id", {"id": check_job_id(job_id)}, _one_job(job_id))

    def _update(
        self, job: Job[Any] | int, output: Any, metadata: Mapping[str, Any] | bytes | None
    ) -> Statement[Job[Any]]:
        if isinstance(job, Job):
            job_id, recorded = job.id, b"" if output is not NOT_GIVEN or metadata is not None else job.recorded_output()
        else:
            job_id, recorded = job, b""
        members = [recorded] if recorded else []
        if metadata is not None:
            members.append(_checked_metadata(metadata, output is not NOT_GIVEN))
        if output is not NOT_GIVEN:
            members.append(encode_object({"output": output}, field="output", limit=OUTPUT_MAX_BYTES)[1:-1])
        written = b"{" + b",".join(filter(None, members)) + b"}"
        if written == b"{}":
            return self._get(job_id)
        return Statement("job_update", {"id": check_job_id(job_id), "metadata": written.decode()}, _one_job(job_id))

    def _cancel(self, job_id: int) -> Statement[Job[Any]]:
        return Statement("job_cancel", self._notifying(job_id, CONTROL_TOPIC), _one_job(job_id))

    def _retry(self, job_id: int) -> Statement[Job[Any]]:
        return Statement("job_retry", self._notifying(job_id, INSERT_TOPIC), _one_job(job_id))

    def _delete(self, job_id: int) -> Statement[Job[Any]]:
        def parse(rows: list[RawRow], count: int) -> Job[Any]:
            job = _one_job(job_id)(rows, count)
            if rows[0][len(COLUMNS)] != b"\x01":
                raise JobRunningError(f"job {job_id} is running and cannot be deleted; cancel it first")
            return job

        return Statement("job_delete", {"id": check_job_id(job_id)}, parse)

    def _delete_many(self, limit: int, unsafe_all: bool, filters: Mapping[str, Any]) -> Statement[list[Job[Any]]]:
        known = JobFilters.__annotations__
        if unknown := [name for name in filters if name not in known]:
            raise TypeError(f"{unknown[0]!r} is no filter of job_delete_many; there are {', '.join(known)}")
        checked = check_filters(filters)
        if not checked and not unsafe_all:
            raise ValidationError(
                "unsafe_all", "no filter is set, so every job would be deleted: set one, or say unsafe_all=True"
            )
        if checked and unsafe_all:
            raise ValidationError("unsafe_all", f"means every job, but there are filters: {', '.join(checked)}")
        forms, params = filter_forms(checked)
        params["limit"] = check_limit(limit)
        return Statement("job_delete_many", params, _jobs, forms=tuple(forms))

    def _notifying(self, job_id: int, topic: str) -> dict[str, Any]:
        checked = check_job_id(job_id)
        notify = self._driver.open().notify  # first: the schema may be known only after
        return {"id": checked, "notify": notify, "channel": channel(self._driver.schema, topic)}

    def _poked(self, job: Job[Any]) -> Job[Any]:
        if job.state is JobState.RUNNING:
            self._poke(ControlMessage(ControlAction.CANCEL, job.queue, job.id))
        return job

    def _poked_queue(self, job: Job[Any]) -> Job[Any]:
        if job.state is JobState.AVAILABLE:
            self._poke_queues([job.queue])
        return job


def check_job_id(job_id: int) -> int:
    """`ValidationError` for what is no int, `NotFoundError` for an int that no row can have."""
    if isinstance(job_id, bool) or not isinstance(job_id, int):
        raise ValidationError("job_id", f"must be an int, got {type(job_id).__name__}")
    if not 0 < job_id <= BIGINT_MAX:
        raise NotFoundError(f"job {job_id if abs(job_id) <= 2 * BIGINT_MAX else 'of that id'} does not exist")
    return job_id


def _one_job(job_id: int) -> Callable[[list[RawRow], int], Job[Any]]:
    def parse(rows: list[RawRow], count: int) -> Job[Any]:
        if not rows:
            raise NotFoundError(f"job {job_id} does not exist")
        return Job(StoredRow(rows[0]))

    return parse


def _jobs(rows: list[RawRow], count: int) -> list[Job[Any]]:
    return [Job(StoredRow(row)) for row in rows]


def _checked_metadata(metadata: Mapping[str, Any] | bytes, with_output: bool) -> bytes:
    """The object's members as JSON text, without its braces."""
    raw = encode_metadata(metadata)
    keys = list(loads_exact(raw))
    for key in keys:
        check_metadata_key(key)
    if with_output and "output" in keys:
        raise ValidationError("metadata", "holds the key 'output' beside output=...: give one of them")
    return raw.strip()[1:-1].strip()
