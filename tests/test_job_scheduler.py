"""The job scheduler: due jobs become available and their queues are told, and nothing holds up the rest."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from river_fast.driver import psycopg_executor as driver_module
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance import BatchSize
from river_fast.maintenance import job_scheduler as job_scheduler_module
from river_fast.maintenance.job_scheduler import JobScheduler
from tests.fix_rows import heard_until_now
from tests.fix_scheduler import WITHOUT_RETRYABLE, add, driver, run_once, scheduler, states, wait_for
from tests.stress import hammer

__all__ = ["driver", "scheduler"]

# Times.


def test_due_jobs_become_available_with_all_else_unchanged(
    conn: psycopg.Connection[Any], scheduler: JobScheduler
) -> None:
    ids = [add(conn, "scheduled"), add(conn, "retryable"), add(conn, "scheduled", due=3.0)]
    add(conn, "scheduled", due=60.0)
    for state in ("available", "pending"):
        add(conn, state)
    conn.execute("UPDATE river_job SET attempt = 3, errors = ARRAY['{\"at\": 1}'::jsonb] WHERE id = %s", (ids[1],))
    query = "SELECT id, to_jsonb(j) - 'state' FROM river_job AS j ORDER BY id"
    before = conn.execute(query).fetchall()
    assert run_once(scheduler) == 3
    assert states(conn) == ["available"] * 3 + ["scheduled", "available", "pending"]
    assert conn.execute(query).fetchall() == before


def test_a_requested_cancel_is_not_looked_at(conn: psycopg.Connection[Any], scheduler: JobScheduler) -> None:
    id = add(conn, "retryable", metadata='{"cancel_attempted_at": "2026-01-02T03:04:05Z"}')
    run_once(scheduler)
    assert states(conn, id) == ["available"]


def test_more_than_a_batch_is_done_in_one_pass(conn: psycopg.Connection[Any], scheduler: JobScheduler) -> None:
    for _ in range(5):
        add(conn)
    scheduler._batch_size.current = 2
    assert run_once(scheduler) == 5
    assert [scheduler.scheduled.wait().handled for _ in range(3)] == [2, 2, 1]


def test_the_next_pass_comes_after_the_interval(conn: psycopg.Connection[Any], scheduler: JobScheduler) -> None:
    scheduler.interval = 0.05
    scheduler.start()
    scheduler.passed.wait()
    id = add(conn)
    wait_for(lambda: states(conn, id) == ["available"], "a later pass")


def test_a_batch_goes_by_priority_then_time_then_id(conn: psycopg.Connection[Any], scheduler: JobScheduler) -> None:
    late, soon, low = add(conn, due=-1), add(conn, due=-2), add(conn, due=-9, priority=2)
    assert scheduler._schedule(1).handled == 1
    assert states(conn, late, soon, low) == ["scheduled", "available", "scheduled"]
    assert scheduler._schedule(1).handled == 1
    assert states(conn, late, soon, low) == ["available", "available", "scheduled"]


# Notifications.


def test_queues_of_jobs_due_now_are_told_once_each_after_the_commit(
    dsn: str, conn: psycopg.Connection[Any], schema: str, scheduler: JobScheduler
) -> None:
    for queue, due in (("a", -1.0), ("a", -2.0), ("b|c", -1.0), ("later", 3.0)):
        add(conn, queue=queue, due=due)
    add(conn, "available", key="a")
    add(conn, "retryable", key="a", states=WITHOUT_RETRYABLE, queue="discarded")
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f'LISTEN "{schema}.river_insert"')
        run_once(scheduler)
        heard = heard_until_now(listener)
    assert sorted(heard) == ['{"queue": "a"}', '{"queue": "b|c"}']


def test_where_there_is_no_notify_nothing_is_told(
    dsn: str, conn: psycopg.Connection[Any], schema: str, driver: PsycopgDriver
) -> None:
    add(conn)
    scheduler = JobScheduler(driver, notify=False)
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f'LISTEN "{schema}.river_insert"')
        assert scheduler._schedule(10).handled == 1
        assert heard_until_now(listener) == []


def test_a_queue_name_only_json_can_quote_is_told_as_json(
    dsn: str, conn: psycopg.Connection[Any], schema: str, scheduler: JobScheduler
) -> None:
    add(conn, queue='odd "q\\')
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f'LISTEN "{schema}.river_insert"')
        run_once(scheduler)
        (heard,) = listener.notifies(timeout=20, stop_after=1)
    assert json.loads(heard.payload) == {"queue": 'odd "q\\'}


# What must not stop it.


def test_rows_nobody_can_decode_do_not_stop_the_others(conn: psycopg.Connection[Any], scheduler: JobScheduler) -> None:
    """Go's scheduler fails at each pass on such a row."""
    ids = [add(conn) for _ in range(4)]
    conn.execute("UPDATE river_job SET errors = ARRAY[NULL::jsonb] WHERE id = %s", (ids[0],))
    conn.execute("UPDATE river_job SET tags = ARRAY[NULL::varchar] WHERE id = %s", (ids[1],))
    conn.execute("UPDATE river_job SET scheduled_at = '-infinity' WHERE id = %s", (ids[2],))
    run_once(scheduler)
    assert states(conn, *ids) == ["available"] * 4


def test_a_row_somebody_has_locked_does_not_hold_up_the_others(
    dsn: str, conn: psycopg.Connection[Any], schema: str, scheduler: JobScheduler
) -> None:
    locked, others = add(conn), [add(conn) for _ in range(3)]
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as other:
        other.execute("SELECT FROM river_job WHERE id = %s FOR UPDATE", (locked,))
        assert run_once(scheduler) == 3
    assert states(conn, locked, *others) == ["scheduled", *["available"] * 3]
    assert run_once(scheduler) == 1


def test_errors_are_survived(conn: psycopg.Connection[Any], scheduler: JobScheduler) -> None:
    id = add(conn)
    scheduler.interval = 0.05
    conn.execute("ALTER TABLE river_job RENAME TO away")
    scheduler.start()
    assert scheduler.failed.wait().sqlstate == "42P01"
    conn.execute("ALTER TABLE away RENAME TO river_job")
    wait_for(lambda: states(conn, id) == ["available"], "a pass after the errors")


def test_nothing_is_done_in_a_term_that_is_over(conn: psycopg.Connection[Any], scheduler: JobScheduler) -> None:
    id = add(conn)
    scheduler.lead(lambda: False, stagger=False)
    assert run_once(scheduler) == 0
    assert states(conn, id) == ["scheduled"]


def test_a_term_that_ends_between_batches_ends_the_pass(conn: psycopg.Connection[Any], scheduler: JobScheduler) -> None:
    for _ in range(5):
        add(conn)
    leads = iter([True, True, False])
    scheduler._batch_size.current = 2
    scheduler.lead(lambda: next(leads), stagger=False)
    assert run_once(scheduler) == 4


def test_stop_cancels_a_statement_that_waits(
    dsn: str, conn: psycopg.Connection[Any], schema: str, scheduler: JobScheduler
) -> None:
    id = add(conn)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_job")
        scheduler.start()
        blocked = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        with psycopg.connect(dsn, autocommit=True) as looker:
            wait_for(lambda: looker.execute(blocked, (blocker.info.backend_pid,)).fetchone(), "the statement to wait")
            assert scheduler.stop(20), "without the cancel it would wait for the lock"
            assert looker.execute(blocked, (blocker.info.backend_pid,)).fetchone() is None
    assert states(conn, id) == ["scheduled"]


def test_three_timeouts_in_a_row_make_batches_smaller_for_good(
    dsn: str, conn: psycopg.Connection[Any], schema: str, scheduler: JobScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(conn)
    monkeypatch.setattr("river_fast.maintenance.QUERY_TIMEOUT", 0.05)
    scheduler.interval = 0.01
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_job")
        scheduler.start()
        assert [scheduler.failed.wait().sqlstate for _ in range(3)] == ["57014"] * 3
        wait_for(lambda: scheduler._batch_size.current == 1_000, "smaller batches")
        monkeypatch.setattr("river_fast.maintenance.QUERY_TIMEOUT", 30.0)
    scheduler.passed.wait()
    assert scheduler.stop(20)
    assert scheduler._batch_size.current == 1_000


def test_batch_size_counts_timeouts_in_a_row_within_ten_minutes() -> None:
    now = [0.0]
    size = BatchSize(clock=lambda: now[0])
    assert [size.timed_out(), size.timed_out()] == [False, False]
    size.succeeded()
    assert [size.timed_out(), size.timed_out()] == [False, False]
    now[0] += BatchSize.WINDOW + 1
    assert [size.timed_out(), size.timed_out(), size.timed_out(), size.timed_out()] == [False, False, True, False]
    size.succeeded()
    assert size.current == BatchSize.REDUCED


def test_due_jobs_are_found_by_index_on_a_large_table(conn: psycopg.Connection[Any], schema: str) -> None:
    """A table whose jobs are nearly all completed must not be read from end to end every 5 s."""
    conn.execute(
        "INSERT INTO river_job (kind, args, state, finalized_at)"
        " SELECT 'k', '{}', 'completed', now() FROM generate_series(1, 20000)"
    )
    for number in range(20):
        add(conn, key=f"{number}")
    params = {
        "limit": 10_000, "look_ahead": 5.0, "due_within": 0.005, "notify": False,
        "channel": job_scheduler_module.channel(schema, "river_insert"),
    }  # fmt: skip
    for analysed in (False, True):
        if analysed:
            conn.execute("ANALYZE river_job")
        query = "EXPLAIN (FORMAT JSON) " + driver_module.sql_text("job_schedule", schema)
        plan = conn.execute(query, params).fetchone()
        assert plan is not None
        assert "Seq Scan" not in json.dumps(plan[0]), f"analysed: {analysed}: {json.dumps(plan[0], indent=1)}"


def test_start_and_stop_from_many_threads(driver: PsycopgDriver) -> None:
    scheduler = JobScheduler(driver)
    scheduler.lead(lambda: True, stagger=False)
    hammer(lambda: scheduler)
