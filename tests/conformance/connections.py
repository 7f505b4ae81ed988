"""Connections that are looked at before they are lent: one that died while it was idle is replaced at once.

Any thread. Not psycopg's pool, which lets a second pass before it replaces a connection that its check has refused.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg

CONNECT_MOST = 10  # seconds


class Connections:
    """At most `most` at a time, in autocommit mode."""

    def __init__(self, conninfo: str, most: int) -> None:
        self._conninfo = conninfo
        self._room = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._idle: list[psycopg.Connection[Any]] = []

    @contextlib.contextmanager
    def lent(self) -> Iterator[psycopg.Connection[Any]]:
        with self._room:
            conn = self._living() or self._made()
            try:
                yield conn
            finally:
                if conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                    with self._lock:
                        self._idle.append(conn)
                else:  # lost, or in the middle of something
                    conn.close()

    def close(self) -> None:
        """The idle ones; what is lent is closed by whoever has it. Others are made when they are asked for."""
        with self._lock:
            idle, self._idle = self._idle, []
        for conn in idle:
            conn.close()

    def _living(self) -> psycopg.Connection[Any] | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                conn = self._idle.pop()
            try:
                conn.execute("SELECT 1")
                return conn
            except psycopg.Error:
                conn.close()

    def _made(self) -> psycopg.Connection[Any]:
        # No TimeZone of ours: the suite compares timestamps as the database renders them to anybody.
        return psycopg.connect(
            self._conninfo, autocommit=True, prepare_threshold=None, connect_timeout=CONNECT_MOST
        )
