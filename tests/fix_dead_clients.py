"""Clients that live and die as the database sees it, and those that watch over them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from river_fast.config import generate_client_id, id_that_tells
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance.dead_client_rescuer import DeadClientRescuer
from river_fast.migrate import Migrator
from river_fast.registration import lock_key
from tests.fix_rows import column, insert

MODULE = "river_fast.maintenance.dead_client_rescuer"
SOON = 20.0  # for what takes a fraction of a second here on a quiet machine


class Scene:
    """Rows under clients, the locks they hold, and the services that watch."""

    def __init__(self, dsn: str, schema: str, driver: PsycopgDriver, conn: psycopg.Connection) -> None:
        self.dsn, self.schema, self.driver, self.conn = dsn, schema, driver, conn
        self.stack = ExitStack()
        self.freed: list[list[str]] = []

    def living(self, client_id: str) -> psycopg.Connection:
        """A session that holds the client's lock; close it, and the client is dead."""
        session = self.stack.enter_context(psycopg.connect(self.dsn, autocommit=True))
        taken = session.execute("SELECT pg_try_advisory_lock(%s)", [lock_key(client_id, self.schema)]).fetchone()
        assert taken == (True,)
        return session

    def claim(self, client_id: str, **columns: Any) -> int:
        """A row as a fetch of that client leaves it."""
        now = self.conn.execute("SELECT clock_timestamp()").fetchone()
        assert now is not None
        values = {"attempt": 2, "attempted_at": now[0], "attempted_by": ["other", client_id], "queue": "q1"}
        return insert(self.conn, "running", **{**values, **columns})

    def watcher(self, client_id: str = "watcher", key: int = 0, **options: Any) -> DeadClientRescuer:
        """Started, and stopped at the end."""
        service = DeadClientRescuer(self.driver, client_id, key, freed=self.freed.append, **options)
        service._stagger = 0.0
        for signal in (service.watching, service.looked, service.rescued):
            signal.activate()
        self.stack.callback(lambda: service.stop(20))
        service.start()
        return service

    def register(self, client_id: str, key: int, locks: bool = False, age: float = 0.0) -> None:
        """As the fetcher's heartbeat, `age` seconds ago."""
        self.conn.execute(
            "INSERT INTO river_fast_client (id, key, locks, created_at, heartbeat_at) SELECT %s, %s, %s, at, at"
            " FROM (SELECT clock_timestamp() - make_interval(secs => %s) AS at) AS moment",
            [client_id, key, locks, age],
        )

    def beat(self, client_id: str) -> None:
        self.conn.execute("UPDATE river_fast_client SET heartbeat_at = clock_timestamp() WHERE id = %s", [client_id])

    def registered(self) -> list[tuple[str, int]]:
        return self.conn.execute("SELECT id, key FROM river_fast_client ORDER BY 1, 2").fetchall()

    def wait_state(self, job_id: int, state: str) -> None:
        deadline = time.monotonic() + SOON
        while (now := column(self.conn, job_id, "state")) != state:
            assert time.monotonic() < deadline, f"job {job_id} is {now}, not {state}"
            time.sleep(0.005)

    def wait_registered(self, *rows: tuple[str, int]) -> None:
        deadline = time.monotonic() + SOON
        while (now := self.registered()) != list(rows):
            assert time.monotonic() < deadline, f"{now}, not {rows}"
            time.sleep(0.005)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with its seconds cut short. A client is dead after ten looks, silent after fifty."""
    for name, value in {"INTERVAL": 0.02, "DEAD_AFTER": 0.2, "SILENT_AFTER": 1.0, "GAP_MOST": 0.04}.items():
        monkeypatch.setattr(f"{MODULE}.{name}", value)


@pytest.fixture
def scene(quick: None, dsn: str, schema: str, conn: psycopg.Connection) -> Iterator[Scene]:
    driver = PsycopgDriver(dsn, schema)
    scene = Scene(dsn, schema, driver, conn)
    try:
        with scene.stack:
            yield scene
    finally:
        driver.close()


@pytest.fixture
def fast(scene: Scene) -> Scene:
    """Line `fast` is migrated."""
    Migrator(scene.driver, "fast").migrate_up()
    return scene


@pytest.fixture
def without_locks(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are shared, as behind a pooler."""
    capabilities = replace(scene.driver.open(), session_locks=False)
    monkeypatch.setattr(scene.driver, "open", lambda: capabilities)


def generated(locks: bool = True) -> str:
    return id_that_tells(generate_client_id(), locks)


def looks(service: DeadClientRescuer, count: int) -> None:
    """Wait until that many more looks have begun and ended."""
    while True:
        try:
            service.looked.wait(0)
        except TimeoutError:
            break
    for _ in range(count + 1):
        service.looked.wait()


