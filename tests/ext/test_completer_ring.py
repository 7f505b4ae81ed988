"""Pushing, waiting, closing, slots, back-pressure, forks: the completer as other threads meet it."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from river_fast._ext import completer as compiled
from river_fast.job_set_state import JobSetState
from tests.ext.completer_rig import RING, Claim, Rig, Slots, error_entry, rig, row, start_jobs, states, until

Conn = psycopg.Connection[Any]
FAILED = JobSetState.discarded(error_entry())
modes = pytest.mark.parametrize("mode", ["batch", "inline", "async"])


def imaginary(count: int) -> list[Claim]:
    """Claims on rows that are not there."""
    return [Claim(10**12 + n, 1, 1, 1, 0, time.monotonic_ns(), None) for n in range(count)]


# ---- room ----


def test_full_ring_is_told_to_those_who_cannot_wait_and_waited_for_by_the_others(
    dsn: str, schema: str, conn: Conn
) -> None:
    claims = start_jobs(conn, RING + 3)
    with rig(dsn, schema, started=False) as completer:
        for claim in claims[:RING]:
            assert completer.compiled.try_push_completed(claim.address) == compiled.PUSHED
        last = claims[RING:]
        assert completer.compiled.try_push_completed(last[0].address) == compiled.FULL
        assert completer.compiled.try_push(last[0].address, "completed", 0) == compiled.FULL
        answers: list[int] = []
        waiting = [
            threading.Thread(target=lambda: answers.append(completer.compiled.push_completed(last[0].address))),
            threading.Thread(target=lambda: answers.append(completer.compiled.push_completed(last[1].address))),
            threading.Thread(target=lambda: answers.append(completer.push(last[2], FAILED))),
        ]
        for thread in waiting:
            thread.start()
        assert not answers
        assert all(thread.is_alive() for thread in waiting)
        completer.start()
        for thread in waiting:
            thread.join(50)
        assert answers == [compiled.PUSHED] * 3
        assert completer.settled(60)["recorded"] == RING + 3
    assert states(conn) == {"completed": RING + 2, "discarded": 1}


def test_those_who_wait_for_room_are_told_closed(dsn: str, schema: str) -> None:
    slots = Slots(started=1)
    late = imaginary(1)[0]
    late.slots.contents = slots
    with rig(dsn, schema, started=False) as completer:
        claims = imaginary(RING)
        for claim in claims:
            assert completer.compiled.try_push_completed(claim.address) == compiled.PUSHED
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(completer.compiled.push_completed(late.address)))
        waiting.start()
        completer.compiled.close(0)
        waiting.join(20)
        assert answers == [compiled.CLOSED]
        assert slots.started == 1, "an outcome that was not taken frees no slot"
        assert bool(late.slots)
        assert len(completer.compiled.unrecorded()) == RING


def test_too_large_a_backlog_stops_the_fetching_until_it_is_smaller(dsn: str, schema: str, conn: Conn) -> None:
    claims = start_jobs(conn, 10_000)
    with rig(dsn, schema, started=False) as completer:
        completer.complete(claims[:9_999])
        assert [what for what, _, _ in completer.attend()] == []
        completer.complete(claims[9_999:])
        assert completer.attend() == [(compiled.HOLD, 1, "")]
        completer.start()
        until(lambda: (compiled.HOLD, 0, "") in completer.attend())
        completer.settled(60)
        holds = [number for what, number, _ in completer.attend() if what == compiled.HOLD]
        assert holds == [1, 0]


# ---- pace ----


@pytest.mark.parametrize("wanted", [False, True])
def test_lone_outcome_waits_for_no_others(dsn: str, schema: str, conn: Conn, wanted: bool) -> None:
    with rig(dsn, schema) as completer:
        completer.compiled.want_rows(wanted)
        until(lambda: (compiled.CONNECTED, 1, "") in completer.attend())
        for claim in start_jobs(conn, 20):
            completer.complete([claim])
            completer.settled()  # 3 to 20 ms and a commit on a quiet machine


def test_pushes_in_a_burst_share_a_flush(dsn: str, schema: str, conn: Conn) -> None:
    claims = start_jobs(conn, 3000)
    with rig(dsn, schema) as completer:
        until(lambda: (compiled.CONNECTED, 1, "") in completer.attend())
        began = time.monotonic()
        completer.complete(claims)
        took = time.monotonic() - began
        stats = completer.settled()
    assert stats["flushes"] <= 30 + took / 0.003, stats


# ---- slots ----


@pytest.mark.parametrize("mode", ["batch", "async"])
def test_slot_is_freed_by_the_push(dsn: str, schema: str, conn: Conn, mode: str) -> None:
    slots = Slots()
    claims = start_jobs(conn, 3, slots)
    with rig(dsn, schema, mode=mode, started=False) as completer:
        completer.complete(claims[:2])
        assert (slots.started, slots.done) == (1, 2)
        assert slots.run_time > 0
        completer.push(claims[2], JobSetState.discarded(error_entry()))
        assert (slots.started, slots.done) == (0, 3)
        completer.start()
        completer.settled()
    assert (slots.started, slots.done) == (0, 3)


def test_inline_slot_is_freed_only_when_its_outcome_is_committed(dsn: str, schema: str, conn: Conn) -> None:
    slots = Slots()
    claims = start_jobs(conn, 3, slots)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as locker, rig(
        dsn, schema, mode="inline"
    ) as completer:
        locker.execute("SELECT 1 FROM river_job WHERE id = %s FOR UPDATE", (claims[0].id,))
        completer.complete(claims)
        until(lambda: states(conn).get("completed") == 2)
        until(lambda: completer.stats()["set_aside"] >= 1)
        assert (slots.started, slots.done) == (1, 2)
        locker.rollback()
        completer.settled()
    assert (slots.started, slots.done) == (0, 3)


@pytest.mark.parametrize("what", ["refused", "gone"])
def test_inline_slot_is_freed_when_the_outcome_is_nobodys(dsn: str, schema: str, conn: Conn, what: str) -> None:
    slots = Slots()
    claims = start_jobs(conn, 2, slots)
    conn.execute("UPDATE river_job SET attempt = 2" if what == "refused" else "DELETE FROM river_job")
    with rig(dsn, schema, mode="inline") as completer:
        completer.complete(claims)
        completer.settled()
    assert slots.started == 0


@modes
def test_slot_taken_from_a_stuck_job_is_not_freed_again(dsn: str, schema: str, conn: Conn, mode: str) -> None:
    slots = Slots()
    stuck, other = start_jobs(conn, 2, slots)
    stuck.slots = None  # the watch over stuck jobs took it, and gave it back
    slots.started -= 1
    with rig(dsn, schema, mode=mode) as completer:
        completer.complete([stuck, other])
        assert not other.slots, "who comes later finds the slot taken"
        completer.settled()
    assert slots.started == 0


@modes
def test_every_mode_records_everything(dsn: str, schema: str, conn: Conn, mode: str) -> None:
    slots = Slots()
    claims = start_jobs(conn, 2000, slots)
    with rig(dsn, schema, mode=mode) as completer:
        for n, claim in enumerate(claims):
            if n % 2:
                completer.complete([claim])
            else:
                completer.push(claim, JobSetState.snoozed(60, b'{"snoozes":1}'))
        assert completer.settled()["recorded"] == 2000
    assert states(conn) == {"completed": 1000, "scheduled": 1000}
    assert (slots.started, slots.done) == (0, 2000)


# ---- what is pending ----


def test_outcomes_are_pending_from_the_push_to_the_acknowledged_commit(dsn: str, schema: str, conn: Conn) -> None:
    claims = start_jobs(conn, 100)
    told = {(claim.id, claim.attempted_at) for claim in claims}
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as locker, rig(
        dsn, schema, started=False
    ) as completer:
        assert completer.compiled.pending(20) == []
        completer.complete(claims)
        assert set(completer.compiled.pending(20) or ()) == told
        locker.execute("SELECT 1 FROM river_job FOR UPDATE")
        completer.start()
        while completer.stats()["set_aside"] < 300:  # through ring, batch and aside, again and again
            pending = completer.compiled.pending(1)
            assert pending is None or set(pending) == told
        locker.rollback()
        completer.settled()
    assert states(conn) == {"completed": 100}


# ---- close ----


@pytest.mark.parametrize("turn", range(5))
@modes
def test_pushes_that_race_a_close_are_recorded_exactly_when_they_were_taken(
    dsn: str, schema: str, conn: Conn, mode: str, turn: int
) -> None:
    claims = start_jobs(conn, 8 * 500)
    taken: list[int] = []
    with rig(dsn, schema, mode=mode) as completer:
        gate = threading.Barrier(9)

        def work(mine: list[Claim]) -> None:
            gate.wait(30)
            for n, claim in enumerate(mine):
                if n % 5:
                    answer = completer.compiled.push_completed(claim.address)
                else:
                    answer = completer.push(claim, JobSetState.discarded(error_entry()))
                if answer == compiled.PUSHED:
                    taken.append(claim.id)
                else:
                    assert answer == compiled.CLOSED

        threads = [threading.Thread(target=work, args=(claims[n::8],)) for n in range(8)]
        for thread in threads:
            thread.start()
        gate.wait(30)
        until(lambda: len(taken) > turn * 500)
        assert completer.close(20) == []
        for thread in threads:
            thread.join(50)
    recorded = conn.execute("SELECT id FROM river_job WHERE state <> 'running' ORDER BY id").fetchall()
    assert [id for (id,) in recorded] == sorted(taken)


def test_close_may_come_any_number_of_times_and_the_nearest_deadline_counts(
    dsn: str, schema: str, conn: Conn
) -> None:
    claims = start_jobs(conn, 10)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as locker:
        locker.execute("SELECT 1 FROM river_job FOR UPDATE")
        with rig(dsn, schema) as completer:
            completer.complete(claims)
            until(lambda: completer.stats()["set_aside"] >= 10)
            for timeout in (1000.0, 0.3, 1e300, float("inf")):
                completer.compiled.close(timeout)
            assert completer.compiled.push_completed(claims[0].address) == compiled.CLOSED
            assert completer.compiled.try_push(claims[0].address, "completed", 0) == compiled.CLOSED
            began = time.monotonic()
            lost = completer.close(500.0)
            assert time.monotonic() - began < 40
    assert sorted(id for id, *_ in lost) == [claim.id for claim in claims]
    assert all("locked" in why or "deadline" in why for *_, why in lost)


def test_completer_that_never_ran_tells_what_it_was_given(dsn: str, schema: str) -> None:
    with rig(dsn, schema, started=False) as completer:
        claims = imaginary(3)
        completer.complete(claims)
        assert completer.compiled.unrecorded() == []
        completer.compiled.close(1)
        assert [(id, why) for id, _, _, why in completer.compiled.unrecorded()] == [
            (claim.id, "the completer never ran") for claim in claims
        ]
        completer.compiled.run()
        assert completer.compiled.take_recorded(0) is None


def test_dropped_completer_leaves_no_connection(dsn: str, schema: str, conn: Conn) -> None:
    with rig(dsn, schema) as completer:
        pid = until(lambda: completer.backend(conn))
        completer.close(5)
        until(lambda: conn.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone() is None)


# ---- bad input ----


def test_mistakes_of_ours_are_told_at_once(dsn: str, schema: str) -> None:
    made = Rig(dsn, schema)
    claim = imaginary(1)[0]
    with pytest.raises(ValueError, match="state 'running'"):
        made.compiled.push(claim.address, "running", 0)
    with pytest.raises(ValueError, match="Reason"):
        made.compiled.push(claim.address, "completed", 9)
    with pytest.raises(ValueError, match="mode"):
        compiled.Completer(conninfo=b"", setup=b"", statements={}, mode="eager")
    with pytest.raises(KeyError):
        compiled.Completer(conninfo=b"", setup=b"", statements={})
    made.close(0)


# ---- forks ----


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_can_neither_push_nor_hurt_the_parents_connection(dsn: str, schema: str, conn: Conn) -> None:
    claims = start_jobs(conn, 10)
    with rig(dsn, schema) as completer:
        until(lambda: completer.backend(conn))
        pid = os.fork()
        if pid == 0:
            try:
                refused = completer.compiled.push_completed(claims[0].address) == compiled.CLOSED
                refused &= completer.compiled.pending(1) == []
                completer.compiled.close(0)
                completer.compiled.run()
                del completer.compiled
            finally:
                os._exit(0 if refused else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        completer.complete(claims)
        assert completer.settled()["reconnects"] == 0
    assert states(conn) == {"completed": 10}


# ---- the staging table ----


def test_staging_table_is_frozen_in_its_time(dsn: str, schema: str, conn: Conn) -> None:
    tables = "SELECT oid FROM pg_class WHERE relname = 'river_fast_outcome'"

    def run(**options: float) -> tuple[Rig, int, Any]:
        before = conn.execute(tables).fetchall()
        completer = made.enter_context(rig(dsn, schema, **options))
        until(lambda: (compiled.CONNECTED, 1, "") in completer.attend())
        (table,) = [oid for oid, in conn.execute(tables).fetchall() if (oid,) not in before]
        for _ in range(300):
            conn.execute("SELECT pg_current_xact_id()")
        return completer, table, "SELECT age(relfrozenxid) FROM pg_class WHERE oid = %s"

    with ExitStack() as made:
        completer, table, age = run(freeze_after=0.1)
        until(lambda: conn.execute(age, (table,)).fetchone()[0] < 250)  # type: ignore[index]
        completer.complete(start_jobs(conn, 100))
        assert completer.settled()["copy_flushes"] >= 1
        _, table, age = run()  # the guard: left alone, it ages
        assert conn.execute(age, (table,)).fetchone()[0] >= 300  # type: ignore[index]


def test_row_of_the_job_stays_readable_by_its_claim(dsn: str, schema: str, conn: Conn) -> None:
    """A claim may be freed as soon as its push has returned."""
    claims = start_jobs(conn, 50)
    ids = [claim.id for claim in claims]
    with rig(dsn, schema, started=False) as completer:
        completer.complete(claims)
        for claim in claims:
            claim.id, claim.attempt, claim.attempted_at = -1, -1, -1
        completer.start()
        completer.settled()
    assert all(row(conn, id)["state"] == "completed" for id in ids)
