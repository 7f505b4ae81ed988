"""A whole client on a PostgreSQL that says it is YugabyteDB: what that lacks is never asked for (river.md 3.1)."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import Migrator
from tests.fix_client import Args, eventually, workers_of
from tests.fix_proxy import Proxy
from tests.fix_rows import insert
from tests.fix_yugabyte import LISTENS, client_on, hear_nothing, lacking


class Work:
    """Fails, snoozes or blocks at the first attempt, as the job's `n` says; keeps what it has seen."""

    FAIL, SNOOZE, BLOCK = -1, -2, -3

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.blocked = threading.Event()

    def __call__(self, job: river.Job[Args]) -> None:
        n, first = job.args.n, job.id not in {job_id for job_id, _ in self.seen}
        self.seen.append((job.id, job.attempt))
        if n == self.FAIL and first:
            raise ValueError("not today")
        if n == self.SNOOZE and first:
            raise river.JobSnoozeError(0.1)
        if n == self.BLOCK:
            self.blocked.set()
            assert job.wait_cancelled(60)
            job.raise_if_cancelled()


@pytest.mark.timeout(180)
def test_whole_client_works_without_what_yugabytedb_lacks(
    yugabyte: Proxy, schema: str, conn: psycopg.Connection
) -> None:
    hear_nothing(conn, schema)
    work = Work()
    client, other = client_on(yugabyte, schema, workers_of(work)), client_on(yugabyte, schema, None)
    soon = river.InsertOpts(scheduled_at=datetime.now(UTC) + timedelta(seconds=1))
    ids = [result.job.id for result in client.insert_many([Args(n) for n in range(200)])]
    ids.append(client.insert(Args(Work.FAIL)).job.id)
    ids.append(client.insert(Args(Work.SNOOZE)).job.id)
    unique = river.InsertOpts(unique=river.UniqueOpts(by_args=True))
    once, twice = (client.insert(Args(1000), unique) for _ in range(2))
    assert (once.unique_skipped_as_duplicate, twice.unique_skipped_as_duplicate) == (False, True)
    ids.append(once.job.id)
    through = client_on(yugabyte, schema, None, plugins=[river.Plugin(insert_many=lambda params, inner: inner(params))])
    assert through.insert(Args(1000), unique).unique_skipped_as_duplicate
    through.stop()
    client.start()
    try:
        assert client._services is not None
        assert client._services.notifier is None
        ids.append(client.insert(Args(), soon).job.id)
        ids.append(other.insert(Args()).job.id)  # nobody tells the worker: it polls
        assert other.insert_many_fast([Args()]) == 1
        blocked = other.insert(Args(Work.BLOCK)).job.id
        assert work.blocked.wait(20)
        other.job_cancel(blocked)
        for job_id in ids:
            assert client.wait(job_id, 60).state == "completed"
        assert client.wait(blocked, 30).state == "cancelled"
        assert client.stats()["completer_copy_flushes"] == 0
        unfinished = "SELECT count(*) FROM river_job WHERE state <> 'completed'"
        eventually(lambda: conn.execute(unfinished).fetchone() == (1,), what="all completed but the cancelled one")
    finally:
        report = client.stop(20)
        other.stop()
    assert report.graceful
    assert sorted(seen for seen in work.seen if seen[0] == ids[201]) == [(ids[201], 1)] * 2
    assert len(set(work.seen)) == len(work.seen) - 1, "a snooze gives its attempt back; nothing else ran twice"
    assert lacking(yugabyte) == set()
    assert list(conn.notifies(timeout=0)) == []


def test_unstarted_jobs_are_given_back_at_the_stop(yugabyte: Proxy, schema: str, conn: psycopg.Connection) -> None:
    started, release = threading.Semaphore(0), threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.release()
        assert release.wait(60)

    queues = {"default": river.QueueConfig(max_workers=2, prefetch=0)}
    client = river.Client(yugabyte.conninfo, river.Config(schema=schema, workers=workers_of(work), queues=queues))
    client.insert_many([Args(n) for n in range(20)])
    client.start()
    for _ in range(2):
        assert started.acquire(timeout=20)
    client.request_stop(20)
    release.set()
    assert client.wait_stopped(25)
    assert client.stop().graceful
    states = dict(conn.execute("SELECT state::text, count(*) FROM river_job GROUP BY 1").fetchall())
    assert sum(states.values()) == 20
    assert states["available"] > 0
    assert set(states) == {"completed", "available"}
    assert conn.execute("SELECT count(*) FROM river_job WHERE attempt <> (state = 'completed')::int").fetchone() == (0,)
    assert lacking(yugabyte) == set()


def test_listens_where_the_setting_says_that_it_can(yugabyte: Proxy, schema: str, conn: psycopg.Connection) -> None:
    conn.execute(LISTENS)
    client = client_on(yugabyte, schema, workers_of(lambda job: None))
    with client:
        assert client._services is not None
        assert client._services.notifier is not None

        def told() -> int:
            assert client.wait(client.insert(Args()).job, 20).state == "completed"
            return client.stats()["notifications"]

        eventually(told, what="a notification, once the fetcher listens")
    assert lacking(yugabyte) == {b"LISTEN"}


def test_heartbeats_tell_the_living_from_the_dead(
    yugabyte: Proxy, schema: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no session locks; line `fast` has the table."""
    for name, value in {"INTERVAL": 0.05, "SILENT_AFTER": 7.0, "GAP_MOST": 0.1}.items():
        monkeypatch.setattr(f"river_fast.maintenance.dead_client_rescuer.{name}", value)
    driver = PsycopgDriver(yugabyte.conninfo, schema)
    Migrator(driver, "fast").migrate_up()
    driver.close()
    conn.execute("INSERT INTO river_fast_client (id, key, locks) VALUES ('worker-1', 1, false)")
    job_id = insert(conn, "running", kind="test_job", attempted_by=["worker-1"])
    client = client_on(yugabyte, schema, workers_of(lambda job: None))
    with client:
        assert re.search(r"_hb[0-9a-f]{16}$", client.id)
        assert client.wait(job_id, 60).attempt == 2
        eventually(lambda: conn.execute("SELECT id, locks FROM river_fast_client").fetchall() == [(client.id, False)])
    assert conn.execute("SELECT FROM river_fast_client").fetchall() == []
    assert lacking(yugabyte) == set()
