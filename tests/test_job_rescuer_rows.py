"""The job rescuer among rows that are locked, odd, or moving: it stops at none, and takes none that is not stuck."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance import job_rescuer as job_rescuer_module
from river_fast.maintenance.job_rescuer import JobRescuer
from tests.fix_maintenance import driver, run_once
from tests.fix_rescuer import make, rescuer, state, stuck
from tests.fix_rows import column, insert
from tests.fix_scheduler import wait_for

__all__ = ["driver", "rescuer"]



def test_a_batch_full_of_jobs_to_be_left_does_not_keep_the_later_ones(
    conn: psycopg.Connection, rescuer: JobRescuer
) -> None:
    """River: #1318."""
    left = [stuck(conn, "endless") for _ in range(7)]
    taken = stuck(conn)
    rescuer._batch_size.current = 3
    assert run_once(rescuer) == 8
    assert state(conn, taken) == "retryable"
    assert {state(conn, id) for id in left} == {"running"}


def test_rows_nobody_can_decode_are_rescued_like_others(conn: psycopg.Connection, rescuer: JobRescuer) -> None:
    ids = [stuck(conn) for _ in range(6)] + [stuck(conn, "per_job")]
    for id, change in zip(
        ids,
        (
            "errors = ARRAY[NULL::jsonb]", "tags = ARRAY[NULL::varchar]", "attempted_at = '-infinity'",
            "metadata = '[1]'", "metadata = '{\"river:rescue_count\": \"many\"}'", "scheduled_at = 'infinity'",
            "attempted_by = NULL, errors = ARRAY['7'::jsonb], metadata = '\"text\"'",
        ),
        strict=True,
    ):  # fmt: skip
        conn.execute(f"UPDATE river_job SET {change} WHERE id = {id}")
    assert run_once(rescuer) == 7
    assert [state(conn, id) for id in ids] == ["retryable"] * 7
    assert column(conn, ids[4], "metadata") == {"river:rescue_count": 1}
    assert column(conn, ids[3], "metadata") == {"river:rescue_count": 1}


def test_a_row_the_database_will_not_have_rescued_does_not_keep_the_others(
    conn: psycopg.Connection, rescuer: JobRescuer
) -> None:
    """Errors of two dimensions, which nothing can be appended to; a mask that counts retryable and not running."""
    bad = stuck(conn)
    conn.execute("UPDATE river_job SET errors = ARRAY[ARRAY['{}'::jsonb]] WHERE id = %s", (bad,))
    twin = stuck(conn, unique_key=b"k", unique_states="00100000")
    insert(conn, "retryable", unique_key=b"k", unique_states="00100000")
    for _ in range(2):
        others = [stuck(conn) for _ in range(3)]
        run_once(rescuer)
        assert [state(conn, id) for id in others] == ["retryable"] * 3
        assert (state(conn, bad), state(conn, twin)) == ("running", "running")
    conn.execute("UPDATE river_job SET errors = NULL WHERE id = %s", (bad,))
    run_once(rescuer)
    assert state(conn, bad) == "retryable"


def test_a_row_that_moved_on_since_it_was_selected_is_left_as_it_is(
    conn: psycopg.Connection, rescuer: JobRescuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """River up to 0.47 overwrote finished jobs (#1302)."""
    ids = [stuck(conn) for _ in range(6)]
    done, again, refreshed, cancelled, deleted, still = ids
    whole = rescuer._write_all

    def meanwhile(rescues: Any) -> None:
        conn.execute("UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = %s", (done,))
        conn.execute("UPDATE river_job SET attempt = 2, attempted_at = now() WHERE id = %s", (again,))
        conn.execute("UPDATE river_job SET attempted_at = now() WHERE id = %s", (refreshed,))
        conn.execute("UPDATE river_job SET metadata = '{\"cancel_attempted_at\": 1}' WHERE id = %s", (cancelled,))
        conn.execute("DELETE FROM river_job WHERE id = %s", (deleted,))
        whole(rescues)

    monkeypatch.setattr(rescuer, "_write_all", meanwhile)
    run_once(rescuer)
    assert [state(conn, id) for id in (done, again, refreshed)] == ["completed", "running", "running"]
    assert [column(conn, id, "errors") for id in (done, again, refreshed)] == [None] * 3
    assert (state(conn, cancelled), state(conn, still)) == ("cancelled", "retryable")
    assert rescuer.rescued.wait().keys() == {cancelled, still}


def test_a_row_that_is_being_completed_is_waited_for_last_and_left_as_completed(
    dsn: str, conn: psycopg.Connection, schema: str, rescuer: JobRescuer
) -> None:
    locked, others = stuck(conn), [stuck(conn) for _ in range(3)]
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as other:
        other.execute("UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = %s", (locked,))
        rescuer.start()
        assert rescuer.rescued.wait().keys() == set(others), "nobody waits for it but itself"
        blocked = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        wait_for(lambda: conn.execute(blocked, (other.info.backend_pid,)).fetchone(), "the rescuer to wait")
        other.commit()
    assert rescuer.passed.wait() == 4
    assert state(conn, locked) == "completed"
    assert column(conn, locked, "errors") is None


def test_a_row_that_stays_locked_comes_with_a_later_pass(
    dsn: str, conn: psycopg.Connection, schema: str, rescuer: JobRescuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_rescuer_module, "LOCK_TIMEOUT", 0.05)
    locked, free = stuck(conn), stuck(conn)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as other:
        other.execute("SELECT FROM river_job WHERE id = %s FOR UPDATE", (locked,))
        for _ in range(4):
            run_once(rescuer)
        assert (state(conn, locked), state(conn, free)) == ("running", "retryable")
        assert rescuer._batch_size.current == 10_000, "that was no timeout of a batch"
    run_once(rescuer)
    assert state(conn, locked) == "retryable"


def test_two_rescuers_at_once_rescue_each_row_once(conn: psycopg.Connection, driver: PsycopgDriver) -> None:
    ids = [stuck(conn) for _ in range(300)]
    rescuers = [make(driver) for _ in range(2)]
    threads = [threading.Thread(target=run_once, args=(rescuer,)) for rescuer in rescuers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    counts = conn.execute("SELECT DISTINCT state::text, cardinality(errors), metadata FROM river_job").fetchall()
    assert counts == [("retryable", 1, {"river:rescue_count": 1})]
    assert len(ids) == 300


def test_the_last_look_before_each_transaction_is_at_the_leadership(
    conn: psycopg.Connection, rescuer: JobRescuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_rescuer_module, "WRITTEN_AT_ONCE", 2)
    ids = [stuck(conn) for _ in range(6)]
    leads = iter([True, True, True])
    rescuer.lead(lambda: next(leads, False), stagger=False)
    run_once(rescuer)
    assert [state(conn, id) for id in ids] == ["retryable"] * 4 + ["running"] * 2


def test_errors_of_the_server_are_survived(conn: psycopg.Connection, rescuer: JobRescuer) -> None:
    id = stuck(conn)
    rescuer.interval = 0.01
    conn.execute("ALTER TABLE river_job RENAME TO away")
    rescuer.start()
    assert rescuer.failed.wait().sqlstate == "42P01"
    conn.execute("ALTER TABLE away RENAME TO river_job")
    wait_for(lambda: state(conn, id) == "retryable", "a pass after the errors")


def test_many_rows_are_rescued_in_one_pass(conn: psycopg.Connection, rescuer: JobRescuer) -> None:
    conn.execute(
        "INSERT INTO river_job (kind, args, state, attempt, attempted_at) SELECT 'plain', '{}', 'running', 1,"
        " now() - interval '2 hours' FROM generate_series(1, 12000)"
    )
    assert run_once(rescuer) == 12_000
    assert conn.execute("SELECT DISTINCT state::text FROM river_job").fetchall() == [("retryable",)]
