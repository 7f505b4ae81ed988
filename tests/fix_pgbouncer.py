"""A PgBouncer of the test's own before the server, and a look into every session it has made there."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

PROGRAM = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
# What PgBouncer itself sets in a session, to what the client that has it asked for.
ITS_OWN_SETTINGS = {
    "application_name", "client_encoding", "DateStyle", "IntervalStyle", "standard_conforming_strings", "TimeZone",
}  # fmt: skip
# What a session should hold that others will use.
CLEAN = {"prepared": 0, "set": set(), "listens": [], "temp": 0, "locks": 0}


class PgBouncer:
    """`dsn` leads through it. A context manager; `stop` and `start` in between. `connect_query`: what each of its
    sessions begins with."""

    def __init__(self, dsn: str, mode: str, pool_size: int, connect_query: str = "", **settings: Any) -> None:
        assert PROGRAM is not None
        params = {"host": "127.0.0.1", "port": 5432, "user": getpass.getuser(), **conninfo_to_dict(dsn)}
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self._user = self._unprivileged(str(params["host"]))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.dsn = make_conninfo(**{**params, "host": "127.0.0.1", "port": self._port})
        self.pool_size = pool_size
        there = {key: params[key] for key in ("host", "port", "user", "password") if key in params}
        if connect_query:
            there["connect_query"] = f"'{connect_query}'"
        lines = {
            "listen_addr": "127.0.0.1", "listen_port": self._port, "unix_socket_dir": "", "auth_type": "any",
            "pool_mode": mode, "default_pool_size": pool_size, "max_client_conn": 500, "server_login_retry": 1,
            **settings,
        }  # fmt: skip
        text = "\n".join(f"{key} = {value}" for key, value in lines.items())
        database = " ".join(f"{key}={value}" for key, value in there.items())
        self._file = self._folder / "pgbouncer.ini"
        self._file.write_text(f"[databases]\n* = {database}\n[pgbouncer]\n{text}\n")
        if self._user is not None:
            os.chown(self._folder, self._user, -1)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PgBouncer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        assert PROGRAM is not None
        log = self._folder / "log"
        with log.open("ab") as out:
            self._process = subprocess.Popen([PROGRAM, str(self._file)], stdout=out, stderr=out, user=self._user)
        deadline = time.monotonic() + 20
        while True:
            try:
                with psycopg.connect(self.dsn, autocommit=True) as conn:
                    conn.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)

    def stop(self) -> None:
        """At once, as a crash: its clients' connections and the server's end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def sessions(self, count: int) -> list[dict[str, Any]]:
        """What is left in each of the `count` sessions it has at the server, all of them lent to us at once."""
        found = {}
        with ExitStack() as stack:
            for _ in range(count):
                conn = stack.enter_context(psycopg.connect(self.dsn, prepare_threshold=None))
                row = conn.execute(
                    "SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements),"
                    " ARRAY(SELECT name FROM pg_settings WHERE source = 'session'),"
                    " ARRAY(SELECT pg_listening_channels()), (SELECT count(*) FROM pg_class WHERE relpersistence = 't'"
                    " AND pg_my_temp_schema() = relnamespace), (SELECT count(*) FROM pg_locks WHERE locktype ="
                    " 'advisory' AND pid = pg_backend_pid())"
                ).fetchone()
                assert row is not None
                found[row[0]] = dict(zip(CLEAN, row[1:], strict=True))
                found[row[0]]["set"] = set(row[2]) - ITS_OWN_SETTINGS
        assert len(found) == count
        return list(found.values())

    @staticmethod
    def _unprivileged(host: str) -> int | None:
        """PgBouncer refuses to run as root: then as whoever may enter the server's socket directory."""
        if os.geteuid() != 0:
            return None
        if host.startswith("/") and (owner := os.stat(host).st_uid) != 0:
            return owner
        return pwd.getpwnam("nobody").pw_uid
