"""A client's registration: who has one, what it is kept alive by, and when it goes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import EVERYTHING, Migrator
from river_fast.registration import Registration, lock_key
from tests.fix_dead_clients import generated
from tests.fix_rows import insert


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    Migrator(driver, "fast").migrate_up()
    yield driver
    driver.close()


def registration(driver: PsycopgDriver, client_id: str, locks: bool = True) -> Registration:
    return Registration(driver, replace(driver.open(), session_locks=locks), client_id)


def test_an_id_that_tells_by_itself_needs_none(driver: PsycopgDriver) -> None:
    assert registration(driver, generated()).key == 0


def test_a_given_id_is_registered_by_its_lock(driver: PsycopgDriver) -> None:
    assert registration(driver, "worker-1").key == lock_key("worker-1", driver.schema)


@pytest.mark.parametrize("client_id", ["worker-1", generated(locks=False)], ids=["given", "generated"])
def test_without_locks_each_start_has_a_key_of_its_own(driver: PsycopgDriver, client_id: str) -> None:
    keys = {registration(driver, client_id, locks=False).key for _ in range(3)}
    assert len(keys) == 3
    assert all(0 < key < 2**63 for key in keys)


@pytest.mark.parametrize(
    ("client_id", "locks", "why"),
    [("worker-1", True, "its id was given"), (generated(locks=False), False, "no session locks")],
    ids=["given", "generated"],
)
def test_without_the_line_it_says_what_that_means(
    driver: PsycopgDriver, caplog: pytest.LogCaptureFixture, client_id: str, locks: bool, why: str
) -> None:
    caplog.set_level(logging.INFO, "river_fast")
    Migrator(driver, "fast").migrate_down(target_version=EVERYTHING)
    assert registration(driver, client_id, locks).key == 0
    assert why in caplog.text
    assert "river-fast migrate-up --line fast" in caplog.text
    assert ("or for a client that starts with this id" in caplog.text) == locks


def test_the_row_goes_with_the_client_unless_it_left_jobs_running(
    driver: PsycopgDriver, conn: psycopg.Connection
) -> None:
    ours = registration(driver, "worker-1")
    beat = driver.statement_text("client_heartbeat").decode()
    for number, value in (("$1", "'worker-1'"), ("$2", str(ours.key)), ("$3", "true")):
        beat = beat.replace(number, value)
    conn.execute(beat)
    conn.execute(beat)
    job_id = insert(conn, "running", attempted_by=["worker-1"])
    ours.remove(5.0)
    assert conn.execute("SELECT id, key, locks FROM river_fast_client").fetchall() == [("worker-1", ours.key, True)]
    conn.execute("DELETE FROM river_job WHERE id = %s", [job_id])
    ours.remove(5.0)
    ours.remove(5.0)
    assert conn.execute("SELECT FROM river_fast_client").fetchall() == []


def test_a_row_that_cannot_be_removed_is_left_to_the_watcher(driver: PsycopgDriver, conn: psycopg.Connection) -> None:
    ours = registration(driver, "worker-1")
    conn.execute("DROP TABLE river_fast_client")
    ours.remove(5.0)
