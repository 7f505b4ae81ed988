"""Cancels what a connection waits for, and never holds up the process for it.

Where libpq is older than 17, psycopg cancels by `PQcancel`. That blocks until the server has answered, and psycopg's C
keeps the GIL meanwhile: with a server that hangs, every thread of the process would stand still for as long.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import pq

from river_fast.driver.psycopg_session import CANCEL_TIMEOUT_S, libpq_path

ERROR_BYTES = 256


def cancel_within(conn: psycopg.Connection[Any], timeout: float = CANCEL_TIMEOUT_S) -> None:
    """Ask the server to end what runs; psycopg's `CancellationTimeout` after `timeout` seconds. Any thread."""
    if psycopg.capabilities.has_cancel_safe():
        conn.cancel_safe(timeout=timeout)
    else:
        cancel_by_old_libpq(conn, timeout)


def cancel_by_old_libpq(
    conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], timeout: float = CANCEL_TIMEOUT_S
) -> None:
    """The same where libpq can do it by blocking alone: it blocks a thread of its own, which may outlive this call."""
    if conn.closed:
        return
    send = _request(conn.pgconn)
    thread = threading.Thread(target=send, name="river_fast.cancel", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise psycopg.errors.CancellationTimeout(f"the server did not take the cancel within {timeout:g} s")


def _request(pgconn: pq.abc.PGconn) -> Callable[[], object]:
    """What sends the cancel, with the GIL let go. It is a copy of address and key: the connection may end meanwhile."""
    if pq.__impl__ == "python":
        return pgconn.get_cancel().cancel  # by ctypes already
    with_gil, without = ctypes.PyDLL(libpq_path()), ctypes.CDLL(libpq_path())
    with_gil.PQgetCancel.argtypes, with_gil.PQgetCancel.restype = [ctypes.c_void_p], ctypes.c_void_p
    without.PQcancel.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    without.PQfreeCancel.argtypes = [ctypes.c_void_p]
    get_cancel = with_gil.PQgetCancel
    # in one go under the GIL: nobody can close the connection in between
    request = get_cancel(pgconn.pgconn_ptr)  # type: ignore[attr-defined]

    def send() -> None:
        if request:
            without.PQcancel(request, ctypes.create_string_buffer(ERROR_BYTES), ERROR_BYTES)
            without.PQfreeCancel(request)

    return send
