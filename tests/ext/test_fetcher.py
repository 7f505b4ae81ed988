"""The compiled fetcher on a real server: order, slots, rings, stop."""

from __future__ import annotations

import threading
import time
import weakref

import psycopg
import pytest

from river_fast._ext import fetcher as compiled
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.job import Job
from river_fast.job_row import COLUMNS
from tests.ext.fetch_rig import STATEMENTS, Rig, insert, states, wait_for


@pytest.fixture
def rig(dsn, schema):
    with Rig(dsn, schema) as rig:
        yield rig


def test_jobs_start_by_priority_then_scheduled_at_then_id(rig, conn):
    ids = insert(conn, 6)
    conn.execute("UPDATE river_job SET priority = 4 WHERE id = %s", (ids[0],))
    conn.execute("UPDATE river_job SET priority = 2 WHERE id = %s", (ids[1],))
    conn.execute("UPDATE river_job SET scheduled_at = now() - interval '1 hour' WHERE id = %s", (ids[5],))
    queue = rig.queue()
    assert [rig.pop(queue).id for _ in ids] == [ids[5], ids[2], ids[3], ids[4], ids[1], ids[0]]


def test_a_fetched_row_is_the_stored_row(rig, conn):
    (job_id,) = insert(
        conn,
        args='{"text": "żółć", "n": 18446744073709551616}',
        tags=["a", "b"],
        metadata='{"k": 1}',
        max_attempts=7,
        priority=3,
    )
    queue = rig.queue()
    job = rig.pop(queue)
    assert type(job) is Job
    assert rig.active[queue] == {job_id: job}
    with psycopg.connect(rig.dsn) as other:
        stored = other.cursor(binary=True)
        schema = conn.execute("SELECT current_schema()").fetchone()[0]
        stored.execute(
            f"SELECT {', '.join(f'{c}::text' for c in COLUMNS)} FROM {schema}.river_job WHERE id = %s", (job_id,)
        )
        row = dict(zip(COLUMNS, stored.fetchone(), strict=True))
    assert (job.id, job.kind, job.queue, job.state, job.attempt) == (job_id, "plain", "default", "running", 1)
    assert (job.max_attempts, job.priority, job.tags, job.metadata) == (7, 3, ["a", "b"], {"k": 1})
    assert job.encoded_args.decode() == row["args"]
    assert job.attempted_by == ["rig"]
    assert job.finalized_at is None
    assert job._row.field(COLUMNS.index("state")) == b"running"
    assert job._row.field(COLUMNS.index("queue")) == b"default"
    assert job.attempted_at == conn.execute("SELECT attempted_at FROM river_job").fetchone()[0]
    assert job.created_at == conn.execute("SELECT created_at FROM river_job").fetchone()[0]
    assert job._row.kind_index == 0
    assert job._row.undecodable is None
    assert not job._row.cancelled
    assert job._row.started_ns <= time.monotonic_ns()
    with pytest.raises(IndexError):
        job._row.field(16)


def test_max_workers_is_exact_under_many_threads(dsn, schema, conn):
    insert(conn, 400)
    lock, running, most, done = threading.Lock(), 0, 0, threading.Semaphore(0)
    full = threading.Event()  # nobody ends before seven run at once

    def work(job):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 7:
                full.set()
        assert full.wait(20)
        time.sleep(0.001)
        with lock:
            running -= 1
        done.release()

    with Rig(dsn, schema) as rig:
        queue = rig.queue(max_workers=7, work=work, max_threads=16)
        for _ in range(400):
            assert done.acquire(timeout=20)
        wait_for("all slots free", lambda: rig.fetcher.queue_stats(queue)["started"] == 0)
        assert most == 7
        assert rig.fetcher.queue_stats(queue)["done"] == 400
        assert rig.active[queue] == {}
    assert states(conn) == {"running": 400}  # nobody completes here


def test_an_async_kind_goes_to_the_loop_and_an_unknown_one_to_the_threads(rig, conn):
    insert(conn, 2, kind="loop")
    insert(conn, 1, kind="nobody knows")
    queue = rig.queue()
    wait_for("the loop's ring", lambda: rig.fetcher.queue_stats(queue)["loop_ring"] == 2)
    wait_for("the loop to be told", lambda: rig.fetcher.take_loop_ready() == [queue])
    assert rig.fetcher.take_loop_ready() == []
    jobs = [rig.try_pop(queue), rig.try_pop(queue)]
    assert [job._row.kind_index for job in jobs] == [1, 1]
    assert rig.fetcher.try_pop(queue) is None
    unknown = rig.pop(queue)
    assert (unknown.kind, unknown._row.kind_index) == ("nobody knows", -1)


def test_the_loop_hears_of_a_slot_that_came_free(rig, conn):
    insert(conn, 3, kind="loop")
    queue = rig.queue(max_workers=2, prefetch=0)
    wait_for("two jobs", lambda: rig.fetcher.queue_stats(queue)["loop_ring"] == 2)
    rig.fetcher.take_loop_ready()
    first, second = rig.try_pop(queue), rig.try_pop(queue)
    assert rig.fetcher.try_pop(queue) is None
    rig.finish(first)
    wait_for("the third job", lambda: queue in rig.fetcher.take_loop_ready())
    assert rig.try_pop(queue).id != second.id


def test_stop_gives_unstarted_jobs_back_and_ends_every_pop(dsn, schema, conn):
    insert(conn, 40)
    with Rig(dsn, schema) as rig:
        queue = rig.queue(max_workers=40, ring_wait=60)
        wait_for("jobs in the ring", lambda: rig.fetcher.queue_stats(queue)["ring"] == 40)
        job = rig.fetcher.pop(queue)
        answer = rig.fetcher.stop_fetching(20)
        assert answer.given_back == rig.stats("given_back") == 39
        assert not answer.unresolved
        again = rig.fetcher.stop_fetching(0)
        assert (again.given_back, again.unresolved) == (answer.given_back, False)
        assert rig.fetcher.pop(queue) is None
        assert rig.fetcher.try_pop(queue) is None
        assert rig.fetcher.unstarted(1) == []
    rows = conn.execute("SELECT id, state::text, attempt, attempted_by FROM river_job ORDER BY id").fetchall()
    assert rows[0] == (job.id, "running", 1, ["rig"])
    assert {row[1:3] for row in rows[1:]} == {("available", 0)}
    assert all(row[3] == [] for row in rows[1:])


def test_stop_works_before_run_and_after_close(dsn, schema):
    rig = Rig(dsn, schema)
    queue = rig.queue()
    answer = rig.fetcher.stop_fetching(0)
    assert (answer.given_back, answer.unresolved) == (0, False)
    assert rig.fetcher.pop(queue) is None
    assert rig.fetcher.unstarted(0) == []
    with rig:
        late = rig.queue("late")
        wait_for("the late queue to be closed", lambda: rig.fetcher.pop(late) is None)
    rig.fetcher.close()
    assert not rig.fetcher.stop_fetching(0).unresolved
    with pytest.raises(RuntimeError, match="once"):
        rig.fetcher.run()
    assert rig.fetcher.pop(rig.queue("later still")) is None


def test_close_without_a_stop_gives_back_too(dsn, schema, conn):
    insert(conn, 5)
    with Rig(dsn, schema) as rig:
        queue = rig.queue()
        wait_for("jobs in the ring", lambda: rig.fetcher.queue_stats(queue)["ring"] == 5)
    assert states(conn) == {"available": 5}


def test_unstarted_lists_the_rings(rig, conn):
    ids = insert(conn, 3) + insert(conn, 2, kind="loop")
    queue = rig.queue(ring_wait=60)
    wait_for("jobs", lambda: rig.fetcher.queue_stats(queue)["ring"] + rig.fetcher.queue_stats(queue)["loop_ring"] == 5)
    held = rig.fetcher.unstarted(30)
    assert sorted(job_id for job_id, _ in held) == ids
    assert len({at for _, at in held}) == 1


def test_a_queue_that_is_not_there_is_an_index_error(rig):
    for call in (
        rig.fetcher.pop,
        rig.fetcher.try_pop,
        rig.fetcher.pause,
        rig.fetcher.queue_stats,
        rig.fetcher.remove_queue,
    ):
        for index in (-1, 0, 2**40):
            with pytest.raises(IndexError):
                call(index)


def test_constants_are_told_apart():
    assert len({compiled.GROW, compiled.NOTICE, compiled.CONNECTED, compiled.LOST}) == 4


def test_a_row_or_queue_never_seen_is_refused_not_read(rig):
    assert rig.fetcher.queue_stats(rig.queue())["mean_run_ns"] == -1
    with pytest.raises(TypeError):
        compiled.FetchedRow()
    empty = compiled.FetchedRow.__new__(compiled.FetchedRow)
    rig.fetcher.finish(empty)  # holds no slot
    assert (empty.id, empty.kind, empty.encoded_args) == (0, "", b"")
    with pytest.raises(AttributeError):
        empty.field(COLUMNS.index("queue"))


def test_the_form_without_ctid_fetches_the_same(dsn, schema, conn):
    ids = insert(conn, 5)
    conn.execute("UPDATE river_job SET priority = 2 WHERE id = %s", (ids[0],))
    driver = PsycopgDriver(dsn, schema)
    statements = {name: driver.statement_text(name) for name in STATEMENTS}
    statements["job_get_available"] = driver.statement_text("job_get_available_by_id")
    driver.close()
    with Rig(dsn, schema, statements=statements) as rig:
        queue = rig.queue()
        jobs = [rig.pop(queue) for _ in ids]
    assert [job.id for job in jobs] == [*ids[1:], ids[0]]
    assert {(job.attempt, tuple(job.attempted_by)) for job in jobs} == {(1, ("rig",))}


def test_a_job_that_nobody_holds_is_freed(rig, conn):
    insert(conn, 20)
    queue = rig.queue()
    for _ in range(20):
        job = rig.pop(queue)
        rig.finish(job)
        seen = weakref.ref(job)
        del job
        assert seen() is None
