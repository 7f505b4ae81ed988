"""Runs one statement where the caller wants it: on a pooled connection, or on a transaction of the caller's own.

Any thread; owns nothing. The verbs (`job_admin`, `queue_admin`) are written once upon it, for both kinds of client.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, TypeVar

from river_fast.driver import Driver, Statement
from river_fast.errors import DatabaseError, UniqueConflictError

T = TypeVar("T")

UNIQUE_VIOLATION = "23505"


class StatementRunner:
    """Raises `DatabaseError`, and `UniqueConflictError` where the statement met `river_job_unique_idx`.

    `statement_timeout`: seconds that one of `run` may take, 0 for any time; None: what every statement of ours may.
    """

    def __init__(self, driver: Driver, statement_timeout: float | None = None) -> None:
        self._driver = driver
        self._statement_timeout = statement_timeout

    def run(self, statement: Statement[T]) -> T:
        if self._statement_timeout is not None:
            return self._run_within(self._statement_timeout, statement)
        with unique_conflict_named(), self._driver.autocommit() as executor:
            return executor.run(statement)

    def _run_within(self, timeout: float, statement: Statement[T]) -> T:
        milliseconds = str(math.ceil(timeout * 1000))
        with unique_conflict_named(), self._driver.transaction() as executor:
            executor.run(Statement("statement_timeout_set", {"milliseconds": milliseconds}))
            return executor.run(statement)

    def run_tx(self, conn: Any, statement: Statement[T]) -> Any:
        """`T` on a sync connection, an awaitable of it on an async one."""
        if self._driver.is_async(conn):
            return self._run_on_async(conn, statement)
        with unique_conflict_named():
            return self._driver.on(conn).run(statement)

    async def run_async(self, statement: Statement[T]) -> T:
        with unique_conflict_named():
            async with self._driver.async_transaction() as executor:
                return await executor.run(statement)

    async def _run_on_async(self, conn: Any, statement: Statement[T]) -> T:
        with unique_conflict_named():
            return await self._driver.on_async(conn).run(statement)


@contextlib.contextmanager
def unique_conflict_named() -> Iterator[None]:
    """23505 leaves as `UniqueConflictError`."""
    try:
        yield
    except DatabaseError as error:
        if error.sqlstate != UNIQUE_VIOLATION:
            raise
        raise UniqueConflictError(
            "another unique job with the same key is active; cancel or finish that one first (SQLSTATE 23505)"
        ) from error
