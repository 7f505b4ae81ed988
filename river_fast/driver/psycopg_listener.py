"""The connection that LISTENs for control and leadership.

Used by the notifier's thread alone, but for `interrupt`; owns its libpq connection and the sockets that wake it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterable
from typing import Literal

import psycopg
from psycopg import pq, sql

from river_fast.driver.psycopg_executor import translated
from river_fast.driver.psycopg_session import CONNECT_TIMEOUT_S, session_sql


class PsycopgListener:
    """One connection that LISTENs, made by the first `listen`. `interrupt` may come from any thread; the rest from one.

    On libpq's non-blocking calls: each operation ends at its deadline or by an `interrupt`, whatever network and server
    do. (Looking up a host's name is libpq's, and blocks.)
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._pgconn: pq.abc.PGconn | None = None
        self._listening = ""
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._wake_lock = threading.Lock()  # no byte into a descriptor that was closed, and perhaps given to another

    def listen(self, channels: Iterable[str], timeout: float = CONNECT_TIMEOUT_S) -> None:
        """Connect if need be, and LISTEN; raises when that is not done in `timeout` seconds, or at an `interrupt`."""
        deadline = time.monotonic() + timeout
        commands = "; ".join(f"LISTEN {sql.Identifier(channel).as_string(None)}" for channel in channels)
        with translated():
            if self._pgconn is None:
                self._pgconn = self._connect(deadline)
                self._execute(self._pgconn, session_sql(self._pgconn.server_version), deadline)
            # A message of its own, and the last one, pings or not: pg_stat_activity shows what this connection is for.
            self._execute(self._pgconn, commands, deadline)
            self._listening = commands

    def wait(self, timeout: float) -> list[tuple[str, str]]:
        with translated():
            pgconn = self._connected()
            if not (got := self._notifications(pgconn)):
                if self._poll(pgconn.socket, select.POLLIN, time.monotonic() + max(timeout, 0.0)) == "ready":
                    pgconn.consume_input()
                got = self._notifications(pgconn)
            return got

    def ping(self, timeout: float = 5.0) -> None:
        """A round trip, so that a dead peer is found out; raises when it takes longer than `timeout` seconds."""
        with translated():
            if psycopg.capabilities.has_pipeline():
                self._synchronize(self._connected(), time.monotonic() + timeout)
            else:
                self._execute(self._connected(), self._listening, time.monotonic() + timeout)

    def interrupt(self) -> None:
        with self._wake_lock, contextlib.suppress(OSError):  # full: it wakes as it is; closed: nobody is left to wake
            self._wake_write.send(b"x")

    def close(self) -> None:
        pgconn, self._pgconn = self._pgconn, None
        if pgconn is not None:
            pgconn.finish()
        with self._wake_lock:
            self._wake_read.close()
            self._wake_write.close()

    def _connected(self) -> pq.abc.PGconn:
        if self._pgconn is None:
            raise psycopg.OperationalError("the listener is not connected")
        return self._pgconn

    def _connect(self, deadline: float) -> pq.abc.PGconn:
        pgconn: pq.abc.PGconn = pq.PGconn.connect_start(self._conninfo.encode())
        try:
            status: int = pq.PollingStatus.WRITING  # libpq: wait as if the last poll had said so
            while pgconn.status != pq.ConnStatus.BAD and status != pq.PollingStatus.OK:
                events = select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT
                self._await(pgconn.socket, events, deadline, "connection")
                status = pgconn.connect_poll()
                if status == pq.PollingStatus.FAILED:
                    break
            if status != pq.PollingStatus.OK:
                raise psycopg.OperationalError(pgconn.get_error_message())
            pgconn.nonblocking = 1
        except BaseException:
            pgconn.finish()
            raise
        return pgconn

    def _execute(self, pgconn: pq.abc.PGconn, commands: str, deadline: float) -> None:
        pgconn.send_query(commands.encode())
        self._flush(pgconn, deadline)
        refused: pq.abc.PGresult | None = None
        while True:
            while pgconn.is_busy():
                self._await(pgconn.socket, select.POLLIN, deadline, "server's answer")
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            if result.status == pq.ExecStatus.FATAL_ERROR:
                refused = result
        if refused is not None:
            raise psycopg.errors.error_from_result(refused)

    def _synchronize(self, pgconn: pq.abc.PGconn, deadline: float) -> None:
        """A round trip without a statement: the protocol's Sync, alone."""
        pgconn.enter_pipeline_mode()
        pgconn.pipeline_sync()
        self._flush(pgconn, deadline)
        while pgconn.is_busy():
            self._await(pgconn.socket, select.POLLIN, deadline, "server's answer")
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
            raise psycopg.OperationalError("the server did not answer a ping")
        pgconn.exit_pipeline_mode()

    def _flush(self, pgconn: pq.abc.PGconn, deadline: float) -> None:
        while pgconn.flush():
            self._await(pgconn.socket, select.POLLIN | select.POLLOUT, deadline, "server's attention")
            pgconn.consume_input()

    def _await(self, fileno: int, events: int, deadline: float, what: str) -> None:
        outcome = self._poll(fileno, events, deadline)
        if outcome != "ready":
            raise psycopg.OperationalError(f"{outcome} while waiting for the {what}")

    def _poll(self, fileno: int, events: int, deadline: float) -> Literal["ready", "interrupted", "timed out"]:
        """Not `select`: it refuses descriptors from 1024 on."""
        poll = select.poll()
        poll.register(fileno, events)
        poll.register(self._wake_read.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(deadline - time.monotonic(), 0.0) * 1000)}
        if self._wake_read.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(4096)
            return "interrupted"
        return "ready" if ready else "timed out"

    def _notifications(self, pgconn: pq.abc.PGconn) -> list[tuple[str, str]]:
        found = []
        while (notify := pgconn.notifies()) is not None:
            found.append((notify.relname.decode("utf-8", "replace"), notify.extra.decode("utf-8", "replace")))
        return found
