"""The elector: one leader at a time, for a term that ends by itself on the leader's own clock."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import RESERVED, PsycopgDriver
from river_fast.driver.psycopg_lent import POOL_SIZE
from river_fast.elector import LEASE, Term
from river_fast.errors import DatabaseError
from river_fast.notifier import Notifier
from tests.fix_elector import Make, driver, leader, make, no_jitter, notifier
from tests.stress import hammer

__all__ = ["driver", "make", "no_jitter", "notifier"]

# Elections.


def test_first_is_elected_at_once_for_a_lease_of_15_s(conn: psycopg.Connection[Any], make: Make) -> None:
    elector = make(interval=60)
    elector.start()
    term = elector.gained.wait()
    assert (elector.term, elector.leads(term)) == (term, True)
    assert 0 < elector.trusted_for() <= LEASE - 1
    row = leader(conn)
    assert row is not None
    assert (row[0], row[1], (row[2] - row[1]).total_seconds(), row[3]) == ("me", term.elected_at, 15.0, "default")


def test_lease_is_renewed_while_every_other_connection_is_held_up(
    conn: psycopg.Connection[Any], driver: PsycopgDriver, make: Make
) -> None:
    """By maintenance and inserts that wait for a lock, say: a leader that cannot renew would stop being one."""
    with contextlib.ExitStack() as held_up:
        for _ in range(POOL_SIZE - RESERVED):
            held_up.enter_context(driver.autocommit())
        elector = make()
        elector.start()
        term = elector.gained.wait()
        for _ in range(3):
            assert elector.kept.wait() == term
        assert elector.stop(20)
    assert leader(conn) is None


def test_pool_of_one_is_shared_with_the_elector(dsn: str, schema: str) -> None:
    driver = PsycopgDriver(dsn, schema, pool_size=1)
    try:
        with driver.transaction(reserved=True):
            pool = driver._pool
            assert pool is not None
            pool.timeout = 0.01
            with pytest.raises(DatabaseError, match="in time"):
                driver.autocommit().__enter__()
    finally:
        driver.close()


def test_second_is_denied_while_the_first_leads(conn: psycopg.Connection[Any], make: Make) -> None:
    first, second = make("first"), make("second")
    first.start()
    first.gained.wait()
    second.start()
    for _ in range(3):
        second.denied.wait()
        first.kept.wait()
    assert (second.term, second.trusted_for()) == (None, 0.0)
    assert leader(conn)[0] == "first"  # type: ignore[index]


def test_reelection_draws_the_lease_out_within_the_term(conn: psycopg.Connection[Any], make: Make) -> None:
    elector = make()
    elector.start()
    term = elector.gained.wait()
    before = leader(conn)
    trusted_until = elector._held.trusted_until  # type: ignore[union-attr]
    for _ in range(3):
        assert elector.kept.wait() == term
    after = leader(conn)
    assert before is not None
    assert after is not None
    assert after[2] > before[2]
    assert after[1] == before[1] == term.elected_at
    assert elector._held.trusted_until > trusted_until  # type: ignore[union-attr]


def test_a_lease_that_is_over_is_taken(conn: psycopg.Connection[Any], make: Make) -> None:
    conn.execute("INSERT INTO river_leader VALUES (now(), now() + interval '1 hour', 'dead')")
    elector = make()
    elector.start()
    elector.denied.wait()
    conn.execute("UPDATE river_leader SET expires_at = now() - interval '1 ms'")
    term = elector.gained.wait()
    assert leader(conn)[:2] == ("me", term.elected_at)  # type: ignore[index]


def test_at_no_moment_do_two_lead(make: Make) -> None:
    electors = [make(f"client {number}", interval=0.01) for number in range(4)]
    leading: set[str] = set()
    overlaps: list[set[str]] = []
    terms: list[Term] = []
    lock = threading.Lock()

    def changed(is_leader: bool, term: Term) -> None:
        with lock:
            if is_leader:
                leading.add(term.leader_id)
                terms.append(term)
            else:
                leading.discard(term.leader_id)
            if len(leading) > 1:
                overlaps.append(set(leading))

    for elector in electors:
        elector.add_listener(changed)
        elector.start()
    begun = time.monotonic()
    while (took := time.monotonic() - begun) < 2 or (len(terms) <= 5 and took < 60):
        for elector in electors:
            elector.request_resign()
        time.sleep(0.02)
    for elector in electors:
        assert elector.stop(20)
    assert not overlaps
    assert len(terms) > 5
    for elector in electors:
        mine = [term.elected_at for term in terms if term.leader_id == elector._client_id]
        assert mine == sorted(set(mine)), "each term is new"


# Resignations.


def test_a_leader_that_stops_resigns_and_a_follower_that_listens_takes_over_at_once(
    conn: psycopg.Connection[Any], make: Make, notifier: Notifier
) -> None:
    first, second = make("first", notifier, interval=60), make("second", notifier, interval=60)
    first.start()
    first.gained.wait()
    second.start()
    second.denied.wait()
    assert first.stop(20)
    second.gained.wait()  # by itself it would try after a minute
    assert leader(conn)[0] == "second"  # type: ignore[index]


def test_a_follower_that_polls_takes_over_at_its_next_attempt(conn: psycopg.Connection[Any], make: Make) -> None:
    first, second = make("first"), make("second", None, interval=0.1)
    first.start()
    first.gained.wait()
    second.start()
    second.denied.wait()
    assert first.stop(20)
    second.gained.wait()


def test_resigning_tells_rivers_payload(
    dsn: str, conn: psycopg.Connection[Any], schema: str, make: Make
) -> None:
    elector = make('odd "id"')
    elector.start()
    elector.gained.wait()
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f'LISTEN "{schema}.river_leadership"')
        assert elector.stop(20)
        (heard,) = listener.notifies(timeout=20, stop_after=1)
    assert json.loads(heard.payload) == {"leader_id": 'odd "id"', "action": "resigned"}
    assert leader(conn) is None


def test_request_resign_on_the_topic_ends_the_term_and_another_may_begin(
    conn: psycopg.Connection[Any], schema: str, make: Make, notifier: Notifier
) -> None:
    elector = make("me", notifier, interval=60)
    elector.start()
    term = elector.gained.wait()
    payload = '{"action":"request_resign","leader_id":""}'
    conn.execute("SELECT pg_notify(%s, %s)", (f"{schema}.river_leadership", payload))
    assert elector.lost.wait() == term
    again = elector.gained.wait()
    assert again.elected_at > term.elected_at
    assert not elector.leads(term)


def test_request_to_resign_another_term_is_ignored(make: Make) -> None:
    elector = make()
    elector.request_resign()
    elector.start()
    term = elector.gained.wait()
    elector.request_resign(Term("me", term.elected_at.replace(year=2000)))
    for _ in range(3):
        assert elector.kept.wait() == term
    elector.request_resign(term)
    assert elector.lost.wait() == term


def test_resigning_leaves_a_newer_term_of_the_same_client_alone(conn: psycopg.Connection[Any], make: Make) -> None:
    elector = make(interval=60)
    elector.start()
    elector.gained.wait()
    conn.execute("UPDATE river_leader SET elected_at = elected_at + interval '1 s'")
    assert elector.stop(20)
    assert leader(conn) is not None


def test_garbage_on_the_topic_is_ignored(
    conn: psycopg.Connection[Any], schema: str, make: Make, notifier: Notifier
) -> None:
    elector = make("me", notifier)
    elector.start()
    term = elector.gained.wait()
    for payload in ('{"action": 1}', '{"action": "resigned", "leader_id": "other"}', "{}", "[]", "x"):
        conn.execute("SELECT pg_notify(%s, %s)", (f"{schema}.river_leadership", payload))
    for _ in range(3):
        assert elector.kept.wait() == term


# Listeners.


def test_listeners_hear_of_each_change_until_they_are_removed(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    elector = make(interval=60)
    heard: list[tuple[bool, Term]] = []

    def broken(is_leader: bool, term: Term) -> None:
        raise RuntimeError("this listener fails")

    elector.add_listener(broken)
    remove = elector.add_listener(lambda is_leader, term: heard.append((is_leader, term)))
    elector.start()
    first = elector.gained.wait()
    elector.request_resign()
    second = elector.gained.wait()
    assert heard == [(True, first), (False, first), (True, second)]
    remove()
    elector.request_resign()
    elector.gained.wait()
    assert len(heard) == 3
    assert "this listener fails" in caplog.text


def test_a_listener_added_late_hears_that_this_client_leads(make: Make) -> None:
    elector = make(interval=60)
    elector.start()
    term = elector.gained.wait()
    heard: list[tuple[bool, Term]] = []
    elector.add_listener(lambda is_leader, term: heard.append((is_leader, term)))
    assert heard == [(True, term)]


# Stops.


def test_a_stopped_elector_is_no_leader_and_may_be_started_again(conn: psycopg.Connection[Any], make: Make) -> None:
    elector = make()
    for _ in range(2):
        elector.start()
        elector.gained.wait()
        assert elector.stop(20)
        assert (elector.term, leader(conn)) == (None, None)


def test_start_and_stop_from_many_threads(make: Make, conn: psycopg.Connection[Any]) -> None:
    elector = make()
    hammer(lambda: elector)
    assert leader(conn) is None
