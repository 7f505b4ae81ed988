"""The cancel of a running statement: it reaches the server, and a server that hangs holds up its caller alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from river_fast.driver.psycopg_cancel import cancel_by_old_libpq, cancel_within
from river_fast.driver.psycopg_executor import PooledConnection
from tests.fix_client import eventually

ROOT = Path(__file__).parents[2]
ASLEEP = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"


@pytest.mark.parametrize("cancel", [cancel_within, cancel_by_old_libpq, PooledConnection.cancel])
def test_running_statement_is_cancelled(dsn: str, cancel: object) -> None:
    raised: list[BaseException] = []

    def sleep(conn: psycopg.Connection) -> None:
        try:
            conn.execute("SELECT pg_sleep(100)")
        except BaseException as error:
            raised.append(error)

    with PooledConnection.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn, autocommit=True) as watch:
        thread = threading.Thread(target=sleep, args=(conn,))
        thread.start()
        eventually(lambda: watch.execute(ASLEEP, [conn.info.backend_pid]).fetchone())
        cancel(conn)  # type: ignore[operator]
        thread.join(30)
        assert not thread.is_alive()
        assert isinstance(raised[0], psycopg.errors.QueryCanceled)
        assert conn.execute("SELECT 1").fetchone() == (1,)
    cancel(conn)  # type: ignore[operator]  # closed: nothing to do


# In a process of its own: what it looks for would hang pytest and its timeouts with it.
FROZEN = """
import sys, threading, time
import psycopg
from river_fast.driver.psycopg_executor import PooledConnection
from tests.fix_proxy import Proxy

proxy = Proxy(sys.argv[1])
conn = PooledConnection.connect(proxy.conninfo, autocommit=True)
proxy.frozen = True
moments = []

def breathe():
    while True:
        moments.append(time.monotonic())
        time.sleep(0.01)

threading.Thread(target=breathe, daemon=True).start()
try:
    conn.cancel_safe(timeout=2)
except psycopg.errors.CancellationTimeout:
    print("timed out", len(moments) > 5)
"""


def test_cancel_that_a_server_does_not_take_holds_up_no_other_thread(dsn: str) -> None:
    command = [sys.executable, "-c", FROZEN, dsn]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "timed out True\n", done.stderr
