"""What is done to a pool's connection when it is made, lent, and given back.

Any thread; a connection belongs to whoever it is lent to.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from types import TracebackType
from typing import Any

import psycopg
import psycopg_pool

from river_fast.driver.psycopg_executor import AnyConnection, PooledConnection, PsycopgExecutor, pool_error
from river_fast.driver.psycopg_session import apply_session, session_sql
from river_fast.errors import DatabaseError


class Lent:
    """A connection of our own pool, for statements that are each their own transaction: psycopg's
    `pool.connection()` without the commit that has nothing to commit."""

    __slots__ = ("_answer_timeout", "_conn", "_executor", "_pool")

    def __init__(
        self,
        pool: psycopg_pool.ConnectionPool[PooledConnection],
        answer_timeout: float | None,
        executor: Callable[..., PsycopgExecutor],
    ) -> None:
        self._pool = pool
        self._answer_timeout = answer_timeout
        self._executor = executor
        self._conn: PooledConnection | None = None

    def __enter__(self) -> PsycopgExecutor:
        try:
            conn = self._conn = self._pool.getconn()
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
