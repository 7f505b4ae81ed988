"""The queue cleaner: rows of queues that nobody has worked for a day go, all others stay."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance.queue_cleaner import QueueCleaner
from river_fast.queue_keeper import QueueKeeper
from tests.fix_maintenance import driver, run_once, set_up
from tests.stress import hammer

__all__ = ["driver"]


@pytest.fixture
def cleaner(driver: PsycopgDriver) -> QueueCleaner:
    cleaner = QueueCleaner(driver)
    set_up(cleaner)
    return cleaner


def add(conn: psycopg.Connection, *names: str, touched: str) -> None:
    """Queues whose clients touched them so long ago."""
    for name in names:
        conn.execute(
            "INSERT INTO river_queue (name, updated_at) VALUES (%s, now() - %s::interval)", (name, touched)
        )


def names(conn: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in conn.execute("SELECT name FROM river_queue ORDER BY name").fetchall()]


def test_queues_nobody_worked_for_a_day_are_deleted(conn: psycopg.Connection, cleaner: QueueCleaner) -> None:
    add(conn, "busy", "paused", touched="23 hours 59 minutes")
    add(conn, "idle", "idler", touched="24 hours 1 minute")
    conn.execute("UPDATE river_queue SET paused_at = now() WHERE name = 'paused'")
    assert run_once(cleaner) == 2
    assert names(conn) == ["busy", "paused"]


def test_batches_go_on_until_none_is_left(conn: psycopg.Connection, cleaner: QueueCleaner) -> None:
    add(conn, *(f"q{number}" for number in range(25)), touched="2 days")
    add(conn, "busy", touched="1 hour")
    cleaner._batch_size.current = 10
    assert run_once(cleaner) == 25
    assert names(conn) == ["busy"]


def test_a_queue_that_is_just_being_touched_stays(
    dsn: str, conn: psycopg.Connection, schema: str, cleaner: QueueCleaner
) -> None:
    add(conn, "idle", "waking", touched="2 days")
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as other:
        other.execute("UPDATE river_queue SET updated_at = now() WHERE name = 'waking'")
        assert run_once(cleaner) == 1
    assert run_once(cleaner) == 0
    assert names(conn) == ["waking"]


def test_a_queue_that_is_worked_again_has_a_row_again(
    conn: psycopg.Connection, driver: PsycopgDriver, cleaner: QueueCleaner
) -> None:
    add(conn, "idle", touched="2 days")
    assert run_once(cleaner) == 1
    QueueKeeper(driver, lambda name, paused, metadata: None).register("idle")
    assert run_once(cleaner) == 0
    assert names(conn) == ["idle"]


def test_nothing_is_deleted_in_a_term_that_is_over(conn: psycopg.Connection, cleaner: QueueCleaner) -> None:
    add(conn, "idle", touched="2 days")
    cleaner.lead(lambda: False, stagger=False)
    assert run_once(cleaner) == 0
    assert names(conn) == ["idle"]


def test_start_and_stop_from_many_threads(cleaner: QueueCleaner) -> None:
    hammer(lambda: cleaner)
