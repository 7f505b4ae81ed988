"""Whole clients in processes of their own, to be killed; what ran is in a ledger that all of them append to.

A line of the ledger: job id, attempt, pid, `start` or `end`, seconds of the machine's monotonic clock.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

PROGRAM = """
import json, logging, os, sys, threading, time
import river_fast as river
from river_fast.maintenance import dead_client_rescuer

dsn, schema, options, ledger = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
logging.basicConfig(level=logging.WARNING)
for name, value in options.pop("seconds", {}).items():
    setattr(dead_client_rescuer, name, value)
log = os.open(ledger, os.O_WRONLY | os.O_APPEND)

def note(job, what):
    os.write(log, f"{job.id} {job.attempt} {os.getpid()} {what} {time.monotonic()}\\n".encode())

workers = river.Workers()

@workers.work("nap", timeout=river.NEVER)
def nap(job):
    note(job, "start")
    time.sleep(json.loads(job.encoded_args)["s"])
    note(job, "end")

@workers.work("burn", timeout=river.NEVER)
def burn(job):
    note(job, "start")
    until = time.monotonic() + json.loads(job.encoded_args)["s"]
    while time.monotonic() < until:
        sum(range(1000))
    note(job, "end")

queues = {options.pop("queue", "default"): river.QueueConfig(max_workers=options.pop("max_workers", 10))}
with river.Client(dsn, river.Config(schema=schema, workers=workers, queues=queues, **options)) as client:
    print(client.id, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Line:
    """One of the ledger's."""

    job_id: int
    attempt: int
    pid: int
    what: str
    at: float


class Ledger:
    """What ran, where, and when."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self, what: str = "start") -> list[Line]:
        found = []
        for text in self.path.read_text().splitlines():
            job_id, attempt, pid, whats, at = text.split()
            if whats == what:
                found.append(Line(int(job_id), int(attempt), int(pid), whats, float(at)))
        return found

    def wait(self, count: int, what: str = "start", pid: int | None = None, timeout: float = 60.0) -> list[Line]:
        deadline = time.monotonic() + timeout
        while len(lines := [line for line in self.lines(what) if pid in (None, line.pid)]) < count:
            assert time.monotonic() < deadline, f"{len(lines)} of {count} {what}s within {timeout:g} s"
            time.sleep(0.01)
        return lines


class WorkerProcess:
    """One client at work. `id` its client id."""

    def __init__(self, dsn: str, schema: str, ledger: Ledger, options: dict[str, Any]) -> None:
        command = [sys.executable, "-c", PROGRAM, dsn, schema, json.dumps(options), str(ledger.path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.id = self._process.stdout.readline().decode().strip()
        assert self.id, "the client did not start"

    def kill(self) -> float:
        """`kill -9`; when that was."""
        at = time.monotonic()
        self._process.kill()
        self._process.wait(30)
        return at

    def pause(self) -> None:
        """When this returns, none of its threads runs any more."""
        self._process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"it ended instead: {status}"

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """In order."""
        with suppress(BrokenPipeError):
            self._process.communicate(b"", timeout=90)

    def close(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                self.go_on()
            self._process.kill()
        self._process.communicate(timeout=30)


MakeWorker = Callable[..., WorkerProcess]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def make_worker(dsn: str, schema: str, ledger: Ledger) -> Iterator[MakeWorker]:
    """`make_worker(dsn=..., **config)`: started. `seconds`: the dead client rescuer's, by name, where not its own."""
    made: list[WorkerProcess] = []

    def make(through: str = dsn, **options: Any) -> WorkerProcess:
        made.append(WorkerProcess(through, schema, ledger, options))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def naps(conn: psycopg.Connection, count: int, seconds: float, kind: str = "nap", **columns: Any) -> list[int]:
    """So many jobs that take so long, inserted by SQL."""
    values = {"queue": "default", "max_attempts": 25, **columns}
    names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    rows = conn.execute(
        f"INSERT INTO river_job (kind, args, {names}) SELECT %s, jsonb_build_object('s', %s::float8), {marks}"
        " FROM generate_series(1, %s) RETURNING id",
        [kind, seconds, *values.values(), count],
    ).fetchall()
    conn.execute("SELECT pg_notify(current_schema() || '.river_insert', %s)", [f'{{"queue": "{values["queue"]}"}}'])
    return sorted(row[0] for row in rows)


def running_under(conn: psycopg.Connection, client_id: str) -> set[int]:
    query = "SELECT id FROM river_job WHERE state = 'running' AND attempted_by[cardinality(attempted_by)] = %s"
    return {row[0] for row in conn.execute(query, [client_id]).fetchall()}


def watching_pid(conn: psycopg.Connection) -> int | None:
    """The server's process of the session that watches: others may have one for a moment, but not its lock."""
    query = (
        "SELECT pid FROM pg_stat_activity JOIN pg_locks USING (pid)"
        " WHERE application_name = 'river_fast/watcher' AND locktype = 'advisory' AND granted"
    )
    row = conn.execute(query).fetchone()
    return None if row is None else int(row[0])


def terminate(conn: psycopg.Connection, role: str = "river_fast/%") -> int:
    """Ends such sessions from the server's side; how many."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s"
    return len(conn.execute(query, [role]).fetchall())
