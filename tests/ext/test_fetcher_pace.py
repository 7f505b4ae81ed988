"""How much the fetcher asks for, and when: leading edge, prefetch, giving back, pause, polls."""

from __future__ import annotations

import ctypes
import threading
import time

import psycopg
import pytest

from tests.ext.fetch_rig import Rig, insert, states, wait_for


@pytest.fixture
def rig(dsn, schema):
    with Rig(dsn, schema) as rig:
        yield rig


def idle(rig, queue, **counters):
    """Waits until the first look at an empty queue is over; the counters then."""
    rig.wait_connected()
    wait_for("the first look", lambda: rig.stats("fetches") + rig.stats("polls") > 0)
    return rig.fetcher.stats()


def test_an_idle_queue_fetches_at_once_on_a_notification_and_falls_silent(rig, conn):
    queue = rig.queue(fetch_poll_interval=60)
    before = idle(rig, queue)
    insert(conn, notify=True)
    rig.finish(rig.pop(queue))  # the poll would take a minute
    wait_for("silence", lambda: not wait_quiet(rig, 0.4))
    assert rig.stats("empty_fetches") - before["empty_fetches"] <= 8  # two repeats, two rechecks; as many of the start


def wait_quiet(rig, seconds):
    """Whether a statement was sent within `seconds`."""
    before, until = rig.fetcher.stats(), time.monotonic() + seconds
    while time.monotonic() < until:
        now = rig.fetcher.stats()
        if now["fetches"] != before["fetches"] or now["polls"] != before["polls"]:
            return True
        time.sleep(0.01)
    return False


def test_a_missed_notification_is_covered_by_the_poll(rig, conn):
    queue = rig.queue(fetch_poll_interval=0.2)
    idle(rig, queue)
    insert(conn)
    rig.finish(rig.pop(queue))


def test_a_commit_after_its_notification_is_found_by_the_rechecks(rig, conn, dsn, schema):
    queue = rig.queue(fetch_poll_interval=60)
    idle(rig, queue)
    conn.execute("SET synchronous_commit = off")  # the rechecks come within a quarter of a second
    for turn in range(1, 21):
        conn.execute("SELECT pg_notify(current_schema() || '.river_insert', '{\"queue\": \"default\"}')")
        wait_for("the notification", lambda turn=turn: rig.stats("notifications") >= turn)
        insert(conn)  # says nothing
        try:
            wait_for("a job in the ring", lambda: rig.fetcher.queue_stats(queue)["ring"], 2)
            break
        except AssertionError:
            conn.execute("TRUNCATE river_job")  # this insert came too late for them, on a busy machine
    else:
        pytest.fail("no recheck found a job in 20 turns")


def test_unstarted_jobs_go_back_after_50_ms_and_the_queue_is_told(rig, conn, dsn, schema):
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f'LISTEN "{schema}.river_insert"')
        ids = insert(conn, 5)
        conn.execute("UPDATE river_job SET attempt = 3, attempted_by = '{x,y,z}' WHERE id = %s", (ids[0],))
        rig.queue(max_workers=5)
        wait_for("giving back", lambda: rig.stats("given_back") >= 5)
        told = next(listener.notifies(timeout=30))
        assert told.payload == '{"queue": "default"}'
    assert not rig.fetcher.stop_fetching(20).unresolved
    rows = conn.execute("SELECT id, state::text, attempt, attempted_by FROM river_job ORDER BY id").fetchall()
    assert rows == [(ids[0], "available", 3, ["x", "y", "z"])] + [(job_id, "available", 0, []) for job_id in ids[1:]]


def test_a_queue_whose_jobs_came_back_rests_and_tries_again(rig, conn):
    insert(conn, 5)
    queue = rig.queue(max_workers=5)
    wait_for("giving back", lambda: rig.stats("given_back") >= 5)
    fetches = rig.stats("fetches")
    wait_for("the next fetch", lambda: rig.stats("fetched") >= 10)
    assert rig.stats("fetches") - fetches <= 6
    assert rig.pop(queue).attempt == 1


def test_a_row_that_changed_hands_is_not_given_back(rig, conn, schema):
    ids = insert(conn, 2)
    conn.execute(  # within the fetch's own transaction, behind its back
        f"""
        CREATE FUNCTION change_hands() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE {schema}.river_job SET attempted_at = attempted_at + interval '1 us' WHERE id = NEW.id;
            RETURN NULL;
        END $$;
        CREATE TRIGGER change_hands AFTER UPDATE ON river_job FOR EACH ROW
            WHEN (NEW.id = {ids[0]} AND NEW.state = 'running' AND pg_trigger_depth() = 0)
            EXECUTE FUNCTION change_hands()
        """
    )
    rig.queue(max_workers=2)
    wait_for("the fetch", lambda: rig.stats("fetched") >= 2)
    assert not rig.fetcher.stop_fetching(20).unresolved
    assert rig.stats("given_back") >= 1
    assert states(conn) == {"running": 1, "available": 1}
    assert conn.execute("SELECT state::text FROM river_job WHERE id = %s", (ids[0],)).fetchone() == ("running",)


def test_nothing_is_prefetched_at_start_nor_for_long_jobs(dsn, schema, conn):
    insert(conn, 60)
    rings, prefetches = set(), set()

    def work(job):
        time.sleep(0.025)
        stats = rig.fetcher.queue_stats(job._row.queue_index)
        rings.add(stats["ring"])
        prefetches.add(stats["prefetch"])

    with Rig(dsn, schema) as rig:
        queue = rig.queue(max_workers=4, work=work)
        wait_for("the end", lambda: rig.fetcher.queue_stats(queue)["done"] == 60, 60)
    assert prefetches == {0}
    assert max(rings) <= 3


def test_prefetch_of_jobs_that_take_a_while_is_what_the_slots_can_start(dsn, schema, conn):
    insert(conn, 100)
    prefetches = set()

    def work(job):
        time.sleep(0.005)
        prefetches.add(rig.fetcher.queue_stats(job._row.queue_index)["prefetch"])

    with Rig(dsn, schema) as rig:
        queue = rig.queue(max_workers=2, work=work)
        wait_for("the end", lambda: rig.fetcher.queue_stats(queue)["done"] == 100, 60)
    assert max(prefetches) <= 2 * 20 / 5


@pytest.mark.parametrize(("prefetch", "most"), [(0, 10), (30, 40)])
def test_prefetch_is_bounded(dsn, schema, conn, prefetch, most):
    insert(conn, 3000)
    seen = 0
    with Rig(dsn, schema) as rig:

        def work(job):
            nonlocal seen
            seen = max(seen, rig.fetcher.queue_stats(job._row.queue_index)["ring"] + 1)

        queue = rig.queue(max_workers=10, work=work, prefetch=prefetch)
        wait_for("the end", lambda: rig.fetcher.queue_stats(queue)["done"] == 3000, 60)
        assert seen <= most
    assert states(conn) == {"running": 3000}


def test_automatic_prefetch_makes_few_fetches_of_short_jobs(dsn, schema, conn):
    insert(conn, 20_000)
    with Rig(dsn, schema) as rig:
        queue = rig.queue(max_workers=100, work=lambda job: None)
        wait_for("the end", lambda: rig.fetcher.queue_stats(queue)["done"] == 20_000, 60)
        assert rig.stats("fetches") < 1000  # some 30 on a quiet machine


def test_threads_grow_to_max_workers_for_blocking_jobs(dsn, schema, conn):
    insert(conn, 40)
    inside, gate = threading.Semaphore(0), threading.Event()

    def work(job):
        inside.release()
        assert gate.wait(60)

    with Rig(dsn, schema) as rig:
        queue = rig.queue(max_workers=40, work=work)
        for _ in range(40):
            assert inside.acquire(timeout=30), rig.fetcher.queue_stats(queue)
        assert rig.fetcher.queue_stats(queue)["threads"] == 40
        gate.set()


def test_pause_gives_back_and_resume_fetches(rig, conn):
    insert(conn, 5)
    queue = rig.queue(max_workers=5)
    wait_for("the ring", lambda: rig.fetcher.queue_stats(queue)["ring"] == 5)
    rig.fetcher.pause(queue)
    wait_for("the giving back", lambda: states(conn) == {"available": 5})
    assert not wait_quiet(rig, 0.2)
    rig.fetcher.resume(queue)
    assert rig.pop(queue).attempt == 1


def test_a_worker_that_waits_for_the_gil_is_joined_by_another_thread(dsn, schema, conn):
    hold_gil = ctypes.PyDLL(None).usleep  # PyDLL keeps it
    later = (
        b"SELECT pg_sleep(0.02); INSERT INTO river_job (kind, args, max_attempts) VALUES ('plain', '{}', 25);"
        b" SELECT pg_notify(current_schema() || '.river_insert', '{\"queue\": \"default\"}')"
    )

    def joined():
        conn.pgconn.send_query(later)  # the job comes while nobody can take it
        hold_gil(100_000)
        while conn.pgconn.get_result() is not None:
            pass
        return rig.stats("joins")

    with Rig(dsn, schema) as rig:
        queue = rig.queue(work=lambda job: None, fetch_poll_interval=60)
        insert(conn, notify=True)
        wait_for("a worker thread", lambda: rig.fetcher.queue_stats(queue)["done"])
        wait_for("a join", joined)


def test_a_queue_added_paused_fetches_nothing(rig, conn):
    insert(conn, notify=True)
    queue = rig.queue(paused=True, fetch_poll_interval=0.05)
    rig.wait_connected()
    assert not wait_quiet(rig, 0.2)
    rig.fetcher.resume(queue)
    rig.pop(queue)


def test_removing_a_queue_gives_back_and_ends_its_threads_only(dsn, schema, conn):
    insert(conn, 5)
    insert(conn, 5, queue="other")
    with Rig(dsn, schema) as rig:
        queue, other = rig.queue(max_workers=5), rig.queue("other", max_workers=5)
        job = rig.pop(queue)
        rig.fetcher.remove_queue(queue)
        back = "SELECT count(*) FROM river_job WHERE queue = 'default' AND state = 'available'"
        wait_for("the giving back", lambda: conn.execute(back).fetchone() == (4,))
        assert rig.fetcher.pop(queue) is None
        rig.finish(job)
        rig.pop(other)
        again = rig.queue()
        assert again != queue
        rig.pop(again)


def test_a_thread_waiting_in_pop_ends_when_its_queue_is_removed(rig):
    queue = rig.queue()
    popped = []
    rig.fetcher.worker_started(queue, 1)
    thread = threading.Thread(target=lambda: popped.append(rig.fetcher.pop(queue)))
    thread.start()
    rig.wait_connected()
    rig.fetcher.remove_queue(queue)
    thread.join(30)
    assert popped == [None]
    assert rig.fetcher.queue_stats(queue)["threads"] == 0


def test_hold_stops_fetching_until_it_ends(rig, conn):
    rig.fetcher.hold(True)
    insert(conn, notify=True)
    queue = rig.queue(fetch_poll_interval=0.05)
    rig.wait_connected()
    assert not wait_quiet(rig, 0.2)
    rig.fetcher.hold(False)
    rig.pop(queue)


def test_a_thousand_queues_need_one_connection_and_few_statements(dsn, schema, conn):
    with Rig(dsn, schema) as rig:
        queues = [rig.queue(f"q{n}", fetch_poll_interval=1.0) for n in range(1000)]
        rig.wait_connected()
        wait_for("the first poll", lambda: rig.stats("polls") >= 1)
        before = rig.fetcher.stats()
        started = time.monotonic()
        insert(conn, queue="q123")
        insert(conn, queue="q777", notify=True)
        rig.finish(rig.pop(queues[777]))
        rig.finish(rig.pop(queues[123]))
        wait_for("two more polls", lambda: rig.stats("polls") >= before["polls"] + 2)
        after = rig.fetcher.stats()
        seconds = time.monotonic() - started
        assert after["polls"] - before["polls"] <= 3 * seconds + 4
        assert after["fetches"] - before["fetches"] < 200
        count = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (rig.name[:63],)
        ).fetchone()
        assert count == (1,)


def test_a_stuck_job_s_slot_serves_others(rig, conn):
    insert(conn, 2)
    queue = rig.queue(max_workers=1)
    stuck = rig.pop(queue)
    rig.fetcher.release_slot(stuck._row)
    rig.fetcher.release_slot(stuck._row)
    assert rig.fetcher.queue_stats(queue)["started"] == 0
    second = rig.pop(queue)
    rig.finish(stuck)  # ends at last: its slot is not given back a second time
    assert rig.fetcher.queue_stats(queue)["started"] == 1
    rig.finish(second)
    assert rig.fetcher.queue_stats(queue)["started"] == 0


def test_idle_threads_beyond_two_end_after_ten_seconds(rig):
    queue = rig.queue(fetch_poll_interval=60)
    rig.fetcher.worker_started(queue, 5)
    threads = [threading.Thread(target=rig.fetcher.pop, args=(queue,)) for _ in range(5)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    wait_for("three to end", lambda: rig.fetcher.queue_stats(queue)["threads"] == 2, 60)
    assert time.monotonic() - started > 9
    wait_for("their ends", lambda: sum(thread.is_alive() for thread in threads) == 2)
    rig.fetcher.remove_queue(queue)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_threads_that_could_not_be_started_are_asked_for_again(dsn, schema, conn):
    insert(conn, 3)
    with Rig(dsn, schema) as rig:
        queue = rig.queue(max_workers=3)
        rig.fetcher.worker_started(queue, 1)
        rig.fetcher.worker_started(queue, -1)
        rig.works[queue] = lambda job: None
        wait_for("the jobs to run", lambda: rig.fetcher.queue_stats(queue)["done"] == 3)


def test_jobs_go_back_without_notifying_where_the_server_cannot(dsn, schema, conn):
    insert(conn, 2)
    with Rig(dsn, schema, notify=False) as rig, psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f'LISTEN "{schema}.river_insert"')
        queue = rig.queue(max_workers=2)
        wait_for("the ring", lambda: rig.fetcher.queue_stats(queue)["ring"] == 2)
        assert not rig.fetcher.stop_fetching(20).unresolved
        assert states(conn) == {"available": 2}
        listener.execute("SELECT 1")
        assert list(listener.notifies(timeout=0.1)) == []
