"""Who leads: one of the two at a time, handed over at once when asked or stopped, and after its term when killed."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import Migrator
from tests.interop.conftest import Make
from tests.interop.peers import Peer, Process

WAYS = pytest.mark.parametrize(("leads", "follows"), [("go", "ours"), ("ours", "go")], ids=lambda side: side)
LEADER = "SELECT leader_id FROM river_leader"
BY_NOTIFICATION = 4.0  # seconds; at the next election it would be 5 or 6
AFTER_A_KILL = 15 + 6 + 9  # seconds: what is left of the term, an election's interval, a busy machine


def client(make: Make, side: str, name: str) -> Peer:
    peer: Peer = make(side, id=name, queues={"default": 2})
    return peer


@WAYS
def test_stop_hands_over_at_once_and_each_ones_scheduler_serves_both(
    make: Make, conn: psycopg.Connection, until: Any, leads: str, follows: str
) -> None:
    one = client(make, leads, "one")
    until(LEADER, "one", 30)
    other = client(make, follows, "other")
    insert = "INSERT INTO river_job (kind, args, state) VALUES ('interop', '{}', 'scheduled')"
    conn.execute(insert)
    until("SELECT count(*) FROM river_job WHERE state = 'completed'", 1, 30)
    until(LEADER, "one")
    asked = time.monotonic()
    one.stop()
    until(LEADER, "other", BY_NOTIFICATION)
    assert time.monotonic() - asked < 30
    conn.execute(insert)
    until("SELECT count(*) FROM river_job WHERE state = 'completed'", 2, 30)
    other.close()
    until("SELECT count(*) FROM river_leader", 0)


@WAYS
def test_leader_resigns_when_the_other_asks(make: Make, conn: psycopg.Connection, leads: str, follows: str) -> None:
    """It may win again, in another term; whoever asks may be anybody."""
    client(make, leads, "one")
    query = "SELECT elected_at FROM river_leader"
    before = wait_for_change(conn, query, None)
    make(follows).request_resign()
    assert wait_for_change(conn, query, before) > before


def wait_for_change(conn: psycopg.Connection, query: str, before: Any) -> Any:
    deadline = time.monotonic() + 30
    while True:
        row = conn.execute(query).fetchone()
        if row is not None and row[0] != before:
            return row[0]
        assert time.monotonic() < deadline, f"{query} still gives {before}"
        time.sleep(0.01)


def test_killed_leaders_are_followed_by_the_other_side(
    dsn: str, schema: str, empty_schema: str, make: Make, go_program: Any, conn: psycopg.Connection
) -> None:
    """Both ways at once, in a schema each: a term is 15 s."""
    second = f"{schema}_second"
    conn.execute(f'CREATE SCHEMA "{second}"')
    driver = PsycopgDriver(dsn, second)
    try:
        Migrator(driver).migrate_up()
        with ExitStack() as stack:
            killed = {schema: Process([go_program], dsn, schema), second: Process.ours(dsn, second)}
            followers = {schema: Process.ours(dsn, schema), second: Process([go_program], dsn, second)}
            for where, peer in killed.items():
                start(stack.enter_context(peer), "killed")
                wait_for_change(conn, f'SELECT leader_id FROM "{where}".river_leader', None)
            for peer in followers.values():
                start(stack.enter_context(peer), "follower")
            for peer in killed.values():
                peer.kill()
            deadline = time.monotonic() + AFTER_A_KILL
            for where in killed:
                query = f'SELECT leader_id FROM "{where}".river_leader'
                while conn.execute(query).fetchone() != ("follower",):
                    assert time.monotonic() < deadline, f"nobody follows in {where}"
                    time.sleep(0.05)
    finally:
        driver.close()
        conn.execute(f'DROP SCHEMA "{second}" CASCADE')


def start(peer: Peer, name: str) -> None:
    peer.open(id=name, queues={"default": 1}, kinds=["interop"])
    peer.start()
