"""First contact with a database: what the server can do, and whether a pooler stands before it and shares its sessions.

Any thread; owns no connection for longer than a call. Nothing is set or left in any session.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any

import psycopg

from river_fast.driver import Capabilities
from river_fast.driver.psycopg_executor import PooledConnection, translated
from river_fast.driver.psycopg_session import sql_text
from river_fast.errors import ConfigError, DatabaseError

# Several poolers behind one address share sessions each within itself: of so many connections two will meet in one.
# Each is asked twice in a row, since some poolers lend their sessions in turn.
PROBES = 8
PROBE_TIMEOUT_S = 5.0


def first_contact(conninfo: str, configured_schema: str | None, pooler: str) -> tuple[str, Capabilities]:
    """The schema in use and the server's capabilities; `DatabaseError`, `ConfigError`. `pooler` as in `Config`."""
    with translated():
        try:
            connected = PooledConnection.connect(conninfo, autocommit=True)
        except psycopg.OperationalError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            raise DatabaseError(
                "the pooler before the database refuses the `options` of the database URL: leave them out, and name the"
                " schema with Config.schema"
            ) from None
        with connected as conn:
            schema, server_pid, capabilities = _look_around(conn, configured_schema)
            if pooler == "transaction" or (pooler == "auto" and _shares_sessions(conn, server_pid, conninfo)):
                capabilities = replace(
                    capabilities, shared_sessions=True, listen=False, session_locks=False, temp_tables=False
                )
    return schema, capabilities


def _look_around(conn: psycopg.Connection[Any], configured_schema: str | None) -> tuple[str, int, Capabilities]:
    asked_at = time.time()
    row = conn.execute(sql_text("driver_look_around", ""), prepare=False).fetchone()
    assert row is not None
    current_schema, version, number, yugabyte_listen, temp, encoding, server_time, server_pid = row
    clock_offset = server_time - (asked_at + time.time()) / 2
    if encoding != "UTF8":
        raise ConfigError(f"the database's encoding is {encoding}; river_fast needs UTF8")
    schema = current_schema if configured_schema is None else configured_schema
    if schema is None:
        raise ConfigError("no schema of the connection's search_path exists: create one, or set Config.schema")
    yugabyte = "-yb" in version.lower() or "yugabyte" in version.lower()
    notify = not yugabyte or yugabyte_listen == "on"
    capabilities = Capabilities(
        server_version=number,
        is_yugabyte=yugabyte,
        notify=notify,
        listen=notify,
        session_locks=not yugabyte,
        temp_tables=bool(temp) and not yugabyte,
        clock_offset=clock_offset,
    )
    return schema, server_pid, capabilities


def _shares_sessions(first: PooledConnection, server_pid: int, conninfo: str) -> bool:
    """Whether what is set in a session may be met by others, and be gone for us.

    A pooler gives its clients keys of its own to cancel with, so the process they name is not the one that answers.
    Then sessions are shared if two connections, or one at two times, are answered by processes that only sharing
    explains. Whatever goes wrong on the way counts as sharing, which is never false but slower.
    """
    if first.info.backend_pid == server_pid:
        return False
    owners: dict[int, int] = {}
    try:
        with contextlib.ExitStack() as stack:
            probes = [first]
            for number in range(PROBES):
                if number > 0:
                    probe = PooledConnection.connect(conninfo, autocommit=True)
                    probes.append(stack.enter_context(contextlib.closing(probe)))
                pid, again = _server_pid(probes[number]), _server_pid(probes[number])
                if pid != again or owners.setdefault(pid, number) != number:
                    return True
            return any(owners.get(_server_pid(probe)) != number for number, probe in enumerate(probes))
    except psycopg.Error:
        return True


def _server_pid(conn: PooledConnection) -> int:
    conn.answer_timeout = PROBE_TIMEOUT_S
    row = conn.execute(sql_text("server_pid", ""), prepare=False).fetchone()
    assert row is not None
    return int(row[0])
