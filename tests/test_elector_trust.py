"""The elector's trust in its own term: what ends it, and what does not - the row, the database, time."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from river_fast import elector as elector_module
from river_fast.elector import LEASE
from tests.fix_elector import Clock, Make, driver, leader, make, no_jitter, wait_for

__all__ = ["driver", "make", "no_jitter"]


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
    monkeypatch.setattr(elector_module, "LEASE", 4.0)
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
        monkeypatch.setattr(elector_module, "ATTEMPT_TIMEOUT", 20.0)
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
        term = follower.gained.wait()
        frozen.send_signal(signal.SIGCONT)
        assert frozen.stdout.readline() == "thawed False\n"
        assert follower.leads(term)
        assert leader(conn)[0] == "follower"  # type: ignore[index]
    finally:
        frozen.kill()
        frozen.communicate()
