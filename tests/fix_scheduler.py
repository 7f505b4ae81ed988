"""A job scheduler that leads, and jobs for it that only a raw insert can make."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance.job_scheduler import JobScheduler

# Masks as inserters write them: the leftmost bit is scheduled's (river.md 4.3).
DEFAULT_STATES = "11110101"
WITHOUT_RETRYABLE = "11010101"
WITH_DISCARDED_NOT_RETRYABLE = "11011101"


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def scheduler(driver: PsycopgDriver) -> Iterator[JobScheduler]:
    scheduler = JobScheduler(driver)
    scheduler.lead(lambda: True, stagger=False)
    scheduler.passed.activate()
    scheduler.failed.activate()
    scheduler.scheduled.activate()
    yield scheduler
    assert scheduler.stop(20)


def add(
    conn: psycopg.Connection[Any],
    state: str = "scheduled",
    *,
    due: float = -1.0,
    key: str | None = None,
    states: str | None = DEFAULT_STATES,
    priority: int = 1,
    queue: str = "default",
    metadata: str = "{}",
) -> int:
    """A job, due `due` seconds from now."""
    row = conn.execute(
        "INSERT INTO river_job (kind, args, state, scheduled_at, unique_key, unique_states, priority, queue, metadata)"
        " VALUES ('k', '{}', %s, now() + make_interval(secs => %s), %s, %s::bit(8), %s, %s, %s) RETURNING id",
        (state, due, key and key.encode(), states if key else None, priority, queue, metadata),
    ).fetchone()
    assert row is not None
    return int(row[0])


def states(conn: psycopg.Connection[Any], *ids: int) -> list[str]:
    rows = dict(conn.execute("SELECT id, state::text FROM river_job").fetchall())
    return [rows[id] for id in ids] if ids else [rows[id] for id in sorted(rows)]


def run_once(scheduler: JobScheduler) -> int:
    """One pass; the rows it handled."""
    scheduler.start()
    try:
        return scheduler.passed.wait()
    finally:
        assert scheduler.stop(20)


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
    """The condition's value, once it is true."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.005)
    return value
