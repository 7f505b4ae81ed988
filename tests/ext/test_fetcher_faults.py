"""What the fetcher does when the world fails: lost connections, held locks, refused statements, forks."""

from __future__ import annotations

import os
import threading
import time
from functools import partial

import psycopg
import pytest

from river_fast._ext import fetcher as compiled
from river_fast.errors import ForkedClientError
from tests.ext.fetch_rig import Rig, insert, states, wait_for


@pytest.fixture
def rig(dsn, schema):
    with Rig(dsn, schema) as rig:
        yield rig


def lock_key(schema: str) -> int:
    return int(schema[2:], 16)


def lock_holders(conn, schema):
    key = lock_key(schema)
    return conn.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND classid = %s AND objid = %s AND objsubid = 1",
        (key >> 32, key & 0xFFFFFFFF),
    ).fetchone()[0]


def test_a_backend_that_is_killed_idle_is_replaced_and_the_lock_had_again(dsn, schema, conn):
    with Rig(dsn, schema, lock_key=lock_key(schema)) as rig:
        queue = rig.queue(fetch_poll_interval=60)
        rig.wait_connected()
        assert lock_holders(conn, schema) == 1
        rig.kill_backend()
        wait_for("the loss", rig.lost)
        insert(conn)  # nobody is told: the reconnect asks
        rig.wait_connected(2)
        assert [number for _, _, number, _ in rig.connected()] == [1, 0]
        assert lock_holders(conn, schema) == 1
        rig.finish(rig.pop(queue))
        insert(conn, notify=True)  # LISTEN is back
        rig.finish(rig.pop(queue))
        assert rig.stats("reconnects") == 1
    wait_for("the lock to be free", lambda: lock_holders(conn, schema) == 0)


def test_a_backend_that_is_killed_in_a_fetch_loses_no_other_fetch(dsn, schema, conn, rig):
    queue = rig.queue(fetch_poll_interval=0.1)
    rig.wait_connected()
    with psycopg.connect(dsn, autocommit=False, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_job")
        wait_for("the fetch to wait for the lock", lambda: waiting(dsn, rig))
        rig.kill_backend()
        wait_for("the loss", rig.lost)
        blocker.rollback()
    insert(conn, 3)
    for _ in range(3):
        rig.finish(rig.pop(queue))
    assert rig.stats("lost_fetches") >= 1


def waiting(dsn, rig):
    with psycopg.connect(dsn, autocommit=True) as other:
        return other.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'",
            (rig.name[:63],),
        ).fetchone()


def test_a_second_fetcher_under_the_same_lock_waits_for_the_first(dsn, schema, conn):
    with Rig(dsn, schema, lock_key=lock_key(schema)) as first:
        first.queue()
        first.wait_connected()
        with Rig(dsn, schema, lock_key=lock_key(schema)) as second:
            second.queue(fetch_poll_interval=0.05)
            wait_for(
                "the second's session",
                lambda: conn.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND query LIKE '%%advisory%%'",
                    (second.name[:63],),
                ).fetchone(),
            )
            assert second.connected() == []
            assert second.stats("fetches") + second.stats("polls") == 0
            first.fetcher.close()
            second.wait_connected()
            insert(conn)
            wait_for("a fetch", lambda: second.stats("fetched"))


def test_the_waiting_for_the_lock_ends_with_close(dsn, schema):
    with Rig(dsn, schema, lock_key=lock_key(schema)) as first:
        first.wait_connected()
        with Rig(dsn, schema, lock_key=lock_key(schema)) as second:  # its end asserts that its threads end
            second.queue()


def test_a_stop_cancels_a_fetch_that_a_lock_holds_up(dsn, schema, conn, rig):
    insert(conn, 3)
    rig.fetcher.hold(True)
    queue = rig.queue(fetch_poll_interval=0.1)
    rig.wait_connected()
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_job")
        rig.fetcher.hold(False)
        wait_for("the fetch to wait for the lock", lambda: waiting(dsn, rig))
        started = time.monotonic()
        answer = rig.fetcher.stop_fetching(0.3)
        assert 0.3 <= time.monotonic() - started < 15
        assert answer.given_back == 0
        assert rig.fetcher.pop(queue) is None
        wait_for("the backend to be idle", lambda: not waiting(dsn, rig))
    assert states(conn) == {"available": 3}
    if not answer.unresolved:  # else the answer to the cancel came too late, on a busy machine
        assert rig.lost() == []


def test_a_stop_with_jobs_in_the_ring_and_no_server_answers_in_time(dsn, schema, conn):
    insert(conn, 5)
    conn.execute(
        f"""
        CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock({lock_key(schema)});
            RETURN NEW;
        END $$;
        CREATE TRIGGER hang BEFORE UPDATE ON river_job FOR EACH ROW
            WHEN (NEW.state = 'available') EXECUTE FUNCTION hang()
        """
    )
    with Rig(dsn, schema) as rig, psycopg.connect(dsn) as blocker:
        blocker.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(schema),))  # no job can be given back
        queue = rig.queue(max_workers=5)
        wait_for("the ring", lambda: rig.stats("fetched") == 5)
        started = time.monotonic()
        answer = rig.fetcher.stop_fetching(0.3)
        assert time.monotonic() - started < 15
        assert (answer.given_back, answer.unresolved) == (0, True)
        assert rig.fetcher.pop(queue) is None
        assert rig.fetcher.unstarted(1) in ([], None)


def test_a_missing_table_is_tried_once_a_second_and_found_when_it_comes(dsn, schema, conn, rig):
    queue = rig.queue(fetch_poll_interval=0.02)
    rig.wait_connected()
    conn.execute("ALTER TABLE river_job RENAME TO river_gone")
    wait_for("the refusal", lambda: rig.stats("fetch_errors"))
    before, started = rig.stats("fetch_errors"), time.monotonic()
    wait_for("three more", lambda: rig.stats("fetch_errors") >= before + 3)
    assert time.monotonic() - started > 1.9
    refusals = [notice for notice in rig.notices if notice[0] == compiled.NOTICE and "42P01" in notice[3]]
    assert {(number, "river_job" in text) for _, _, number, text in refusals} == {(40, True)}
    assert len(refusals) < 3
    conn.execute("ALTER TABLE river_gone RENAME TO river_job")
    insert(conn)
    rig.finish(rig.pop(queue))


def test_a_server_that_is_not_there_is_tried_at_most_twice_a_second(dsn, schema):
    with Rig(dsn, schema, conninfo=b"host=127.0.0.1 port=1 connect_timeout=2 password=s3cret") as rig:
        rig.queue()
        wait_for("a notice", lambda: rig.notices)
        assert rig.notices[0][0] == compiled.NOTICE
        assert all("s3cret" not in text for *_, text in rig.notices)
        assert rig.fetcher.unstarted(2) == []
        assert not rig.fetcher.stop_fetching(20).unresolved


def test_garbage_notifications_are_counted_and_ignored(dsn, schema, conn, rig):
    queue = rig.queue(fetch_poll_interval=60)
    rig.wait_connected()
    garbage = [
        "",
        "x",
        "{",
        '{"queue"',
        '{"queue":',
        '{"queue": 5}',
        '{"queue": "',
        '{"queue": "\\',
        '{"queue": "\\u12',
        "[" * 3000,
        '"queue"',
        '{"a": {"queue": "default"}}',
        '"' * 501,
        "\\" * 99,
        '{"queue": "' + "n" * 4000 + '"}',
        "null",
        '{"queue": null}',
    ]
    for text in garbage:
        conn.execute("SELECT pg_notify(%s, %s)", (f"{schema}.river_insert", text))
    wait_for("the garbage", lambda: rig.stats("garbage") == len(garbage))
    insert(conn)
    conn.execute(
        "SELECT pg_notify(%s, %s)",
        (f"{schema}.river_insert", ' {"a": [1, {"queue": "no"}], "q": "x\\"", "queue" : "d\\u0065fault"}'),
    )
    rig.finish(rig.pop(queue))


def test_unknown_queues_in_notifications_are_ignored(conn, rig, schema):
    rig.queue(fetch_poll_interval=60)
    rig.wait_connected()
    before = rig.stats("fetches")
    conn.execute("SELECT pg_notify(%s, %s)", (f"{schema}.river_insert", '{"queue": "elsewhere"}'))
    wait_for("the notification", lambda: rig.stats("notifications") == 1)
    assert rig.stats("fetches") - before <= 1
    assert rig.stats("garbage") == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_told_and_leaves_the_parent_s_connection_alone(conn, rig):
    queue = rig.queue(fetch_poll_interval=60)
    rig.wait_connected()
    pid = os.fork()
    if pid == 0:
        status = 0
        calls = [
            lambda: rig.fetcher.pop(queue),
            lambda: rig.fetcher.stop_fetching(0),
            rig.fetcher.close,
            rig.fetcher.run,
            lambda: rig.fetcher.cancel(1),
            lambda: rig.fetcher.unstarted(0),
            lambda: rig.fetcher.take_attention(0),
        ]
        for call in calls:
            try:
                call()
                status = 1
            except ForkedClientError:
                pass
        rig.fetcher = None  # its end must not close the parent's socket
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    insert(conn, notify=True)
    rig.finish(rig.pop(queue))
    assert rig.lost() == []


def stop(rig, answers):
    answers.append(rig.fetcher.stop_fetching(20))


def test_many_stops_and_closes_at_once_agree(dsn, schema, conn):
    for _ in range(15):
        insert(conn, 20)
        with Rig(dsn, schema) as rig:
            queue = rig.queue(max_workers=20, work=lambda job: None)
            wait_for("a job", lambda: rig.stats("fetched"))
            answers: list[compiled.StopFetch] = []
            calls = [partial(stop, rig, answers), rig.fetcher.close] * 4
            threads = [threading.Thread(target=call) for call in calls]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(40)
            assert len({(answer.given_back, answer.unresolved) for answer in answers}) == 1
            assert not answers[0].unresolved
            assert rig.fetcher.pop(queue) is None
            done = rig.fetcher.queue_stats(queue)["done"]
        assert states(conn).get("running", 0) == done
        conn.execute("TRUNCATE river_job")


def test_nothing_is_left_on_the_server(dsn, schema, conn):
    with Rig(dsn, schema) as rig:
        rig.queue()
        rig.wait_connected()
    wait_for(
        "the session's end",
        lambda: (
            not conn.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = %s", (rig.name[:63],)).fetchone()
        ),
    )


def test_under_a_storm_of_killed_backends_every_claim_starts_at_most_once(dsn, schema, conn):
    total = 6000
    runs: list[tuple[int, int, int]] = []
    with Rig(dsn, schema) as rig:
        queue = rig.queue(max_workers=50, work=lambda job: runs.append((job.id, job.attempt, job._row.attempted_at_us)))
        for kills in range(1, 6):
            insert(conn, total // 5, notify=True)
            wait_for("most of them to run", lambda least=kills * 500: len(runs) > least)
            rig.kill_backend()
            rig.wait_connected(kills + 1)
        wait_for("the rest", lambda: states(conn).get("available", 0) == 0, 60)
        wait_for("the rings to empty", lambda: rig.fetcher.queue_stats(queue)["ring"] == 0)
        wait_for("the last one", lambda: rig.fetcher.queue_stats(queue)["started"] == 0)
        stats = rig.fetcher.stats()
    assert len(set(runs)) == len(runs)
    rows = conn.execute(
        "SELECT id, attempt, (extract(epoch FROM attempted_at - '2000-01-01Z') * 1000000)::bigint FROM river_job"
    )
    unheld = set(rows.fetchall()) - set(runs)  # claimed by a fetch whose reply was lost: reclaim's business
    assert stats["lost_fetches"] > 0 or not unheld
    assert len(unheld) <= 5000 * stats["lost_fetches"]
    assert stats["reconnects"] == 5
