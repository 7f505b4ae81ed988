"""How a `Client` inserts. River: Client.Insert, InsertMany, InsertManyFast, and their Tx forms.

Any thread; owns nothing. Each verb checks that the process is still the one that made the client, and delegates. The
`_tx` forms run in the caller's transaction: on a psycopg `AsyncConnection` they return an awaitable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, overload

from river_fast.insert_opts import InsertOpts, JobInsertResult
from river_fast.inserter import Inserter

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection


class ClientVerbs:
    """Mixed into `Client`, which sets the inserter."""

    _inserter: Inserter

    def _check_process(self) -> None:
        raise NotImplementedError

    def insert(self, args: Any, opts: InsertOpts | None = None) -> JobInsertResult:
        """Insert one job and tell the workers of its queue, in one transaction. River: Insert.

        `args`: an args value (`JobArgs`, `@job_args`, `RawArgs`). Raises `ValidationError` (`EncodeError`) before
        anything is written, `UnknownJobKindError` where the client has workers and none for the kind, `DatabaseError`,
        and `InsertOutcomeUnknownError` where the connection was lost before the answer.
        """
        self._check_process()
        return self._inserter.insert(args, opts)

    def insert_many(self, params: Iterable[Any]) -> list[JobInsertResult]:
        """Insert jobs, all or none; results in input order. Items are args or `InsertManyParams`. River: InsertMany."""
        self._check_process()
        return self._inserter.insert_many(params)

    def insert_many_fast(self, params: Iterable[Any]) -> int:
        """Insert jobs by COPY, all or none; how many. `UniqueConflictError` for a duplicate. River: InsertManyFast."""
        self._check_process()
        return self._inserter.insert_many_fast(params)

    @overload
    def insert_tx(self, conn: Connection[Any], args: Any, opts: InsertOpts | None = None) -> JobInsertResult: ...
    @overload
    def insert_tx(
        self, conn: AsyncConnection[Any], args: Any, opts: InsertOpts | None = None
    ) -> Awaitable[JobInsertResult]: ...
    def insert_tx(self, conn: Any, args: Any, opts: InsertOpts | None = None) -> Any:
        """`insert` in the caller's transaction: when that commits, the job exists and workers hear. River: InsertTx."""
        self._check_process()
        return self._inserter.insert_tx(conn, args, opts)

    @overload
    def insert_many_tx(self, conn: Connection[Any], params: Iterable[Any]) -> list[JobInsertResult]: ...
    @overload
    def insert_many_tx(self, conn: AsyncConnection[Any], params: Iterable[Any]) -> Awaitable[list[JobInsertResult]]: ...
    def insert_many_tx(self, conn: Any, params: Iterable[Any]) -> Any:
        """`insert_many` in the caller's transaction. River: InsertManyTx."""
        self._check_process()
        return self._inserter.insert_many_tx(conn, params)

    @overload
    def insert_many_fast_tx(self, conn: Connection[Any], params: Iterable[Any]) -> int: ...
    @overload
    def insert_many_fast_tx(self, conn: AsyncConnection[Any], params: Iterable[Any]) -> Awaitable[int]: ...
    def insert_many_fast_tx(self, conn: Any, params: Iterable[Any]) -> Any:
        """`insert_many_fast` in the caller's transaction. River: InsertManyFastTx."""
        self._check_process()
        return self._inserter.insert_many_fast_tx(conn, params)
