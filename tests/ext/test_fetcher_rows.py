"""Rows that somebody else wrote: nothing stored may stop a queue, and a cancel is never lost."""

from __future__ import annotations

import psycopg
import pytest

from river_fast.job_row import COLUMNS
from tests.ext.fetch_rig import Rig, insert, states, wait_for


@pytest.fixture
def rig(dsn, schema):
    with Rig(dsn, schema) as rig:
        yield rig


def test_a_null_in_errors_makes_that_row_undecodable_and_no_other(rig, conn):
    ids = insert(conn, 3)
    conn.execute("UPDATE river_job SET errors = ARRAY[NULL, '{}']::jsonb[] WHERE id = %s", (ids[1],))
    queue = rig.queue()
    jobs = [rig.pop(queue) for _ in ids]
    assert [job._row.undecodable for job in jobs] == [None, "errors", None]
    assert rig.stats("undecodable") == 1
    assert jobs[1].attempt == 1


def test_nulls_and_dimensions_that_can_be_read_are_read(rig, conn):
    ids = insert(conn, 4)
    conn.execute("UPDATE river_job SET tags = ARRAY['a', NULL, 'b'] WHERE id = %s", (ids[0],))
    conn.execute("UPDATE river_job SET tags = '{{a,b},{c,d}}' WHERE id = %s", (ids[1],))
    conn.execute("UPDATE river_job SET errors = '{}' WHERE id = %s", (ids[2],))
    conn.execute(
        """UPDATE river_job SET errors = ARRAY['{"at": "x", "error": 5}', '7']::jsonb[] WHERE id = %s""", (ids[3],)
    )
    queue = rig.queue()
    jobs = [rig.pop(queue) for _ in ids]
    assert [job._row.undecodable for job in jobs] == [None] * 4
    assert jobs[0].tags == ["a", "b"]
    assert jobs[1].tags == ["a", "b", "c", "d"]
    assert [error.error for error in jobs[3].errors] == ["5", "7"]


def test_strange_times_metadata_and_args_are_fetched(rig, conn):
    insert(conn, 1, scheduled_at="-infinity", metadata='"text"', args="[1]")
    insert(conn, 1, created_at="infinity", metadata="null", args="null")
    queue = rig.queue()
    first, second = rig.pop(queue), rig.pop(queue)
    assert (first.encoded_args, first.metadata) == (b"[1]", {})
    assert (second.encoded_args, second.metadata) == (b"null", {})
    assert first.scheduled_at.year == 1
    assert second.created_at.year == 9999


def test_an_attempt_at_the_type_s_end_does_not_starve_the_queue(rig, conn):
    ids = insert(conn, 3, max_attempts=32767)
    conn.execute("UPDATE river_job SET attempt = 32767 WHERE id = %s", (ids[0],))
    conn.execute("UPDATE river_job SET attempt = 32766 WHERE id = %s", (ids[1],))
    queue = rig.queue()
    assert [(rig.pop(queue).id, attempt) for attempt in (32767, 1)] == [(ids[1], 32767), (ids[2], 1)]
    assert states(conn) == {"available": 1, "running": 2}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("NULL", ["rig"]),
        ("'{}'", ["rig"]),
        ("'{a,b}'", ["a", "b", "rig"]),
        ("array_fill('x'::text, ARRAY[99])", ["x"] * 99 + ["rig"]),
        ("array_fill('x'::text, ARRAY[100])", ["x"] * 99 + ["rig"]),
        ("ARRAY['old'] || array_fill('x'::text, ARRAY[300])", ["x"] * 99 + ["rig"]),
        ("'[5:6]={a,b}'", ["a", "b", "rig"]),
        ("'{{a,b},{c,d}}'", ["rig"]),
    ],
)
def test_attempted_by_keeps_the_newest_hundred(rig, conn, before, after):
    insert(conn)
    conn.execute(f"UPDATE river_job SET attempted_by = {before}")
    assert rig.pop(rig.queue()).attempted_by == after


def test_huge_rows_are_fetched_within_a_byte_budget(rig, conn):
    body = "('{\"a\": \"' || repeat('x', 8000000) || '\"}')::jsonb"
    insert(conn)
    # before the queue is there: what is locked while it is given back is left to the liveness service, which no rig has
    conn.execute(f"UPDATE river_job SET args = {body}")
    queue = rig.queue(max_workers=100)
    job = rig.pop(queue)
    assert len(job.encoded_args) == 8_000_009
    before = rig.stats("fetches")
    conn.execute(f"INSERT INTO river_job (kind, args) SELECT 'plain', {body} FROM generate_series(1, 20)")
    for _ in range(20):
        rig.finish(rig.pop(queue))
    assert rig.stats("fetches") - before >= 3  # 8 rows of 8 MB are 64 MB


def test_a_cancel_marks_the_job_in_the_ring(rig, conn):
    ids = insert(conn, 2)
    queue = rig.queue(ring_wait=60)
    wait_for("the ring", lambda: rig.fetcher.queue_stats(queue)["ring"] == 2)
    rig.fetcher.cancel(ids[1])
    jobs = {job.id: job for job in (rig.pop(queue), rig.pop(queue))}
    assert not jobs[ids[0]]._row.cancelled
    assert jobs[ids[1]]._row.cancelled


def test_a_cancel_is_for_the_run_that_was_fetched_before_it(rig, conn):
    rig.fetcher.cancel(1)
    (job_id,) = insert(conn)
    assert job_id == 1
    assert not rig.pop(rig.queue())._row.cancelled


def test_a_cancelled_job_is_not_given_back_by_the_stop(rig, conn):
    ids = insert(conn, 3)
    queue = rig.queue(ring_wait=60)
    wait_for("the ring", lambda: rig.fetcher.queue_stats(queue)["ring"] == 3)
    rig.fetcher.cancel(ids[1])
    assert rig.fetcher.stop_fetching(5).given_back == 2
    job = rig.fetcher.pop(queue)
    assert (job.id, job._row.cancelled) == (ids[1], True)
    assert rig.fetcher.pop(queue) is None
    assert states(conn) == {"available": 2, "running": 1}


@pytest.mark.parametrize("how", ["overdue", "stop", "pause", "remove"])
def test_a_cancel_that_only_the_row_knows_of_is_found_when_jobs_are_given_back(rig, conn, how):
    """The notification was lost; the row says `cancel_attempted_at`."""
    ids = insert(conn, 3)
    queue = rig.queue(ring_wait=1 if how == "overdue" else 60)
    wait_for("the ring", lambda: rig.fetcher.queue_stats(queue)["ring"] == 3)
    conn.execute(
        """UPDATE river_job SET metadata = '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}' WHERE id = %s""", (ids[0],)
    )
    act = {
        "overdue": lambda: None,
        "stop": lambda: rig.fetcher.stop_fetching(5),
        "pause": lambda: rig.fetcher.pause(queue),
        "remove": lambda: rig.fetcher.remove_queue(queue),
    }
    act[how]()
    wait_for("the giving back", lambda: states(conn) == {"available": 2, "running": 1})
    job = wait_for("the cancelled job", lambda: rig.fetcher.pop(queue))
    assert (job.id, job._row.cancelled, job.attempt) == (ids[0], True, 1)


def test_the_columns_are_job_py_s(rig, conn, dsn, schema):
    """field(n) is what PostgreSQL sends for the column, byte for byte."""
    (job_id,) = insert(conn, tags=["a"], metadata='{"k": [1]}')
    conn.execute("""UPDATE river_job SET errors = ARRAY['{"error": "e"}']::jsonb[]""")
    row = rig.pop(rig.queue())._row
    with psycopg.connect(dsn) as other:
        raw = other.pgconn.exec_params(
            f'SELECT {", ".join(COLUMNS)} FROM "{schema}".river_job WHERE id = {job_id}'.encode(), [], result_format=1
        )
    assert [row.field(n) for n in range(len(COLUMNS))] == [raw.get_value(0, n) for n in range(len(COLUMNS))]
