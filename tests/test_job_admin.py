"""Verbs on one job, against PostgreSQL: what River's do, with the database's own locks deciding races."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest

from river_fast.control import ControlAction, ControlMessage
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import ConfigError, JobRunningError, NotFoundError, UniqueConflictError, ValidationError
from river_fast.job import JobState
from river_fast.job_admin import JobAdmin
from tests.fix_rows import FINAL, column, heard, insert, wait_for_lock

WAITING = ("available", "pending", "retryable", "scheduled")


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def admin(driver: PsycopgDriver) -> JobAdmin:
    return JobAdmin(driver)


@pytest.fixture
def listening(dsn: str, schema: str) -> Iterator[psycopg.Connection]:
    """A connection that hears the control and insert topics, as a River client would."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f'LISTEN "{schema}.river_control"; LISTEN "{schema}.river_insert"')
        yield conn


def test_job_get_returns_the_row_as_stored(admin: JobAdmin, conn: psycopg.Connection) -> None:
    job_id = insert(conn, args='{"a": 1}', kind="mail", queue="q1", tags=["t-1"], metadata='{"m": [2]}')
    job = admin.job_get(job_id)
    assert (job.id, job.kind, job.queue, job.tags, job.metadata) == (job_id, "mail", "q1", ["t-1"], {"m": [2]})
    assert job.args == {"a": 1}
    assert job.state is JobState.AVAILABLE


@pytest.mark.parametrize("verb", ["job_get", "job_cancel", "job_retry", "job_delete"])
@pytest.mark.parametrize("job_id", [0, -1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 4242])
def test_an_id_without_a_row_is_not_found(admin: JobAdmin, verb: str, job_id: int) -> None:
    with pytest.raises(NotFoundError):
        getattr(admin, verb)(job_id)


@pytest.mark.parametrize("verb", ["job_get", "job_cancel", "job_retry", "job_delete"])
@pytest.mark.parametrize("job_id", ["1", 1.0, None, True, b"1", [1], "1; DROP TABLE river_job"])
def test_an_id_that_is_no_int_is_refused(admin: JobAdmin, verb: str, job_id: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        getattr(admin, verb)(job_id)
    assert caught.value.field == "job_id"


@pytest.mark.parametrize("state", WAITING)
def test_cancel_of_a_waiting_job_is_final_at_once(admin: JobAdmin, conn: psycopg.Connection, state: str) -> None:
    job_id = insert(conn, state, metadata='{"keep": 1}')
    job = admin.job_cancel(job_id)
    assert job.state is JobState.CANCELLED
    assert job.finalized_at is not None
    assert job.metadata["keep"] == 1
    assert column(conn, job_id, "state") == "cancelled"


def test_cancel_of_a_running_job_leaves_it_running_and_marks_it(admin: JobAdmin, conn: psycopg.Connection) -> None:
    job_id = insert(conn, "running")
    job = admin.job_cancel(job_id)
    assert job.state is JobState.RUNNING
    assert job.finalized_at is None
    assert column(conn, job_id, "metadata ? 'cancel_attempted_at'")


def test_cancel_writes_its_time_as_rfc_3339_text(admin: JobAdmin, conn: psycopg.Connection) -> None:
    text = admin.job_cancel(insert(conn)).metadata["cancel_attempted_at"]
    assert text[10] == "T"
    assert text.endswith("Z")
    now = conn.execute("SELECT now()").fetchone()
    assert now is not None
    assert abs((datetime.fromisoformat(text) - now[0]).total_seconds()) < 60


@pytest.mark.parametrize("state", FINAL)
def test_cancel_and_its_notice_leave_a_final_row_alone(
    admin: JobAdmin, conn: psycopg.Connection, listening: psycopg.Connection, state: str
) -> None:
    job_id = insert(conn, state)
    before = column(conn, job_id, "xmin::text || river_job::text")
    job = admin.job_cancel(job_id)
    assert job.state == state
    assert column(conn, job_id, "xmin::text || river_job::text") == before
    assert heard(listening, 0.3) is None


@pytest.mark.parametrize("metadata", ["[1, 2]", "null", '"x"', "1", "[]"])
@pytest.mark.parametrize("state", ["available", "running"])
def test_cancel_stands_metadata_that_is_not_an_object(
    admin: JobAdmin, conn: psycopg.Connection, metadata: str, state: str
) -> None:
    job = admin.job_cancel(insert(conn, state, metadata=metadata))
    assert set(job.metadata) == {"cancel_attempted_at"}


def test_cancel_tells_the_control_topic_with_the_commit(
    admin: JobAdmin, conn: psycopg.Connection, listening: psycopg.Connection, driver: PsycopgDriver, dsn: str
) -> None:
    job_id = insert(conn, "running", queue="q1")
    with psycopg.connect(dsn) as theirs:
        admin.job_cancel_tx(theirs, job_id)
        assert heard(listening, 0.2) is None
        theirs.rollback()
    assert heard(listening, 0.2) is None
    assert not column(conn, job_id, "metadata ? 'cancel_attempted_at'")
    with psycopg.connect(dsn) as theirs:
        admin.job_cancel_tx(theirs, job_id)
    assert heard(listening) == ("river_control", {"action": "cancel", "job_id": job_id, "queue": "q1"})


def test_of_a_thousand_cancels_at_once_all_return_the_cancelled_row(admin: JobAdmin, conn: psycopg.Connection) -> None:
    job_id = insert(conn)
    states: list[str] = []

    def cancel() -> None:
        for _ in range(125):
            states.append(admin.job_cancel(job_id).state)

    threads = [threading.Thread(target=cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == ["cancelled"] * 1000


def test_the_loser_of_a_race_returns_what_the_winner_committed(
    admin: JobAdmin, conn: psycopg.Connection, dsn: str, schema: str
) -> None:
    job_id = insert(conn, "running")
    found: list[Any] = []
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as winner:
        winner.execute("UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = %s", [job_id])
        loser = threading.Thread(target=lambda: found.append(admin.job_cancel(job_id)))
        loser.start()
        wait_for_lock(conn)
    loser.join(30)
    assert found[0].state is JobState.COMPLETED
    assert "cancel_attempted_at" not in found[0].metadata


def test_cancel_pokes_the_own_client_for_running_jobs_only(driver: PsycopgDriver, conn: psycopg.Connection) -> None:
    poked: list[ControlMessage] = []
    admin = JobAdmin(driver, poke=poked.append)
    admin.job_cancel(insert(conn))
    running = insert(conn, "running", queue="q1")
    admin.job_cancel(running)
    assert poked == [ControlMessage(ControlAction.CANCEL, "q1", running)]


@pytest.mark.parametrize("state", ["cancelled", "completed", "discarded", "retryable", "scheduled", "pending"])
def test_retry_makes_a_job_available_now(
    admin: JobAdmin, conn: psycopg.Connection, listening: psycopg.Connection, state: str
) -> None:
    job_id = insert(
        conn, state, attempt=3, max_attempts=5, queue="q1", scheduled_at="2100-01-01T00:00:00Z",
        metadata='{"cancel_attempted_at": "x", "keep": 1}', errors=['{"attempt": 3}'],
    )
    job = admin.job_retry(job_id)
    assert (job.state, job.finalized_at, job.attempt, job.max_attempts) == ("available", None, 3, 5)
    assert job.metadata == {"keep": 1}
    assert len(job.errors) == 1
    assert column(conn, job_id, "scheduled_at <= now()")
    assert heard(listening) == ("river_insert", {"queue": "q1"})


def test_retry_grants_one_more_attempt_only_where_all_are_used(admin: JobAdmin, conn: psycopg.Connection) -> None:
    assert admin.job_retry(insert(conn, "discarded", attempt=5, max_attempts=5)).max_attempts == 6
    assert admin.job_retry(insert(conn, "discarded", attempt=4, max_attempts=5)).max_attempts == 5
    assert admin.job_retry(insert(conn, "discarded", attempt=32767, max_attempts=32767)).max_attempts == 32767


@pytest.mark.parametrize("state", ["running", "available"])
def test_retry_leaves_running_and_due_jobs_alone(admin: JobAdmin, conn: psycopg.Connection, state: str) -> None:
    job_id = insert(conn, state, scheduled_at="2020-01-01T00:00:00Z", metadata='{"cancel_attempted_at": "x"}')
    before = column(conn, job_id, "xmin::text")
    assert admin.job_retry(job_id).metadata == {"cancel_attempted_at": "x"}
    assert column(conn, job_id, "xmin::text") == before


def test_retry_beside_an_equal_unique_job_is_a_unique_conflict(admin: JobAdmin, conn: psycopg.Connection) -> None:
    unique = {"unique_key": b"k" * 32, "unique_states": "11110101"}
    old = insert(conn, "discarded", **unique)
    insert(conn, "available", **unique)
    with pytest.raises(UniqueConflictError, match="23505"):
        admin.job_retry(old)
    assert column(conn, old, "state") == "discarded"


def test_delete_removes_and_returns_the_row(admin: JobAdmin, conn: psycopg.Connection) -> None:
    job_id = insert(conn, "completed", kind="gone")
    assert admin.job_delete(job_id).kind == "gone"
    with pytest.raises(NotFoundError):
        admin.job_delete(job_id)


def test_delete_refuses_a_running_job(admin: JobAdmin, conn: psycopg.Connection) -> None:
    job_id = insert(conn, "running")
    with pytest.raises(JobRunningError, match=str(job_id)):
        admin.job_delete(job_id)
    assert column(conn, job_id, "state") == "running"


def test_retry_pokes_the_own_client_for_what_is_available_now(driver: PsycopgDriver, conn: psycopg.Connection) -> None:
    poked: list[Any] = []
    admin = JobAdmin(driver, poke_queues=poked.append)
    admin.job_retry(insert(conn, "discarded", queue="q1"))
    admin.job_retry(insert(conn, "running", queue="q2"))
    assert poked == [["q1"]]


def test_delete_many_needs_a_filter_or_a_plain_word(admin: JobAdmin, conn: psycopg.Connection) -> None:
    insert(conn)
    for options in ({}, {"kinds": None}, {"limit": 5}, {"unsafe_all": True, "kinds": ["k1"]}):
        with pytest.raises(ValidationError) as caught:
            admin.job_delete_many(**options)
        assert caught.value.field == "unsafe_all"
    with pytest.raises(TypeError, match="tags_any"):
        admin.job_delete_many(tags_any=["x"])  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        admin.job_delete_many(unsafe_all=True, limit=10_001)
    assert len(admin.job_list().jobs) == 1


def test_delete_many_deletes_the_first_by_id_that_pass_and_never_a_running_one(
    admin: JobAdmin, conn: psycopg.Connection
) -> None:
    done = [insert(conn, "completed", kind=kind) for kind in ("k1", "k2", "k1", "k1")]
    running, waiting = insert(conn, "running"), insert(conn, priority=3, queue="q2")
    assert [job.id for job in admin.job_delete_many(kinds=["k1"], states=["completed"], limit=2)] == [done[0], done[2]]
    assert admin.job_delete_many(ids=[]) == []
    assert admin.job_delete_many(states=["running"]) == []
    assert [job.id for job in admin.job_delete_many(priorities=[3], queues=["q2"])] == [waiting]
    assert [job.id for job in admin.job_delete_many(ids=[done[1], running, 4242])] == [done[1]]
    deleted = admin.job_delete_many(unsafe_all=True)
    assert [(job.id, job.state) for job in deleted] == [(done[3], "completed")]
    assert [job.id for job in admin.job_list().jobs] == [running]


def test_delete_many_leaves_out_what_somebody_has_locked(
    admin: JobAdmin, conn: psycopg.Connection, dsn: str, schema: str
) -> None:
    locked, free = insert(conn), insert(conn)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as other:
        other.execute("SELECT FROM river_job WHERE id = %s FOR UPDATE", [locked])
        assert [job.id for job in admin.job_delete_many(unsafe_all=True)] == [free]


@pytest.mark.parametrize("state", ["available", "running", "completed", "pending"])
def test_update_merges_the_output_and_keeps_every_other_digit(
    admin: JobAdmin, conn: psycopg.Connection, state: str
) -> None:
    exact = '{"n": 0.12345678901234567890123456789, "big": 9223372036854775807123, "output": 1}'
    job_id = insert(conn, state, metadata=exact)
    job = admin.job_update(job_id, output={"ok": [1, None]}, metadata={"mine": 2})
    assert (job.state, job.output, job.metadata["mine"]) == (state, {"ok": [1, None]}, 2)
    assert column(conn, job_id, "metadata ->> 'n'") == "0.12345678901234567890123456789"
    assert column(conn, job_id, "metadata ->> 'big'") == "9223372036854775807123"


@pytest.mark.parametrize("output", [None, 5, "s", [1], {}, True, 1.5])
def test_an_output_may_be_any_json(admin: JobAdmin, conn: psycopg.Connection, output: Any) -> None:
    job_id = insert(conn)
    assert admin.job_update(job_id, output=output).output == output
    assert column(conn, job_id, "metadata ? 'output'")


def test_update_with_nothing_writes_nothing(admin: JobAdmin, conn: psycopg.Connection) -> None:
    job_id = insert(conn, metadata='{"a": 1}')
    before = column(conn, job_id, "xmin::text")
    assert admin.job_update(job_id).metadata == {"a": 1}
    assert admin.job_update(admin.job_get(job_id), metadata={}).metadata == {"a": 1}
    assert column(conn, job_id, "xmin::text") == before
    with pytest.raises(NotFoundError):
        admin.job_update(4242)
    with pytest.raises(NotFoundError):
        admin.job_update(4242, output=1)


@pytest.mark.parametrize("metadata", ["[1, 2]", "null", '"x"', "1"])
def test_update_stands_metadata_that_is_not_an_object(
    admin: JobAdmin, conn: psycopg.Connection, metadata: str
) -> None:
    assert admin.job_update(insert(conn, metadata=metadata), output=1).metadata == {"output": 1}


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("metadata", {"metadata": {"river:log": 1}}),
        ("metadata", {"metadata": b'{"river:resumable_step": "x"}'}),
        ("metadata", {"metadata": b"[1]"}),
        ("metadata", {"metadata": "{}"}),
        ("metadata", {"metadata": {"": 1}}),
        ("metadata", {"metadata": {"output": 1}, "output": 2}),
        ("output", {"output": object()}),
        ("output", {"output": "a\0b"}),
        ("output", {"output": "x" * (32 * 1024 * 1024)}),
    ],
)
def test_update_refuses_what_cannot_be_stored(
    admin: JobAdmin, conn: psycopg.Connection, field: str, options: dict[str, Any]
) -> None:
    job_id = insert(conn)
    with pytest.raises(ValidationError) as caught:
        admin.job_update(job_id, **options)
    assert caught.value.field == field
    assert column(conn, job_id, "metadata::text") == "{}"


def test_verbs_on_a_callers_transaction_end_with_it(admin: JobAdmin, conn: psycopg.Connection, dsn: str) -> None:
    job_id = insert(conn, "completed")
    with psycopg.connect(dsn) as theirs:
        assert admin.job_get_tx(theirs, job_id).id == job_id
        assert admin.job_retry_tx(theirs, job_id).state == "available"
        assert admin.job_update_tx(theirs, job_id, output=1).output == 1
        assert admin.job_delete_tx(theirs, job_id).id == job_id
        other = insert(conn, "completed")
        assert [job.id for job in admin.job_delete_many_tx(theirs, ids=[other])] == [other]
        theirs.rollback()
    assert column(conn, other, "state") == "completed"
    assert column(conn, job_id, "state") == "completed"


def test_verbs_run_on_an_async_callers_transaction(admin: JobAdmin, conn: psycopg.Connection, dsn: str) -> None:
    job_id, running = insert(conn, "completed"), insert(conn, "running")

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as theirs:
            assert (await admin.job_get_tx(theirs, job_id)).id == job_id
            assert (await admin.job_retry_tx(theirs, job_id)).state == "available"
            assert (await admin.job_cancel_tx(theirs, running)).state == "running"
            assert (await admin.job_update_tx(theirs, job_id, output=1)).output == 1
            assert await admin.job_delete_many_tx(theirs, ids=[running]) == []
            with pytest.raises(JobRunningError):
                await admin.job_delete_tx(theirs, running)
            with pytest.raises(NotFoundError):
                await admin.job_get_tx(theirs, 4242)

    asyncio.run(work())
    assert column(conn, job_id, "state") == "available"
    assert column(conn, running, "metadata ? 'cancel_attempted_at'")


def test_verbs_refuse_a_connection_without_a_transaction(admin: JobAdmin, conn: psycopg.Connection) -> None:
    with pytest.raises(ConfigError, match="autocommit"):
        admin.job_get_tx(conn, insert(conn))
    with pytest.raises(ConfigError):
        admin.job_get_tx("no connection", 1)
