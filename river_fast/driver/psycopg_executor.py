"""Statements on psycopg's connections, sync and async, with the bytes PostgreSQL sent and errors of our own.

An executor belongs to whoever holds its connection. Rows travel as PostgreSQL's binary values; nothing is decoded here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from types import TracebackType
from typing import Any, TypeVar, overload

import psycopg
import psycopg_pool
from psycopg import pq, sql

from river_fast.driver import (
    CommitOutcomeUnknownError,
    ConnectionLostError,
    ConnectionsClosedError,
    RawRow,
    Statement,
)
from river_fast.driver.psycopg_cancel import cancel_by_old_libpq, cancel_within
from river_fast.driver.psycopg_prepared import STALE, Prepared, ask, is_binary
from river_fast.driver.psycopg_session import sql_text
from river_fast.errors import ConfigError, DatabaseError
from river_fast.job_row import BinaryRow
from river_fast.pg_binary import BinaryParam

T = TypeVar("T")


class _BinaryParamDumper(psycopg.adapt.Dumper):
    """A parameter that is binary already, of the type it says."""

    format = pq.Format.BINARY

    def get_key(self, obj: Any, format: psycopg.adapt.PyFormat) -> Any:
        return (self.cls, obj.oid)

    def upgrade(self, obj: Any, format: psycopg.adapt.PyFormat) -> _BinaryParamDumper:
        dumper = _BinaryParamDumper(self.cls)
        dumper.oid = obj.oid
        return dumper

    def dump(self, obj: Any) -> bytes | None:
        return obj.data  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def _adapters() -> psycopg.adapt.AdaptersMap:
    adapters = psycopg.adapt.AdaptersMap(psycopg.adapters)
    adapters.register_dumper(BinaryParam, _BinaryParamDumper)
    return adapters


class ResultRow(BinaryRow, Sequence[bytes | None]):
    """One row of a reply, read where it lies; a job's, if the statement returns jobs."""

    __slots__ = ("_result", "_row")

    def __init__(self, result: pq.abc.PGresult, row: int) -> None:
        self._result = result
        self._row = row

    def field(self, column: int) -> bytes | None:
        return self._result.get_value(self._row, column)

    def __len__(self) -> int:
        return self._result.nfields

    @overload
    def __getitem__(self, column: int) -> bytes | None: ...
    @overload
    def __getitem__(self, column: slice) -> Sequence[bytes | None]: ...
    def __getitem__(self, column: int | slice) -> bytes | Sequence[bytes | None] | None:
        if isinstance(column, slice):
            return [self._result.get_value(self._row, i) for i in range(*column.indices(self._result.nfields))]
        count = self._result.nfields
        if not -count <= column < count:
            raise IndexError(column)
        return self._result.get_value(self._row, column if column >= 0 else column + count)


class BriefRow(ResultRow):
    """One of a reply that leaves out what all its rows have in common; `places` as in `Statement`."""

    __slots__ = ("_places",)

    def __init__(self, result: pq.abc.PGresult, row: int, places: tuple[int | bytes | None, ...]) -> None:
        self._result = result
        self._row = row
        self._places = places

    def field(self, column: int) -> bytes | None:
        place = self._places[column]
        return self._result.get_value(self._row, place) if isinstance(place, int) else place


def raw_rows(result: pq.abc.PGresult | None, statement: Statement[Any]) -> list[RawRow]:
    """The rows of a reply, as the bytes PostgreSQL sent."""
    if result is None or result.status != pq.ExecStatus.TUPLES_OK:
        return []
    if statement.places:
        return list(map(BriefRow, repeat(result), range(result.ntuples), repeat(statement.places)))
    if statement.lazy:
        return list(map(ResultRow, repeat(result), range(result.ntuples)))
    columns = range(result.nfields)
    get = result.get_value
    return [tuple([get(row, column) for column in columns]) for row in range(result.ntuples)]


def _parsed(statement: Statement[T], result: pq.abc.PGresult) -> T:
    rows = raw_rows(result, statement)
    return statement.parse(rows, len(rows) or result.command_tuples or 0)


AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def _answered(gen: Generator[Any, int, T], pgconn: pq.abc.PGconn, timeout: float) -> Generator[Any, int, T]:
    """`gen`, one of psycopg's, given up after `timeout` seconds: then the connection is closed, its answer lost."""
    deadline = time.monotonic() + timeout
    try:
        wanted = next(gen)
        while True:
            while not (ready := (yield wanted)):  # psycopg looks in from time to time
                if time.monotonic() >= deadline:
                    pgconn.finish()
                    raise psycopg.OperationalError(f"no answer from the server in {timeout:g} s")
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


class PooledConnection(psycopg.Connection[Any]):
    """A pooled connection. `answer_timeout`: seconds one operation may take, None for the server's own limits."""

    answer_timeout: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared = Prepared()

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        if self.answer_timeout is not None:
            gen = _answered(gen, self.pgconn, self.answer_timeout)
        return super().wait(gen, *args, **kwargs)

    def cancel(self) -> None:
        """What psycopg itself calls after Ctrl-C, where libpq is older than 17."""
        cancel_by_old_libpq(self)


class PooledAsyncConnection(psycopg.AsyncConnection[Any]):
    answer_timeout: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared = Prepared()

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        if self.answer_timeout is not None:
            gen = _answered(gen, self.pgconn, self.answer_timeout)
        return await super().wait(gen, *args, **kwargs)

    def cancel(self) -> None:
        """What psycopg itself calls, on a thread, for a Task that was cancelled."""
        cancel_by_old_libpq(self)


def has_tls(conn: AnyConnection) -> bool:
    """Or needs none: a Unix socket's bytes leave the machine by no wire."""
    return bool(conn.pgconn.ssl_in_use) or conn.pgconn.host.startswith(b"/")


def database_error(error: BaseException, conn: AnyConnection | None = None) -> DatabaseError:
    """Our error for psycopg's; the message never holds the connection string."""
    if not isinstance(error, psycopg.Error):
        return DatabaseError(str(error))
    text = str(error)
    message = error.diag.message_primary or (text.splitlines()[0] if text else type(error).__name__)
    if conn is not None and conn.closed:
        return ConnectionLostError(f"the connection was lost: {message}", error.sqlstate)
    return DatabaseError(message, error.sqlstate)


def pool_error(error: psycopg.Error, conn: AnyConnection | None = None) -> DatabaseError:
    """The same, and for what a pool itself raises."""
    if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
        return DatabaseError("no database connection could be had in time")
    if isinstance(error, psycopg_pool.PoolClosed):
        return ConnectionsClosedError(
            "the client was stopped before this call had a connection: nothing was sent; call again when it has stopped"
        )
    return database_error(error, conn)


class translated:
    """While inside, psycopg's errors leave as ours."""

    __slots__ = ("_conn",)

    def __init__(self, conn: AnyConnection | None = None) -> None:
        self._conn = conn

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, psycopg.Error):
            raise pool_error(error, self._conn) from error


CallerConnection = psycopg.Connection[Any]
CallerAsyncConnection = psycopg.AsyncConnection[Any]


class PsycopgExecutor:
    """Statements on one sync connection. `callers`: it is not ours, nor of a pool that we were given."""

    prepare: bool | None = None  # what is asked often may be prepared; False: nothing is

    def __init__(self, conn: psycopg.Connection[Any], schema: str, *, callers: bool = False) -> None:
        self._conn = conn
        self._schema = schema
        self._callers = callers

    def run(self, statement: Statement[T]) -> T:
        conn, params = self._conn, statement.params
        prepare = _prepared(statement, self.prepare, self._callers)
        if prepare is None and isinstance(conn, PooledConnection):
            with translated(conn):
                asking = ask(conn.pgconn, conn.prepared, statement.name, self._schema, params)
                return _parsed(statement, conn.wait(asking))
        with translated(self._conn), self._cursor("1" in params) as cursor:
            text = sql_text(statement.name, self._schema, statement.forms)
            values = list(params.values()) if "1" in params else params
            try:
                cursor.execute(text, values, prepare=prepare, binary=True)
            except psycopg.Error as error:
                if not _went_stale(error, self._conn):
                    raise
                cursor.execute(text, values, prepare=False, binary=True)
            return statement.parse(raw_rows(cursor.pgresult, statement), max(cursor.rowcount, 0))

    def cancel(self) -> None:
        with translated(self._conn):
            cancel_within(self._conn)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with committing_on(self._conn) as committing, self._conn.transaction():
            yield
            committing()

    def run_script(self, name: str) -> None:
        with translated(self._conn):
            self._conn.execute(sql_text(name, self._schema), prepare=False)

    def run_alone(self, name: str, identifier: str) -> None:
        text = sql_text(name, self._schema).replace("@identifier@", sql.Identifier(identifier).as_string(None))
        with translated(self._conn):
            self._conn.execute(text, prepare=False)

    def copy_binary(self, name: str, data: Iterable[bytes], params: Mapping[str, Any] | None = None) -> int:
        with translated(self._conn), self._cursor() as cursor:
            with cursor.copy(sql_text(name, self._schema), params) as copy:
                for chunk in data:
                    copy.write(chunk)
            return max(cursor.rowcount, 0)

    def _cursor(self, numbered: bool = False) -> psycopg.Cursor[Any]:
        kind = psycopg.RawCursor if numbered else psycopg.Cursor
        cursor = kind(self._conn, row_factory=psycopg.rows.tuple_row)
        cursor._adapters = _adapters()  # the cursor's own map, before its transformer is first used
        return cursor


class PsycopgAsyncExecutor:
    """The same on an async connection."""

    prepare: bool | None = None

    def __init__(self, conn: psycopg.AsyncConnection[Any], schema: str, *, callers: bool = False) -> None:
        self._conn = conn
        self._schema = schema
        self._callers = callers

    async def run(self, statement: Statement[T]) -> T:
        conn, params = self._conn, statement.params
        with translated(conn):
            prepare = _prepared(statement, self.prepare, self._callers)
            if prepare is None and isinstance(conn, PooledAsyncConnection):
                asking = ask(conn.pgconn, conn.prepared, statement.name, self._schema, params)
                return _parsed(statement, await conn.wait(asking))
            async with self._cursor("1" in params) as cursor:
                text = sql_text(statement.name, self._schema, statement.forms)
                values = list(params.values()) if "1" in params else params
                try:
                    await cursor.execute(text, values, prepare=prepare, binary=True)
                except psycopg.Error as error:
                    if not _went_stale(error, conn):
                        raise
                    await cursor.execute(text, values, prepare=False, binary=True)
                return statement.parse(raw_rows(cursor.pgresult, statement), max(cursor.rowcount, 0))

    async def copy_binary(self, name: str, data: Iterable[bytes], params: Mapping[str, Any] | None = None) -> int:
        with translated(self._conn):
            async with self._cursor() as cursor:
                async with cursor.copy(sql_text(name, self._schema), params) as copy:
                    for chunk in data:
                        await copy.write(chunk)
                return max(cursor.rowcount, 0)

    def _cursor(self, numbered: bool = False) -> psycopg.AsyncCursor[Any]:
        kind = psycopg.AsyncRawCursor if numbered else psycopg.AsyncCursor
        cursor = kind(self._conn, row_factory=psycopg.rows.tuple_row)
        cursor._adapters = _adapters()
        return cursor


def executor_on(conn: Any, schema: str) -> PsycopgExecutor | PsycopgAsyncExecutor:
    """On anybody's connection as it is, inside a transaction or not; `schema` empty: as its search_path leads."""
    if isinstance(conn, psycopg.Connection):
        return PsycopgExecutor(conn, schema, callers=True)
    if isinstance(conn, psycopg.AsyncConnection):
        return PsycopgAsyncExecutor(conn, schema, callers=True)
    raise ConfigError(f"a client or a psycopg connection is needed here, got {type(conn).__name__}")


def _prepared(statement: Statement[Any], prepare: bool | None, callers: bool) -> bool | None:
    """None: what is asked all the time, whose parameters are all binary, and whatever the caller's connection would
    prepare by itself. All else is planned anew each time: a plan that is kept was made for the table as it was, and
    until that is analysed again goes on reading all of one that was small then."""
    if prepare is None and not callers and (statement.forms or not is_binary(statement.params)):
        return False
    return prepare


def _went_stale(error: psycopg.Error, conn: AnyConnection) -> bool:
    """Whether a plan that psycopg prepared was refused for a table that was made anew: nothing was done, and no
    transaction failed with it. psycopg has forgotten the name by then."""
    return error.sqlstate in STALE and conn.info.transaction_status == pq.TransactionStatus.IDLE


@contextlib.contextmanager
def committing_on(conn: AnyConnection) -> Iterator[Callable[[], None]]:
    """Calls what is lost after the given function was called an unknown commit."""
    sent = False

    def committing() -> None:
        nonlocal sent
        sent = True

    try:
        yield committing
    except psycopg.Error as error:
        if sent and conn.closed:
            raise CommitOutcomeUnknownError(
                "the connection was lost while a transaction was being committed", error.sqlstate
            ) from error
        raise database_error(error, conn) from error
