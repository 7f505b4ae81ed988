"""Who takes part in the bench that decides: how each is built and started, what its tables look like, what it keeps.

Every contestant gets a fresh schema with jobs put in by one SQL statement, and is a program that speaks the lines of
`bench/peers/README.md`. What counts as done is what the database says: rows completed, or gone where a peer deletes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from harness import RESULTS, ROOT, BenchSchema
from psycopg import sql

PEERS = ROOT / "bench" / "peers"
JOB = "bench_noop"


class CannotRun(Exception):
    """This contestant cannot take part on this machine; the text says why."""


@dataclass(frozen=True)
class Tables:
    """A program's own tables, by SQL over one schema (`{}`), which is also the search path."""

    fill: str  # puts %s jobs in
    settle: str  # the tables to vacuum, with commas
    left: str  # true while a job is neither done nor given up
    done: str  # how many rows say they are done; empty: done rows are deleted
    total: str  # how many rows there are
    running: str  # how many are claimed
    span: str = ""  # the first claim and the last completion, as epoch seconds; empty: rows do not say


RIVER = Tables(
    fill="INSERT INTO {}.river_job (args, kind, max_attempts, metadata, priority, queue, state, tags)"
    " SELECT jsonb_build_object('num', n), 'bench_noop', 25, '{{}}', 1, 'default', 'available', '{{}}'"
    " FROM generate_series(1, %s) n",
    settle="river_job",
    left="SELECT EXISTS (SELECT FROM {}.river_job WHERE state IN ('available', 'running', 'retryable', 'scheduled'))",
    done="SELECT count(*) FROM {}.river_job WHERE state = 'completed'",
    total="SELECT count(*) FROM {}.river_job",
    running="SELECT count(*) FROM {}.river_job WHERE state = 'running'",
    span="SELECT extract(epoch FROM min(attempted_at))::float8, extract(epoch FROM max(finalized_at))::float8"
    " FROM {}.river_job",
)
GRAPHILE = Tables(
    fill="SELECT count(*) FROM {}.add_jobs(ARRAY(SELECT ROW('bench_noop', json_build_object('num', n),"
    " NULL, NULL, NULL, NULL, NULL, NULL)::job_spec FROM generate_series(1, %s) n))",
    settle="_private_jobs",
    left="SELECT EXISTS (SELECT FROM {}._private_jobs)",
    done="",
    total="SELECT count(*) FROM {}._private_jobs",
    running="SELECT count(*) FROM {}._private_jobs WHERE locked_at IS NOT NULL",
)
PGQUEUER = Tables(
    fill="INSERT INTO {}.pgqueuer (priority, status, entrypoint, payload)"
    """ SELECT 0, 'queued', 'bench_noop', convert_to('{{"num": ' || n || '}}', 'UTF8') FROM generate_series(1, %s) n""",
    settle="pgqueuer, pgqueuer_log",
    left="SELECT EXISTS (SELECT FROM {}.pgqueuer)",
    done="",
    total="SELECT count(*) FROM {}.pgqueuer",
    running="SELECT count(*) FROM {}.pgqueuer WHERE status = 'picked'",
)
PROCRASTINATE = Tables(
    fill="INSERT INTO {}.procrastinate_jobs (queue_name, task_name, args)"
    " SELECT 'default', 'bench_noop', jsonb_build_object('num', n) FROM generate_series(1, %s) n",
    settle="procrastinate_jobs, procrastinate_events",
    left="SELECT EXISTS (SELECT FROM {}.procrastinate_jobs WHERE status IN ('todo', 'doing'))",
    done="SELECT count(*) FROM {}.procrastinate_jobs WHERE status = 'succeeded'",
    total="SELECT count(*) FROM {}.procrastinate_jobs",
    running="SELECT count(*) FROM {}.procrastinate_jobs WHERE status = 'doing'",
)


@dataclass(frozen=True)
class Peer:
    """A program that takes part."""

    key: str  # what `--only` takes
    name: str
    keeps: str  # what stays of a job, and how safe it is
    tables: Tables
    command: Callable[[], list[str]]  # builds it where that is needed; raises CannotRun

    @property
    def is_river(self) -> bool:
        return self.tables is RIVER


class PeerSchema:
    """A fresh schema with a peer's tables, and what is asked of them."""

    def __init__(self, url: str, peer: Peer) -> None:
        self.url, self.peer = url, peer
        self._stack = contextlib.ExitStack()
        self.name = f"bench_{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> PeerSchema:
        with contextlib.ExitStack() as stack:
            if self.peer.is_river:
                self.name = stack.enter_context(BenchSchema(self.url)).name
            self.conn = stack.enter_context(psycopg.connect(self.url, autocommit=True))
            if not self.peer.is_river:
                stack.callback(self._drop)
                self.conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.name)))
                self._migrate()
            with contextlib.suppress(psycopg.Error):  # what is asked here is nobody's statement; superusers only
                self.conn.execute("SET pg_stat_statements.track = none")
            self.conn.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.name)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _migrate(self) -> None:
        command = [*self.peer.command(), "migrate", "--schema", self.name]
        done = subprocess.run(command, env=environment(self.url), capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotRun(f"its schema cannot be made: {last_line(done.stderr)}")

    def _drop(self) -> None:
        self.conn.execute("SET client_min_messages = warning")
        self.conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self.name)))

    def prepare(self, jobs: int) -> None:
        """`jobs` available jobs, statistics, no dead row, and nothing left for a checkpoint to write during the run."""
        if jobs:
            self._ask(self.peer.tables.fill, jobs)
        self.conn.execute(f"VACUUM (ANALYZE) {self.peer.tables.settle}".encode())
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            self.conn.execute("CHECKPOINT")

    def is_left(self) -> bool:
        return bool(self._number(self.peer.tables.left))

    def done(self, inserted: int) -> int:
        if self.peer.tables.done:
            return self._number(self.peer.tables.done)
        return inserted - self.total()

    def total(self) -> int:
        return self._number(self.peer.tables.total)

    def running(self) -> int:
        return self._number(self.peer.tables.running)

    def span(self) -> tuple[float | None, float | None]:
        """The first claim and the last completion by the rows' times, as epoch seconds; None where they do not say."""
        if not self.peer.tables.span:
            return None, None
        row = self._ask(self.peer.tables.span).fetchone()
        return (None, None) if row is None else (row[0], row[1])

    def _number(self, statement: str) -> int:
        row = self._ask(statement).fetchone()
        assert row is not None
        return int(row[0])

    def _ask(self, statement: str, *params: int) -> psycopg.Cursor[Any]:
        query = sql.SQL(statement).format(*[sql.Identifier(self.name)] * statement.count("{}."))
        return self.conn.execute(query, params or None)


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": url}


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def built(command: list[str], folder: Path, what: str, env: dict[str, str] | None = None) -> None:
    """Runs a build step once a session."""
    if shutil.which(command[0]) is None:
        raise CannotRun(f"{what} needs {command[0]}, which is not on PATH")
    done = subprocess.run(command, cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotRun(f"{what} cannot be built ({' '.join(command[:3])}): {last_line(done.stderr)}")


@functools.cache
def go_command() -> list[str]:
    target = RESULTS / "go-peer"
    target.parent.mkdir(parents=True, exist_ok=True)
    built(["go", "build", "-o", str(target), "."], PEERS / "go", "River Go")
    return [str(target)]


@functools.cache
def node_command() -> list[str]:
    """graphile-worker wants a newer Node than many machines have: npm brings one along, outside the sources."""
    home = RESULTS / "node"
    home.mkdir(parents=True, exist_ok=True)
    node, stamp, wanted = home / "node_modules/node/bin/node", home / ".installed", PEERS / "node" / "package-lock.json"
    for name in ("package.json", "package-lock.json", "main.js"):
        shutil.copy(PEERS / "node" / name, home / name)
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        built(["npm", "ci", "--no-audit", "--no-fund"], home, "graphile-worker")
        if not node.exists():  # where npm runs no package's own script unless it is asked to
            built(["npm", "rebuild", "node", "--foreground-scripts"], home, "Node for graphile-worker")
        stamp.write_text(wanted.read_text())
    return [str(node), str(home / "main.js")]


@functools.cache
def peers_python() -> str:
    """The Python peers' own virtual environment: as the pinned requirements say, made anew when they change."""
    home, wanted = RESULTS / "peers", PEERS / "requirements.txt"
    python, stamp = home / "bin" / "python", home / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        built([sys.executable, "-m", "venv", "--clear", str(home)], ROOT, "the Python peers")
        built([str(python), "-m", "pip", "install", "--quiet", "-r", str(wanted)], ROOT, "the Python peers")
        stamp.write_text(wanted.read_text())
    return str(python)


def peer_script(name: str) -> Callable[[], list[str]]:
    return lambda: [peers_python(), str(PEERS / name)]


RIVER_FAST = Peer(
    "river_fast", "river_fast", "rows kept, durable", RIVER,
    lambda: [sys.executable, str(PEERS / "river_fast_worker.py")],
)  # fmt: skip
GO = Peer("go", "River Go", "rows kept, durable", RIVER, go_command)
GRAPHILE_WORKER = Peer(
    "graphile", "graphile-worker", "rows deleted; a dead process's jobs stay locked for 4 hours", GRAPHILE, node_command
)
PGQUEUER_PEER = Peer(
    "pgqueuer", "pgqueuer", "rows deleted, a log row in a table that a crash empties", PGQUEUER,
    peer_script("pgqueuer_worker.py"),
)  # fmt: skip
PROCRASTINATE_PEER = Peer(
    "procrastinate", "procrastinate", "rows kept, with an event row for each step, durable", PROCRASTINATE,
    peer_script("procrastinate_worker.py"),
)  # fmt: skip
LIMIT = Peer("limit", "limit", "rows kept, durable; no job is run", RIVER, list)
THREADS = Peer(
    "threads", "bare threads", "no queue at all: Python threads that sleep in a loop", RIVER,
    lambda: [sys.executable, str(PEERS / "threads_worker.py")],
)  # fmt: skip
ALL = (LIMIT, RIVER_FAST, GO, GRAPHILE_WORKER, PGQUEUER_PEER, PROCRASTINATE_PEER, THREADS)
