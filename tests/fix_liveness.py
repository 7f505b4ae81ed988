"""A liveness service, and what the rest of a client would tell it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from river_fast.config import generate_client_id
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.liveness import Liveness, Run
from tests.fix_rows import column, insert

GIVEN = "worker-1"
GENERATED = generate_client_id()


class World:
    """A liveness service and what it is told by the rest of the client."""

    def __init__(self, driver: PsycopgDriver, conn: psycopg.Connection, client_id: str) -> None:
        self.conn = conn
        self.client_id = client_id
        self.held: set[Run] | None = set()
        self.freed: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self.liveness = Liveness(driver, client_id, lambda: self.held, self.freed.put)
        self.liveness.looked.activate()

    def claim(self, attempt: int = 1, before: str = "0", **columns: Any) -> int:
        """A row as a fetch of this client leaves it, `before` (an interval) ago."""
        row = self.conn.execute("SELECT clock_timestamp() - %s::interval", [before]).fetchone()
        assert row is not None
        values = {"attempt": attempt, "attempted_at": row[0], "attempted_by": ["a", self.client_id], "queue": "q1"}
        return insert(self.conn, "running", **{**values, **columns})

    def run_of(self, job_id: int) -> Run:
        at: datetime = column(self.conn, job_id, "attempted_at")
        return job_id, (at - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

    def wait_state(self, job_id: int, state: str, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while (now := column(self.conn, job_id, "state")) != state:
            assert time.monotonic() < deadline, f"job {job_id} is {now}, not {state}, after {timeout:g} s"
            time.sleep(0.005)

    def wait_stats(self, **expected: int) -> None:
        """The row can be seen changed before the service has heard of it."""
        deadline = time.monotonic() + 20
        while (stats := self.liveness.stats()) != expected:
            assert time.monotonic() < deadline, f"{stats}, not {expected}"
            time.sleep(0.005)

    def look(self, times: int) -> None:
        """Wait until that many more looks have begun and ended."""
        while True:
            try:
                self.liveness.looked.wait(0)
            except TimeoutError:
                break
        for _ in range(times + 1):
            self.liveness.looked.wait()


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with its seconds cut short."""
    monkeypatch.setattr("river_fast.liveness.SECOND_LOOK_AFTER", 0.05)
    monkeypatch.setattr("river_fast.liveness.HELD_RETRY", 0.02)
    monkeypatch.setattr("river_fast.liveness.LOOK_INTERVAL", 0.1)
    monkeypatch.setattr("river_fast.liveness.LOAD_SHARE", 0)


@pytest.fixture
def make_world(driver: PsycopgDriver, conn: psycopg.Connection) -> Iterator[Callable[[str], World]]:
    worlds: list[World] = []

    def make(client_id: str = GIVEN) -> World:
        worlds.append(World(driver, conn, client_id))
        return worlds[-1]

    yield make
    for world in worlds:
        assert world.liveness.stop(20)


@pytest.fixture
def world(quick: None, make_world: Callable[[], World]) -> World:
    """Started, the lock had."""
    world = make_world()
    world.liveness.start()
    world.liveness.lock_taken()
    return world


@pytest.fixture
def listening(dsn: str, schema: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f'LISTEN "{schema}.river_insert"')
        yield conn
