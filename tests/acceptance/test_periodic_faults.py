"""Periodic jobs while the database goes away under their leaders: none comes twice, and no durable one is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.acceptance.test_periodic_jobs import count, fast, leading, ticks
from tests.fix_client import Args, eventually
from tests.fix_proxy import Proxy

__all__ = ["fast", "leading"]

TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name LIKE 'river_fast%%' AND pid <> pg_backend_pid() AND query LIKE %s"
)


def twice(conn: psycopg.Connection[Any]) -> list[Any]:
    query = "SELECT metadata, scheduled_at, count(*) FROM river_job GROUP BY 1, 2 HAVING count(*) > 1"
    return conn.execute(query).fetchall()


def times(conn: psycopg.Connection[Any], id: str) -> list[datetime]:
    query = "SELECT scheduled_at FROM river_job WHERE metadata ->> 'river:periodic_job_id' = %s ORDER BY 1"
    return [at for (at,) in conn.execute(query, (id,)).fetchall()]


@pytest.mark.timeout(180)
def test_connections_terminated_at_any_moment(
    fast: None, leading: Any, conn: psycopg.Connection[Any], schema: str
) -> None:
    """Of two clients, in the middle of whatever they do with this schema."""
    job = river.PeriodicJob(river.ScheduleFunc(ticks), lambda: Args(1), id="in-memory")
    clients = [leading(periodic_jobs=[job]) for _ in range(2)]
    clients[0].durable_periodic_jobs.define("durable", "@every 1s", Args(2), catch_up=1000)
    terminated = 0
    for turn in range(40):
        row = conn.execute(TERMINATE, (f"%{schema}%",)).fetchone()
        terminated += 0 if row is None else row[0]
        time.sleep(0.05 * (turn % 7))  # the fault's own rhythm: nothing is waited for
    assert terminated > 40
    before = count(conn)
    eventually(lambda: count(conn) > before + 3, 60.0, "runs after the faults")
    for client in clients:
        assert client.stop(30).finished
    assert twice(conn) == []
    durable = times(conn, "durable")
    whole = [durable[0] + timedelta(seconds=n) for n in range(len(durable))]
    assert durable == whole, "each second once"


@pytest.mark.timeout(180)
def test_replies_lost_at_any_moment(fast: None, make_client: Any, conn: psycopg.Connection[Any], dsn: str) -> None:
    """What was asked for is done, and nobody hears of it: the row itself tells whether its run was inserted."""
    from river_fast.maintenance.intervals import MaintenanceIntervals
    from tests.fix_client import workers_of

    proxy = Proxy(dsn)
    row = conn.execute("SELECT current_schema()").fetchone()
    assert row is not None
    config = river.Config(
        schema=row[0],
        workers=workers_of(lambda job: None),
        queues={"default": river.QueueConfig(5)},
        test_only=True,
        periodic_jobs=[river.PeriodicJob(river.ScheduleFunc(ticks), lambda: Args(1), id="in-memory")],
    )
    client = river.Client(proxy.conninfo, config)
    client._intervals = MaintenanceIntervals(elector=0.1)
    make_client().durable_periodic_jobs.define("durable", "@every 1s", Args(2), catch_up=1000)
    client.start()
    try:
        for turn in range(12):
            before = count(conn)
            eventually(lambda before=before: count(conn) > before, 60.0, f"a run in turn {turn}")
            proxy.swallowing = True
            time.sleep(0.05 * (turn % 5))
            proxy.cut()
            proxy.swallowing = False
        before = count(conn)
        eventually(lambda: count(conn) > before + 3, 60.0, "runs after the faults")
    finally:
        client.stop_and_cancel(10)
        proxy.cut()
        proxy.close()
    assert twice(conn) == []
    durable = times(conn, "durable")
    assert durable == [durable[0] + timedelta(seconds=n) for n in range(len(durable))], "each second once"


PROGRAM = """
import sys
from datetime import datetime, timedelta, UTC
import river_fast as river
from river_fast.maintenance.intervals import MaintenanceIntervals
from tests.acceptance.test_periodic_jobs import ticks
from tests.fix_client import Args, workers_of

job = river.PeriodicJob(river.ScheduleFunc(ticks), lambda: Args(1), id="in-memory")
config = river.Config(schema=sys.argv[2], workers=workers_of(lambda job: None), test_only=True,
    queues={"default": river.QueueConfig(5)}, periodic_jobs=[job], id=sys.argv[3])
client = river.Client(sys.argv[1], config)
client._intervals = MaintenanceIntervals(elector=0.2)
client.start()
client.wait_stopped()
"""


@pytest.mark.timeout(180)
def test_a_frozen_leader_that_thaws_inserts_nothing_of_its_old_term(
    dsn: str, schema: str, conn: psycopg.Connection[Any]
) -> None:
    """Frozen by SIGSTOP while another one leads: the moment it thaws is the moment it must not trust itself."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = {
        name: subprocess.Popen([sys.executable, "-c", PROGRAM, dsn, schema, name], env=environment)
        for name in ("one-client", "two-client")
    }

    def leader() -> str:
        row = conn.execute("SELECT leader_id FROM river_leader").fetchone()
        return "" if row is None else str(row[0])

    try:
        for turn in range(3):
            before = count(conn)
            eventually(lambda before=before: count(conn) > before + 2, 60.0, f"runs in turn {turn}")
            frozen = leader()
            processes[frozen].send_signal(signal.SIGSTOP)
            conn.execute("UPDATE river_leader SET expires_at = now() - interval '1 second'")
            eventually(lambda frozen=frozen: leader() not in ("", frozen), 60.0, "another leader")
            before = count(conn)
            eventually(lambda before=before: count(conn) > before + 2, 60.0, "its runs")
            processes[frozen].send_signal(signal.SIGCONT)
        before = count(conn)
        eventually(lambda: count(conn) > before + 2, 60.0, "runs after the thaw")
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(30)
    assert twice(conn) == []
    assert datetime.now(UTC) > times(conn, "in-memory")[-1]
