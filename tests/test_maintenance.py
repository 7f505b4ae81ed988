"""What the maintenance services have in common, without any one's work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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


def test_start_and_stop_from_many_threads(driver: PsycopgDriver) -> None:
    sweeper = Sweeper(driver)
    sweeper.lead(lambda: True, stagger=False)
    hammer(lambda: sweeper)
