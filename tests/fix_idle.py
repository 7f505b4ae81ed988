"""What idle clients ask of the server: each in a process and under a role of its own, counted by pg_stat_statements."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from bench.server import COUNTING
from river_fast import embedded
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import RiverError
from river_fast.migrate import Migrator

PROGRAM = """
import sys
import river_fast as river

workers = river.Workers()
workers.work("idle")(lambda job: None)
queues = {f"q{number}": river.QueueConfig(max_workers=10) for number in range(int(sys.argv[3]))}
with river.Client(sys.argv[1], river.Config(schema=sys.argv[2], workers=workers, queues=queues)):
    print("started", flush=True)
    sys.stdin.read()
"""
TRANSACTIONS = "^(BEGIN|COMMIT|ROLLBACK|START|END|ABORT)"
WATCHERS = "SELECT usename FROM pg_stat_activity WHERE application_name = 'river_fast/watcher' AND usename LIKE 'idle%'"
SETTLED = 6.0  # seconds: after its start a client looks for lost rows more often


@dataclass(frozen=True)
class Rest:
    """A client's statements and CPU, both a second, and what the statements were."""

    statements: float
    cpu: float
    texts: dict[str, int]

    @property
    def connected(self) -> float:
        """Those that set up a session: two services that ask at the same moment make the pool grow."""
        share = sum(n for text, n in self.texts.items() if text.startswith("SET ")) / sum(self.texts.values())
        return self.statements * share

    @property
    def connections(self) -> int:
        """How many sessions were set up meanwhile."""
        return max((n for text, n in self.texts.items() if text.startswith("SET ")), default=0)

    def __str__(self) -> str:
        by_calls = sorted(self.texts.items(), key=lambda text: -text[1])
        listed = "".join(f"\n  {calls:5} {' '.join(text.split())[:150]}" for text, calls in by_calls)
        return f"{self.statements:.2f} statements/s, {self.cpu:.2%} of a core{listed}"


class Idler:
    """One client in a process of its own, whose role is its own too."""

    def __init__(self, dsn: str, schema: str, queues: int) -> None:
        self.role = f"idle_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"CREATE ROLE {self.role} LOGIN SUPERUSER")
        command = [sys.executable, "-c", PROGRAM, make_conninfo(dsn, user=self.role), schema, str(queues)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"started\n"

    def cpu(self) -> float:
        """Seconds, so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._process.communicate(b"", timeout=60)


class CountingServer:
    """Counts what each role asks."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.conn.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    @contextmanager
    def resting(self, queues: int, count: int = 2) -> Iterator[list[Idler]]:
        """So many clients of a new schema; the first leads, and watches over the others, before those start."""
        schema = f"idle_{uuid.uuid4().hex[:8]}"
        self.conn.execute(f"CREATE SCHEMA {schema}")
        driver = PsycopgDriver(self.dsn, schema)
        for line in ("main", "fast"):
            Migrator(driver, line).migrate_up()
        driver.close()
        with ExitStack() as stack:
            idlers: list[Idler] = []
            for _ in range(count):
                idlers.append(Idler(self.dsn, schema, queues))
                stack.callback(idlers[-1].close)
                deadline = time.monotonic() + 60
                while not self._is_first(schema, idlers[0]):
                    assert time.monotonic() < deadline, "nobody leads, or nobody watches"
                    time.sleep(0.05)
            yield idlers

    def _is_first(self, schema: str, idler: Idler) -> bool:
        watching = (idler.role,) in self.conn.execute(WATCHERS).fetchall()
        return watching and bool(self.conn.execute(f"SELECT FROM {schema}.river_leader").fetchall())

    def measure(self, idlers: Sequence[Idler], seconds: float) -> list[Rest]:
        """Of each, transaction commands left out."""
        time.sleep(SETTLED)
        before = [(self._calls(each.role), each.cpu()) for each in idlers]
        begun = time.monotonic()
        time.sleep(seconds)
        took, rests = time.monotonic() - begun, []
        for each, (calls, cpu) in zip(idlers, before, strict=True):
            since = {text: n - calls.get(text, 0) for text, n in self._calls(each.role).items()}
            texts = {text: n for text, n in since.items() if n > 0}
            rests.append(Rest(sum(texts.values()) / took, (each.cpu() - cpu) / took, texts))
        return rests

    def _calls(self, role: str) -> dict[str, int]:
        query = (
            "SELECT query, sum(calls)::int FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid"
            " WHERE rolname = %s AND query !~* %s GROUP BY 1"
        )
        return dict(self.conn.execute(query, [role, TRANSACTIONS]).fetchall())


@pytest.fixture(scope="session")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingServer]:
    """A server of the tests' own that counts statements."""
    before = dict(embedded.SETTINGS)
    embedded.SETTINGS.update(COUNTING)
    try:
        started = embedded.start(tmp_path_factory.mktemp("counting"), stop_at_exit=True)
    except RiverError as error:
        pytest.skip(f"no PostgreSQL with pg_stat_statements on this machine: {error}")
    finally:
        embedded.SETTINGS.clear()
        embedded.SETTINGS.update(before)
    server = CountingServer(started.url)
    yield server
    server.conn.close()
    started.stop()
