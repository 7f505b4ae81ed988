"""The job scheduler: due jobs become available, a unique job is never lost to itself, and nothing holds up the rest."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from river_fast.driver import psycopg_executor as driver_module
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import DatabaseError, UniqueConflictError
from river_fast.maintenance import BatchSize
from river_fast.maintenance import job_scheduler as job_scheduler_module
from river_fast.maintenance.job_scheduler import JobScheduler
from tests.stress import hammer

# Masks as inserters write them: the leftmost bit is scheduled's (river.md 4.3).
DEFAULT_STATES = "11110101"
WITHOUT_RETRYABLE = "11010101"
WITH_DISCARDED_NOT_RETRYABLE = "11011101"


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def scheduler(driver: PsycopgDriver) -> Iterator[JobScheduler]:
    scheduler = JobScheduler(driver)
    scheduler.lead(lambda: True, stagger=False)
    scheduler.passed.activate()
    scheduler.failed.activate()
    scheduler.scheduled.activate()
    yield scheduler
    assert scheduler.stop(20)


def add(
    conn: psycopg.Connection[Any],
    state: str = "scheduled",
    *,
    due: float = -1.0,
    key: str | None = None,
    states: str | None = DEFAULT_STATES,
    priority: int = 1,
    queue: str = "default",
    metadata: str = "{}",
) -> int:
    """A job, due `due` seconds from now."""
    row = conn.execute(
        "INSERT INTO river_job (kind, args, state, scheduled_at, unique_key, unique_states, priority, queue, metadata)"
        " VALUES ('k', '{}', %s, now() + make_interval(secs => %s), %s, %s::bit(8), %s, %s, %s) RETURNING id",
        (state, due, key and key.encode(), states if key else None, priority, queue, metadata),
    ).fetchone()
    assert row is not None
    return int(row[0])


def states(conn: psycopg.Connection[Any], *ids: int) -> list[str]:
    rows = dict(conn.execute("SELECT id, state::text FROM river_job").fetchall())
    return [rows[id] for id in ids] if ids else [rows[id] for id in sorted(rows)]


def run_once(scheduler: JobScheduler) -> int:
    """One pass; the rows it handled."""
    scheduler.start()
    try:
        return scheduler.passed.wait()
    finally:
        assert scheduler.stop(20)


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.005)


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
    scheduler.interval = 0.05  # type: ignore[misc]
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


# Uniqueness.


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

    def unguarded(name: str, schema: str) -> str:
        text = whole(name, schema)
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
    for scheduler in schedulers:
        scheduler._batch_size.current = 7
        scheduler.lead(lambda: True, stagger=False)
        scheduler.interval = 0.01  # type: ignore[misc]
        scheduler.start()
    for thread in inserters:
        thread.start()
    for thread in inserters:
        thread.join(60)
    due = "SELECT count(*) FROM river_job WHERE state IN ('scheduled', 'retryable')"
    wait_for(lambda: conn.execute(due).fetchone() == (0,), "every twin to be judged", 60)
    for scheduler in schedulers:
        assert scheduler.stop(20)
    assert not failures
    active = conn.execute(
        "SELECT convert_from(unique_key, 'UTF8'), count(*) FILTER (WHERE state = 'available') FROM river_job GROUP BY 1"
    ).fetchall()
    assert {key: count for key, count in active if count != 1} == {}
    assert len(active) == len(keys)


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
        heard = [notify.payload for notify in listener.notifies(timeout=0.2)]
    assert sorted(heard) == ['{"queue": "a"}', '{"queue": "b|c"}']


def test_where_there_is_no_notify_nothing_is_told(
    dsn: str, conn: psycopg.Connection[Any], schema: str, driver: PsycopgDriver
) -> None:
    add(conn)
    scheduler = JobScheduler(driver, notify=False)
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f'LISTEN "{schema}.river_insert"')
        assert scheduler._schedule(10).handled == 1
        assert list(listener.notifies(timeout=0.2)) == []


def test_a_queue_name_only_json_can_quote_is_told_as_json(
    dsn: str, conn: psycopg.Connection[Any], schema: str, scheduler: JobScheduler
) -> None:
    add(conn, queue='odd "q\\')
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f'LISTEN "{schema}.river_insert"')
        run_once(scheduler)
        (heard,) = listener.notifies(timeout=5, stop_after=1)
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
    scheduler.interval = 0.05  # type: ignore[misc]
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
            begun = time.monotonic()
            assert scheduler.stop(10)
            assert time.monotonic() - begun < 2
            assert looker.execute(blocked, (blocker.info.backend_pid,)).fetchone() is None
    assert states(conn, id) == ["scheduled"]


def test_three_timeouts_in_a_row_make_batches_smaller_for_good(
    dsn: str, conn: psycopg.Connection[Any], schema: str, scheduler: JobScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(conn)
    monkeypatch.setattr("river_fast.maintenance.QUERY_TIMEOUT", 0.05)
    scheduler.interval = 0.01  # type: ignore[misc]
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_job")
        scheduler.start()
        assert [scheduler.failed.wait().sqlstate for _ in range(2)] == ["57014"] * 2
        assert scheduler._batch_size.current == 10_000
        assert scheduler.failed.wait().sqlstate == "57014"
        assert scheduler._batch_size.current == 1_000
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
