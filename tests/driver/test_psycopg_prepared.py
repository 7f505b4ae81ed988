"""Statements with binary parameters on connections of our own: prepared when asked for often, and healed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from river_fast import pg_binary
from river_fast.driver import Statement
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.driver.psycopg_prepared import ASKED_OFTEN
from river_fast.errors import DatabaseError
from river_fast.pg_binary import BinaryParam

OFTEN = ASKED_OFTEN + 3


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema, pool_size=1)
    yield driver
    driver.close()


def notify(channel: bytes | None = b"here") -> Statement[int]:
    params = {"channel": BinaryParam(pg_binary.TEXT, channel), "payloads": pg_binary.texts(["one", "two"])}
    return Statement("notify_many", params)


def names(conn: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in conn.execute("SELECT name FROM pg_prepared_statements ORDER BY 1", prepare=False)]


def test_what_is_asked_often_is_prepared_once(driver: PsycopgDriver) -> None:
    with driver.autocommit() as executor:
        for _ in range(ASKED_OFTEN):
            assert executor.run(notify()) == 2
        assert names(executor._conn) == []
        for _ in range(3):
            assert executor.run(notify()) == 2
        assert names(executor._conn) == ["river_fast_1"]


def test_statement_that_is_gone_is_asked_unprepared_and_prepared_anew(driver: PsycopgDriver) -> None:
    with driver.autocommit() as executor:
        for _ in range(OFTEN):
            executor.run(notify())
        executor._conn.execute("DEALLOCATE ALL", prepare=False)
        assert executor.run(notify()) == 2
        assert names(executor._conn) == []
        assert executor.run(notify()) == 2
        assert names(executor._conn) == ["river_fast_2"]


def test_statement_that_is_gone_fails_a_transaction_once(driver: PsycopgDriver) -> None:
    """What was done in it before is undone with it: it cannot go on."""
    with driver.autocommit() as executor:
        for _ in range(OFTEN):
            executor.run(notify())
        executor._conn.execute("DEALLOCATE ALL", prepare=False)
    with pytest.raises(DatabaseError) as caught, driver.transaction() as executor:
        executor.run(notify())
    assert caught.value.sqlstate == "26000"
    with driver.transaction() as executor:
        assert executor.run(notify()) == 2


@pytest.mark.parametrize("times", [1, OFTEN], ids=["first", "prepared"])
def test_refusal_is_a_database_error_and_the_connection_goes_on(driver: PsycopgDriver, times: int) -> None:
    with driver.autocommit() as executor:
        pid = executor._conn.info.backend_pid
        for _ in range(times - 1):
            executor.run(notify())
        with pytest.raises(DatabaseError, match="channel name cannot be empty") as caught:
            executor.run(notify(None))
        assert caught.value.sqlstate == "22023"
    with driver.autocommit() as executor:
        assert executor._conn.info.backend_pid == pid
        assert executor.run(notify()) == 2


def test_callers_connection_prepares_nothing_under_our_names(driver: PsycopgDriver, dsn: str) -> None:
    driver.open()
    with psycopg.connect(dsn) as conn:
        for _ in range(OFTEN):
            assert driver.on(conn).run(notify()) == 2
        assert not [name for name in names(conn) if name.startswith("river_fast")]


def test_event_loops_connection_does_the_same(driver: PsycopgDriver) -> None:
    async def run() -> None:
        async with driver.async_autocommit() as executor:
            for _ in range(OFTEN):
                assert await executor.run(notify()) == 2
            with pytest.raises(DatabaseError, match="channel name cannot be empty"):
                await executor.run(notify(None))
            assert await executor.run(notify()) == 2
        await driver.close_async()

    asyncio.run(run())


def queue_get() -> Statement[int]:
    """As a statement that is asked all the time would be: with binary parameters."""
    return Statement("queue_get", {"name": BinaryParam(pg_binary.TEXT, b"nobody")})


def test_table_that_is_made_anew_is_met_as_it_is(driver: PsycopgDriver, conn: psycopg.Connection) -> None:
    with driver.autocommit() as executor:
        for _ in range(OFTEN):
            executor.run(queue_get())
        assert names(executor._conn)
        conn.execute("ALTER TABLE river_queue ALTER COLUMN name TYPE varchar(128)")
        for _ in range(OFTEN):
            assert executor.run(queue_get()) == 0


def test_table_that_is_made_anew_is_met_as_it_is_by_a_pool_that_was_given(
    dsn: str, schema: str, conn: psycopg.Connection
) -> None:
    """There psycopg prepares."""
    pool = ConnectionPool(dsn, min_size=0, max_size=1, open=True)
    with pool, PsycopgDriver.from_pool(pool, schema).autocommit() as executor:
        for _ in range(2 * OFTEN):
            executor.run(queue_get())
        assert names(executor._conn)
        conn.execute("ALTER TABLE river_queue ALTER COLUMN name TYPE varchar(128)")
        for _ in range(OFTEN):
            assert executor.run(queue_get()) == 0


def test_table_that_is_made_anew_is_met_as_it_is_by_tasks(driver: PsycopgDriver, conn: psycopg.Connection) -> None:
    async def ask() -> None:
        async with driver.async_autocommit() as executor:
            for _ in range(OFTEN):
                await executor.run(queue_get())
            await asyncio.to_thread(conn.execute, "ALTER TABLE river_queue ALTER COLUMN name TYPE varchar(128)")
            assert await executor.run(queue_get()) == 0
        await driver.close_async()

    asyncio.run(ask())


# What services and admin verbs ask.


def seldom() -> Statement[int]:
    return Statement("job_get_by_id", {"id": 7})


def test_what_is_asked_seldom_is_planned_for_the_table_as_it_is(
    driver: PsycopgDriver, conn: psycopg.Connection
) -> None:
    """A plan that is kept from when there were fifty jobs reads all of a hundred thousand for one."""
    conn.execute("ALTER TABLE river_job SET (autovacuum_enabled = false)")
    insert = "INSERT INTO river_job (kind, args) SELECT 'kind', '{}' FROM generate_series(1, %s)"
    conn.execute(insert, (50,))
    conn.execute("VACUUM ANALYZE river_job")
    with driver.autocommit() as executor:
        for _ in range(20):
            assert executor.run(seldom()) == 1
        conn.execute(insert, (20_000,))
        with executor._conn.transaction():
            read = "SELECT pg_stat_get_xact_tuples_returned('river_job'::regclass)"
            executor._conn.execute(f'SET LOCAL search_path = "{driver.schema}"')
            before = executor._conn.execute(read).fetchone()
            assert executor.run(seldom()) == 1
            assert executor._conn.execute(read).fetchone() == before, "it was read row by row"
        assert names(executor._conn) == []


def test_what_is_asked_seldom_is_prepared_neither_by_tasks_nor_in_a_pool_that_was_given(
    driver: PsycopgDriver, dsn: str, schema: str
) -> None:
    async def ask() -> None:
        async with driver.async_autocommit() as executor:
            for _ in range(2 * OFTEN):
                await executor.run(seldom())
            found = await executor._conn.execute("SELECT name FROM pg_prepared_statements", prepare=False)
            assert await found.fetchall() == []
        await driver.close_async()

    asyncio.run(ask())
    pool = ConnectionPool(dsn, min_size=0, max_size=1, open=True)
    with pool, PsycopgDriver.from_pool(pool, schema).transaction() as executor:
        for _ in range(2 * OFTEN):
            executor.run(seldom())
        assert names(executor._conn) == []


def test_callers_connection_prepares_as_it_is_told(driver: PsycopgDriver, dsn: str) -> None:
    driver.open()
    with psycopg.connect(dsn) as conn:
        for _ in range(2 * OFTEN):
            driver.on(conn).run(seldom())
        assert len(names(conn)) == 1
    with psycopg.connect(dsn, prepare_threshold=None) as conn:
        for _ in range(2 * OFTEN):
            driver.on(conn).run(seldom())
        assert names(conn) == []
