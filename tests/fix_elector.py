"""Electors of one schema, on a quick beat and a clock of the test's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from river_fast import elector as elector_module
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.elector import Elector, suspend_aware_clock
from river_fast.notifier import Notifier

Make = Callable[..., Elector]


class Clock:
    """It stands still but for what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._made_at = suspend_aware_clock()

    def __call__(self) -> float:
        return self._made_at + self.ahead


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def notifier(driver: PsycopgDriver) -> Iterator[Notifier]:
    notifier = Notifier(driver)
    notifier.start()
    yield notifier
    assert notifier.stop(20)


@pytest.fixture
def make(driver: PsycopgDriver) -> Iterator[Make]:
    made: list[Elector] = []

    def make(client_id: str = "me", *args: Any, interval: float = 0.05, **options: Any) -> Elector:
        elector = Elector(driver, client_id, *args, **options)
        elector._interval = interval
        for testsignal in (elector.gained, elector.lost, elector.denied, elector.kept):
            testsignal.activate()
        made.append(elector)
        return elector

    yield make
    for elector in made:
        assert elector.stop(20)


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elector_module, "INTERVAL_JITTER", 0.0)


def leader(conn: psycopg.Connection[Any]) -> tuple[Any, ...] | None:
    return conn.execute("SELECT leader_id, elected_at, expires_at, name FROM river_leader").fetchone()


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.005)
