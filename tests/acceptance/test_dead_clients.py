"""`kill -9`, and what becomes of the jobs: whole clients in processes of their own, one of them killed in mid-load.

In the seconds that users have, where one test is enough; else in fewer. `make dead-clients` measures them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from river_fast import embedded
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import Migrator
from tests.fix_client import eventually
from tests.fix_pgbouncer import PROGRAM, PgBouncer
from tests.fix_rows import column, states
from tests.fix_worker_process import (
    Ledger,
    MakeWorker,
    WorkerProcess,
    ledger,
    make_worker,
    naps,
    running_under,
    terminate,
    watching_pid,
)

__all__ = ["ledger", "make_worker"]

QUICK = {"INTERVAL": 0.25, "DEAD_AFTER": 2.0, "SILENT_AFTER": 8.0, "GAP_MOST": 0.5}
# what a live client must never come to, however slow the machine is for a while
PATIENT = {**QUICK, "DEAD_AFTER": 6.0}


@pytest.fixture
def fast(dsn: str, schema: str) -> None:
    driver = PsycopgDriver(dsn, schema)
    Migrator(driver, "fast").migrate_up()
    driver.close()


def registered(conn: psycopg.Connection) -> list[str]:
    return sorted(row[0] for row in conn.execute("SELECT id FROM river_fast_client").fetchall())


@pytest.mark.timeout(200)
def test_the_jobs_of_the_watcher_itself_killed_in_mid_load_run_again_under_the_other(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection
) -> None:
    """Nobody leads, and the one that dies is the one that watched. In real seconds."""
    naps(conn, 400, 0.02)
    stranded = naps(conn, 10, 300.0, max_attempts=2, queue="killed")
    killed = make_worker(queue="killed", leader_election_disabled=True)
    eventually(lambda: watching_pid(conn))
    ledger.wait(10)
    other = make_worker(leader_election_disabled=True)
    conn.execute("UPDATE river_job SET queue = 'default' WHERE queue = 'killed'")  # where somebody is left to work them
    conn.execute("UPDATE river_job SET args = '{\"s\": 0}' WHERE id = ANY (%s)", [stranded])
    ledger.wait(50, pid=other.pid)
    assert running_under(conn, killed.id) == set(stranded)
    killed.kill()
    ledger.wait(420)
    eventually(lambda: states(conn) == {"completed": 410})
    starts = ledger.lines()
    assert len(starts) == 420, "none ran twice but those that were running, and none was lost"
    assert {line.job_id for line in starts if line.attempt == 2} == set(stranded)
    assert {line.pid for line in starts if line.attempt == 2} == {other.pid}
    for job_id in stranded:
        assert column(conn, job_id, "attempt") == 2
        assert [e["error"] for e in column(conn, job_id, "errors")] == ["Stuck job rescued by JobRescuer"]


@pytest.mark.timeout(200)
def test_a_job_of_a_live_client_is_never_touched(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection
) -> None:
    """Its GIL is busy, its sessions are ended again and again, its process is paused for longer than the dead are
    waited for: it holds its lock again before that means anything."""
    (job_id,) = naps(conn, 1, 300.0, kind="burn")
    worker = make_worker(seconds=PATIENT)
    ledger.wait(1)
    make_worker(seconds=PATIENT, queue="other")
    for _ in range(8):
        terminate(conn, "river_fast/fetcher")
        threading.Event().wait(1.0)
        assert column(conn, job_id, "state") == "running"
    worker.pause()
    threading.Event().wait(PATIENT["DEAD_AFTER"] + 3.0)
    worker.go_on()
    terminate(conn)
    threading.Event().wait(PATIENT["DEAD_AFTER"] + 3.0)
    row = conn.execute("SELECT state::text, attempt, errors FROM river_job WHERE id = %s", [job_id]).fetchone()
    assert row == ("running", 1, None)
    worker.kill()
    eventually(lambda: column(conn, job_id, "state") == "available", 60)


@pytest.mark.timeout(200)
def test_a_watcher_that_is_frozen_watches_no_longer(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection
) -> None:
    """It would keep its lock: the server ends its session, and another client takes over."""
    frozen = make_worker(seconds={**QUICK, "FROZEN_AFTER": 3.0})
    before = eventually(lambda: watching_pid(conn))
    frozen.pause()
    (job_id,) = naps(conn, 1, 300.0, queue="other")
    killed = make_worker(seconds=QUICK, queue="other")
    ledger.wait(1)
    make_worker(seconds=QUICK, queue="idle")
    eventually(lambda: watching_pid(conn) not in (None, before), 60)
    killed.kill()
    eventually(lambda: column(conn, job_id, "state") == "available", 60)


@pytest.mark.timeout(200)
def test_a_watcher_that_is_frozen_in_the_middle_of_a_rescue_rescues_no_longer(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection, dsn: str, schema: str
) -> None:
    """What it had begun is undone with its session, and another client does it."""
    frozen = make_worker(seconds={**QUICK, "FROZEN_AFTER": 3.0})
    before = eventually(lambda: watching_pid(conn))
    (job_id,) = naps(conn, 1, 300.0, queue="other")
    killed = make_worker(seconds=QUICK, queue="other")
    ledger.wait(1)
    with psycopg.connect(dsn) as blocker:
        blocker.execute(f"LOCK TABLE {schema}.river_job IN SHARE MODE")
        killed.kill()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        eventually(lambda: conn.execute(waits, [before]).fetchone() == (1,), 60)
        frozen.pause()
    make_worker(seconds=QUICK, queue="idle")
    eventually(lambda: column(conn, job_id, "state") == "available", 60)
    assert watching_pid(conn) not in (None, before)


@pytest.mark.timeout(200)
def test_a_given_ids_jobs_are_freed_where_line_fast_is_there(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection, fast: None
) -> None:
    naps(conn, 5, 300.0)
    killed = make_worker(id="worker-1", seconds=QUICK)
    ledger.wait(5)
    conn.execute("UPDATE river_job SET args = '{\"s\": 0}'")
    other = make_worker(id="worker-2", seconds=QUICK)
    killed.kill()
    ledger.wait(5, pid=other.pid)
    eventually(lambda: registered(conn) == ["worker-2"])
    other.stop()
    assert registered(conn) == []
    assert states(conn) == {"completed": 5}


@pytest.mark.timeout(200)
def test_a_given_ids_jobs_wait_for_its_restart_where_line_fast_is_not(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection
) -> None:
    naps(conn, 5, 300.0)
    killed = make_worker(id="worker-1", seconds=QUICK)
    ledger.wait(5)
    conn.execute("UPDATE river_job SET args = '{\"s\": 0}'")
    make_worker(id="worker-2", seconds=QUICK)
    killed.kill()
    eventually(lambda: watching_pid(conn))
    threading.Event().wait(2 * QUICK["DEAD_AFTER"])
    assert len(running_under(conn, "worker-1")) == 5
    make_worker(id="worker-1", seconds=QUICK)
    ledger.wait(10)
    eventually(lambda: states(conn) == {"completed": 5})


@pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine: apt-get install pgbouncer")
@pytest.mark.timeout(200)
def test_behind_a_pooler_a_heartbeat_tells(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection, dsn: str, fast: None
) -> None:
    """Given and generated ids; and one that starts anew under its id at once, and beats on."""
    naps(conn, 6, 300.0)
    with PgBouncer(dsn, "transaction", 5) as pgbouncer:
        killed = [make_worker(pgbouncer.dsn, seconds=QUICK, max_workers=3, **more) for more in ({}, {"id": "worker-1"})]
        ledger.wait(6)
        conn.execute("UPDATE river_job SET args = '{\"s\": 0}'")
        other = make_worker(pgbouncer.dsn, seconds=QUICK, queue="other")
        for worker in killed:
            worker.kill()
        again = make_worker(pgbouncer.dsn, seconds=QUICK, id="worker-1")
        ledger.wait(6, pid=again.pid, timeout=90)
        eventually(lambda: states(conn) == {"completed": 6})
        eventually(lambda: registered(conn) == sorted([other.id, again.id]))
        other.stop()
        again.stop()
    assert registered(conn) == []


@pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine: apt-get install pgbouncer")
@pytest.mark.timeout(200)
def test_a_client_that_has_no_lock_is_not_taken_for_dead_by_one_that_has(
    make_worker: MakeWorker, ledger: Ledger, conn: psycopg.Connection, dsn: str, schema: str
) -> None:
    naps(conn, 5, 300.0)
    with PgBouncer(dsn, "transaction", 5) as pgbouncer:
        worker = make_worker(pgbouncer.dsn, seconds=QUICK)
        ledger.wait(5)
        make_worker(seconds=QUICK)
        eventually(lambda: watching_pid(conn))
        threading.Event().wait(2 * QUICK["DEAD_AFTER"])
        assert len(running_under(conn, worker.id)) == 5
        worker.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[embedded.Embedded]:
    """One that may be stopped and started."""
    server = embedded.start(tmp_path / "server", stop_at_exit=True)
    yield server
    server.stop()


@pytest.mark.timeout(200)
def test_a_server_that_is_restarted_in_between_makes_nobody_dead_but_the_dead(
    own_server: embedded.Embedded, tmp_path: Path, ledger: Ledger
) -> None:
    """All lose their locks at once; those that live have them again before the watcher, whoever that is now, acts."""
    driver = PsycopgDriver(own_server.url)
    Migrator(driver).migrate_up()
    driver.close()
    seconds = {**QUICK, "DEAD_AFTER": 4.0}
    workers = [WorkerProcess(own_server.url, "public", ledger, {"seconds": seconds, "max_workers": 5}) for _ in "abc"]
    try:
        with psycopg.connect(own_server.url, autocommit=True) as conn:
            naps(conn, 15, 300.0)
            ledger.wait(15)
            conn.execute("UPDATE river_job SET args = '{\"s\": 0}'")
            dead = running_under(conn, workers[0].id)
        workers[0].kill()
        own_server.stop()
        embedded.start(tmp_path / "server", stop_at_exit=True)
        with psycopg.connect(own_server.url, autocommit=True) as conn:
            held = [running_under(conn, worker.id) for worker in workers[1:]]
            conn.execute("UPDATE river_job SET queue = 'elsewhere' WHERE id = ANY (%s)", [sorted(dead)])
            eventually(lambda: states(conn) == {"running": 10, "available": 5}, 90)
            threading.Event().wait(2 * seconds["DEAD_AFTER"])
            assert [running_under(conn, worker.id) for worker in workers[1:]] == held
            assert running_under(conn, workers[0].id) == set()
    finally:
        for worker in workers:
            worker.close()
