"""What each outcome does to its row, in both forms, and what the fence refuses."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from river_fast.job_set_state import JobSetState
from tests.ext.completer_rig import (
    FEW,
    MANY,
    META,
    Claim,
    Conn,
    both_forms,
    error_entry,
    rig,
    row,
    start_jobs,
    states,
)


def record(dsn: str, schema: str, claims: list[Claim], outcomes: list[JobSetState], copy: bool) -> dict[str, int]:
    with rig(dsn, schema, copy=copy) as completer:
        for claim, outcome in zip(claims, outcomes, strict=True):
            if outcome == JobSetState.completed():
                completer.complete([claim])
            else:
                assert completer.push(claim, outcome) == 0
        return completer.settled()


# ---- bare completions ----


@both_forms
@pytest.mark.parametrize("count", [1, FEW, MANY, 5000, 7001])
def test_completed_jobs_are_recorded_whatever_their_number(
    dsn: str, schema: str, conn: Conn, copy: bool, count: int
) -> None:
    claims = start_jobs(conn, count)
    stats = record(dsn, schema, claims, [JobSetState.completed()] * count, copy)
    assert states(conn) == {"completed": count}
    assert stats["recorded"] == count
    assert stats["fenced"] == stats["gone"] == stats["rejected"] == stats["retries"] == 0


@both_forms
def test_large_flushes_use_the_form_asked_for(dsn: str, schema: str, conn: Conn, copy: bool) -> None:
    claims = start_jobs(conn, 2000)
    stats = record(dsn, schema, claims, [JobSetState.completed()] * 2000, copy)
    assert (stats["copy_flushes"] > 0) is copy
    if not copy:
        assert stats["array_flushes"] >= 4, "at most 500 rows a statement"


@both_forms
def test_completion_writes_state_and_finalized_at_and_nothing_else(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    claims = start_jobs(conn, MANY, metadata="'{\"mine\": 1}'", tags="'{a,b}'")
    before = row(conn, claims[7].id)
    record(dsn, schema, claims, [JobSetState.completed()] * MANY, copy)
    after = row(conn, claims[7].id)
    changed = {column for column in before if before[column] != after[column]}
    assert changed == {"state", "finalized_at"}
    assert timedelta(0) <= datetime.now(UTC) - after["finalized_at"] < timedelta(seconds=60)


@both_forms
@pytest.mark.parametrize(
    "attempted_at",
    ["2026-01-01 00:00:00.000001+00", "2026-11-21 12:34:56.789123+00", "1999-12-31 23:59:59.999999+00",
     "0001-01-01 00:00:00.000007+00", "'294000-01-01 00:00:00.123457+00'", "infinity", "-infinity"],
)  # fmt: skip
def test_attempted_at_is_compared_to_the_microsecond(
    dsn: str, schema: str, conn: Conn, copy: bool, attempted_at: str
) -> None:
    infinite = "infinity" in attempted_at
    literal = f"'{attempted_at.strip(chr(39))}'::timestamptz"
    claims = start_jobs(conn, MANY, attempted_at="now()" if infinite else literal)
    if infinite:  # extract() cannot tell infinities apart as numbers: PostgreSQL's own wire values are put in by hand
        conn.execute(f"UPDATE river_job SET attempted_at = {literal}")
        for claim in claims:
            claim.attempted_at = -(2**63) if attempted_at.startswith("-") else 2**63 - 1
    off_by_one = claims[0]
    if not infinite:
        off_by_one.attempted_at += 1
    stats = record(dsn, schema, claims, [JobSetState.completed()] * MANY, copy)
    assert stats["fenced"] == (0 if infinite else 1)
    assert states(conn).get("completed") == MANY - stats["fenced"]


@both_forms
def test_ages_are_measured_to_the_moment_of_sending(dsn: str, schema: str, conn: Conn, copy: bool) -> None:
    claims = start_jobs(conn, MANY + 1)
    with rig(dsn, schema, copy=copy, started=False) as completer:
        (before,) = conn.execute("SELECT clock_timestamp()").fetchone() or ()
        completer.complete(claims[:MANY])
        completer.push(claims[MANY], JobSetState.error_retryable(100.0, error_entry()))
        (ended,) = conn.execute("SELECT clock_timestamp()").fetchone() or ()
        time.sleep(3)  # the outage: what is under test is that it does not show
        completer.start()
        completer.settled()
    margin = timedelta(seconds=2)  # what a busy machine may take between the measuring and the server's clock
    assert before - margin < row(conn, claims[0].id)["finalized_at"] < ended + margin
    scheduled = row(conn, claims[MANY].id)["scheduled_at"] - timedelta(seconds=100)
    assert before - margin < scheduled < ended + margin


# ---- rich outcomes ----

# outcome, state, attempt (of 3), errors added, final, delay in seconds or None (scheduled_at stays), metadata merged
EFFECTS: list[tuple[JobSetState, str, int, int, bool, float | None, bool]] = [
    (JobSetState.completed(), "completed", 3, 0, True, None, False),
    (JobSetState.completed(META), "completed", 3, 0, True, None, True),
    (JobSetState.cancelled(error_entry()), "cancelled", 3, 1, True, None, False),
    (JobSetState.cancelled(error_entry(), META), "cancelled", 3, 1, True, None, True),
    (JobSetState.discarded(error_entry()), "discarded", 3, 1, True, None, False),
    (JobSetState.discarded(error_entry(), META), "discarded", 3, 1, True, None, True),
    (JobSetState.error_retryable(60.0, error_entry()), "retryable", 3, 1, False, 60.0, False),
    (JobSetState.error_retryable(60.0, error_entry(), META), "retryable", 3, 1, False, 60.0, True),
    (JobSetState.error_available(2.5, error_entry()), "available", 3, 1, False, 2.5, False),
    (JobSetState.snoozed(3600.0, META), "scheduled", 2, 0, False, 3600.0, True),
    (JobSetState.snoozed_available(1.0, META), "available", 2, 0, False, 1.0, True),
    (JobSetState.interrupted(), "available", 2, 0, False, 0.0, False),
    (JobSetState.interrupted(META), "available", 2, 0, False, 0.0, True),
]


@both_forms
@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: f"{effect[0].reason.name}-{effect[1]}-{effect[6]}")
def test_each_outcome_has_its_effect_on_the_row(
    dsn: str, schema: str, conn: Conn, copy: bool, effect: tuple[Any, ...]
) -> None:
    outcome, state, attempt, errors, final, delay, merged = effect
    claims = start_jobs(
        conn, MANY + 1, attempt="3", metadata="'{\"mine\": \"old\", \"kept\": true}'",
        errors="ARRAY['{\"at\": \"2026-01-01T00:00:00Z\", \"attempt\": 2, \"error\": \"\", \"trace\": \"\"}'::jsonb]",
    )  # fmt: skip
    before = row(conn, claims[MANY].id)
    record(dsn, schema, claims, [JobSetState.completed()] * MANY + [outcome], copy)
    after = row(conn, claims[MANY].id)
    now = datetime.now(UTC)
    assert (after["state"], after["attempt"]) == (state, attempt)
    assert after["errors"] == [*before["errors"], *([] if outcome.error is None else [error_of(outcome)])]
    assert len(after["errors"]) == 1 + errors
    assert (after["finalized_at"] is not None) is final
    if delay is None:
        assert after["scheduled_at"] == before["scheduled_at"]
    else:
        assert abs(after["scheduled_at"] - now - timedelta(seconds=delay)) < timedelta(seconds=60)
    if merged:
        assert after["metadata"] == {"kept": True, "mine": "new", "river:x": {"a": [1, 2]}}
    else:
        assert after["metadata"] == before["metadata"]
    for column in ("attempted_at", "attempted_by", "created_at", "args", "kind", "priority", "queue", "max_attempts"):
        assert after[column] == before[column], column
    assert states(conn).get("completed", 0) >= MANY


def error_of(outcome: JobSetState) -> Any:
    import json

    assert outcome.error is not None
    return json.loads(outcome.error)


@both_forms
def test_outcomes_of_all_sorts_in_one_flush_keep_their_own_values(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    count = 3000
    claims = start_jobs(conn, count)
    outcomes = []
    for n in range(count):
        sort = n % 4
        if sort == 0:
            outcomes.append(JobSetState.completed())
        elif sort == 1:
            outcomes.append(JobSetState.completed(b'{"n": %d}' % n))
        elif sort == 2:
            outcomes.append(JobSetState.error_retryable(100 + n, error_entry(f"error {n}")))
        else:
            outcomes.append(JobSetState.discarded(error_entry(f"end {n}")))
    claims.reverse()  # ids come in any order
    stats = record(dsn, schema, claims, outcomes, copy)
    assert stats["recorded"] == count
    assert states(conn) == {"completed": count // 2, "retryable": count // 4, "discarded": count // 4}
    for n in (1, 401, 2997):
        assert row(conn, claims[n].id)["metadata"] == {"n": n}
    for n in (2, 402, 2998):
        stored = row(conn, claims[n].id)
        assert stored["errors"][0]["error"] == f"error {n}"
        assert abs((stored["scheduled_at"] - datetime.now(UTC)).total_seconds() - 100 - n) < 60


@both_forms
def test_attempt_is_never_restored_below_zero(dsn: str, schema: str, conn: Conn, copy: bool) -> None:
    (claim,) = start_jobs(conn, 1, attempt="0")
    record(dsn, schema, [claim], [JobSetState.interrupted()], copy)
    assert row(conn, claim.id)["attempt"] == 0


@both_forms
@pytest.mark.parametrize("stored", ["[1]", '"text"', "7", "null"])
def test_metadata_that_is_not_an_object_gives_way_to_the_outcomes(
    dsn: str, schema: str, conn: Conn, copy: bool, stored: str
) -> None:
    claims = start_jobs(conn, 2, metadata=f"'{stored}'")
    record(dsn, schema, claims, [JobSetState.completed(b'{"output": 1}'), JobSetState.completed()], copy)
    assert row(conn, claims[0].id)["metadata"] == {"output": 1}
    assert row(conn, claims[1].id)["state"] == "completed"


@both_forms
@pytest.mark.parametrize(
    ("outcome", "errors"),
    [
        (JobSetState.error_retryable(60.0, error_entry()), 1),
        (JobSetState.error_available(1.0, error_entry()), 1),
        (JobSetState.snoozed(60.0, b'{"snoozes": 1}'), 0),
        (JobSetState.interrupted(), 0),
    ],
    ids=["retryable", "available", "snoozed", "interrupted"],
)
def test_a_job_whose_cancel_was_asked_for_is_cancelled_instead_of_run_again(
    dsn: str, schema: str, conn: Conn, copy: bool, outcome: JobSetState, errors: int
) -> None:
    (claim,) = start_jobs(conn, 1, attempt="2", metadata="'{\"cancel_attempted_at\": \"2026-01-01T00:00:00Z\"}'")
    before = row(conn, claim.id)
    record(dsn, schema, [claim], [outcome], copy)
    after = row(conn, claim.id)
    assert (after["state"], after["attempt"]) == ("cancelled", 2)
    assert after["finalized_at"] is not None
    assert after["scheduled_at"] == before["scheduled_at"]
    assert len(after["errors"] or []) == errors
    if outcome.metadata:
        assert after["metadata"]["snoozes"] == 1


@both_forms
def test_a_completed_job_whose_cancel_was_asked_for_is_completed(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    (claim,) = start_jobs(conn, 1, metadata="'{\"cancel_attempted_at\": \"2026-01-01T00:00:00Z\"}'")
    record(dsn, schema, [claim], [JobSetState.completed()], copy)
    assert row(conn, claim.id)["state"] == "completed"


# ---- the fence ----

RICH = [JobSetState.completed(), JobSetState.completed(META), JobSetState.discarded(error_entry())]


@both_forms
@pytest.mark.parametrize("outcome", RICH, ids=["bare", "metadata", "discarded"])
@pytest.mark.parametrize(
    "change",
    ["attempt = attempt + 1, attempted_at = clock_timestamp()", "attempt = attempt + 1",
     "attempted_at = attempted_at + interval '1 microsecond'"],
    ids=["fetched again", "attempt", "attempted_at"],
)  # fmt: skip
def test_outcome_of_another_attempt_is_refused_and_counted(
    dsn: str, schema: str, conn: Conn, copy: bool, outcome: JobSetState, change: str
) -> None:
    claims = start_jobs(conn, MANY)
    conn.execute(f"UPDATE river_job SET {change} WHERE id = %s", (claims[3].id,))
    before = row(conn, claims[3].id)
    stats = record(dsn, schema, claims, [outcome] * MANY, copy)
    assert row(conn, claims[3].id) == before
    assert (stats["fenced"], stats["recorded"], stats["backlog"]) == (1, MANY - 1, 0)


@both_forms
@pytest.mark.parametrize("outcome", RICH, ids=["bare", "metadata", "discarded"])
def test_row_that_is_gone_is_counted_and_holds_up_nobody(
    dsn: str, schema: str, conn: Conn, copy: bool, outcome: JobSetState
) -> None:
    claims = start_jobs(conn, MANY)
    conn.execute("DELETE FROM river_job WHERE id = %s", (claims[3].id,))
    stats = record(dsn, schema, claims, [outcome] * MANY, copy)
    assert (stats["gone"], stats["recorded"], stats["fenced"]) == (1, MANY - 1, 0)


@both_forms
def test_row_finished_by_another_hand_keeps_its_state_and_takes_the_metadata(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    claims = start_jobs(conn, MANY)
    conn.execute(
        "UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = ANY(%s)",
        ([claim.id for claim in claims[:3]],),
    )
    rich = [JobSetState.discarded(error_entry()), JobSetState.completed(META)]
    outcomes = rich + [JobSetState.completed()] * (MANY - 2)
    stats = record(dsn, schema, claims, outcomes, copy)
    assert [row(conn, claim.id)["state"] for claim in claims[:4]] == ["cancelled"] * 3 + ["completed"]
    assert row(conn, claims[0].id)["errors"] is None
    assert row(conn, claims[1].id)["metadata"]["mine"] == "new"
    assert stats["finished_elsewhere"] >= 2
    assert stats["fenced"] == stats["gone"] == 0


@both_forms
def test_job_completed_in_its_own_transaction_is_left_as_it_is(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    claims = start_jobs(conn, MANY)
    conn.execute("UPDATE river_job SET state = 'completed', finalized_at = '2026-01-01' WHERE id = %s", (claims[5].id,))
    stats = record(dsn, schema, claims, [JobSetState.completed()] * MANY, copy)
    assert row(conn, claims[5].id)["finalized_at"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert stats["recorded"] == MANY


@both_forms
def test_the_same_outcome_pushed_twice_is_recorded_once(dsn: str, schema: str, conn: Conn, copy: bool) -> None:
    claims = start_jobs(conn, MANY)
    with rig(dsn, schema, copy=copy, started=False) as completer:
        for claim in claims:
            completer.push(claim, JobSetState.discarded(error_entry()))
            completer.push(claim, JobSetState.discarded(error_entry()))
        completer.start()
        completer.settled()
    assert conn.execute("SELECT max(array_length(errors, 1)) FROM river_job").fetchone() == (1,)
