"""The rows that the completer reads back for events, in both forms."""

from __future__ import annotations

from typing import Any

from river_fast.job_row import COLUMNS, StoredRow
from river_fast.job_set_state import JobSetState, Reason
from tests.ext.completer_rig import (
    MANY,
    META,
    Conn,
    Rig,
    both_forms,
    error_entry,
    rig,
    row,
    start_jobs,
    until,
)


def taken(completer: Rig, count: int) -> list[tuple[StoredRow, Reason, int, int, int]]:
    found: list[Any] = []

    def enough() -> bool:
        found.extend(completer.compiled.take_recorded(0.05) or [])
        return len(found) >= count

    until(enough)
    return [(StoredRow(fields), Reason(reason), *rest) for fields, reason, *rest in found]


@both_forms
def test_rows_come_as_they_were_stored_while_they_are_wanted(dsn: str, schema: str, conn: Conn, copy: bool) -> None:
    claims = start_jobs(conn, MANY + 3, scheduled_at="now() - interval '7 seconds'")
    outcomes = [JobSetState.completed()] * MANY + [
        JobSetState.error_retryable(60, error_entry()),
        JobSetState.snoozed(60, META),
        JobSetState.discarded(error_entry()),
    ]
    with rig(dsn, schema, copy=copy, started=False) as completer:
        completer.compiled.want_rows(True)
        for claim, outcome in zip(claims, outcomes, strict=True):
            completer.push(claim, outcome)
        completer.start()
        rows = {stored.id: (stored, *rest) for stored, *rest in taken(completer, MANY + 3)}
        assert len(rows) == MANY + 3
        for claim, outcome in zip(claims, outcomes, strict=True):
            stored, reason, run_ns, complete_ns, waited_us = rows[claim.id]
            assert (stored.state, reason) == (outcome.state, outcome.reason)
            assert run_ns >= 0
            assert 0 < complete_ns < 60e9
            if reason is not Reason.COMPLETED:
                assert abs(waited_us - 7_000_000) < 1_000_000
        by_psycopg = row(conn, claims[MANY].id)
        stored = rows[claims[MANY].id][0]
        for column, name in enumerate(COLUMNS):
            assert (stored.field(column) is None) is (by_psycopg[name] is None), name
        assert stored.kind == "test_job"
        assert stored.max_attempts == 25


@both_forms
def test_no_row_is_kept_while_none_is_wanted(dsn: str, schema: str, conn: Conn, copy: bool) -> None:
    claims = start_jobs(conn, MANY)
    with rig(dsn, schema, copy=copy) as completer:
        completer.complete(claims)
        completer.settled()
        assert completer.compiled.take_recorded(0) == []
        completer.compiled.close(5)
        until(lambda: completer.compiled.take_recorded(0.1) is None)


@both_forms
def test_rows_tell_of_outcomes_by_another_hand_and_not_of_fenced_or_gone_ones(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    claims = start_jobs(conn, 4)
    conn.execute("UPDATE river_job SET attempt = 2 WHERE id = %s", (claims[0].id,))
    conn.execute("DELETE FROM river_job WHERE id = %s", (claims[1].id,))
    conn.execute("UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = %s", (claims[2].id,))
    with rig(dsn, schema, copy=copy, started=False) as completer:
        completer.compiled.want_rows(True)
        completer.complete(claims)
        completer.start()
        completer.settled()
        assert sorted((stored.id, stored.state) for stored, *_ in taken(completer, 2)) == [
            (claims[2].id, "cancelled"), (claims[3].id, "completed"),
        ]  # fmt: skip
        assert completer.compiled.take_recorded(0) == []


def test_rows_nobody_takes_are_dropped_oldest_first_and_hold_up_nothing(dsn: str, schema: str, conn: Conn) -> None:
    count = 22_000
    claims = start_jobs(conn, count)
    with rig(dsn, schema) as completer:
        completer.compiled.want_rows(True)
        completer.complete(claims)
        stats = completer.settled(60)
        assert stats["recorded"] == count
        assert stats["dropped_rows"] == count - 20_000
        kept = [stored.id for stored, *_ in taken(completer, 20_000)]
        assert len(kept) == 20_000
        assert claims[-1].id in kept
        assert claims[0].id not in kept
