"""The search for cancels that no notification told of, against PostgreSQL."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from river_fast.cancel_checker import CancelChecker, Run
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.job_admin import JobAdmin
from tests.fix_rows import column, insert
from tests.stress import hammer


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def running() -> list[Run]:
    return []


@pytest.fixture
def cancelled() -> queue.SimpleQueue[int]:
    return queue.SimpleQueue()


@pytest.fixture
def checker(
    driver: PsycopgDriver, running: list[Run], cancelled: queue.SimpleQueue[int]
) -> Iterator[CancelChecker]:
    checker = CancelChecker(driver, lambda: list(running), cancelled.put)
    checker.checked.activate()
    yield checker
    assert checker.stop(20)


def run_of(conn: psycopg.Connection, job_id: int) -> Run:
    at: datetime = column(conn, job_id, "attempted_at")
    return job_id, (at - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_a_cancel_that_nobody_told_of_is_found(
    checker: CancelChecker, running: list[Run], cancelled: queue.SimpleQueue[int],
    driver: PsycopgDriver, conn: psycopg.Connection,
) -> None:
    asked, other = insert(conn, "running"), insert(conn, "running")
    running += [run_of(conn, asked), run_of(conn, other)]
    JobAdmin(driver).job_cancel(asked)
    checker.start()
    checker.check_soon()
    assert checker.checked.wait() == 2
    assert cancelled.get(timeout=20) == asked
    assert cancelled.empty()


def test_a_cancel_of_another_run_of_the_job_is_not_ours(
    checker: CancelChecker, running: list[Run], cancelled: queue.SimpleQueue[int],
    driver: PsycopgDriver, conn: psycopg.Connection,
) -> None:
    job_id = insert(conn, "running")
    old = run_of(conn, job_id)
    conn.execute("UPDATE river_job SET attempt = 2, attempted_at = now()")
    JobAdmin(driver).job_cancel(job_id)
    running.append(old)
    checker.start()
    checker.check_soon()
    checker.checked.wait()
    assert cancelled.empty()


def test_a_run_that_ended_while_the_database_was_asked_is_not_cancelled(
    driver: PsycopgDriver, cancelled: queue.SimpleQueue[int], conn: psycopg.Connection
) -> None:
    job_id = insert(conn, "running")
    JobAdmin(driver).job_cancel(job_id)
    answers: list[list[Run]] = [[run_of(conn, job_id)], []]
    checker = CancelChecker(driver, lambda: answers.pop(0), cancelled.put)
    checker._check()
    assert answers == []
    assert cancelled.empty()


def test_nothing_is_asked_while_nothing_runs(
    checker: CancelChecker, driver: PsycopgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise AssertionError("a query without active jobs")

    monkeypatch.setattr(driver, "autocommit", refuse)
    checker.start()
    checker.check_soon()
    assert checker.checked.wait() == 0


def test_many_runs_are_asked_after_in_batches(
    checker: CancelChecker, running: list[Run], cancelled: queue.SimpleQueue[int],
    driver: PsycopgDriver, conn: psycopg.Connection,
) -> None:
    conn.execute(
        "INSERT INTO river_job (args, kind, state, attempted_at, metadata) SELECT '{}', 'k1', 'running',"
        " '2020-01-01T00:00:00Z', jsonb_build_object('cancel_attempted_at', 'x') FROM generate_series(1, 2500)"
    )
    ids = [row[0] for row in conn.execute("SELECT id FROM river_job")]
    at = run_of(conn, ids[0])[1]
    running += [(job_id, at) for job_id in ids]
    checker._check()
    assert sorted(cancelled.get(timeout=20) for _ in ids) == sorted(ids)


def test_a_client_that_polls_sees_a_cancel_soon(
    driver: PsycopgDriver, running: list[Run], cancelled: queue.SimpleQueue[int], conn: psycopg.Connection
) -> None:
    checker = CancelChecker(driver, lambda: list(running), cancelled.put, poll_only=True)
    checker.start()
    try:
        job_id = insert(conn, "running")
        running.append(run_of(conn, job_id))
        JobAdmin(driver).job_cancel(job_id)
        assert cancelled.get(timeout=20) == job_id
    finally:
        assert checker.stop(20)


def test_the_checker_goes_on_after_the_database_refused(
    checker: CancelChecker, running: list[Run], cancelled: queue.SimpleQueue[int],
    driver: PsycopgDriver, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("river_fast.cancel_checker.RETRY_INTERVAL", 0.01)
    job_id = insert(conn, "running")
    running.append(run_of(conn, job_id))
    JobAdmin(driver).job_cancel(job_id)
    conn.execute("ALTER TABLE river_job RENAME TO gone")
    checker.start()
    checker.check_soon()
    while "cannot look for cancels" not in caplog.text:
        threading.Event().wait(0.01)
    conn.execute("ALTER TABLE gone RENAME TO river_job")
    assert cancelled.get(timeout=20) == job_id


def test_cancel_checker_stands_starts_and_stops_from_many_threads(driver: PsycopgDriver) -> None:
    hammer(lambda: CancelChecker(driver, list, lambda job_id: None, poll_only=True))
