"""The job scheduler and unique jobs: none is lost to itself, and of several with one key exactly one runs."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from river_fast.driver import psycopg_executor as driver_module
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import DatabaseError, UniqueConflictError
from river_fast.maintenance.job_scheduler import JobScheduler
from tests.fix_scheduler import (
    DEFAULT_STATES,
    WITH_DISCARDED_NOT_RETRYABLE,
    WITHOUT_RETRYABLE,
    add,
    driver,
    run_once,
    scheduler,
    states,
    wait_for,
)

__all__ = ["driver", "scheduler"]


def regression_unique_scheduled_job_discarded_as_its_own_duplicate(
    conn: psycopg.Connection[Any], scheduler: JobScheduler
) -> None:
    lone = [add(conn, "scheduled", key="a"), add(conn, "retryable", key="b"), add(conn, "scheduled", key="c", due=4.0)]
    lone.append(add(conn, "retryable", key="d", states=WITHOUT_RETRYABLE))
    run_once(scheduler)
    assert states(conn, *lone) == ["available"] * 4
    marked = conn.execute("SELECT count(*) FROM river_job WHERE metadata ? 'unique_key_conflict'").fetchone()
    assert marked == (0,)


def test_regression_unique_scheduled_job_discarded_as_its_own_duplicate(
    conn: psycopg.Connection[Any], scheduler: JobScheduler
) -> None:
    """River v0.12.0 (#590, #618, fixed by #619): each unique job counted as its own rival when it came due."""
    regression_unique_scheduled_job_discarded_as_its_own_duplicate(conn, scheduler)


def test_without_its_guards_the_statement_discards_a_job_as_its_own_duplicate(
    conn: psycopg.Connection[Any], scheduler: JobScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The regression test above can fail: it does so as soon as both guards are taken out of the SQL."""
    whole = driver_module.sql_text

    def unguarded(name: str, *rest: Any) -> str:
        text = whole(name, *rest)
        if name == "job_schedule":
            for guard in ("OR holds_key OR (", "AND other.id <> due.id"):
                assert text.count(guard) == 1
                text = text.replace(guard, "OR (" if guard.endswith("(") else "")
        return text

    monkeypatch.setattr(driver_module, "sql_text", unguarded)
    with pytest.raises(AssertionError, match="discarded"):
        regression_unique_scheduled_job_discarded_as_its_own_duplicate(conn, scheduler)


def test_of_two_retryable_twins_the_first_runs_and_the_other_is_discarded(
    conn: psycopg.Connection[Any], scheduler: JobScheduler
) -> None:
    """The second defect of River v0.12.0: both were made available, and the pass failed for ever."""
    late = add(conn, "retryable", key="a", states=WITHOUT_RETRYABLE, due=-1)
    soon = add(conn, "retryable", key="a", states=WITHOUT_RETRYABLE, due=-2)
    run_once(scheduler)
    assert states(conn, late, soon) == ["discarded", "available"]
    row = conn.execute(
        "SELECT finalized_at BETWEEN now() - interval '1 minute' AND now(), metadata, errors"
        " FROM river_job WHERE id = %s",
        (late,),
    ).fetchone()
    assert row == (True, {"unique_key_conflict": "scheduler_discarded"}, None)


@pytest.mark.parametrize("holder_first", [True, False])
def test_of_twins_the_one_that_holds_the_key_runs_whatever_the_order(
    conn: psycopg.Connection[Any], scheduler: JobScheduler, holder_first: bool
) -> None:
    """Where the other sorts first, River discards both, and the work is lost."""
    holder = add(conn, "scheduled", key="a", states=WITHOUT_RETRYABLE, priority=1 if holder_first else 4)
    other = add(conn, "retryable", key="a", states=WITHOUT_RETRYABLE, priority=2)
    run_once(scheduler)
    assert states(conn, holder, other) == ["available", "discarded"]


@pytest.mark.parametrize("state", ["available", "running", "pending", "completed"])
def test_a_job_whose_key_another_holds_is_discarded(
    conn: psycopg.Connection[Any], scheduler: JobScheduler, state: str
) -> None:
    waiting = add(conn, "retryable", key="a", states=WITHOUT_RETRYABLE)
    conn.execute(
        "INSERT INTO river_job (kind, args, state, unique_key, unique_states, finalized_at)"
        " VALUES ('k', '{}', %s, 'a', %s::bit(8), CASE WHEN %s = 'completed' THEN now() END)",
        (state, DEFAULT_STATES, state),
    )
    run_once(scheduler)
    assert states(conn, waiting) == ["discarded"]


def test_a_key_is_free_once_its_holder_left_its_unique_states(
    conn: psycopg.Connection[Any], scheduler: JobScheduler
) -> None:
    add(conn, "retryable", key="a", states=WITHOUT_RETRYABLE, due=3600)
    waiting = add(conn, "scheduled", key="a")
    keyless = add(conn, "scheduled", key="b", states=None)
    twin = add(conn, "scheduled", key="b", states=None)
    run_once(scheduler)
    assert states(conn, waiting, keyless, twin) == ["available"] * 3


def test_discarding_a_job_that_counts_discarded_ones_does_not_fail_the_pass(
    conn: psycopg.Connection[Any], scheduler: JobScheduler
) -> None:
    add(conn, "available", key="a")
    waiting = add(conn, "retryable", key="a", states=WITH_DISCARDED_NOT_RETRYABLE)
    other = add(conn, "scheduled")
    run_once(scheduler)
    assert states(conn, waiting, other) == ["discarded", "available"]


def test_metadata_that_is_no_object_is_replaced_where_a_job_is_discarded(
    conn: psycopg.Connection[Any], scheduler: JobScheduler
) -> None:
    add(conn, "available", key="a")
    waiting = add(conn, "retryable", key="a", states=WITHOUT_RETRYABLE, metadata="[1]")
    run_once(scheduler)
    row = conn.execute("SELECT state::text, metadata FROM river_job WHERE id = %s", (waiting,)).fetchone()
    assert row == ("discarded", {"unique_key_conflict": "scheduler_discarded"})


def test_a_rival_that_commits_meanwhile_is_met_by_another_look(
    dsn: str, conn: psycopg.Connection[Any], schema: str, scheduler: JobScheduler
) -> None:
    waiting = add(conn, "retryable", key="a", states=WITHOUT_RETRYABLE)
    others = [add(conn) for _ in range(3)]
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as rival:
        add(rival, "available", key="a")
        pid = rival.info.backend_pid
        scheduler.start()
        blocked = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        wait_for(lambda: conn.execute(blocked, (pid,)).fetchone(), "the scheduler to meet the rival")
        rival.commit()
    assert scheduler.passed.wait() == 4
    assert states(conn, waiting, *others) == ["discarded"] + ["available"] * 3


def test_rivals_without_end_are_given_up_until_the_next_pass(
    conn: psycopg.Connection[Any], scheduler: JobScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []

    def refused(limit: int) -> Any:
        limits.append(limit)
        raise DatabaseError("duplicate key", "23505")

    monkeypatch.setattr(scheduler, "_schedule", refused)
    with pytest.raises(UniqueConflictError):
        scheduler._work_batch(10_000)
    assert limits == [10_000, 10_000, 1_000, 100, 10, 1]
    monkeypatch.undo()
    add(conn)
    assert run_once(scheduler) == 1


def test_schedulers_and_inserters_at_once_lose_and_double_nothing(
    dsn: str, conn: psycopg.Connection[Any], schema: str, driver: PsycopgDriver
) -> None:
    """F41: twins of every kind, two schedulers, and inserters of the same keys."""
    keys = [f"key {number}" for number in range(100)]
    for number, key in enumerate(keys):
        add(conn, "retryable", key=key, states=WITHOUT_RETRYABLE, priority=1 + number % 2)
        state = "scheduled" if number % 3 else "retryable"
        add(conn, state, key=key, states=WITHOUT_RETRYABLE, priority=1 + number % 3)
    schedulers = [JobScheduler(driver) for _ in range(2)]
    failures: list[BaseException] = []

    def insert() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True, options=f"-c search_path={schema}") as inserter:
                for key in keys:
                    inserter.execute(
                        "INSERT INTO river_job (kind, args, unique_key, unique_states)"
                        " VALUES ('k', '{}', %s, %s::bit(8))"
                        " ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL"
                        " AND river_job_state_in_bitmask(unique_states, state) DO NOTHING",
                        (key.encode(), DEFAULT_STATES),
                    )
        except BaseException as error:
            failures.append(error)

    inserters = [threading.Thread(target=insert) for _ in range(4)]
    for each in schedulers:
        each._batch_size.current = 7
        each.lead(lambda: True, stagger=False)
        each.interval = 0.01
        each.start()
    for thread in inserters:
        thread.start()
    for thread in inserters:
        thread.join(60)
    due = "SELECT count(*) FROM river_job WHERE state IN ('scheduled', 'retryable')"
    wait_for(lambda: conn.execute(due).fetchone() == (0,), "every twin to be judged", 60)
    for each in schedulers:
        assert each.stop(20)
    assert not failures
    active = conn.execute(
        "SELECT convert_from(unique_key, 'UTF8'), count(*) FILTER (WHERE state = 'available') FROM river_job GROUP BY 1"
    ).fetchall()
    assert {key: count for key, count in active if count != 1} == {}
    assert len(active) == len(keys)
