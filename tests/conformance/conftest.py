"""Fixtures of the adapter's tests: a database of their own, adapters on it, and a look past them.

One adapter process serves the tests of a module, emptied before each.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import Migrator
from tests.conformance.process import AdapterProcess


@pytest.fixture(scope="module")
def own_schema(dsn: str) -> Iterator[str]:
    """Migrated, and dropped after the module's tests. It is what the adapters' connections find without being told."""
    name = f"c_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f'CREATE SCHEMA "{name}"')
    driver = PsycopgDriver(dsn, name)
    Migrator(driver).migrate_up()
    driver.close()
    yield name
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SET lock_timeout = '60s'")
        conn.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


@pytest.fixture(scope="module")
def url(dsn: str, own_schema: str) -> str:
    return make_conninfo(dsn, options=f"-c search_path={own_schema}")


@pytest.fixture(scope="module")
def process(url: str) -> Iterator[AdapterProcess]:
    with AdapterProcess(url, f"river-conformance-{uuid.uuid4().hex[:8]}") as adapter:
        yield adapter


@pytest.fixture
def adapter(process: AdapterProcess) -> AdapterProcess:
    """Without a client, with empty tables."""
    if process.refused_or_none("runtime_stats") is None:
        process.call("stop", cancel=True)
    while process.open_transactions:
        process.refused_or_none("tx_rollback", handle=process.open_transactions.pop())
    process.call("reset")
    return process


@pytest.fixture
def other_schema(database: psycopg.Connection) -> Iterator[str]:
    """The name of a schema that is not there yet, in mixed case, dropped after the test if it is then."""
    name = f"Other_{uuid.uuid4().hex[:12]}"
    yield name
    database.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


@pytest.fixture
def make_adapter(url: str) -> Iterator[Callable[..., AdapterProcess]]:
    """`make_adapter(name=None, **variables)`: another process on the same database."""
    with contextlib.ExitStack() as stack:

        def make(name: str | None = None, **variables: str) -> AdapterProcess:
            made = AdapterProcess(url, name or f"river-conformance-{uuid.uuid4().hex[:8]}", **variables)
            return stack.enter_context(made)

        yield make


@pytest.fixture
def database(url: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection past all adapters."""
    with psycopg.connect(url, autocommit=True, application_name="river-conformance-harness") as conn:
        yield conn
