"""A driver for maintenance services, and one pass of theirs."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance import MaintenanceService


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


def set_up(service: MaintenanceService) -> None:
    """It leads, and begins at once."""
    service.lead(lambda: True, stagger=False)
    service.passed.activate()
    service.failed.activate()


def run_once(service: MaintenanceService) -> int:
    """One pass; the rows it handled."""
    service.start()
    try:
        return service.passed.wait()
    finally:
        assert service.stop(20)


def ids_of(conn: psycopg.Connection) -> list[int]:
    return [id for (id,) in conn.execute("SELECT id FROM river_job ORDER BY id").fetchall()]
