"""Clients for tests: made on the test's own schema, stopped at its end whatever happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.shutdown import Allowance

WAIT_MOST = 20.0  # for anything that happens within milliseconds on a quiet machine
LATE = 15.0  # more than a busy machine adds to a deadline, and less than what a broken one would wait for


@dataclass
class Args(river.JobArgs, kind="test_job"):
    """The kind most tests work."""

    n: int = 0


@pytest.fixture
def make_client(dsn: str, schema: str) -> Iterator[Callable[..., river.Client]]:
    """`make_client(workers, max_workers=10, **config)`: not started."""
    made: list[river.Client] = []

    def make(workers: river.Workers | None = None, max_workers: int = 10, **config: Any) -> river.Client:
        if workers is not None:
            config.setdefault("queues", {"default": river.QueueConfig(max_workers=max_workers)})
        client = river.Client(dsn, river.Config(schema=schema, workers=workers, **config))
        made.append(client)
        return client

    yield make
    for client in made:
        client.stop_and_cancel(2)


@pytest.fixture
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop's thread may come late to its steps: whoever waits for it waits longer than the second it has."""
    monkeypatch.setattr("river_fast.client_life.WAIT_MARGIN", LATE)


@pytest.fixture
def slow_disk(busy_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the last flush may take what its commit takes, where what it writes is looked at after the stop."""
    monkeypatch.setattr("river_fast.shutdown.COMPLETER", Allowance(LATE, LATE, LATE))


@pytest.fixture
def until(conn: psycopg.Connection) -> Callable[..., Any]:
    """`until(sql, expected)`: polls the database until the first column of the first row equals `expected`."""

    def poll(query: str, expected: Any, timeout: float = WAIT_MOST) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            row = conn.execute(query).fetchone()
            value = None if row is None else row[0]
            if value == expected:
                return value
            assert time.monotonic() < deadline, f"{query!r} gave {value!r}, expected {expected!r} within {timeout:g} s"
            time.sleep(0.005)

    return poll


def eventually(condition: Callable[[], Any], timeout: float = WAIT_MOST, what: str = "the condition") -> Any:
    """Polls `condition` until it is true; its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout:g} s"
        time.sleep(0.002)
    return value


def workers_of(function: Callable[[river.Job[Args]], Any], **options: Any) -> river.Workers:
    """A bundle whose one worker runs `function` for `Args`."""
    workers = river.Workers()
    workers.work(Args, **options)(function)
    return workers
