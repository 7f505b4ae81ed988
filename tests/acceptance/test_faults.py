"""Processes killed, backends terminated, replies lost: nothing is lost, nothing is recorded twice (reliability.md)."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import LATE, Args, eventually, workers_of

WORKER = """
import sys, time
import river_fast as river
from tests.fix_client import Args

workers = river.Workers()
ledger = open({ledger!r}, "a", buffering=1)

@workers.work(Args)
def work(job):
    ledger.write(f"{{job.id}} {{job.attempt}}\\n")
    {body}

client = river.Client({dsn!r}, river.Config(
    id={client_id!r}, schema={schema!r}, workers=workers, queues={{"default": river.QueueConfig(max_workers=50)}}))
client.start()
print("started", flush=True)
sys.stdin.read()
print(client.stop(30).graceful, flush=True)
"""


class WorkerProcess:
    """A worker in a process of its own; end its input to stop it in order."""

    def __init__(self, dsn: str, schema: str, client_id: str | None, ledger: Path, body: str) -> None:
        program = WORKER.format(dsn=dsn, schema=schema, client_id=client_id, ledger=str(ledger), body=body)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=60)

    def stop(self) -> str:
        out, _ = self.process.communicate("", timeout=60)
        return out


@pytest.fixture
def worker_process(dsn: str, schema: str, tmp_path: Path) -> Iterator[Any]:
    made: list[WorkerProcess] = []

    def make(client_id: str | None, body: str = "time.sleep(0.001)") -> WorkerProcess:
        made.append(WorkerProcess(dsn, schema, client_id, tmp_path / "ledger", body))
        return made[-1]

    yield make
    for worker in made:
        if worker.process.poll() is None:
            worker.kill()


def unfinished(conn: psycopg.Connection) -> int:
    row = conn.execute("SELECT count(*) FROM river_job WHERE state <> 'completed'").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.timeout(180)
def test_kill_9_in_mid_load_and_restart_under_the_same_id(
    make_client: Any, worker_process: Any, conn: psycopg.Connection, tmp_path: Path
) -> None:
    count = 6000
    make_client().insert_many_fast([Args(n) for n in range(count)])
    for round_number in range(4):
        worker = worker_process("the_same_id")
        target = count - count * (round_number + 1) // 6
        eventually(lambda target=target: unfinished(conn) < target, 60)
        worker.kill()
    last = worker_process("the_same_id")
    eventually(lambda: unfinished(conn) == 0, 90, "every job completed")
    assert last.stop() == "True\n"
    lines = (tmp_path / "ledger").read_text().splitlines()
    runs = [tuple(map(int, line.split())) for line in lines if line.count(" ") == 1]
    assert {job_id for job_id, _ in runs} == {row[0] for row in conn.execute("SELECT id FROM river_job")}
    assert len(runs) == len(set(runs)), "an attempt was worked twice"
    # one completion an attempt: every earlier attempt was charged to the rescue, with its error
    odd = conn.execute(
        "SELECT id, attempt, errors FROM river_job WHERE attempt <> coalesce(cardinality(errors), 0) + 1"
    ).fetchall()
    assert odd == []


def test_backends_terminated_in_mid_load_lose_nothing(make_client: Any, conn: psycopg.Connection) -> None:
    runs: list[tuple[int, int]] = []

    def work(job: river.Job[Args]) -> None:
        runs.append((job.id, job.attempt))
        time.sleep(0.001)

    client = make_client(workers_of(work), max_workers=50)
    client.insert_many_fast([Args(n) for n in range(5000)])
    client.start()
    for role in ("fetcher", "completer", "notifier", "pool") * 5:
        before = len(runs)
        eventually(lambda before=before: len(runs) > before + 50 or len(runs) >= 5000, 30, "work going on")
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database()",
            [f"river_fast/{role}"],
        )
    eventually(lambda: unfinished(conn) == 0, 60, "every job completed")
    assert len(runs) == len(set(runs))
    assert conn.execute("SELECT count(*) FROM river_job WHERE attempt <> 1 OR errors IS NOT NULL").fetchone() == (0,)
    assert client.stop(30).graceful


def test_rows_stranded_by_a_lost_fetch_reply_are_freed_soon(
    make_client: Any, conn: psycopg.Connection
) -> None:
    """What a fetch leaves behind whose reply is cut after its commit: rows running under our id that nobody holds."""
    client = make_client(workers_of(lambda job: None))
    client.start()
    assert client.wait(client.insert(Args(0)).job, 20).state == "completed"
    conn.execute(
        "INSERT INTO river_job (args, kind, max_attempts, state, attempt, attempted_at, attempted_by)"
        " SELECT '{}', 'test_job', 25, 'running', 1, now(), ARRAY[%s] FROM generate_series(1, 20)",
        [client.id],
    )
    conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'river_fast/fetcher'")
    eventually(lambda: unfinished(conn) == 0, what="within five seconds on a quiet machine: their freeing")
    assert conn.execute("SELECT count(*) FROM river_job WHERE attempt <> 1 OR errors IS NOT NULL").fetchone() == (0,)


def test_long_running_job_of_a_live_client_is_never_freed(make_client: Any, conn: psycopg.Connection) -> None:
    started, release = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        release.wait(60)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    try:
        assert started.wait(20)
        sessions = "pg_stat_activity WHERE application_name = 'river_fast/fetcher'"
        for _ in range(2):  # each lost connection makes the client look for stranded rows
            reconnects = client.stats()["reconnects"]
            conn.execute(f"SELECT pg_terminate_backend(pid) FROM {sessions}")
            eventually(lambda reconnects=reconnects: client.stats()["reconnects"] > reconnects)
        looks = client._services._liveness.looked.activate()
        for _ in range(3):
            looks.wait(20)
        row = client.job_get(job.id)
        assert (row.state, row.attempt) == ("running", 1)
    finally:
        release.set()
    assert client.wait(job, 20).state == "completed"


def test_stop_with_the_server_unreachable_returns_in_time_and_lists_what_is_unrecorded(
    make_client: Any, conn: psycopg.Connection
) -> None:
    """The rows are locked away from the completer for the whole stop: an outage that a test can make and end."""
    started, release = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        release.wait(30)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert started.wait(20)
    with conn.transaction():
        conn.execute("SELECT 1 FROM river_job FOR UPDATE")
        release.set()
        began = time.monotonic()
        report = client.stop(1)
        assert time.monotonic() - began <= LATE
    assert not report.graceful
    assert [outcome.job_id for outcome in report.unrecorded] == [job.id]


def test_row_deleted_under_a_running_job_is_no_error(make_client: Any, conn: psycopg.Connection, caplog: Any) -> None:
    def work(job: river.Job[Args]) -> None:
        if job.args.n == 1:
            conn.execute("DELETE FROM river_job WHERE id = %s", [job.id])

    client = make_client(workers_of(work))
    client.insert(Args(1))
    client.start()
    assert client.wait(client.insert(Args(2)).job, 20).state == "completed"
    assert client.stop(20).graceful
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_stale_clients_outcome_is_refused_and_counted(make_client: Any, conn: psycopg.Connection) -> None:
    """Another client re-claimed the job while ours ran it: ours must not finish the other's attempt."""
    started, release = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        release.wait(30)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert started.wait(20)
    conn.execute(
        "UPDATE river_job SET attempt = attempt + 1, attempted_at = now() + interval '1 s',"
        " attempted_by = attempted_by || 'another_client'::text"
    )
    release.set()
    eventually(lambda: client.stats()["completer_fenced"] == 1)
    row = client.job_get(job.id)
    assert (row.state, row.attempt) == ("running", 2)
