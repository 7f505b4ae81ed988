"""What the maintenance services have in common, without any one's work."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from river_fast.config import NEVER
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance import MaintenanceService
from tests.stress import hammer


class Sweeper(MaintenanceService):
    """Looks at no row, in a transaction that a stop may cancel."""

    name = "sweeper"
    interval = 0.001

    def _work_batch(self, limit: int) -> int:
        with self._transaction():
            return 0


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


def test_a_mistake_in_a_pass_does_not_end_the_service(driver: PsycopgDriver) -> None:
    sweeper = Sweeper(driver)
    sweeper.lead(lambda: True, stagger=False)
    sweeper.passed.activate()
    whole, mistakes = sweeper._work_batch, iter([KeyError("x"), SystemExit("y")])

    def mistaken(limit: int) -> int:
        for mistake in mistakes:
            raise mistake
        return whole(limit)

    sweeper._work_batch = mistaken  # type: ignore[method-assign]
    sweeper.start()
    assert sweeper.passed.wait() == 0
    assert sweeper.stop(20)


def test_an_interval_given_is_kept(driver: PsycopgDriver) -> None:
    assert (Sweeper(driver).interval, Sweeper(driver, interval=7.0).interval) == (0.001, 7.0)


@pytest.mark.parametrize(("timeout", "limit"), [(None, "30s"), (NEVER, "0"), (0.0001, "1ms"), (95.0, "95s")])
def test_a_statement_has_the_time_it_is_given(driver: PsycopgDriver, timeout: float | None, limit: str) -> None:
    with Sweeper(driver)._transaction(timeout) as executor:
        conn = executor._conn  # type: ignore[attr-defined]
        with psycopg.Cursor(conn) as cursor:
            row = cursor.execute("SHOW statement_timeout").fetchone()
    assert row == (limit,)


def test_start_and_stop_from_many_threads(driver: PsycopgDriver) -> None:
    sweeper = Sweeper(driver)
    sweeper.lead(lambda: True, stagger=False)
    hammer(lambda: sweeper)
