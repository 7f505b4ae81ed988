"""Steps and cursors through the whole client: progress survives every end of an attempt (river.md 7.9)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args, eventually, workers_of
from tests.fix_outcomes import BOTH, work_one, worker_for
from tests.fix_rows import insert

STEP, CURSOR = "river:resumable_step", "river:resumable_cursor"


class Soon:
    """The retry policy: at once."""

    def next_retry(self, job: river.Job[Any]) -> datetime:
        return datetime.now(UTC)


def kept(job: river.Job[Any]) -> dict[str, Any]:
    return {key: value for key, value in job.metadata.items() if key.startswith("river:resumable")}


def nothing() -> None: ...


def left_behind(conn: psycopg.Connection, **metadata: Any) -> int:
    """A job of which an earlier attempt left this, as any client may have written it."""
    names = {"step": STEP, "cursor": CURSOR}
    text = json.dumps({names[key]: value for key, value in metadata.items()})
    return insert(conn, kind="test_job", args='{"n": 1}', metadata=text)


@BOTH
def test_the_second_attempt_begins_behind_what_the_first_one_finished(make_client: Any, is_async: bool) -> None:
    runs: list[tuple[str, int]] = []

    def work(job: river.Job[Args]) -> None:
        job.step("first", lambda: runs.append(("first", job.attempt)))

        def second() -> None:
            runs.append(("second", job.attempt))
            if job.attempt == 1:
                raise ValueError("fail second resumable step once")

        job.step("second", second)

    client = make_client(worker_for(work, is_async), retry_policy=Soon())
    job = work_one(client)
    assert kept(job) == {STEP: "first"}
    done = client.wait(job, 20)
    assert (done.state, kept(done)) == ("completed", {STEP: "first"}), "nothing is cleared by success"
    assert runs == [("first", 1), ("second", 1), ("second", 2)]


def test_async_steps_are_awaited(make_client: Any) -> None:
    runs: list[tuple[str, int]] = []

    async def work(job: river.Job[Args]) -> None:
        async def first() -> str:
            await asyncio.sleep(0)
            runs.append(("first", job.attempt))
            return "made"

        async def second(cursor: Any) -> None:
            await asyncio.sleep(0)
            runs.append(("second", cursor))
            job.set_cursor(7)
            if job.attempt == 1:
                raise ValueError("not yet")

        made = await job.step("first", first)
        assert made == ("made" if job.attempt == 1 else None)
        await job.step_cursor("second", second)

    client = make_client(workers_of(work), retry_policy=Soon())
    job = work_one(client)
    assert kept(job) == {STEP: "first", CURSOR: {"second": 7}}
    assert client.wait(job, 20).state == "completed"
    assert runs == [("first", 1), ("second", None), ("second", 7)]


class Stubborn(BaseException):
    """Of no kind that anybody catches."""


ENDS: dict[str, Callable[[], BaseException]] = {
    "error": lambda: ValueError("no"),
    "snooze": lambda: river.JobSnoozeError(3600),
    "cancel": lambda: river.JobCancelError("enough"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "stubborn": Stubborn,
    "memory": MemoryError,
    "stop": StopIteration,
}


@BOTH
@pytest.mark.parametrize("end", ENDS)
def test_progress_survives_every_kind_of_end(make_client: Any, is_async: bool, end: str) -> None:
    """River loses it in a panic (its hazard); here nothing an attempt can raise does."""

    def work(job: river.Job[Args]) -> None:
        job.step("a", nothing)

        def half(cursor: Any) -> None:
            job.set_cursor({"at": 5})
            raise ENDS[end]()

        job.step_cursor("b", half)

    job = work_one(make_client(worker_for(work, is_async)), river.InsertOpts(metadata={"mine": 1}))
    assert job.state != "completed"
    assert kept(job) == {STEP: "a", CURSOR: {"b": {"at": 5}}}
    assert job.metadata["mine"] == 1


@BOTH
@pytest.mark.parametrize("how", ["timeout", "remote", "stop"])
def test_progress_survives_being_cancelled(make_client: Any, is_async: bool, how: str) -> None:
    inside = threading.Event()

    def wait(job: river.Job[Args]) -> None:
        inside.set()
        assert job.wait_cancelled(30)
        job.raise_if_cancelled()

    def work(job: river.Job[Args]) -> None:
        job.step("a", nothing)
        job.step("b", lambda: wait(job))

    async def work_async(job: river.Job[Args]) -> None:
        job.step("a", nothing)

        async def hang() -> None:
            inside.set()
            await asyncio.Event().wait()

        await job.step("b", hang)

    workers = workers_of(work_async if is_async else work, timeout=0.2 if how == "timeout" else 60)
    client = make_client(workers)
    job_id = client.insert(Args()).job.id
    client.start()
    assert inside.wait(20)
    if how == "remote":
        client.job_cancel(job_id)
    if how == "stop":
        client.stop_and_cancel(20)
    stored = eventually(lambda: job if kept(job := client.job_get(job_id)) else None)
    assert kept(stored) == {STEP: "a"}
    expected = {"timeout": ("available", "retryable", "running"), "remote": ("cancelled",), "stop": ("available",)}
    assert stored.state in expected[how]
    assert stored.attempt == (0 if how == "stop" else stored.attempt)


@pytest.mark.usefixtures("busy_machine")
def test_progress_survives_a_job_that_is_given_up(make_client: Any) -> None:
    inside, release = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        job.step("a", nothing)
        inside.set()
        job.step("b", lambda: release.wait(60))

    client = make_client(workers_of(work))
    job_id = client.insert(Args()).job.id
    client.start()
    assert inside.wait(20)
    report = client.stop_and_cancel(1)
    release.set()
    stored = client.job_get(job_id)
    assert report.abandoned == [job_id] or report.abandoned == (job_id,)
    assert (stored.state, kept(stored)) == ("available", {STEP: "a"})


def test_a_swallowed_step_error_fails_the_attempt(make_client: Any) -> None:
    def work(job: river.Job[Args]) -> None:
        try:
            job.step("a", lambda: 1 / 0)
        except ZeroDivisionError:
            pass
        job.step("b", lambda: pytest.fail("passed over"))

    job = work_one(make_client(workers_of(work)))
    assert job.state == "available"
    assert [error.error for error in job.errors] == ["division by zero"]


def test_a_job_that_never_meets_its_saved_step_fails_saying_so(make_client: Any, conn: psycopg.Connection) -> None:
    """Also where the worker has no steps at all any more: half-done work must not pass as done."""
    job = work_one(make_client(workers_of(lambda job: None)), row=left_behind(conn, step="gone"))
    assert job.state == "available"
    assert [error.error for error in job.errors] == ['river: resumable step "gone" not found in Worker']
    assert kept(job) == {STEP: "gone"}


@BOTH
@pytest.mark.parametrize("cursor", [[1], "x", 5])
def test_state_that_is_no_object_fails_before_user_code_runs(
    make_client: Any, conn: psycopg.Connection, is_async: bool, cursor: Any
) -> None:
    ran: list[Any] = []
    job = work_one(make_client(worker_for(ran.append, is_async)), row=left_behind(conn, cursor=cursor))
    assert ran == []
    assert job.state == "available"
    assert "river:resumable_cursor must be an object" in job.errors[0].error
    assert kept(job) == {CURSOR: cursor}


@BOTH
def test_an_empty_saved_step_name_is_valid(make_client: Any, conn: psycopg.Connection, is_async: bool) -> None:
    ran: list[str] = []
    worker = worker_for(lambda job: job.step("a", lambda: ran.append("a")), is_async)
    row = left_behind(conn, step="", cursor=None)
    assert work_one(make_client(worker), row=row).state == "completed"
    assert ran == ["a"]


def test_a_job_begun_by_go_goes_on_here(make_client: Any, conn: psycopg.Connection) -> None:
    """The metadata as River 0.51 left it after an attempt that stopped inside its cursor step."""
    seen: list[Any] = []

    def work(job: river.Job[Args]) -> None:
        job.step("first", lambda: seen.append("first"))
        job.step_cursor("second", lambda cursor: seen.append(cursor))
        job.step("third", lambda: seen.append("third"))

    row = left_behind(conn, step="first", cursor={"second": {"LastID": 42}})
    assert work_one(make_client(workers_of(work)), row=row).state == "completed"
    assert seen == [{"LastID": 42}, "third"]


# ---- in the caller's transaction ----


@BOTH
@pytest.mark.parametrize("commit", [True, False])
def test_a_checkpoint_lives_and_dies_with_the_callers_transaction(
    make_client: Any, dsn: str, conn: psycopg.Connection, schema: str, is_async: bool, commit: bool
) -> None:
    options = f"-c search_path={schema}"

    def checkpoint(job: river.Job[Args]) -> None:
        with psycopg.connect(dsn, options=options) as own:
            stored = job.set_step_tx(own)
            assert stored.metadata[STEP] == "b"
            assert stored.state == "running"
            if not commit:
                own.rollback()
        raise ValueError("after it")

    async def checkpoint_async(job: river.Job[Args]) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, options=options) as own:
            assert (await job.set_step_tx(own)).metadata[STEP] == "b"
            if not commit:
                await own.rollback()
        raise ValueError("after it")

    def work(job: river.Job[Args]) -> None:
        job.step("a", nothing)
        job.step("b", lambda: checkpoint(job))

    async def work_async(job: river.Job[Args]) -> None:
        job.step("a", nothing)

        async def step() -> None:
            await checkpoint_async(job)

        await job.step("b", step)

    job = work_one(make_client(workers_of(work_async if is_async else work)))
    assert kept(job) == ({STEP: "b", CURSOR: None} if commit else {}), "rolled back: only later progress is kept"


def test_a_cursor_checkpoint_carries_the_cursor(make_client: Any, dsn: str, schema: str) -> None:
    seen: list[Any] = []

    def work(job: river.Job[Args]) -> None:
        def rows(cursor: int | None) -> None:
            seen.append(cursor)
            with psycopg.connect(dsn, options=f"-c search_path={schema}") as own:
                job.set_cursor_tx(own, (cursor or 0) + 1)
            if job.attempt < 3:
                raise SystemExit

        job.step_cursor("rows", rows)

    client = make_client(workers_of(work), retry_policy=Soon())
    job = client.insert(Args()).job
    client.start()
    done = client.wait(job, 20)
    assert done.state == "completed"
    assert seen == [None, 1, 2]


def test_a_checkpoint_of_an_attempt_that_lost_its_row_is_refused(
    make_client: Any, dsn: str, conn: psycopg.Connection, schema: str
) -> None:
    raised: list[BaseException] = []

    def work(job: river.Job[Args]) -> None:
        conn.execute("UPDATE river_job SET state = 'available', scheduled_at = now() + interval '1 hour'")

        def step() -> None:
            with psycopg.connect(dsn, options=f"-c search_path={schema}") as own:
                job.set_step_tx(own)

        try:
            job.step("a", step)
        except river.JobLostError as error:
            raised.append(error)
            raise

    client = make_client(workers_of(work))
    job_id = client.insert(Args()).job.id
    client.start()
    eventually(lambda: raised)
    client.stop(20)
    assert kept(client.job_get(job_id)) == {}


def test_steps_outside_a_running_job_are_refused(make_client: Any) -> None:
    job = make_client().insert(Args()).job
    for call in (lambda: job.step("a", nothing), lambda: job.set_cursor(1), lambda: job.set_step_tx(None)):
        with pytest.raises(RuntimeError, match="is not running in this process"):
            call()
