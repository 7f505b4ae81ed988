"""`work_job`: one job worked at once, through the client's own executor, its outcome stored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.testing import WorkResult, require_inserted, require_not_inserted, work_job
from tests.fix_client import Args, make_client, workers_of
from tests.fix_outcomes import BOTH, worker_for
from tests.fix_rows import column, insert
from tests.fix_testing import EVERYWHERE, Other, work_on

__all__ = ["make_client", "work_on"]

@EVERYWHERE
@BOTH
def test_a_job_is_inserted_worked_and_recorded(work_on: Any, conn: psycopg.Connection, is_async: bool) -> None:
    def work(job: river.Job[Args]) -> None:
        assert river.client_from_context().id == job.attempted_by[-1]
        job.record_output({"double": job.args.n * 2})
        job.logger.info("done")

    result = work_on(worker_for(work, is_async), Args(21), river.InsertOpts(tags=["mine"]))
    assert (result.event_kind, result.error) == ("job_completed", None)
    assert result.output == {"double": 42}
    assert result.job.args == Args(21)
    assert (result.job.state, result.job.attempt, result.job.tags) == ("completed", 1, ["mine"])
    assert column(conn, result.job.id, "state") == "completed"
    assert result.job.metadata["river:log"][0]["log"].endswith("done\n")


ENDS: dict[str, tuple[Callable[[], BaseException], str, str]] = {
    "error": (lambda: ValueError("no"), "job_failed", "available"),
    "exit": (lambda: SystemExit(3), "job_failed", "available"),
    "snooze": (lambda: river.JobSnoozeError(60), "job_snoozed", "scheduled"),
    "cancel": (lambda: river.JobCancelError("enough"), "job_cancelled", "cancelled"),
}


@EVERYWHERE
@BOTH
@pytest.mark.parametrize("end", ENDS)
def test_every_end_is_recorded_and_told_and_nothing_is_raised(work_on: Any, is_async: bool, end: str) -> None:
    raised = ENDS[end][0]()

    def work(job: river.Job[Args]) -> None:
        raise raised

    result = work_on(worker_for(work, is_async), Args())
    assert (result.event_kind, result.job.state) == ENDS[end][1:]
    assert result.error is raised
    assert len(result.job.errors) == (end != "snooze")
    assert result.job.attempt == (end != "snooze")


@BOTH
def test_a_job_that_is_there_is_worked_whatever_its_state(
    make_client: Any, conn: psycopg.Connection, is_async: bool
) -> None:
    client = make_client(worker_for(lambda job: None, is_async))
    later = insert(conn, "scheduled", kind="test_job", args='{"n": 3}', scheduled_at="2100-01-01T00:00:00Z", attempt=4)
    done = insert(conn, "discarded", kind="test_job", args='{"n": 3}', attempt=25)
    for job in (later, client.job_get(done)):
        result = work_job(client, job)
        assert result.job.state == "completed"
        assert result.job.attempted_by == [client.id]
    assert client.job_get(later).attempt == 5
    with pytest.raises(river.NotFoundError, match="does not exist"):
        work_job(client, 10**9)


def test_unique_options_do_not_keep_a_job_from_being_worked_again(make_client: Any) -> None:
    client = make_client(workers_of(lambda job: None))
    opts = river.InsertOpts(unique=river.UniqueOpts(by_args=True))
    first, second = (work_job(client, Args(1), opts) for _ in range(2))
    assert first.job.id != second.job.id


def test_middleware_hooks_and_the_error_handler_are_the_clients(make_client: Any) -> None:
    seen: list[Any] = []

    class Watching:
        def insert_begin(self, params: Any) -> None:
            seen.append("insert")

        def work(self, job: Any) -> Any:
            seen.append("before")
            try:
                yield
            finally:
                seen.append("after")

        def work_end(self, job: Any, error: BaseException | None) -> None:
            seen.append(error)

    def handle(job: Any, error: BaseException) -> river.ErrorHandlerResult:
        seen.append("handler")
        return river.ErrorHandlerResult(set_cancelled=True)

    error = ValueError("no")

    def work(job: river.Job[Args]) -> None:
        raise error

    result = work_job(make_client(workers_of(work), plugins=[Watching()], error_handler=handle), Args())
    assert result.event_kind == "job_cancelled"
    assert seen == ["insert", "before", error, "after", "handler"]


@BOTH
def test_a_timeout_ends_the_job_as_it_would_in_a_client(make_client: Any, is_async: bool) -> None:
    async def hang(job: river.Job[Args]) -> None:
        await asyncio.Event().wait()

    def wait(job: river.Job[Args]) -> None:
        assert job.wait_cancelled(30)
        job.raise_if_cancelled()

    result = work_job(make_client(workers_of(hang if is_async else wait, timeout=0.05)), Args())
    assert result.event_kind == "job_failed"
    assert isinstance(result.error, river.JobTimeoutError)
    assert result.job.errors[0].error == "job timed out after 0.05 s"


def test_a_job_that_completes_itself_in_a_transaction_is_completed(make_client: Any, dsn: str, schema: str) -> None:
    def work(job: river.Job[Args]) -> None:
        with psycopg.connect(dsn, options=f"-c search_path={schema}") as own:
            job.complete_tx(own)

    assert work_job(make_client(workers_of(work)), Args()).event_kind == "job_completed"


def test_in_one_transaction_all_of_it_can_be_rolled_back(make_client: Any, dsn: str, schema: str) -> None:
    client = make_client()

    def work(job: river.Job[Args]) -> None:
        client.insert_tx(own, Other("made by the job"))
        job.complete_tx(own)

    with psycopg.connect(dsn, options=f"-c search_path={schema}") as own:
        result = work_job(make_client(workers_of(work)), Args(), conn=own)
        assert result.event_kind == "job_completed"
        require_inserted(own, Other("made by the job"))
        own.rollback()
    require_not_inserted(client, Args)
    require_not_inserted(client, Other)


def test_steps_can_be_resumed_in_a_test(make_client: Any) -> None:
    seen: list[Any] = []

    def work(job: river.Job[Args]) -> None:
        job.step("first", lambda: seen.append("first"))
        job.step_cursor("rows", seen.append)
        job.step("last", lambda: seen.append("last"))

    client = make_client(workers_of(work))
    assert work_job(client, Args(), resume_after="first").event_kind == "job_completed"
    assert seen == [None, "last"]
    seen.clear()
    work_job(client, Args(), river.InsertOpts(metadata={"mine": 1}), resume_after="rows", cursor={"id": 7})
    assert seen == [{"id": 7}, "last"]
    with pytest.raises(river.ValidationError, match="needs resume_after"):
        work_job(client, Args(), cursor=1)
    with pytest.raises(river.ValidationError, match="is for a job that is inserted here"):
        work_job(client, 1, resume_after="first")


def test_a_swallowed_step_error_is_told(make_client: Any) -> None:
    def work(job: river.Job[Args]) -> None:
        try:
            job.step("a", lambda: 1 / 0)
        except ZeroDivisionError:
            pass

    assert isinstance(work_job(make_client(workers_of(work)), Args()).error, ZeroDivisionError)


def test_what_cannot_be_worked_is_refused(make_client: Any, dsn: str, schema: str, conn: psycopg.Connection) -> None:
    with pytest.raises(river.ConfigError, match="needs a client with workers"):
        work_job(make_client(), Args())
    client = make_client(workers_of(lambda job: None))
    with pytest.raises(river.ConfigError, match="takes a Client or an AsyncClient"):
        work_job(conn, Args())
    with pytest.raises(river.ConfigError, match="AsyncClient does not go with a Connection"):
        work_job(river.AsyncClient(dsn, river.Config(schema=schema, workers=workers_of(print))), Args(), conn=conn)
    with pytest.raises(river.UnknownJobKindError):
        work_job(client, Other())
    unknown = work_job(client, insert(conn, kind="nobody", args="{}"))
    assert isinstance(unknown.error, river.UnknownJobKindError)


def test_a_job_works_inside_a_running_event_loop_too(make_client: Any) -> None:
    """A sync client called from a test that is itself a coroutine."""

    async def work(job: river.Job[Args]) -> None:
        await asyncio.sleep(0)
        job.record_output(threading.current_thread().name)

    async def body() -> WorkResult:
        return work_job(make_client(workers_of(work)), Args())

    assert asyncio.run(body()).output == "river_fast.inline_work"


def test_the_watch_of_a_job_ends_with_it(make_client: Any) -> None:
    work_job(make_client(workers_of(lambda job: None)), Args())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("river_fast.inline")]
