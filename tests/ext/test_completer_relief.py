"""The completer's relief: records while the completer is behind, and leaves to it whatever does not simply succeed.

The completer is held up by a row that somebody has locked: its flush waits for the lock, and what is pushed meanwhile
is more than its next flush could take.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from river_fast.job_set_state import JobSetState
from tests.ext.completer_rig import Claim, Rig, error_entry, rig, start_jobs, states, until

Conn = psycopg.Connection[Any]
MORE = 6000  # than RF_RELIEF_AT


@contextmanager
def locked(dsn: str, schema: str, *claims: Claim) -> Iterator[Conn]:
    """Rows that a session of its own has locked until its transaction ends."""
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as session:
        session.execute("SELECT FROM river_job WHERE id = ANY (%s) FOR UPDATE", ([claim.id for claim in claims],))
        yield session


@contextmanager
def relieved(dsn: str, schema: str, **options: Any) -> Iterator[Rig]:
    """A completer with its relief on another thread; both have ended at the end."""
    with rig(dsn, schema, **options) as completer:
        thread = threading.Thread(target=completer.compiled.relieve, daemon=True)
        thread.start()
        try:
            yield completer
        finally:
            completer.compiled.close(2.0)
            thread.join(30)
            assert not thread.is_alive(), f"the relief did not end: {completer.stats()}"


def waiting_for_a_lock(conn: Conn, completer: Rig) -> list[int]:
    """The server processes of the completer that wait for somebody else's lock."""
    found = conn.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'",
        (completer.application_name,),
    ).fetchall()
    return [pid for (pid,) in found]


def connections(conn: Conn, completer: Rig) -> int:
    row = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (completer.application_name,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def hold_up(conn: Conn, completer: Rig, claim: Claim) -> int:
    """Has the completer's flush wait for `claim`'s locked row; its server process."""
    completer.complete([claim])
    until(lambda: waiting_for_a_lock(conn, completer))
    return waiting_for_a_lock(conn, completer)[0]


def test_relief_records_while_the_completer_is_held_up(dsn: str, schema: str, conn: Conn) -> None:
    claims = start_jobs(conn, 2 * MORE)
    with relieved(dsn, schema) as completer:
        assert connections(conn, completer) <= 1, "it has no connection before it is needed"
        with locked(dsn, schema, claims[0]):
            hold_up(conn, completer, claims[0])
            completer.complete(claims[1:])
            until(lambda: completer.stats()["relief_flushes"] > 0, what=lambda: str(completer.stats()))
        stats = completer.settled()
    assert stats["recorded"] == 2 * MORE
    assert states(conn) == {"completed": 2 * MORE}
    assert stats["backlog"] == 0


def test_what_the_relief_cannot_record_is_the_completers(dsn: str, schema: str, conn: Conn) -> None:
    """Rich outcomes, locked rows, rows that are gone, rows of another attempt: each as if there were no relief."""
    claims = start_jobs(conn, 2 * MORE)
    first, second, gone, fenced = claims[0], claims[MORE], claims[MORE + 1], claims[MORE + 2]
    rich = claims[MORE + 3 : MORE + 103]
    conn.execute("DELETE FROM river_job WHERE id = %s", (gone.id,))
    conn.execute("UPDATE river_job SET attempt = 2, attempted_at = now() WHERE id = %s", (fenced.id,))
    with relieved(dsn, schema) as completer:
        with locked(dsn, schema, first, second):
            hold_up(conn, completer, first)
            completer.complete([second, gone, fenced])
            for claim in rich:
                completer.push(claim, JobSetState.error_retryable(60, error_entry()))
            completer.complete([*claims[1:MORE], *claims[MORE + 103 :]])
            until(lambda: completer.stats()["recorded"] >= 2 * MORE - 4, what=lambda: str(completer.stats()))
            held = {job_id for job_id, _ in completer.compiled.pending(1)}
            assert held == {first.id, second.id}, "what waits for a lock is told as held"
            assert completer.stats()["relief_flushes"] > 0
        stats = completer.settled()
    assert (stats["recorded"], stats["gone"], stats["fenced"]) == (2 * MORE - 2, 1, 1)
    assert states(conn) == {"completed": 2 * MORE - 102, "retryable": 100, "running": 1}


def test_killed_relief_loses_nothing_and_records_nothing_twice(dsn: str, schema: str, conn: Conn) -> None:
    claims = start_jobs(conn, 2 * MORE)
    first, second = claims[0], claims[1]
    with relieved(dsn, schema) as completer:
        with locked(dsn, schema, first, second):
            own = hold_up(conn, completer, first)
            completer.complete(claims[1:])  # the second first, so that the relief's flush meets it
            killed = until(lambda: [pid for pid in waiting_for_a_lock(conn, completer) if pid != own])[0]
            conn.execute("SELECT pg_terminate_backend(%s)", (killed,))
        stats = completer.settled()
    assert stats["recorded"] == 2 * MORE
    assert states(conn) == {"completed": 2 * MORE}


def test_close_tells_what_the_relief_held_in_vain(dsn: str, schema: str, conn: Conn) -> None:
    claims = start_jobs(conn, 2 * MORE)
    with relieved(dsn, schema) as completer, locked(dsn, schema, *claims):
        own = hold_up(conn, completer, claims[0])
        completer.complete(claims[1:])
        until(lambda: [pid for pid in waiting_for_a_lock(conn, completer) if pid != own])
        unrecorded = completer.close(0.05)
        assert {job_id for job_id, *_ in unrecorded} == {claim.id for claim in claims}
        assert len(unrecorded) == 2 * MORE
        assert completer.stats()["backlog"] == 0
        assert states(conn) == {"running": 2 * MORE}


@pytest.mark.parametrize("options", [{"mode": "inline"}, {"mode": "async"}, {"copy": False}], ids=str)
def test_no_relief_where_outcomes_are_not_gathered_for_copy(
    dsn: str, schema: str, conn: Conn, options: dict[str, Any]
) -> None:
    with rig(dsn, schema, **options) as completer:
        completer.compiled.relieve()  # returns at once
        claims = start_jobs(conn, 3)
        completer.complete(claims)
        assert completer.settled()["recorded"] == 3


def test_no_relief_while_rows_are_wanted_back(dsn: str, schema: str, conn: Conn) -> None:
    claims = start_jobs(conn, 2 * MORE)
    with relieved(dsn, schema) as completer:
        completer.compiled.want_rows(True)
        with locked(dsn, schema, claims[0]):
            hold_up(conn, completer, claims[0])
            completer.complete(claims[1:])
        stats = completer.settled()
        assert stats["relief_flushes"] == 0, "events are told in one order, by one hand"
    assert stats["recorded"] == 2 * MORE
