"""The driver on psycopg 3. With its neighbours `psycopg_*.py` the only place that imports it.

Any thread. Owns the pools (opened with the client, a few connections; one more for each event loop that inserts) and
hands out listeners and the compiled part's connection strings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
import psycopg_pool
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from river_fast.config import Config
from river_fast.driver import Capabilities
from river_fast.driver.psycopg_contact import first_contact
from river_fast.driver.psycopg_executor import (
    AnyConnection,
    CallerAsyncConnection,
    CallerConnection,
    PsycopgAsyncExecutor,
    PsycopgExecutor,
    committing_on,
    database_error,
    executor_on,
    has_tls,
    translated,
)
from river_fast.driver.psycopg_lent import (
    CLOSE_TIMEOUT_S,
    POOL_SIZE,
    AsyncPool,
    Lent,
    Pool,
    check_open,
    lent,
    lent_async,
    make_async_pool,
    make_pool,
    own_connection,
)
from river_fast.driver.psycopg_listener import PsycopgListener
from river_fast.driver.psycopg_session import (
    CONNECT_TIMEOUT_S,
    KEEPALIVES,
    SQL,
    apply_session,
    begin_sql,
    doubts,
    hot_sql,
    libpq_path,
    libpq_version,
    parse_conninfo,
    pool_conninfo,
    session_sql,
    sql_text,
    with_tls,
)
from river_fast.driver.psycopg_shared import (
    SharedAsyncExecutor,
    SharedExecutor,
    async_transaction_on,
    transaction_on,
)
from river_fast.errors import ConfigError

__all__ = [
    "KEEPALIVES",
    "SQL",
    "CallerAsyncConnection",
    "CallerConnection",
    "PsycopgAsyncExecutor",
    "PsycopgDriver",
    "PsycopgExecutor",
    "PsycopgListener",
    "apply_session",
    "database_error",
    "executor_on",
    "libpq_path",
    "libpq_version",
    "session_sql",
    "sql_text",
    "translated",
]

RESERVED = 1  # of all: for what must not wait behind others that wait for a lock


class PsycopgDriver:
    """One database, one schema. `open` makes the first contact; `close` and `open` again are fine."""

    def __init__(
        self,
        conninfo: str,
        schema: str | None = None,
        *,
        pool_size: int | None = None,
        require_tls: bool = False,
        pooler: str = "auto",
        asynchronous_fetch: bool = False,
    ) -> None:
        params = parse_conninfo(conninfo)
        self._params = with_tls(params) if require_tls else params
        self._configured_schema, self._schema = schema, schema or ""
        self._pool_size = POOL_SIZE if pool_size is None else pool_size
        self._require_tls, self._pooler = require_tls, pooler
        self._async_fetch = asynchronous_fetch
        self._begin = ""  # where sessions are shared: what opens a transaction
        self._lock = threading.Lock()  # guards the pools and _capabilities
        self._pool: Pool | None = None
        self._reserved_pool: Pool | None = None
        # an async pool belongs to the event loop it was opened on
        self._async_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPool] = WeakKeyDictionary()
        self._capabilities: Capabilities | None = None
        self._given_pool: psycopg_pool.ConnectionPool[Any] | None = None
        self._given_async_pool: psycopg_pool.AsyncConnectionPool[Any] | None = None

    @classmethod
    def configured(cls, conninfo: str, config: Config) -> PsycopgDriver:
        """As the client's `config` says."""
        options = ("pool_size", "require_tls", "pooler", "asynchronous_fetch")
        driver = cls(conninfo, config.schema, **{name: getattr(config, name) for name in options})
        for doubt in doubts(driver._params):
            logging.getLogger("river_fast.driver").warning("%s", doubt)
        return driver

    @classmethod
    def from_pool(cls, pool: Any, schema: str | None = None, config: Config | None = None) -> PsycopgDriver:
        """On the caller's open `ConnectionPool` or `AsyncConnectionPool`, never closed here. What needs its own
        connections (the hot path, LISTEN, the election, and with an async pool the services) uses the pool's string.
        `ConfigError` for any `Config.pool_size`, and with `require_tls` for each connection of the pool without TLS."""
        config = config or Config(schema=schema)
        if not isinstance(pool, psycopg_pool.ConnectionPool | psycopg_pool.AsyncConnectionPool):
            raise ConfigError(f"a psycopg_pool ConnectionPool is needed here, got {type(pool).__name__}")
        if config.pool_size is not None:
            raise ConfigError(
                f"pool_size={config.pool_size} beside a pool that is made already: leave pool_size out, and give the"
                " pool its max_size where it is made"
            )
        driver = cls.configured(pool_conninfo(pool), replace(config, schema=schema))
        if isinstance(pool, psycopg_pool.ConnectionPool):
            driver._given_pool = pool
        else:
            driver._given_async_pool = pool
        return driver

    @property
    def schema(self) -> str:
        return self._schema

    def conninfo(self, role: str) -> str:
        """With keepalives and our name, unless the user set them."""
        params: dict[str, Any] = {**KEEPALIVES, "connect_timeout": CONNECT_TIMEOUT_S, **self._params}
        params.setdefault("application_name", f"river_fast/{role}")
        if self._begin:  # poolers keep it for each of their clients; for most others a SET would be needed
            params["client_encoding"] = "UTF8"
        return make_conninfo(**params)

    def open(self) -> Capabilities:
        return self._opened()[0]

    def _opened(self) -> tuple[Capabilities, Pool]:
        pool, capabilities = self._pool, self._capabilities
        if pool is not None and capabilities is not None:
            return capabilities, pool
        with self._lock:
            if self._pool is None:
                contact = first_contact(self.conninfo("pool"), self._configured_schema, self._pooler)
                self._schema, self._capabilities = contact
                self._begin = begin_sql() if self._capabilities.shared_sessions else ""
                size = max(self._pool_size - RESERVED, 1)
                self._pool = make_pool(self.conninfo("pool"), size, shared=bool(self._begin))
            assert self._capabilities is not None
            return self._capabilities, self._pool

    @contextlib.contextmanager
    def transaction(self, answer_timeout: float | None = None, *, reserved: bool = False) -> Iterator[PsycopgExecutor]:
        opened = self._reserved(answer_timeout) if reserved else self._pooled(answer_timeout)
        with opened as conn, committing_on(conn) as committing, transaction_on(conn, self._begin):
            yield self._executor(conn)
            committing()

    def autocommit(self, answer_timeout: float | None = None) -> AbstractContextManager[PsycopgExecutor]:
        if self._given_pool is None:
            return Lent(self._opened()[1], answer_timeout, self._executor)
        return self._autocommit_given(answer_timeout)

    @contextlib.contextmanager
    def _autocommit_given(self, answer_timeout: float | None) -> Iterator[PsycopgExecutor]:
        with self._pooled(answer_timeout) as conn:
            yield self._executor(conn, alone=True)

    @contextlib.contextmanager
    def session(self, role: str, answer_timeout: float | None = None) -> Iterator[PsycopgExecutor]:
        self.open()
        with own_connection(self.conninfo(role), answer_timeout, shared=bool(self._begin)) as conn:
            yield self._executor(conn, alone=True)

    def _executor(self, conn: psycopg.Connection[Any], *, alone: bool = False) -> PsycopgExecutor:
        """`alone`: each statement is a transaction of its own."""
        if not self._begin:
            return PsycopgExecutor(conn, self._schema)
        return SharedExecutor(conn, self._schema, self._begin if alone else None)

    def _async_executor(self, conn: psycopg.AsyncConnection[Any], *, alone: bool = False) -> PsycopgAsyncExecutor:
        if not self._begin:
            return PsycopgAsyncExecutor(conn, self._schema)
        return SharedAsyncExecutor(conn, self._schema, self._begin if alone else None)

    @contextlib.contextmanager
    def _pooled(self, answer_timeout: float | None) -> Iterator[psycopg.Connection[Any]]:
        _, pool = self._opened()
        if self._given_pool is None:
            with translated(), lent(pool, answer_timeout) as conn:  # closed by now: `ConnectionsClosedError`
                yield conn
        else:
            check_open(self._given_pool)
            with translated(), self._given_pool.connection() as given:
                self._check_tls(given)
                was, given.autocommit = given.autocommit, True
                try:
                    yield given
                finally:
                    if not given.closed and not was:
                        given.autocommit = False

    @contextlib.contextmanager
    def _reserved(self, answer_timeout: float | None) -> Iterator[psycopg.Connection[Any]]:
        """Of the one connection that nothing else may take: with a pool of one, the one there is."""
        _, pool = self._opened()
        if self._given_pool is not None or self._pool_size > RESERVED:
            with self._lock:
                if self._pool is pool:  # else it was closed meanwhile, and says so when it is asked
                    if self._reserved_pool is None:
                        self._reserved_pool = make_pool(self.conninfo("pool"), RESERVED, shared=bool(self._begin))
                    pool = self._reserved_pool
        with translated(), lent(pool, answer_timeout) as conn:
            yield conn

    async def open_async(self) -> Capabilities:
        if self._pool is not None and self._capabilities is not None:
            return self._capabilities
        return await asyncio.to_thread(self.open)

    @contextlib.asynccontextmanager
    async def async_transaction(self, answer_timeout: float | None = None) -> AsyncIterator[PsycopgAsyncExecutor]:
        async with self._async_pooled(answer_timeout) as conn:
            with committing_on(conn) as committing:
                async with async_transaction_on(conn, self._begin):
                    yield self._async_executor(conn)
                    committing()

    @contextlib.asynccontextmanager
    async def async_autocommit(self, answer_timeout: float | None = None) -> AsyncIterator[PsycopgAsyncExecutor]:
        async with self._async_pooled(answer_timeout) as conn:
            yield self._async_executor(conn, alone=True)

    @contextlib.asynccontextmanager
    async def _async_pooled(self, answer_timeout: float | None) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        await self.open_async()
        with translated():
            if self._given_async_pool is None:
                async with lent_async(await self._async_pool(), answer_timeout) as conn:
                    yield conn
            else:
                check_open(self._given_async_pool)
                async with self._given_async_pool.connection() as given:
                    self._check_tls(given)
                    was = given.autocommit
                    await given.set_autocommit(True)
                    try:
                        yield given
                    finally:
                        if not given.closed and not was:
                            await given.set_autocommit(False)

    async def _async_pool(self) -> AsyncPool:
        loop = asyncio.get_running_loop()
        pool = self._async_pools.get(loop)
        if pool is None:
            made = await make_async_pool(self.conninfo("pool"), self._pool_size, shared=bool(self._begin))
            pool = self._async_pools.setdefault(loop, made)
            if pool is not made:
                await made.close()
        return pool

    async def close_async(self) -> None:
        pool = self._async_pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close(timeout=CLOSE_TIMEOUT_S)
        await asyncio.to_thread(self.close)

    def on(self, conn: Any) -> PsycopgExecutor:
        if not isinstance(conn, psycopg.Connection):
            raise ConfigError(f"a psycopg Connection is needed here, got {type(conn).__name__}")
        self._check_usable(conn)
        return self._executor(conn) if self._begin else PsycopgExecutor(conn, self._schema, callers=True)

    def on_async(self, conn: Any) -> PsycopgAsyncExecutor:
        if not isinstance(conn, psycopg.AsyncConnection):
            raise ConfigError(f"a psycopg AsyncConnection is needed here, got {type(conn).__name__}")
        self._check_usable(conn)
        return self._async_executor(conn) if self._begin else PsycopgAsyncExecutor(conn, self._schema, callers=True)

    def is_async(self, conn: Any) -> bool:
        return isinstance(conn, psycopg.AsyncConnection)

    def _check_usable(self, conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        if conn.closed:
            raise ConfigError("the given connection is closed")
        status = conn.info.transaction_status
        if status == pq.TransactionStatus.INERROR:
            raise ConfigError("the given connection's transaction has failed (25P02): roll it back first")
        if status == pq.TransactionStatus.ACTIVE:
            raise ConfigError("the given connection is busy with another command")
        if conn.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            raise ConfigError("the given connection is in pipeline mode; leave it first")
        if conn.info.encoding != "utf-8":
            raise ConfigError(f"the given connection's client_encoding is {conn.info.encoding}; river_fast needs UTF8")
        if conn.autocommit and status == pq.TransactionStatus.IDLE:
            raise ConfigError("the given connection is in autocommit mode: open a transaction with conn.transaction()")
        if not self._schema:
            self.open()

    def _check_tls(self, given: AnyConnection) -> None:
        """Of a connection that was made elsewhere, and where its string says `prefer` or nothing."""
        if self._require_tls and not has_tls(given):
            raise ConfigError(
                "require_tls is set, but a connection of the pool given to from_pool has no TLS: put sslmode=require"
                " (or verify-full) in the pool's connection string"
            )

    def listener(self) -> PsycopgListener:
        return PsycopgListener(self.conninfo("notifier"))

    def hot_conninfo(self, role: str) -> bytes:
        return self.conninfo(role).encode()

    def hot_setup(self, role: str, channels: Iterable[str] = ()) -> bytes:
        if self.open().shared_sessions:
            return b""
        more = (f"LISTEN {sql.Identifier(channel).as_string(None)}" for channel in channels)
        return "; ".join((session_sql(self.open().server_version), *hot_sql(role, self._async_fetch), *more)).encode()

    def hot_begin(self, role: str) -> bytes:
        if not self.open().shared_sessions:
            return b""
        own = sql_text("completer_session", self._schema).splitlines() if role == "completer" else []
        settings = (line.rstrip(";") for line in own if line.startswith("SET "))
        return begin_sql(*hot_sql(role, self._async_fetch), *settings).encode()

    def statement_text(self, name: str) -> bytes:
        return sql_text(name, self._schema).encode()

    def libpq_path(self) -> str:
        return libpq_path()

    def close(self) -> None:
        with self._lock:
            pools, self._pool, self._reserved_pool = (self._pool, self._reserved_pool), None, None
        for pool in pools:
            if pool is not None:
                pool.close(timeout=CLOSE_TIMEOUT_S)
