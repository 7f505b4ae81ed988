"""An inserter on the test's own schema, and args to insert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from river_fast.config import Config
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.inserter import Inserter
from river_fast.job_args import JobArgs


@dataclass
class EmailArgs(JobArgs, kind="email"):
    to: Any
    body: Any = ""


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def inserter(driver: PsycopgDriver) -> Inserter:
    return Inserter(driver, Config().checked())


@pytest.fixture
def count(conn: psycopg.Connection[Any]) -> Callable[[], int]:
    """How many jobs there are."""

    def count_jobs() -> int:
        row = conn.execute("SELECT count(*) FROM river_job").fetchone()
        assert row is not None
        return int(row[0])

    return count_jobs
