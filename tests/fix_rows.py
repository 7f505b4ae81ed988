"""Rows and notifications as tests write and read them, past all of our own code."""

from __future__ import annotations

import json
from typing import Any

import psycopg

FINAL = ("cancelled", "completed", "discarded")


def insert(conn: psycopg.Connection, state: str = "available", **columns: Any) -> int:
    values = {"args": "{}", "kind": "k1", "state": state, **columns}
    if state in FINAL:
        values.setdefault("finalized_at", "2020-01-01T00:00:00Z")
    if state == "running":
        values = {"attempt": 1, "attempted_at": "2020-01-01T00:00:00Z", "attempted_by": ["me"], **values}
    names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    query = f"INSERT INTO river_job ({names}) VALUES ({marks}) RETURNING id"
    row = conn.execute(query, list(values.values())).fetchone()
    assert row is not None
    return int(row[0])


def column(conn: psycopg.Connection, job_id: int, name: str) -> Any:
    row = conn.execute(f"SELECT {name} FROM river_job WHERE id = %s", [job_id]).fetchone()
    assert row is not None
    return row[0]


def heard(conn: psycopg.Connection, timeout: float = 20.0) -> tuple[str, Any] | None:
    for notify in conn.notifies(timeout=timeout, stop_after=1):
        return notify.channel.split(".")[-1], json.loads(notify.payload)
    return None


def heard_until_now(listener: psycopg.Connection) -> list[str]:
    """Every payload told before now to the one channel it listens on: a notification of its own comes last."""
    channel = listener.execute("SELECT pg_listening_channels()").fetchone()
    assert channel is not None
    listener.execute("SELECT pg_notify(%s, 'end')", [channel[0]])
    payloads = []
    for notify in listener.notifies(timeout=20):
        if notify.payload == "end":
            return payloads
        payloads.append(notify.payload)
    raise TimeoutError("no end")


def wait_for_lock(conn: psycopg.Connection) -> None:
    for _ in range(2000):
        row = conn.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database"
            " WHERE datname = current_database()) OR NOT granted AND locktype = 'transactionid'"
        ).fetchone()
        assert row is not None
        if row[0]:
            return
        conn.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("nobody waits for a lock")


def states(conn: psycopg.Connection) -> dict[str, int]:
    return dict(conn.execute("SELECT state::text, count(*) FROM river_job GROUP BY 1").fetchall())
