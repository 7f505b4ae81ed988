"""Our pools, and what is done to a pool's connection when it is made, lent, and given back.

Any thread; a connection belongs to whoever it is lent to.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any

import psycopg
import psycopg_pool

from river_fast.driver.psycopg_executor import (
    AnyConnection,
    PooledAsyncConnection,
    PooledConnection,
    PsycopgExecutor,
    pool_error,
    translated,
)
from river_fast.driver.psycopg_session import CONNECT_TIMEOUT_S, apply_session, session_sql
from river_fast.errors import DatabaseError

POOL_SIZE = 4  # unless the user says another
CLOSE_TIMEOUT_S = 1.0  # for a pool's thread that is just connecting, to a server that does not answer
Pool = psycopg_pool.ConnectionPool[PooledConnection]
AsyncPool = psycopg_pool.AsyncConnectionPool[PooledAsyncConnection]


def make_pool(conninfo: str, size: int, *, shared: bool) -> Pool:
    """Open, without a connection yet. `shared`: a pooler behind it shares its sessions."""
    pool = psycopg_pool.ConnectionPool(
        conninfo,
        connection_class=PooledConnection,
        min_size=0,
        max_size=size,
        open=False,
        configure=configure_shared if shared else configure,
        timeout=CONNECT_TIMEOUT_S,
        num_workers=min(size, 3),
        name="river_fast",
    )
    try:
        pool.open()
    except BaseException:
        pool.close()
        raise
    return pool


async def make_async_pool(conninfo: str, size: int, *, shared: bool) -> AsyncPool:
    """The same, of the running event loop."""
    pool = psycopg_pool.AsyncConnectionPool(
        conninfo,
        connection_class=PooledAsyncConnection,
        min_size=0,
        max_size=size,
        open=False,
        configure=configure_shared_async if shared else configure_async,
        timeout=CONNECT_TIMEOUT_S,
        name="river_fast",
    )
    try:
        await pool.open()
    except BaseException:  # cancelled, say: nobody else knows of it
        await pool.close()
        raise
    return pool


def living(pool: Pool) -> PooledConnection:
    """One that is not dead. psycopg's own check waits between two dead ones, 1 s, then 2, then 4: after a restart of
    the server, with a pool full of them, whoever asks would wait for seconds."""
    for _ in range(pool.max_size):
        conn = pool.getconn()
        try:
            check(conn)
            return conn
        except psycopg.Error:
            conn.close()  # before it goes back: the pool makes another
            pool.putconn(conn)
        except BaseException:
            pool.putconn(conn)
            raise
    return pool.getconn()


async def living_async(pool: AsyncPool) -> PooledAsyncConnection:
    for _ in range(pool.max_size):
        conn = await pool.getconn()
        try:
            await check_async(conn)
            return conn
        except psycopg.Error:
            await conn.close()
            await pool.putconn(conn)
        except BaseException:
            await pool.putconn(conn)
            raise
    return await pool.getconn()


@contextlib.contextmanager
def lent(pool: Pool, answer_timeout: float | None) -> Iterator[PooledConnection]:
    """psycopg's `pool.connection()`, of those that live."""
    conn = living(pool)
    try:
        conn.answer_timeout = answer_timeout
        with conn:
            yield conn
    finally:
        pool.putconn(conn)


@contextlib.asynccontextmanager
async def lent_async(pool: AsyncPool, answer_timeout: float | None) -> AsyncIterator[PooledAsyncConnection]:
    conn = await living_async(pool)
    try:
        conn.answer_timeout = answer_timeout
        async with conn:
            yield conn
    finally:
        await pool.putconn(conn)


class Lent:
    """A connection of our own pool, for statements that are each their own transaction: psycopg's
    `pool.connection()` without the commit that has nothing to commit."""

    __slots__ = ("_answer_timeout", "_conn", "_executor", "_pool")

    def __init__(
        self,
        pool: Pool,
        answer_timeout: float | None,
        executor: Callable[..., PsycopgExecutor],
    ) -> None:
        self._pool = pool
        self._answer_timeout = answer_timeout
        self._executor = executor
        self._conn: PooledConnection | None = None

    def __enter__(self) -> PsycopgExecutor:
        try:
            conn = self._conn = living(self._pool)
        except psycopg.Error as error:
            raise pool_error(error) from error
        try:
            conn.answer_timeout = self._answer_timeout
            return self._executor(conn, alone=True)
        except BaseException:  # Ctrl-C: nobody would give it back
            self._pool.putconn(conn)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._conn is not None:
            self._pool.putconn(self._conn)  # one that is lost, or in the middle of something, it closes
        if isinstance(error, psycopg.Error):
            raise pool_error(error) from error


@contextlib.contextmanager
def own_connection(conninfo: str, answer_timeout: float | None, *, shared: bool) -> Iterator[PooledConnection]:
    """One that no pool has, closed at the end; each statement its own transaction. `shared`: by a pooler."""
    with translated():
        conn = PooledConnection.connect(conninfo)
    try:
        with translated(conn):
            (configure_shared if shared else configure)(conn)
            conn.answer_timeout = answer_timeout
            yield conn
    finally:
        conn.close()


def check_open(given: psycopg_pool.ConnectionPool[Any] | psycopg_pool.AsyncConnectionPool[Any]) -> None:
    if given.closed:
        raise DatabaseError("the pool given to from_pool is closed: open it, or make a client on one that is open")


def configure(conn: psycopg.Connection[Any]) -> None:
    conn.autocommit = True
    apply_session(conn)


def configure_shared(conn: psycopg.Connection[Any]) -> None:
    conn.autocommit = True  # a session that is shared is left as it is


async def configure_shared_async(conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.set_autocommit(True)


async def configure_async(conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.set_autocommit(True)
    await conn.execute(session_sql(conn.info.server_version))


def check(conn: psycopg.Connection[Any]) -> None:
    """At checkout, without a round trip: only a connection that has something to say may be dead."""
    if _has_news(conn):
        psycopg_pool.ConnectionPool.check_connection(conn)


async def check_async(conn: psycopg.AsyncConnection[Any]) -> None:
    if _has_news(conn):
        await psycopg_pool.AsyncConnectionPool.check_connection(conn)


def _has_news(conn: AnyConnection) -> bool:
    if conn.closed:
        return True
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    return bool(poll.poll(0))
