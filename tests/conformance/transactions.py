"""The suite's named transactions, each on a connection of its own.

The request loop's thread. A commit or rollback uses its name up, whatever comes of it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from psycopg import pq

import river_fast as river
from tests.conformance.errors import not_found, rejected


class Transactions:
    """`most`: so many at a time, since each holds a connection."""

    def __init__(self, conninfo: str, most: int) -> None:
        self._conninfo = conninfo
        self._most = most
        self._open: dict[str, psycopg.Connection[Any]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, handle: str) -> None:
        if handle in self._open:
            raise rejected(f"transaction {handle!r} is open")
        if len(self._open) >= self._most:
            raise rejected(f"{self._most} transactions are open, and no connection is left for another")
        conn = psycopg.connect(self._conninfo, prepare_threshold=None, connect_timeout=10)
        try:
            conn.execute("SELECT 1")  # it begins now
        except BaseException:
            conn.close()
            raise
        self._open[handle] = conn

    def get(self, handle: str) -> psycopg.Connection[Any]:
        """Its connection; `database_error` once a statement of it has failed."""
        conn = self._known(handle)
        if conn.info.transaction_status == pq.TransactionStatus.INERROR:
            raise river.DatabaseError("the transaction has failed: roll it back", "25P02")
        return conn

    def fail(self, handle: str) -> None:
        """Raises what the server says of a statement that cannot run."""
        self._known(handle).execute("SELECT 1 / 0")

    def commit(self, handle: str) -> None:
        conn = self._taken(handle)
        with contextlib.closing(conn):
            failed = conn.info.transaction_status == pq.TransactionStatus.INERROR
            conn.commit()
            if failed:
                raise river.DatabaseError("the transaction had failed, and was rolled back", "25P02")

    def rollback(self, handle: str) -> None:
        conn = self._taken(handle)
        with contextlib.closing(conn):
            conn.rollback()

    def close(self) -> None:
        for handle in list(self._open):
            with contextlib.suppress(Exception):
                self.rollback(handle)

    def _known(self, handle: str) -> psycopg.Connection[Any]:
        if handle not in self._open:
            raise not_found(f"transaction {handle!r} does not exist")
        return self._open[handle]

    def _taken(self, handle: str) -> psycopg.Connection[Any]:
        conn = self._known(handle)
        del self._open[handle]
        return conn
