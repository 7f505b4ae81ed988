"""The elector: one leader at a time, for a term that ends by itself on the leader's own clock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from river_fast import elector as elector_module
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.elector import LEASE, Elector, Term, suspend_aware_clock
from river_fast.notifier import Notifier
from tests.stress import hammer

Make = Callable[..., Elector]


class Clock:
    """The real one, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return suspend_aware_clock() + self.ahead


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def notifier(driver: PsycopgDriver) -> Iterator[Notifier]:
    notifier = Notifier(driver)
    notifier.start()
    yield notifier
    assert notifier.stop(20)


@pytest.fixture
def make(driver: PsycopgDriver) -> Iterator[Make]:
    made: list[Elector] = []

    def make(client_id: str = "me", *args: Any, interval: float = 0.05, **options: Any) -> Elector:
        elector = Elector(driver, client_id, *args, **options)
        elector._interval = interval
        for testsignal in (elector.gained, elector.lost, elector.denied, elector.kept):
            testsignal.activate()
        made.append(elector)
        return elector

    yield make
    for elector in made:
        assert elector.stop(20)


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elector_module, "INTERVAL_JITTER", 0.0)


def leader(conn: psycopg.Connection[Any]) -> tuple[Any, ...] | None:
    return conn.execute("SELECT leader_id, elected_at, expires_at, name FROM river_leader").fetchone()


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.005)


# Elections.


def test_first_is_elected_at_once_for_a_lease_of_15_s(conn: psycopg.Connection[Any], make: Make) -> None:
    elector = make(interval=60)
    elector.start()
    term = elector.gained.wait()
    assert (elector.term, elector.leads(term)) == (term, True)
    assert 13 < elector.trusted_for() <= LEASE - 1
    row = leader(conn)
    assert row is not None
    assert (row[0], row[1], (row[2] - row[1]).total_seconds(), row[3]) == ("me", term.elected_at, 15.0, "default")


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
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        for elector in electors:
            elector.request_resign()
        time.sleep(0.02)
    for elector in electors:
        assert elector.stop(20)
    assert not overlaps
    assert len(terms) > 5
    assert terms == sorted(set(terms), key=lambda term: term.elected_at), "each term is new"


# Resignations.


def test_a_leader_that_stops_resigns_and_a_follower_that_listens_takes_over_at_once(
    conn: psycopg.Connection[Any], make: Make, notifier: Notifier
) -> None:
    first, second = make("first", notifier, interval=60), make("second", notifier, interval=60)
    first.start()
    first.gained.wait()
    second.start()
    second.denied.wait()
    begun = time.monotonic()
    assert first.stop(20)
    second.gained.wait()
    assert time.monotonic() - begun < 2
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
        (heard,) = listener.notifies(timeout=5, stop_after=1)
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


# Losing the row, the database, or time.


@pytest.mark.parametrize("loss", ["TRUNCATE river_leader", "DELETE FROM river_leader"])
def test_leadership_survives_its_row_vanishing(conn: psycopg.Connection[Any], make: Make, loss: str) -> None:
    """The table is UNLOGGED: a crash of the server empties it."""
    elector = make()
    elector.start()
    term = elector.gained.wait()
    conn.execute(loss)
    assert elector.lost.wait() == term
    again = elector.gained.wait()
    assert leader(conn)[:2] == ("me", again.elected_at)  # type: ignore[index]


def test_a_leader_whose_row_another_has_taken_steps_down_and_leaves_it(
    conn: psycopg.Connection[Any], make: Make
) -> None:
    elector = make()
    elector.start()
    elector.gained.wait()
    conn.execute("UPDATE river_leader SET leader_id = 'other', elected_at = now()")
    elector.lost.wait()
    elector.denied.wait()
    assert leader(conn)[0] == "other"  # type: ignore[index]


def test_a_lease_that_is_over_in_the_database_is_not_drawn_out(conn: psycopg.Connection[Any], make: Make) -> None:
    elector = make()
    elector.start()
    term = elector.gained.wait()
    conn.execute("UPDATE river_leader SET expires_at = now() - interval '1 ms'")
    assert elector.lost.wait() == term
    assert elector.gained.wait() != term


def test_trust_ends_on_the_leaders_own_clock_while_the_elector_hangs(
    dsn: str, conn: psycopg.Connection[Any], schema: str, make: Make
) -> None:
    clock = Clock()
    elector = make(interval=60, clock=clock)
    elector.start()
    term = elector.gained.wait()
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_leader")
        clock.ahead = LEASE - 3.0  # two seconds of trust are left, enough to begin a renewal
        elector._poke.set()
        blocked = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        wait_for(lambda: conn.execute(blocked, (blocker.info.backend_pid,)).fetchone(), "the elector to hang")
        assert elector.leads(term)
        clock.ahead = LEASE - 0.5
        assert not elector.leads(term)
        assert (elector.term, elector.trusted_for()) == (None, 0.0)
        heard = elector.kept.activate()._values
    assert elector.lost.wait() == term, "the answer that came after all brought trust back"
    assert heard is not None
    assert heard.empty()
    assert elector.gained.wait().elected_at > term.elected_at


def test_a_thawed_leader_steps_down_before_it_does_anything_else(conn: psycopg.Connection[Any], make: Make) -> None:
    """Though the database would still let it renew: its services have had their end."""
    clock = Clock()
    elector = make(interval=60, clock=clock)
    elector.start()
    term = elector.gained.wait()
    clock.ahead = 60
    assert not elector.leads(term)
    elector._poke.set()  # the thaw wakes every thread whose wait is over
    assert elector.lost.wait() == term
    again = elector.gained.wait()
    assert leader(conn)[1] == again.elected_at  # type: ignore[index]


def test_errors_within_trust_are_retried_and_do_not_end_the_term(
    conn: psycopg.Connection[Any], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elector_module, "RETRY_BACKOFF", (0.02,))
    elector = make()
    elector.start()
    term = elector.gained.wait()
    conn.execute("ALTER TABLE river_leader RENAME TO away")
    wait_for(lambda: elector._failures >= 3, "failed renewals")
    assert elector.leads(term)
    conn.execute("ALTER TABLE away RENAME TO river_leader")
    elector.kept.activate()
    assert elector.kept.wait() == term


def test_errors_beyond_trust_end_the_term(
    conn: psycopg.Connection[Any], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elector_module, "LEASE", 1.5)
    monkeypatch.setattr(elector_module, "RETRY_BACKOFF", (0.02,))
    elector = make()
    elector.start()
    term = elector.gained.wait()
    conn.execute("ALTER TABLE river_leader RENAME TO away")
    assert elector.lost.wait() == term
    conn.execute("ALTER TABLE away RENAME TO river_leader")
    assert elector.gained.wait() != term


def test_an_election_that_fails_is_tried_again(conn: psycopg.Connection[Any], make: Make) -> None:
    conn.execute("ALTER TABLE river_leader RENAME TO away")
    elector = make()
    elector.start()
    wait_for(lambda: elector._failures >= 2, "failed elections")
    conn.execute("ALTER TABLE away RENAME TO river_leader")
    elector.gained.wait()


def test_a_lock_held_on_the_table_ends_an_attempt_in_time(
    dsn: str, schema: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elector_module, "ATTEMPT_TIMEOUT", 0.1)
    elector = make()
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_leader")
        elector.start()
        wait_for(lambda: elector._failures >= 2, "attempts that gave up")
    elector.gained.wait()


FROZEN = """
import sys, time
from river_fast import elector
elector.LEASE, elector.TRUST_MARGIN = 2.0, 0.5
from river_fast.driver.psycopg import PsycopgDriver
leading = elector.Elector(PsycopgDriver(sys.argv[1], sys.argv[2]), "frozen")
leading._interval = 0.2
leading.gained.activate()
leading.start()
term = leading.gained.wait()
last = time.monotonic()
print("leads", flush=True)
while True:
    gap, last = time.monotonic() - last, time.monotonic()
    if gap > 1.0:
        print(f"thawed {leading.leads(term)}", flush=True)
        break
    time.sleep(0.01)
sys.stdin.read()
"""


def test_a_leader_frozen_beyond_its_lease_does_not_trust_itself_when_it_thaws(
    dsn: str, schema: str, conn: psycopg.Connection[Any], make: Make
) -> None:
    frozen = subprocess.Popen(
        [sys.executable, "-c", FROZEN, dsn, schema], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert frozen.stdin is not None
    assert frozen.stdout is not None
    try:
        assert frozen.stdout.readline() == "leads\n"
        frozen.send_signal(signal.SIGSTOP)
        follower = make("follower")
        follower.start()
        term = follower.gained.wait(20)
        frozen.send_signal(signal.SIGCONT)
        assert frozen.stdout.readline() == "thawed False\n"
        assert follower.leads(term)
        assert leader(conn)[0] == "follower"  # type: ignore[index]
    finally:
        frozen.kill()
        frozen.communicate()


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
