"""How long the jobs of a killed client wait for another, in the seconds that users have. `make dead-clients`."""

from __future__ import annotations

import random
import time

import psycopg
import pytest

from tests.fix_client import eventually, until
from tests.fix_proxy import Proxy
from tests.fix_rows import states
from tests.fix_worker_process import Ledger, MakeWorker, ledger, make_worker, naps, running_under, watching_pid

__all__ = ["ledger", "make_worker", "until"]

ROUNDS, JOBS = 5, 1000
DEAD_MOST, LOST_MOST = 15.0, 5.0  # seconds


@pytest.mark.timeout(600)
def test_all_jobs_of_a_killed_client_run_again_soon_and_none_is_lost(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection
) -> None:
    """Two clients under load, one of them killed, whichever that is: the one that leads, or watches, or neither."""
    workers = [make_worker(), make_worker()]
    seed = random.randrange(2**32)
    rng, waits = random.Random(seed), []
    for number in range(ROUNDS):
        naps(conn, JOBS, 0.05)
        eventually(lambda: watching_pid(conn), 60)
        done = len(ledger.lines())
        ledger.wait(done + rng.randrange(100, JOBS // 2))
        killed = workers.pop(rng.randrange(2))
        at = killed.kill()
        left = running_under(conn, killed.id)
        workers.append(make_worker())
        wait_completed(conn, (number + 1) * JOBS)
        again = {line.job_id: line.at for line in ledger.lines() if line.pid != killed.pid and line.at > at}
        waits += [again[job_id] - at for job_id in left if job_id in again]
        assert left <= set(again) | {line.job_id for line in ledger.lines("end") if line.pid == killed.pid}
    print(f"\nseed {seed}: {len(waits)} jobs ran again {min(waits):.1f} to {max(waits):.1f} s after the kill")
    assert max(waits) <= DEAD_MOST


@pytest.mark.timeout(300)
def test_rows_whose_fetch_reply_was_lost_run_soon(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection, dsn: str
) -> None:
    proxy = Proxy(dsn)
    try:
        make_worker(proxy.conninfo, max_workers=100)
        waits: list[float] = []
        naps(conn, 1, 0.0)
        ledger.wait(1, "end")
        for _ in range(ROUNDS):
            eventually(lambda: set(states(conn)) == {"completed"})
            done = len(ledger.lines())
            with conn.transaction():
                conn.execute("LOCK TABLE river_job IN EXCLUSIVE MODE")
                naps(conn, 50, 0.0)
                eventually(lambda: blocked(conn))
                proxy.swallowing = True
            eventually(lambda: states(conn).get("running") == 50)
            proxy.swallowing = False
            proxy.cut()
            at = time.monotonic()
            starts = ledger.wait(done + 50)
            waits += [line.at - at for line in starts[done:]]
        print(f"\n{len(waits)} jobs ran {min(waits):.1f} to {max(waits):.1f} s after the connection was lost")
        assert max(waits) <= LOST_MOST
        assert {line.attempt for line in ledger.lines()} == {1}
    finally:
        proxy.close()


def wait_completed(conn: psycopg.Connection, count: int) -> None:
    eventually(lambda: states(conn) == {"completed": count}, 120)


def blocked(conn: psycopg.Connection) -> bool:
    query = (
        "SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE application_name = 'river_fast/fetcher' AND NOT granted AND relation = 'river_job'::regclass"
    )
    row = conn.execute(query).fetchone()
    assert row is not None
    return bool(row[0])
