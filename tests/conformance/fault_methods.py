"""Methods that count connections and cut them, and one that takes a leader's lease away.

The request loop's thread.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg
from psycopg import sql

from tests.conformance.environment import APPLICATION_NAME, HARNESS
from tests.conformance.errors import rejected
from tests.conformance.session import Session

GONE_MOST = 5.0  # seconds that terminated backends may take to be gone
OWN = "FROM pg_stat_activity WHERE application_name = %(name)s AND datname = current_database()"
LISTENING = "AND query LIKE 'LISTEN %%'"


def connection_count(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return _count(session, f"SELECT count(*) {OWN}")


def listener_count(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return _count(session, f"SELECT count(*) {OWN} {LISTENING}")


def fault_disconnect_listeners(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return {"count": _terminate(session, session.environment.application_name, LISTENING)}


def fault_disconnect_application(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    name = params["application_name"]
    if not APPLICATION_NAME.match(name) or name == HARNESS:
        raise rejected(f"{name!r} is no adapter's name")
    return {"count": _terminate(session, name, "")}


def fault_expire_leader(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    query = sql.SQL("UPDATE {} SET expires_at = now() - interval '1 second'")
    with session.pooled() as conn:
        conn.execute(query.format(session.table("river_leader")))
    return {}


def _count(session: Session, query: str) -> dict[str, Any]:
    with session.pooled() as conn:
        row = conn.execute(query, {"name": session.environment.application_name}).fetchone()
    assert row is not None
    return {"count": row[0]}


def _terminate(session: Session, name: str, which: str) -> int:
    """Waits until the backends are gone: a request that comes next shall find their connections dead, not dying."""
    with session.pooled() as conn:
        pids = [
            row[0]
            for row in conn.execute(f"SELECT pid {OWN} {which} AND pid <> pg_backend_pid()", {"name": name}).fetchall()
        ]
        terminate = "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid"
        count = sum(row[0] for row in conn.execute(terminate, [pids]))
        _wait_gone(conn, pids)
    return count


def _wait_gone(conn: psycopg.Connection[Any], pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_MOST
    while time.monotonic() < deadline:
        row = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", [pids]).fetchone()
        if row is None or row[0] == 0:
            return
        time.sleep(0.005)


METHODS = {
    "connection_count": connection_count,
    "listener_count": listener_count,
    "fault_disconnect_listeners": fault_disconnect_listeners,
    "fault_disconnect_application": fault_disconnect_application,
    "fault_expire_leader": fault_expire_leader,
}
