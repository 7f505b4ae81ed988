"""An inserter on the test's own schema, args to insert, and every verb that inserts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from river_fast.config import Config
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.insert_opts import InsertManyParams, InsertOpts, JobInsertResult, UniqueOpts
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


UNIQUE = InsertOpts(unique=UniqueOpts(by_args=True))
LATER = datetime(2031, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)

Insert = Callable[[Inserter, psycopg.Connection[Any], list[Any]], list[JobInsertResult]]


def _one_by_one(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    given = [param if isinstance(param, InsertManyParams) else InsertManyParams(param) for param in params]
    return [inserter.insert(param.args, param.opts) for param in given]


def _many(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    return inserter.insert_many(params)


def _one_by_one_tx(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    given = [param if isinstance(param, InsertManyParams) else InsertManyParams(param) for param in params]
    with conn.transaction():
        return [inserter.insert_tx(conn, param.args, param.opts) for param in given]


def _many_tx(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    with conn.transaction():
        return inserter.insert_many_tx(conn, params)


def _fast(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    assert inserter.insert_many_fast(params) == len(params)
    return []


def _fast_tx(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    with conn.transaction():
        assert inserter.insert_many_fast_tx(conn, params) == len(params)
    return []


RETURNING = [_one_by_one, _many, _one_by_one_tx, _many_tx]
COPYING = [_fast, _fast_tx]
ALL = [*RETURNING, *COPYING]


def rows_of(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute(
            "SELECT *, args::text AS args_text, encode(unique_key, 'hex') AS key, unique_states::text AS states,"
            " scheduled_at = created_at AS due_at_once FROM river_job ORDER BY id"
        ).fetchall()
