"""Every way a job can end, through the whole client on a real server (river.md 2.4, 2.5)."""

from __future__ import annotations

import asyncio
import contextvars
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args, eventually, workers_of
from tests.fix_outcomes import BOTH, work_one, worker_for


@BOTH
def test_job_that_returns_is_completed(make_client: Any, is_async: bool) -> None:
    job = work_one(make_client(worker_for(lambda job: None, is_async)))
    assert job.state == "completed"
    assert job.attempt == 1
    assert job.errors == []
    assert job.finalized_at is not None
    assert job.attempted_by[-1]


@BOTH
def test_job_that_raises_is_retried_with_its_error_kept(make_client: Any, is_async: bool) -> None:
    def fail(job: river.Job[Args]) -> None:
        raise ValueError("not today")

    job = work_one(make_client(worker_for(fail, is_async)))
    assert job.state == "available"  # the first retry comes within a second: no scheduler needed
    assert job.attempt == 1
    assert [error.error for error in job.errors] == ["not today"]
    assert job.errors[0].attempt == 1
    assert "fail" in job.errors[0].trace
    assert 0.5 < (job.scheduled_at - job.attempted_at).total_seconds() < 20


@BOTH
def test_long_retry_delay_leaves_the_job_retryable(make_client: Any, is_async: bool) -> None:
    class InAnHour:
        def next_retry(self, job: river.Job[Any]) -> datetime:
            return datetime.now(UTC) + timedelta(hours=1)

    def fail(job: river.Job[Args]) -> None:
        raise ValueError

    job = work_one(make_client(worker_for(fail, is_async), retry_policy=InAnHour()))
    assert job.state == "retryable"
    assert job.errors[0].error == "ValueError"
    assert abs((job.scheduled_at - job.attempted_at).total_seconds() - 3600) < 60


@BOTH
def test_last_attempt_that_fails_discards_the_job(make_client: Any, is_async: bool) -> None:
    def fail(job: river.Job[Args]) -> None:
        raise ValueError("last")

    job = work_one(make_client(worker_for(fail, is_async)), river.InsertOpts(max_attempts=1))
    assert job.state == "discarded"
    assert job.finalized_at is not None
    assert job.errors[0].error == "last"


@BOTH
def test_job_cancel_error_cancels_for_good(make_client: Any, is_async: bool) -> None:
    def cancel(job: river.Job[Args]) -> None:
        raise river.JobCancelError("no longer wanted")

    job = work_one(make_client(worker_for(cancel, is_async)))
    assert job.state == "cancelled"
    assert job.errors[0].error == "JobCancelError: no longer wanted"
    assert job.finalized_at is not None


@BOTH
@pytest.mark.parametrize(("delay", "state"), [(2.0, "available"), (3600.0, "scheduled"), (0.0, None)])
def test_snooze_gives_the_attempt_back_and_counts(
    make_client: Any, is_async: bool, delay: float, state: str | None
) -> None:
    seen: list[int] = []

    def snooze(job: river.Job[Args]) -> None:
        seen.append(job.attempt)
        if len(seen) == 1:
            raise river.JobSnoozeError(delay)

    job = work_one(make_client(worker_for(snooze, is_async)))
    if state is None:
        eventually(lambda: len(seen) == 2)
        assert seen == [1, 1]
        return
    assert job.state == state
    assert job.attempt == 0
    assert job.errors == []
    assert job.metadata["snoozes"] == 1
    assert delay - 0.1 < (job.scheduled_at - job.attempted_at).total_seconds() < delay + 20


@BOTH
@pytest.mark.parametrize("duration", [-1.0, float("nan"), 1e18])
def test_impossible_snooze_is_the_jobs_error(make_client: Any, is_async: bool, duration: float) -> None:
    def snooze(job: river.Job[Args]) -> None:
        raise river.JobSnoozeError(duration)

    job = work_one(make_client(worker_for(snooze, is_async)))
    assert job.state == "available"
    assert "JobSnoozeError" in job.errors[0].error


def test_unknown_kind_is_retried_and_never_dropped(make_client: Any) -> None:
    client = make_client(workers_of(lambda job: None), skip_unknown_job_check=True)
    with client.subscribe() as events:
        client.insert(river.RawArgs("nobody_knows", {}))
        client.start()
        job = events.get(20).job
    assert job.state == "available"
    assert job.errors[0].error == "job kind is not registered in the client's Workers bundle: nobody_knows"


@BOTH
def test_args_that_do_not_fit_are_the_jobs_error(make_client: Any, conn: psycopg.Connection, is_async: bool) -> None:
    client = make_client(worker_for(lambda job: job.args.n, is_async))
    conn.execute("INSERT INTO river_job (args, kind, max_attempts) VALUES ('{\"n\": \"text\"}', 'test_job', 25)")
    with client.subscribe() as events:
        client.start()
        job = events.get(20).job
    assert job.state == "available"
    assert job.errors


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


@BOTH
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(3), "3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (MemoryError(), "MemoryError"),
        (RecursionError("too deep"), "too deep"),
        (ValueError("nul \0 here"), "nul \\u0000 here"),
        (ValueError("surrogate \ud800 here"), "surrogate \\ud800 here"),
        (Unprintable(), "<Unprintable whose text raised RuntimeError>"),
        (ValueError("x" * 1_000_000), "x" * 16384),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_a_job_raises_is_recorded_and_the_worker_lives(
    make_client: Any, is_async: bool, error: BaseException, text: str
) -> None:
    if is_async and isinstance(error, KeyboardInterrupt | SystemExit):
        pass  # asyncio lets these two through its Tasks: ours must not

    def fail(job: river.Job[Args]) -> None:
        if job.args.n == 1:
            raise error

    client = make_client(worker_for(fail, is_async))
    job = work_one(client)
    assert job.state == "available"
    assert job.errors[0].error == text
    assert client.wait(client.insert(Args(2)).job, 20).state == "completed"


@BOTH
def test_output_and_metadata_are_stored_with_the_outcome(make_client: Any, is_async: bool) -> None:
    def record(job: river.Job[Args]) -> None:
        job.record_output({"answer": 42})
        job.set_metadata("where", "here")
        with pytest.raises(river.ValidationError, match="reserved"):
            job.set_metadata("river:mine", 1)
        with pytest.raises(river.EncodeError):
            job.record_output(float("nan"))

    job = work_one(make_client(worker_for(record, is_async)), river.InsertOpts(metadata={"kept": True}))
    assert job.state == "completed"
    assert job.output == {"answer": 42}
    assert job.metadata == {"kept": True, "output": {"answer": 42}, "where": "here"}


@BOTH
def test_output_is_kept_of_a_failed_attempt_too(make_client: Any, is_async: bool) -> None:
    def fail(job: river.Job[Args]) -> None:
        job.record_output([1, 2])
        raise ValueError("after the output")

    job = work_one(make_client(worker_for(fail, is_async)))
    assert job.output == [1, 2]
    assert job.errors[0].error == "after the output"


def test_retry_policy_that_answers_nonsense_is_replaced_by_the_default(make_client: Any, caplog: Any) -> None:
    answers = iter([None, datetime(2001, 1, 1, tzinfo=UTC), datetime(2001, 1, 1), "tomorrow"])

    class Odd:
        def next_retry(self, job: river.Job[Any]) -> Any:
            return next(answers)

    def fail(job: river.Job[Args]) -> None:
        raise ValueError

    client = make_client(workers_of(fail), retry_policy=Odd())
    with client.subscribe() as events:
        ids = [result.job.id for result in client.insert_many([Args(n) for n in range(5)])]
        client.start()
        jobs = {job.id: job for job in (events.get(20).job for _ in ids)}
    for job_id in ids:
        job = jobs[job_id]
        assert job.state == "available"
        assert 0.5 < (job.scheduled_at - job.attempted_at).total_seconds() < 20
    assert sum("using the default" in record.message for record in caplog.records) == 4


def test_context_variables_do_not_leak_from_job_to_job(make_client: Any) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen: list[int] = []

    def work(job: river.Job[Args]) -> None:
        seen.append(variable.get())
        variable.set(job.id)
        assert river.client_from_context() is client

    client = make_client(workers_of(work), max_workers=1)
    client.insert_many([Args(n) for n in range(20)])
    with client.subscribe() as events:
        client.start()
        for _ in range(20):
            assert events.get(20) is not None
    assert seen == [0] * 20
    with pytest.raises(river.RiverError):
        river.client_from_context()


def test_async_job_may_use_timeouts_and_task_groups(make_client: Any) -> None:
    async def work(job: river.Job[Args]) -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            group.create_task(asyncio.sleep(0.01))

    assert work_one(make_client(workers_of(work))).state == "completed"
