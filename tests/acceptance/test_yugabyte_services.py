"""Inserts, polls, and every service of the leader on a PostgreSQL that says it is YugabyteDB (river.md 3.1).

Each test ends by looking at all that was asked: nothing that YugabyteDB lacks; and nobody was notified of anything.
The admin verbs are in `test_admin.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance.intervals import MaintenanceIntervals
from river_fast.migrate import EVERYTHING, Migrator
from tests.fix_client import Args, eventually, workers_of
from tests.fix_proxy import Proxy
from tests.fix_rows import insert, states
from tests.fix_yugabyte import client_on, hear_nothing, lacking

ClientOn = Callable[..., river.Client]
OLD = "2020-01-01T00:00:00Z"


@pytest.fixture
def on(yugabyte: Proxy, schema: str, conn: psycopg.Connection) -> Iterator[ClientOn]:
    """`on(workers=None, **config)`: a client, stopped at the end."""
    made: list[river.Client] = []

    def client(workers: river.Workers | None = None, **config: Any) -> river.Client:
        made.append(client_on(yugabyte, schema, workers, **config))
        return made[-1]

    hear_nothing(conn, schema)
    yield client
    for one in made:
        one.stop_and_cancel(5)
    assert lacking(yugabyte) == set()
    assert list(conn.notifies(timeout=0)) == []


def unique(**options: Any) -> river.InsertOpts:
    return river.InsertOpts(unique=river.UniqueOpts(**options))


def test_duplicates_are_told_in_every_way_to_insert(on: ClientOn, yugabyte: Proxy, conn: psycopg.Connection) -> None:
    client = on()
    once, later = unique(by_args=True), datetime.now(UTC) + timedelta(hours=1)
    first = client.insert(Args(1), once).job.id
    many = [river.InsertManyParams(Args(n), once) for n in (1, 2, 2, 3)]
    results = client.insert_many([*many, Args(1)])
    assert [result.unique_skipped_as_duplicate for result in results] == [True, False, True, False, False]
    assert (results[0].job.id, results[1].job.id) == (first, results[2].job.id)
    scheduled = river.InsertOpts(unique=river.UniqueOpts(by_args=True), scheduled_at=later)
    assert client.insert(Args(1), scheduled).unique_skipped_as_duplicate
    assert client.insert_many_fast([river.InsertManyParams(Args(4), once), Args(5)]) == 2
    with pytest.raises(river.UniqueConflictError):
        client.insert_many_fast([river.InsertManyParams(Args(6), once), river.InsertManyParams(Args(4), once)])
    with psycopg.connect(yugabyte.conninfo) as caller:
        assert client.insert_tx(caller, Args(4), once).unique_skipped_as_duplicate
        assert not client.insert_tx(caller, Args(7), once).unique_skipped_as_duplicate
        results = client.insert_many_tx(caller, [*many, Args(8)])
        assert [result.unique_skipped_as_duplicate for result in results] == [True, True, True, True, False]
        assert client.insert_many_fast_tx(caller, [Args(9)]) == 1
        caller.rollback()
    later_still = river.InsertOpts(unique=river.UniqueOpts(by_args=True), scheduled_at=later + timedelta(hours=1))
    assert client.insert_many_fast([river.InsertManyParams(Args(10), later_still)]) == 1
    assert client.insert_many_fast([river.InsertManyParams(Args(11), river.InsertOpts(scheduled_at=later))]) == 1
    assert states(conn) == {"available": 6, "scheduled": 2}


def test_together_many_callers_are_each_told(on: ClientOn) -> None:
    """Their statements are merged: who inserted the row and who met it is told apart without ctid or xmax."""
    client, told = on(), []
    once, begin = unique(by_args=True), threading.Barrier(16)

    def call() -> None:
        begin.wait()
        told.extend(client.insert(Args(n), once).unique_skipped_as_duplicate for n in range(50))

    threads = [threading.Thread(target=call) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (told.count(False), told.count(True)) == (50, 750)


def test_pause_and_resume_of_another_client_are_found_by_polling(on: ClientOn) -> None:
    started: list[int] = []
    client, other = on(workers_of(lambda job: started.append(job.args.n))), on()
    with client.subscribe("queue_paused", "queue_resumed") as events:
        client.start()
        assert client.wait(other.insert(Args(1)).job, 30).state == "completed"
        other.queue_pause("default")
        assert events.get(30).kind == "queue_paused"
        waits = other.insert(Args(2)).job
        other.queue_resume("default")
        assert events.get(30).kind == "queue_resumed"
        assert client.wait(waits, 30).state == "completed"
    assert started == [1, 2]


def test_own_verbs_reach_the_own_producer_at_once(on: ClientOn, monkeypatch: pytest.MonkeyPatch) -> None:
    """As River's local poke: polls that come once in ten minutes find nothing here."""
    monkeypatch.setattr("river_fast.queue_keeper.REREAD_INTERVAL_POLL_ONLY", 600.0)
    monkeypatch.setattr("river_fast.cancel_checker.CHECK_INTERVAL_POLL_ONLY", 600.0)
    blocked = threading.Event()

    def work(job: river.Job[Args]) -> None:
        if job.args.n:
            blocked.set()
            assert job.wait_cancelled(60)
            job.raise_if_cancelled()

    client = on(workers_of(work), fetch_poll_interval=600.0)
    with client.subscribe("queue_paused", "queue_resumed", "job_cancelled") as events:
        client.start()
        job = client.insert(Args(1)).job
        assert blocked.wait(30)
        client.job_cancel(job.id)
        assert events.get(30).kind == "job_cancelled"
        client.queue_pause("default")
        assert events.get(30).kind == "queue_paused"
        client.queue_resume("default")
        assert events.get(30).kind == "queue_resumed"
        assert client.wait(client.insert(Args(0)).job, 30).state == "completed"


def test_leader_schedules_rescues_and_cleans(on: ClientOn, conn: psycopg.Connection, until: Any) -> None:
    due = insert(conn, "scheduled", kind="test_job", args='{"n": 1}')
    key = {"unique_key": b"k" * 32, "unique_states": "11110101"}
    loser = insert(conn, "scheduled", kind="test_job", args='{"n": 2}', **key)
    conn.execute("UPDATE river_job SET unique_states = B'00000001' WHERE id = %s", [loser])
    insert(conn, "available", kind="elsewhere", queue="elsewhere", **{**key, "unique_states": "00000001"})
    stuck = insert(conn, "running", kind="test_job", args='{"n": 3}', max_attempts=3)
    lost = insert(conn, "running", kind="test_job", max_attempts=1)
    ended = [insert(conn, state) for state in ("completed", "cancelled", "discarded")]
    conn.execute("INSERT INTO river_queue (name, updated_at) VALUES ('nobody', %s)", [OLD])
    indexes = {name: _file_of(conn, name) for name in ("river_job_args_index", "river_job_kind")}
    client = on(workers_of(lambda job: None), test_only=True, reindexer_index_names=list(indexes))
    client._intervals = MaintenanceIntervals(reindexer=0.05)
    client.start()
    for job_id in (due, stuck):
        until(f"SELECT state::text FROM river_job WHERE id = {job_id}", "completed", 60)
    until(f"SELECT state::text FROM river_job WHERE id = {loser}", "discarded", 30)
    assert client.job_get(loser).metadata["unique_key_conflict"] == "scheduler_discarded"
    assert client.job_get(stuck).metadata["river:rescue_count"] == 1
    until(f"SELECT state::text FROM river_job WHERE id = {lost}", "discarded", 30)
    until(f"SELECT count(*) FROM river_job WHERE id IN ({ended[0]}, {ended[1]}, {ended[2]})", 0, 30)
    until("SELECT count(*) FROM river_queue WHERE name = 'nobody'", 0, 30)
    eventually(lambda: all(_file_of(conn, name) != file for name, file in indexes.items()), what="rebuilt indexes")
    client.stop(20)
    until("SELECT count(*) FROM river_leader", 0)


def _file_of(conn: psycopg.Connection, index: str) -> Any:
    """A rebuilt index has another one."""
    return conn.execute("SELECT pg_relation_filenode(to_regclass(%s))", [index]).fetchone()


def test_migrations_of_every_line(on: ClientOn, yugabyte: Proxy, schema: str, conn: psycopg.Connection) -> None:
    """No advisory locks: on YugabyteDB a migration that somebody else makes meanwhile fails, and may be tried again."""
    driver = PsycopgDriver(yugabyte.conninfo, schema)
    try:
        main, fast = Migrator(driver), Migrator(driver, "fast")
        fast.migrate_up()
        for migrator in (fast, main):
            migrator.migrate_down(target_version=EVERYTHING)
        for migrator in (main, fast):
            migrator.migrate_up()
            assert migrator.validate().ok
    finally:
        driver.close()


def test_what_a_job_asks_of_its_row(on: ClientOn, yugabyte: Proxy) -> None:
    def work(job: river.Job[Args]) -> None:
        job.record_output({"n": job.args.n})
        if job.args.n:
            with psycopg.connect(yugabyte.conninfo) as caller:
                job.complete_tx(caller)

    client = on(workers_of(work))
    with client.subscribe() as events:
        client.start()
        for n in range(2):
            job = client.insert(Args(n), river.InsertOpts(scheduled_at=datetime.now(UTC))).job
            done = client.wait(job, 60)
            assert (done.state, done.output) == ("completed", {"n": n})
            event = events.get(30)
            assert event.kind == "job_completed"
            assert event.job is not None
            assert event.job.id == job.id


def test_steps_and_long_jobs_write_their_row(on: ClientOn, yugabyte: Proxy, conn: psycopg.Connection) -> None:
    refreshed, tried = threading.Event(), []

    def one(job: river.Job[Args]) -> None:
        with psycopg.connect(yugabyte.conninfo) as caller:
            job.set_step_tx(caller)

    def two(job: river.Job[Args], cursor: Any) -> None:
        tried.append((job.attempt, cursor))
        if job.attempt == 1:
            with psycopg.connect(yugabyte.conninfo) as caller:
                job.set_cursor_tx(caller, {"n": 1})
            assert refreshed.wait(60)
            raise ValueError("not today")

    def work(job: river.Job[Args]) -> None:
        job.step("one", lambda: one(job))
        job.step_cursor("two", lambda cursor: two(job, cursor))

    client = on(workers_of(work), refresh_long_jobs=True, rescue_stuck_jobs_after=1.0, job_timeout=river.NEVER)
    client.start()
    job = client.insert(Args(1)).job

    def began() -> Any:
        return conn.execute("SELECT attempted_at FROM river_job WHERE state = 'running'").fetchone()

    first = eventually(began, what="a run")
    eventually(lambda: began() not in (None, first), what="its renewal")
    refreshed.set()
    assert client.wait(job, 60).state == "completed"
    assert tried == [(1, None), (2, {"n": 1})]


def test_verbs_on_durable_periodic_jobs(on: ClientOn, yugabyte: Proxy, schema: str) -> None:
    driver = PsycopgDriver(yugabyte.conninfo, schema)
    Migrator(driver, "fast").migrate_up()
    driver.close()
    client = on()
    jobs = client.durable_periodic_jobs
    assert jobs.define("daily", "0 9 * * *", Args(1), zone="Europe/Berlin").id == "daily"
    assert jobs.pause("daily").paused_at is not None
    assert jobs.resume("daily").paused_at is None
    assert jobs.change("daily", schedule="@every 1h").id == "daily"
    assert [job.id for job in jobs.list()] == ["daily"]
    assert jobs.run_now("daily").job.kind == "test_job"
    with psycopg.connect(yugabyte.conninfo) as caller:
        assert jobs.get_tx(caller, "daily").id == "daily"
        assert jobs.run_now_tx(caller, "daily").job.kind == "test_job"
        assert jobs.delete_tx(caller, "daily").id == "daily"
    with pytest.raises(river.NotFoundError):
        jobs.get("daily")


@pytest.mark.parametrize("fast", [False, True], ids=["without the fast line", "with it"])
def test_rows_of_a_lost_fetch_reply_run_again(
    on: ClientOn, yugabyte: Proxy, schema: str, conn: psycopg.Connection, fast: bool
) -> None:
    """Claimed by this very client since its start, and held by nobody in it."""
    if fast:
        driver = PsycopgDriver(yugabyte.conninfo, schema)
        Migrator(driver, "fast").migrate_up()
        driver.close()
    client = on(workers_of(lambda job: None))
    client.start()
    assert client.wait(client.insert(Args(1)).job, 30).state == "completed"
    now = conn.execute("SELECT now()").fetchone()
    assert now is not None
    lost = insert(conn, "running", kind="test_job", attempted_at=now[0], attempted_by=[client.id])
    assert client.wait(lost, 30).state == "completed"
    assert client.job_get(lost).attempt == 1
