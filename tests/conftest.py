"""Fixtures every test may use: a server, a migrated schema of the test's own, a connection to it.

`DATABASE_URL` names the server to use; without it the embedded PostgreSQL is started, and stopped at the end. Where
pytest-xdist runs several processes each has a server of its own: tests that stop, count or freeze what a server does
would meet the others' there.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import psycopg
import pytest

# A shell without job control starts what it runs in the background with SIGINT ignored, and children inherit that:
# the tests that send Ctrl-C would wait for ever. With a handler here, children begin with the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged may hold lone surrogates, on purpose; they cannot be sent from process to process."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def dsn() -> str:
    """A database on a running server; tests make schemas of their own in it."""
    url = os.environ.get("DATABASE_URL")
    if url:
        return url
    from river_fast import embedded

    worker = os.environ.get("PYTEST_XDIST_WORKER")
    home = Path(os.environ.get("RIVER_FAST_PG_DATA") or embedded._default_home())
    return embedded.start(home / worker if worker else home, stop_at_exit=True).url


@pytest.fixture
def empty_schema(dsn: str) -> Iterator[str]:
    """The name of a new, empty schema, dropped after the test."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f'CREATE SCHEMA "{name}"')
    yield name
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SET lock_timeout = '60s'")
        conn.execute(f'DROP SCHEMA "{name}" CASCADE')


@pytest.fixture
def schema(dsn: str, empty_schema: str) -> str:
    """A new schema at the newest migration."""
    from river_fast.driver.psycopg import PsycopgDriver
    from river_fast.migrate import Migrator

    driver = PsycopgDriver(dsn, empty_schema)
    try:
        Migrator(driver).migrate_up()
    finally:
        driver.close()
    return empty_schema


@pytest.fixture
def conn(dsn: str, schema: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection whose search_path is the test's schema."""
    with psycopg.connect(dsn, autocommit=True, options=f"-c search_path={schema}") as conn:
        yield conn
