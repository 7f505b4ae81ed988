"""Pooled connections that died while they were idle: whoever asks gets a living one, and does not wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import make_conninfo

from river_fast.driver import Statement
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.driver.psycopg_lent import make_async_pool
from tests.fix_client import eventually

NAME = "test_psycopg_lent"
SIZE = 4
ASK: Statement[int] = Statement("queue_get", {"name": "nobody"})


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(make_conninfo(dsn, application_name=NAME), schema, pool_size=SIZE)
    yield driver
    driver.close()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """psycopg's own loop over dead connections sleeps between two looks."""

    def refuse(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s between two dead connections")

    monkeypatch.setattr(psycopg_pool.pool, "sleep", refuse)
    monkeypatch.setattr(psycopg_pool.pool_async, "asleep", refuse, raising=False)


def kill(conn: psycopg.Connection[Any]) -> None:
    """All of them, and sees them gone."""
    where = "FROM pg_stat_activity WHERE application_name = %s"
    conn.execute(f"SELECT pg_terminate_backend(pid) {where}", [NAME])
    eventually(lambda: conn.execute(f"SELECT count(*) {where}", [NAME]).fetchone() == (0,))


@pytest.mark.usefixtures("no_waiting")
def test_pool_full_of_dead_connections_serves_at_once(driver: PsycopgDriver, conn: psycopg.Connection[Any]) -> None:
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            for _ in range(SIZE - 1):
                stack.enter_context(driver.transaction())
        with driver.transaction(reserved=True) as executor:
            executor.run(ASK)
        kill(conn)
        with driver.autocommit() as executor:
            assert executor.run(ASK) == 0
        with driver.transaction() as executor:
            assert executor.run(ASK) == 0
        with driver.transaction(reserved=True) as executor:
            assert executor.run(ASK) == 0


@pytest.mark.usefixtures("no_waiting")
def test_async_pool_full_of_dead_connections_serves_at_once(
    driver: PsycopgDriver, conn: psycopg.Connection[Any]
) -> None:
    async def ask() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(SIZE):
                await stack.enter_async_context(driver.async_transaction())
        await asyncio.to_thread(kill, conn)
        async with driver.async_transaction() as executor:
            assert await executor.run(ASK) == 0
        async with driver.async_autocommit() as executor:
            assert await executor.run(ASK) == 0
        await driver.close_async()

    asyncio.run(ask())


def test_async_pool_whose_opening_is_cut_off_is_closed(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    opening = psycopg_pool.AsyncConnectionPool.open

    async def cut_off(pool: Any, *args: Any, **kwargs: Any) -> None:
        await opening(pool, *args, **kwargs)
        opened.append(pool)
        raise asyncio.CancelledError

    async def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            await make_async_pool(dsn, SIZE, shared=False)

    monkeypatch.setattr(psycopg_pool.AsyncConnectionPool, "open", cut_off)
    asyncio.run(run())
    assert [pool.closed for pool in opened] == [True]
