"""Periodic jobs of whole clients: run by the leader, handed over with the leadership, and never twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance.intervals import MaintenanceIntervals
from river_fast.migrate import FAST, Migrator
from tests.fix_client import Args, eventually, workers_of
from tests.fix_pgbouncer import CLEAN, PROGRAM, PgBouncer
from tests.fix_proxy import Proxy
from tests.fix_yugabyte import client_on, lacking

TICK = timedelta(seconds=0.25)


@pytest.fixture
def leading(make_client: Any) -> Callable[..., river.Client]:
    """A client whose leader's services do not wait; started."""

    def make(work: Callable[[river.Job[Args]], Any] = lambda job: None, **config: Any) -> river.Client:
        client: river.Client = make_client(workers_of(work), test_only=True, **config)
        client._intervals = MaintenanceIntervals(elector=0.1)
        client.start()
        return client

    return make


@pytest.fixture
def fast(dsn: str, schema: str) -> None:
    driver = PsycopgDriver(dsn, schema)
    Migrator(driver, FAST).migrate_up()
    driver.close()


def ticks(current: datetime) -> datetime:
    """Every quarter of a second, the same ones whoever leads."""
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    return begin + ((current - begin) // TICK + 1) * TICK


def count(conn: psycopg.Connection[Any], **columns: Any) -> int:
    where = " AND ".join(f"{name} = %s" for name in columns) or "true"
    row = conn.execute(f"SELECT count(*) FROM river_job WHERE {where}", list(columns.values())).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("poll_only", [False, True])
def test_a_leader_inserts_and_works_them(leading: Any, conn: psycopg.Connection[Any], poll_only: bool) -> None:
    seen: list[river.Job[Args]] = []
    jobs = [
        river.PeriodicJob(river.PeriodicInterval(0.2), lambda: Args(1), id="often"),
        river.PeriodicJob(river.PeriodicInterval(3600), lambda: Args(2), run_on_start=True),
    ]
    leading(seen.append, periodic_jobs=jobs, poll_only=poll_only, fetch_poll_interval=0.05)
    eventually(lambda: sum(job.args.n == 1 for job in seen) >= 3, what="three runs")
    eventually(lambda: any(job.args.n == 2 for job in seen), what="the run on start")
    often = next(job for job in seen if job.args.n == 1)
    assert often.metadata == {"periodic": True, "river:periodic_job_id": "often"}
    assert count(conn, args=psycopg.types.json.Jsonb({"n": 2})) == 1


def test_jobs_come_and_go_while_the_client_leads(leading: Any, conn: psycopg.Connection[Any]) -> None:
    seen: list[int] = []
    client = leading(lambda job: seen.append(job.args.n))
    often = client.periodic_jobs.add(river.PeriodicJob(river.PeriodicInterval(0.1), lambda: Args(1)))
    client.periodic_jobs.add(river.PeriodicJob(river.NeverSchedule(), lambda: Args(2), id="once", run_on_start=True))
    eventually(lambda: seen.count(1) >= 2 and seen.count(2) == 1, what="runs of both")
    assert client.periodic_jobs.remove(often)
    assert client.periodic_jobs.remove_by_id("once")
    client.periodic_jobs.add(river.PeriodicJob(river.NeverSchedule(), lambda: Args(3), run_on_start=True))
    eventually(lambda: 3 in seen, what="a pass without the first")
    before = count(conn)
    client.periodic_jobs.add(river.PeriodicJob(river.NeverSchedule(), lambda: Args(4), run_on_start=True))
    eventually(lambda: 4 in seen, what="another one")
    assert count(conn) == before + 1
    assert client.stop(20).graceful
    client.start()
    eventually(lambda: seen.count(3) == 2 and seen.count(4) == 2, what="a new term after a restart")


def test_middleware_and_hooks_have_their_part(leading: Any) -> None:
    started: list[Any] = []
    inserted: list[str] = []

    def insert_many(params: Any) -> Any:
        inserted.extend(f"before {each.metadata['river:periodic_job_id']}" for each in params)
        results = yield
        inserted.extend(f"after {result.job.id > 0}" for result in results)

    plugin = river.Plugin(insert_many=insert_many, periodic_jobs_start=started.append)
    job = river.PeriodicJob(river.NeverSchedule(), lambda: Args(1), id="an-id", run_on_start=True)
    leading(periodic_jobs=[job], plugins=[plugin])
    eventually(lambda: len(inserted) == 2, what="the insert")
    assert inserted == ["before an-id", "after True"]
    assert len(started) == 1


def test_a_start_hook_that_raises_gives_the_leadership_up(leading: Any, conn: psycopg.Connection[Any]) -> None:
    called: list[Any] = []

    def refuse(params: Any) -> None:
        called.append(params)
        raise ValueError("not here")

    job = river.PeriodicJob(river.NeverSchedule(), lambda: Args(1), run_on_start=True)
    leading(periodic_jobs=[job], hooks=[river.Plugin(periodic_jobs_start=refuse)])
    eventually(lambda: len(called) > 3, what="a second term")
    assert count(conn) == 0


def test_whoever_leads_next_goes_on(leading: Any, conn: psycopg.Connection[Any]) -> None:
    jobs = [
        river.PeriodicJob(river.ScheduleFunc(ticks), lambda: Args(1)),
        river.PeriodicJob(river.NeverSchedule(), lambda: Args(2), run_on_start=True),
    ]
    first = leading(periodic_jobs=jobs)
    eventually(lambda: count(conn) >= 3, what="runs of the first")
    second = leading(periodic_jobs=jobs)
    assert first.stop(20).graceful
    before = count(conn)
    eventually(lambda: count(conn) >= before + 3, what="runs of the second")
    assert count(conn, args=psycopg.types.json.Jsonb({"n": 2})) == 2, "one in each term"
    assert second.stop(20).graceful


@pytest.mark.timeout(180)
def test_no_time_comes_twice_however_the_leadership_is_lost(leading: Any, conn: psycopg.Connection[Any]) -> None:
    """The leader's row taken away, its lease over, its resignation asked for, again and again, under two clients."""
    job = river.PeriodicJob(river.ScheduleFunc(ticks), lambda: Args(1))
    clients = [leading(periodic_jobs=[job]) for _ in range(2)]
    changes = (
        "DELETE FROM river_leader",
        "UPDATE river_leader SET expires_at = now() - interval '1 second'",
        "UPDATE river_leader SET elected_at = clock_timestamp(), expires_at = now() + interval '0.3 s'",
        "UPDATE river_leader SET leader_id = 'a third', expires_at = now() + interval '0.3 s'",
    )
    for turn in range(24):
        before = count(conn)
        eventually(lambda before=before: count(conn) > before, what=f"a run in turn {turn}")
        if turn % 5 == 4:
            clients[0].notify.request_resign()
        else:
            conn.execute(changes[turn % 5])
    twice = conn.execute("SELECT scheduled_at, count(*) FROM river_job GROUP BY 1 HAVING count(*) > 1").fetchall()
    assert twice == []


def test_durable_jobs_of_an_insert_only_client_run_on_whoever_leads(
    fast: None, leading: Any, make_client: Any, conn: psycopg.Connection[Any]
) -> None:
    seen: list[river.Job[Args]] = []
    inserter = make_client()
    inserter.durable_periodic_jobs.define("often", "@every 1s", Args(7))
    client = leading(seen.append)
    eventually(lambda: len(seen) >= 2, what="two runs")
    assert {job.args.n for job in seen} == {7}
    assert seen[0].metadata == {"periodic": True, "river:periodic_job_id": "often"}
    inserter.durable_periodic_jobs.pause("often")
    assert client.stop(20).graceful
    conn.execute("UPDATE river_fast_periodic_job SET next_run_at = next_run_at - interval '1 day', paused_at = NULL")
    before = count(conn)
    leading(seen.append)
    eventually(lambda: count(conn) > before, what="the one that was missed")
    missed = conn.execute("SELECT count(*) FROM river_job WHERE scheduled_at < now() - interval '1 hour'").fetchone()
    assert missed == (0,), "the newest alone"


async def test_an_async_client_runs_both(fast: None, dsn: str, schema: str) -> None:
    seen: list[int] = []
    workers = river.Workers()

    @workers.work(Args)
    async def work(job: river.Job[Args]) -> None:
        seen.append(job.args.n)

    config = river.Config(
        schema=schema, workers=workers, queues={"default": river.QueueConfig(5)}, test_only=True,
        periodic_jobs=[river.PeriodicJob(river.PeriodicInterval(0.1), lambda: Args(1))],
    )  # fmt: skip
    async with river.AsyncClient(dsn, config) as client:
        assert client.periodic_jobs.add(river.PeriodicJob("@every 1s", lambda: Args(2))) == 1
        await client.durable_periodic_jobs.define("some", 1, Args(3))
        deadline = time.monotonic() + 60
        while set(seen) != {1, 2, 3}:
            assert time.monotonic() < deadline, seen
            await client.wait((await client.insert(Args(1))).job, 20)


@pytest.mark.timeout(180)
def test_both_work_on_yugabytedb(fast: None, yugabyte: Proxy, schema: str) -> None:
    seen: set[int] = set()
    client = client_on(yugabyte, schema, workers_of(lambda job: seen.add(job.args.n)))
    client.periodic_jobs.add(river.PeriodicJob(river.PeriodicInterval(0.2), lambda: Args(1)))
    client.durable_periodic_jobs.define("some", 1, Args(2))
    client.start()
    eventually(lambda: seen == {1, 2}, 60.0, "runs of both")
    assert client.stop(30).graceful
    assert lacking(yugabyte) == set()


@pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine: apt-get install pgbouncer")
@pytest.mark.timeout(180)
def test_both_work_through_a_pooler(fast: None, dsn: str, schema: str) -> None:
    seen: set[int] = set()
    with PgBouncer(dsn, "transaction", 5) as pooler:
        config = river.Config(
            schema=schema,
            workers=workers_of(lambda job: seen.add(job.args.n)),
            queues={"default": river.QueueConfig(5)},
            test_only=True,
            periodic_jobs=[river.PeriodicJob(river.PeriodicInterval(0.2), lambda: Args(1), run_on_start=True)],
        )
        client = river.Client(pooler.dsn, config)
        client.durable_periodic_jobs.define("some", 1, Args(2))
        client.start()
        eventually(lambda: seen == {1, 2}, 60.0, "runs of both")
        assert client.stop(30).graceful
        assert pooler.sessions(5) == [CLEAN] * 5
