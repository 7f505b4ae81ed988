"""Transactions in sessions that a pooler shares: each sets what it needs for itself alone, prepares nothing, and is
ended before the session goes to somebody else.

Whoever holds the connection; owns nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import psycopg

from river_fast.driver import CommitOutcomeUnknownError, ConnectionLostError, Statement
from river_fast.driver.psycopg_executor import AnyConnection, PsycopgAsyncExecutor, PsycopgExecutor, committing_on
from river_fast.errors import DatabaseError

T = TypeVar("T")


@contextlib.contextmanager
def transaction_on(conn: psycopg.Connection[Any], begin: str) -> Iterator[None]:
    """A transaction; `begin`, if any, opens it, in one round trip with its settings."""
    if not begin:
        with conn.transaction():
            yield
        return
    try:
        conn.execute(begin, prepare=False)
        yield
    except BaseException:
        with contextlib.suppress(psycopg.Error):  # lost on the way, it is rolled back all the same
            conn.execute("ROLLBACK", prepare=False)
        raise
    conn.execute("COMMIT", prepare=False)


@contextlib.asynccontextmanager
async def async_transaction_on(conn: psycopg.AsyncConnection[Any], begin: str) -> AsyncIterator[None]:
    if not begin:
        async with conn.transaction():
            yield
        return
    try:
        await conn.execute(begin, prepare=False)
        yield
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            await conn.execute("ROLLBACK", prepare=False)
        raise
    await conn.execute("COMMIT", prepare=False)


@contextlib.contextmanager
def _own_commit(conn: AnyConnection) -> Iterator[Callable[[], None]]:
    """As `committing_on`, and what is lost before the commit is known not to have happened."""
    try:
        with committing_on(conn) as committing:
            yield committing
    except CommitOutcomeUnknownError:
        raise
    except ConnectionLostError as error:
        raise DatabaseError(f"nothing was written: {error}", error.sqlstate) from error


class SharedExecutor(PsycopgExecutor):
    """`begin`: what opens a transaction for each statement; None: inside one already."""

    prepare = False

    def __init__(self, conn: psycopg.Connection[Any], schema: str, begin: str | None) -> None:
        super().__init__(conn, schema)
        self._begin = begin

    def run(self, statement: Statement[T]) -> T:
        if self._begin is None:
            return super().run(statement)
        with _own_commit(self._conn) as committing, transaction_on(self._conn, self._begin):
            result = super().run(statement)
            committing()
        return result

    def copy_binary(self, name: str, data: Iterable[bytes], params: Mapping[str, Any] | None = None) -> int:
        if self._begin is None:
            return super().copy_binary(name, data, params)
        with _own_commit(self._conn) as committing, transaction_on(self._conn, self._begin):
            count = super().copy_binary(name, data, params)
            committing()
        return count


class SharedAsyncExecutor(PsycopgAsyncExecutor):
    """The same on an async connection."""

    prepare = False

    def __init__(self, conn: psycopg.AsyncConnection[Any], schema: str, begin: str | None) -> None:
        super().__init__(conn, schema)
        self._begin = begin

    async def run(self, statement: Statement[T]) -> T:
        if self._begin is None:
            return await super().run(statement)
        with _own_commit(self._conn) as committing:
            async with async_transaction_on(self._conn, self._begin):
                result = await super().run(statement)
                committing()
        return result

    async def copy_binary(self, name: str, data: Iterable[bytes], params: Mapping[str, Any] | None = None) -> int:
        if self._begin is None:
            return await super().copy_binary(name, data, params)
        with _own_commit(self._conn) as committing:
            async with async_transaction_on(self._conn, self._begin):
                count = await super().copy_binary(name, data, params)
                committing()
        return count
