"""The seam to the database: what services ask of a driver, and the statement as a value.

A `Statement` is a file of `sql/` by name, its parameters, and how its rows are read; the service that needs it builds
it (`Statement("leader_attempt_elect", {...}, parse)`), and any executor, sync or async, pooled or on a caller's
transaction, runs it. So every verb is written once. SQL files that psycopg runs use `%(name)s`; those of the compiled
part use `$n`.
`@schema@` in a file becomes the quoted schema and a dot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from river_fast.errors import ClientStoppedError, DatabaseError
from river_fast.job_row import BinaryRow, StoredRow

T = TypeVar("T")

# One result row: every column in PostgreSQL's binary format, None for NULL.
RawRow = Sequence[bytes | None]


@dataclass(frozen=True, slots=True)
class Statement(Generic[T]):
    """`name` a file in `sql/`, without `.sql`; `parse` gets the rows, binary, and the count of rows touched.

    Parameters may be `pg_binary.BinaryParam`; those of the compiled part's files are named "1", "2" ... `lazy`: rows
    are views into the server's reply, which then lives as long as any of them; for replies of thousands of rows of
    which few are looked at. `places`, of a lazy one: where each of `job.COLUMNS` is, by its number in the reply or
    as the value that all rows have. `otherwise`: what to run if no row came back. `forms`: lines of the file that begin
    with `--word ` belong to the statement where its word is among them.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    parse: Callable[[list[RawRow], int], T] = lambda rows, count: count  # type: ignore[assignment,return-value]
    lazy: bool = False
    places: tuple[int | bytes | None, ...] = ()
    otherwise: Statement[T] | None = None
    forms: tuple[str, ...] = ()


class ConnectionLostError(DatabaseError):
    """The connection was lost in the middle of an operation. Outside a transaction that may have been its commit."""


class CommitOutcomeUnknownError(ConnectionLostError):
    """The connection was lost after COMMIT was sent: the transaction may or may not have been committed."""


class ConnectionsClosedError(ClientStoppedError, DatabaseError):
    """The client's connections were closed before the call had one: nothing was sent. To services, which outlive their
    connections for a moment, one more error of the database's; to callers, that of a stopped client."""


def stored_rows(rows: list[RawRow], count: int) -> list[BinaryRow]:
    """`parse` of statements that return jobs in `job.COLUMNS`' order (further columns are kept, unread)."""
    return [row if isinstance(row, BinaryRow) else StoredRow(row) for row in rows]


class Executor(Protocol):
    """Runs statements on one connection or transaction. Errors: `DatabaseError` and its kin, never psycopg's own."""

    def run(self, statement: Statement[T]) -> T: ...
    def run_script(self, name: str) -> None:
        """Several statements in one file (`migration/...`), without parameters or rows."""
    def run_alone(self, name: str, identifier: str) -> None:
        """`sql/<name>.sql`, with `@identifier@` in it quoted: a command that must be in no transaction, for an executor
        of `Driver.autocommit` or `Driver.session`."""
    def transaction(self) -> AbstractContextManager[None]:
        """Inside it the statements of an executor of `Driver.session` are one transaction."""
    def cancel(self) -> None:
        """Ask the server to cancel what runs now, if anything does. From any thread, while the executor is in use."""
    def copy_binary(self, name: str, data: Iterable[bytes], params: Mapping[str, Any] | None = None) -> int:
        """`sql/<name>.sql` is a COPY ... FROM STDIN (FORMAT binary); `data` its chunks, header and trailer included.
        The number of rows written."""


class AsyncExecutor(Protocol):
    """The same for an async connection."""

    async def run(self, statement: Statement[T]) -> T: ...
    async def copy_binary(self, name: str, data: Iterable[bytes], params: Mapping[str, Any] | None = None) -> int: ...


class Listener(Protocol):
    """One connection that LISTENs; used by the notifier's thread alone, `interrupt` by any."""

    def listen(self, channels: Iterable[str], timeout: float = ...) -> None:
        """Connects if need be. Raises when not done in `timeout` seconds, or at an interrupt."""
    def wait(self, timeout: float) -> list[tuple[str, str]]:
        """(channel, payload) of what came; [] after `timeout` seconds or an interrupt. Raises when the connection is
        lost."""
    def ping(self, timeout: float = ...) -> None:
        """A round trip. Raises when it takes longer than `timeout` seconds, or at an interrupt."""
    def interrupt(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the server can do, learnt at connect, never assumed."""

    server_version: int                # server_version_num
    is_yugabyte: bool = False
    notify: bool = True                # NOTIFY works, whoever listens
    listen: bool = True                # LISTEN works
    shared_sessions: bool = False      # a pooler lends them by the transaction: nothing is kept in them
    session_locks: bool = True         # session advisory locks mean something (sessions are not shared; not YugabyteDB)
    temp_tables: bool = True           # COPY staging is possible
    clock_offset: float = 0.0          # seconds to add to this machine's clock to have the server's


class Driver(Protocol):
    """Everything a client needs of a database. Safe for threads."""

    @property
    def schema(self) -> str:
        """The schema in use: configured, else the connection's `current_schema()`. Known after `open`."""
    def open(self) -> Capabilities:
        """First contact: finds out schema and capabilities. Idempotent. `DatabaseError` where there is no server.
        Whether the schema is there and migrated is `migrate.require_migrated`'s question."""
    def transaction(
        self, answer_timeout: float | None = None, *, reserved: bool = False
    ) -> AbstractContextManager[Executor]:
        """A pooled connection, one transaction; committed at the end, rolled back on an error. An operation that takes
        longer than `answer_timeout` seconds closes it (`ConnectionLostError`); None: the server's limits alone.
        `reserved`: on the connection kept for what must go on while all others wait for a lock; be quick."""
    def autocommit(self, answer_timeout: float | None = None) -> AbstractContextManager[Executor]:
        """A pooled connection, each statement its own transaction."""
    def session(self, role: str, answer_timeout: float | None = None) -> AbstractContextManager[Executor]:
        """A connection of its own, for what a session keeps (its locks; nothing where sessions are shared), or for what
        takes long. Each statement its own transaction; closed at the end."""
    def on(self, conn: Any) -> Executor:
        """An executor inside the caller's transaction; `ConfigError` for a connection that cannot take it."""
    def on_async(self, conn: Any) -> AsyncExecutor: ...
    async def open_async(self) -> Capabilities:
        """`open`, without blocking the event loop."""
    def async_transaction(
        self, answer_timeout: float | None = None
    ) -> AbstractAsyncContextManager[AsyncExecutor]: ...
    def async_autocommit(
        self, answer_timeout: float | None = None
    ) -> AbstractAsyncContextManager[AsyncExecutor]: ...
    def is_async(self, conn: Any) -> bool:
        """Whether `conn` is an async connection of this driver's library."""
    def listener(self) -> Listener:
        """A new connection of its own for LISTEN."""
    def hot_conninfo(self, role: str) -> bytes:
        """The connection string of a compiled service (`"fetcher"`, `"completer"`): keepalives, timeouts and
        application_name included. Holds the password: never log it."""
    def hot_setup(self, role: str, channels: Iterable[str] = ()) -> bytes:
        """Session settings of our own for such a connection, and a LISTEN for each channel; one simple message. Nothing
        where sessions are shared."""
    def hot_begin(self, role: str) -> bytes:
        """Where sessions are shared: what opens each transaction on such a connection, our settings included. Else
        nothing."""
    def statement_text(self, name: str) -> bytes:
        """The text of `sql/<name>.sql` with the schema filled in, for the compiled part."""
    def libpq_path(self) -> str:
        """The file whose libpq psycopg uses, for `load_libpq`."""
    def close(self) -> None:
        """Pools and connections closed; idempotent; `open` may be called again."""
    async def close_async(self) -> None:
        """The running event loop's pool closed, then `close`; idempotent."""
