"""The job cleaner: jobs that ended long enough ago go, each state after its own period, and nothing else does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import DatabaseError
from river_fast.maintenance.job_cleaner import JobCleaner, delete_finalized
from tests.fix_maintenance import driver, ids_of, run_once, set_up
from tests.fix_rows import insert
from tests.fix_scheduler import wait_for
from tests.stress import hammer

__all__ = ["driver"]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def make(driver: PsycopgDriver, **config: Any) -> JobCleaner:
    cleaner = JobCleaner(driver, river.Config(**config).checked())
    set_up(cleaner)
    return cleaner


@pytest.fixture
def cleaner(driver: PsycopgDriver) -> Iterator[JobCleaner]:
    cleaner = make(driver)
    yield cleaner
    assert cleaner.stop(20)


def ended(conn: psycopg.Connection, state: str, ago: timedelta, **columns: Any) -> int:
    return insert(conn, state, finalized_at=datetime.now(UTC) - ago, **columns)


def test_each_final_state_has_its_own_period(conn: psycopg.Connection, cleaner: JobCleaner) -> None:
    kept = [ended(conn, state, DAY - HOUR) for state in ("cancelled", "completed", "discarded")]
    for state in ("cancelled", "completed"):
        ended(conn, state, DAY + HOUR)
    kept.append(ended(conn, "discarded", 7 * DAY - HOUR))
    ended(conn, "discarded", 7 * DAY + HOUR)
    assert run_once(cleaner) == 3
    assert ids_of(conn) == kept


def test_jobs_that_have_not_ended_are_never_touched(conn: psycopg.Connection, cleaner: JobCleaner) -> None:
    old = datetime(2001, 1, 1, tzinfo=UTC)
    states = ("available", "pending", "retryable", "running", "scheduled")
    kept = [insert(conn, state, created_at=old, scheduled_at=old) for state in states]
    assert run_once(cleaner) == 0
    assert ids_of(conn) == kept


def test_a_state_kept_for_ever_is_not_looked_at(conn: psycopg.Connection, driver: PsycopgDriver) -> None:
    kept = ended(conn, "discarded", 9000 * DAY)
    ended(conn, "completed", 9000 * DAY)
    cleaner = make(driver, discarded_job_retention_period=river.NEVER)
    assert run_once(cleaner) == 1
    assert ids_of(conn) == [kept]


def test_a_period_of_nothing_deletes_at_the_next_look(conn: psycopg.Connection, driver: PsycopgDriver) -> None:
    kept = ended(conn, "cancelled", timedelta(0))
    ended(conn, "completed", timedelta(0))
    assert run_once(make(driver, completed_job_retention_period=0)) == 1
    assert ids_of(conn) == [kept]


def test_batches_go_on_until_none_is_left_oldest_first(conn: psycopg.Connection, cleaner: JobCleaner) -> None:
    ids = [ended(conn, "completed", DAY + hours * HOUR) for hours in (1, 5, 3, 4, 2)]
    cleaner._batch_size.current = 2
    assert cleaner._work_batch(2) == 2
    assert ids_of(conn) == [ids[0], ids[2], ids[4]]
    assert run_once(cleaner) == 3
    assert ids_of(conn) == []


def test_a_state_that_fills_every_batch_keeps_no_other_waiting(conn: psycopg.Connection, cleaner: JobCleaner) -> None:
    for state in ("completed", "completed", "completed", "cancelled", "discarded"):
        ended(conn, state, 8 * DAY)
    assert cleaner._work_batch(1) == 3
    assert conn.execute("SELECT state::text FROM river_job").fetchall() == [("completed",)] * 2


def test_a_row_somebody_has_locked_is_left_for_the_next_pass(
    dsn: str, conn: psycopg.Connection, schema: str, cleaner: JobCleaner
) -> None:
    """It is being retried: the cleaner must neither wait for that nor undo it."""
    ids = [ended(conn, "completed", 2 * DAY) for _ in range(3)]
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as other:
        other.execute("UPDATE river_job SET state = 'available', finalized_at = NULL WHERE id = %s", (ids[1],))
        assert run_once(cleaner) == 2
    assert run_once(cleaner) == 0
    assert ids_of(conn) == [ids[1]]


def test_nothing_is_deleted_in_a_term_that_is_over(conn: psycopg.Connection, cleaner: JobCleaner) -> None:
    for state in ("cancelled", "completed", "discarded"):
        ended(conn, state, 9 * DAY)
    leads = iter([True, True, False, False, False])
    cleaner.lead(lambda: next(leads), stagger=False)
    assert run_once(cleaner) == 1, "it is asked before each state, too"
    assert len(ids_of(conn)) == 2


def test_a_statement_takes_no_longer_than_the_timeout(
    dsn: str, conn: psycopg.Connection, schema: str, driver: PsycopgDriver
) -> None:
    """River forgets its JobCleanerTimeout."""
    ended(conn, "completed", 2 * DAY)
    cleaner = make(driver, job_cleaner_timeout=0.05)
    cleaner.interval = 0.01
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_job")
        cleaner.start()
        assert [cleaner.failed.wait().sqlstate for _ in range(3)] == ["57014"] * 3
        wait_for(lambda: cleaner._batch_size.current == 1_000, "smaller batches")
    wait_for(lambda: ids_of(conn) == [], "a pass after the lock is gone")
    assert cleaner.stop(20)


def test_without_a_timeout_a_statement_waits_until_the_stop_cancels_it(
    dsn: str, conn: psycopg.Connection, schema: str, driver: PsycopgDriver
) -> None:
    kept = ended(conn, "completed", 2 * DAY)
    cleaner = make(driver, job_cleaner_timeout=river.NEVER)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_job")
        cleaner.start()
        blocked = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        with psycopg.connect(dsn, autocommit=True) as looker:
            wait_for(lambda: looker.execute(blocked, (blocker.info.backend_pid,)).fetchone(), "the statement to wait")
        assert cleaner.stop(20)
    assert ids_of(conn) == [kept]


def test_a_server_that_ends_its_backends_is_survived(
    dsn: str, conn: psycopg.Connection, schema: str, cleaner: JobCleaner
) -> None:
    id = ended(conn, "completed", 2 * DAY)
    cleaner.interval = 0.01
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_job")
        cleaner.start()
        blocked = "SELECT pid FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        with psycopg.connect(dsn, autocommit=True) as looker:
            pid = wait_for(
                lambda: looker.execute(blocked, (blocker.info.backend_pid,)).fetchone(), "the statement to wait"
            )
            looker.execute("SELECT pg_terminate_backend(%s)", pid)
        assert isinstance(cleaner.failed.wait(), DatabaseError)
    wait_for(lambda: id not in ids_of(conn), "a pass on another connection")


# What a cleaner with rules of its own asks for.


def test_filters_apply_before_the_limit_and_exclusion_wins(conn: psycopg.Connection, driver: PsycopgDriver) -> None:
    queues = ["keep", "keep", "a", "b", "a", "b"]
    ids = [ended(conn, "completed", 2 * DAY - n * HOUR, queue=queue) for n, queue in enumerate(queues)]
    before = datetime.now(UTC) - HOUR
    assert delete_finalized(driver, before, 10, queues_included=[]) == 0
    assert delete_finalized(driver, before, 10, queues_included=["a"], queues_excluded=["a"]) == 0
    assert delete_finalized(driver, before, 1, queues_excluded=["keep"]) == 1
    assert ids_of(conn) == [*ids[:2], *ids[3:]], "the lowest id first"
    assert delete_finalized(driver, before, 10, queues_included=["b"]) == 2
    assert ids_of(conn) == [*ids[:2], ids[4]]
    assert delete_finalized(driver, before, 10) == 3


def test_only_what_ended_before_the_time_is_deleted_by_lowest_id(
    conn: psycopg.Connection, driver: PsycopgDriver
) -> None:
    states = ("discarded", "cancelled", "completed")
    ids = [ended(conn, state, n * HOUR) for n, state in enumerate(states, 2)]  # the lowest id ended last
    late = ended(conn, "completed", timedelta(0))
    running = insert(conn, "running")
    before = datetime.now(UTC) - HOUR
    assert delete_finalized(driver, before, 2) == 2
    assert ids_of(conn) == [ids[2], late, running]


def test_start_and_stop_from_many_threads(driver: PsycopgDriver) -> None:
    cleaner = make(driver)
    hammer(lambda: cleaner)


def test_two_cleaners_at_once_delete_each_row_once(conn: psycopg.Connection, driver: PsycopgDriver) -> None:
    conn.execute(
        "INSERT INTO river_job (kind, args, state, finalized_at)"
        " SELECT 'k', '{}', 'completed', now() - interval '2 days' FROM generate_series(1, 2000)"
    )
    cleaners = [make(driver) for _ in range(2)]
    counts: list[int] = []
    lock = threading.Lock()

    def work(cleaner: JobCleaner) -> None:
        while count := cleaner._work_batch(100):
            with lock:
                counts.append(count)

    threads = [threading.Thread(target=work, args=(cleaner,)) for cleaner in cleaners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    run_once(cleaners[0])
    assert ids_of(conn) == []
    assert sum(counts) <= 2000
