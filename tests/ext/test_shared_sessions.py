"""The compiled part where a pooler shares sessions: each operation a transaction that leaves nothing behind.

Here there is no pooler, only its rules: what it must be able to stand is in tests/acceptance/test_pgbouncer.py.
"""

from __future__ import annotations

import re
import time
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from river_fast._ext import completer as compiled
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.job_set_state import JobSetState
from tests.ext.completer_rig import Proxy as Cutter
from tests.ext.completer_rig import error_entry, proxy, rig, start_jobs, until
from tests.ext.fetch_rig import Rig, insert, states, wait_for
from tests.fix_proxy import Proxy

Conn = psycopg.Connection[Any]
MANY = 120  # more than the rig needs for COPY, where there is one
LEAVES = re.compile(rb"\bSET (?!LOCAL )[a-z_]+ = '?\w+'?\s*(;|\0)|\b(PREPARE|LISTEN|TEMP|COPY)\b", re.IGNORECASE)


def begin(dsn: str, schema: str, role: str) -> bytes:
    driver = PsycopgDriver(dsn, schema, pooler="transaction")
    try:
        assert driver.hot_setup(role, ["a", "b"]) == b""
        return driver.hot_begin(role)
    finally:
        driver.close()


@pytest.fixture
def fetching(dsn: str, schema: str) -> dict[str, Any]:
    return {"begin": begin(dsn, schema, "fetcher"), "setup": b""}


@pytest.fixture
def completing(dsn: str, schema: str) -> dict[str, Any]:
    return {"begin": begin(dsn, schema, "completer")}


def in_transaction(conn: Conn, name: str) -> int:
    row = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'", (name[:63],)
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_what_begins_a_transaction_is_local_to_it(dsn: str, schema: str) -> None:
    texts = {role: begin(dsn, schema, role).decode() for role in ("fetcher", "completer")}
    with psycopg.connect(dsn, autocommit=True) as conn:
        for text in texts.values():
            conn.execute(text)
            assert conn.execute("SHOW enable_seqscan").fetchone() == ("off",)
            conn.execute("COMMIT")
        assert conn.execute("SELECT name FROM pg_settings WHERE source = 'session'").fetchall() == []
        conn.execute(texts["completer"])
        found = conn.execute(
            "SELECT current_setting('lock_timeout'), current_setting('enable_nestloop'),"
            " current_setting('transaction_isolation'), current_setting('statement_timeout')"
        ).fetchone()
        assert found == ("500ms", "off", "read committed", "10s")


def test_jobs_are_fetched_and_given_back(dsn: str, schema: str, conn: Conn, fetching: dict[str, Any]) -> None:
    between = Proxy(dsn)
    between.asked = []
    ids = insert(conn, 5)
    with Rig(dsn, schema, conninfo=make_conninfo(between.conninfo).encode(), **fetching) as rig:
        queue = rig.queue(max_workers=5, prefetch=0)
        job = rig.pop(queue)
        assert (job.id, job.attempt) == (ids[0], 1)
        rig.finish(job)
        assert rig.fetcher.stop_fetching(20).given_back == 4
    between.close()
    assert states(conn) == {"running": 1, "available": 4}
    asked = b"".join(between.asked)
    assert b"SET LOCAL enable_seqscan" in asked
    assert LEAVES.search(asked) is None
    assert b"\0job_get_available\0" not in asked, "nothing is prepared under a name"


def test_idle_queues_are_polled_together(dsn: str, schema: str, conn: Conn, fetching: dict[str, Any]) -> None:
    with Rig(dsn, schema, **fetching) as rig:
        queues = [rig.queue(name, fetch_poll_interval=0.1) for name in ("one", "two", "three")]
        rig.wait_connected()
        wait_for("a common poll", lambda: rig.stats("polls"))
        insert(conn, queue="two")
        rig.finish(rig.pop(queues[1]))


def test_a_refused_fetch_is_rolled_back_and_tried_again(
    dsn: str, schema: str, conn: Conn, fetching: dict[str, Any]
) -> None:
    with Rig(dsn, schema, **fetching) as rig:
        queue = rig.queue(fetch_poll_interval=0.02)
        rig.wait_connected()
        conn.execute("ALTER TABLE river_job RENAME TO river_gone")
        wait_for("two refusals", lambda: rig.stats("fetch_errors") >= 2)
        wait_for("the session to be idle", lambda: in_transaction(conn, rig.name) == 0)
        conn.execute("ALTER TABLE river_gone RENAME TO river_job")
        insert(conn)
        rig.finish(rig.pop(queue))
        assert rig.lost() == []
        assert [text for *_, text in rig.notices if "42P01" in text]


def test_a_stop_cancels_a_fetch_that_a_lock_holds_up(
    dsn: str, schema: str, conn: Conn, fetching: dict[str, Any]
) -> None:
    insert(conn, 3)
    with Rig(dsn, schema, **fetching) as rig:
        rig.fetcher.hold(True)
        queue = rig.queue(fetch_poll_interval=0.1)
        rig.wait_connected()
        with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
            blocker.execute("LOCK TABLE river_job")
            rig.fetcher.hold(False)
            wait_for("the fetch to wait for the lock", lambda: in_transaction(conn, rig.name))
            began = time.monotonic()
            answer = rig.fetcher.stop_fetching(0.3)
            assert 0.3 <= time.monotonic() - began < 15
            assert rig.fetcher.pop(queue) is None
            wait_for("the session to be idle", lambda: in_transaction(conn, rig.name) == 0)
        assert states(conn) == {"available": 3}
        if not answer.unresolved:  # else the answer to the cancel came too late, on a busy machine
            assert rig.lost() == []


def test_jobs_whose_fetch_was_not_seen_to_commit_are_not_started(
    dsn: str, schema: str, conn: Conn, fetching: dict[str, Any]
) -> None:
    cutter = Cutter(dsn)
    insert(conn, 3)
    with Rig(dsn, schema, conninfo=cutter.dsn.encode(), **fetching) as rig:
        rig.fetcher.hold(True)
        queue = rig.queue(fetch_poll_interval=0.05)
        rig.wait_connected()
        cutter.cut_after(b"COMMIT\0")
        rig.fetcher.hold(False)
        wait_for("the loss", rig.lost)
        assert cutter.cuts == 1
        assert rig.stats("lost_fetches") == 1
        assert rig.fetcher.queue_stats(queue)["ring"] == 0
        assert states(conn) == {"running": 3}, "the server had committed: reclaiming is for somebody else"
        job_id = insert(conn)[0]
        assert rig.pop(queue).id == job_id
    cutter.close()


def outcomes(count: int) -> list[JobSetState | None]:
    some = [None, JobSetState.error_retryable(60.0, error_entry()), JobSetState.completed(metadata=b'{"a": 1}')]
    return [some[n % 3] for n in range(count)]


@pytest.mark.parametrize("wanted", [False, True])
def test_outcomes_of_every_sort_are_recorded(
    dsn: str, schema: str, conn: Conn, completing: dict[str, Any], wanted: bool
) -> None:
    between = Proxy(dsn)
    between.asked = []
    claims = start_jobs(conn, MANY)
    with rig(dsn, schema, through=between.conninfo, **completing) as completer:
        completer.compiled.want_rows(wanted)
        for claim, outcome in zip(claims, outcomes(MANY), strict=True):
            completer.complete([claim]) if outcome is None else completer.push(claim, outcome)
        stats = completer.settled()
        rows = completer.compiled.take_recorded(0)
    between.close()
    assert (stats["recorded"], stats["copy_flushes"]) == (MANY, 0)
    assert rows is not None
    assert len(rows) == (MANY if wanted else 0)
    assert states(conn) == {"completed": 2 * MANY // 3, "retryable": MANY // 3}
    asked = b"".join(between.asked)
    assert b"SET LOCAL lock_timeout" in asked
    assert LEAVES.search(asked) is None


def test_outcomes_whose_commit_was_not_seen_are_recorded_once(
    dsn: str, schema: str, conn: Conn, completing: dict[str, Any]
) -> None:
    claims = start_jobs(conn, MANY)
    with proxy(dsn) as cutter, rig(dsn, schema, through=cutter.dsn, started=False, **completing) as completer:
        completer.compiled.want_rows(True)
        for claim in claims:
            completer.push(claim, JobSetState.error_retryable(60.0, error_entry()))
        cutter.cut_after(b"COMMIT\0")
        completer.start()
        stats = completer.settled()
        assert cutter.cuts == 1
        rows = completer.compiled.take_recorded(0)
    assert (stats["reconnects"], stats["recorded"]) == (1, MANY)
    assert rows is not None
    assert len(rows) == MANY, "each outcome is told once"
    assert conn.execute("SELECT count(*) FROM river_job WHERE cardinality(errors) <> 1").fetchone() == (0,)


def test_an_outcome_that_only_the_commit_refuses_is_set_aside_and_the_others_recorded(
    dsn: str, schema: str, conn: Conn, completing: dict[str, Any]
) -> None:
    claims = start_jobs(conn, MANY)
    conn.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.id = {claims[7].id} THEN RAISE 'not this one'; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON river_job DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()
        """
    )
    with rig(dsn, schema, **completing) as completer:
        completer.complete(claims)
        until(lambda: completer.stats()["recorded"] == MANY - 1)
        assert completer.compiled.pending(5) == [(claims[7].id, claims[7].attempted_at)]
        conn.execute("DROP TRIGGER refuse ON river_job")
        completer.settled()
        assert (compiled.CONNECTED, 1, "") in completer.attend()
        assert completer.stats()["reconnects"] == 0
    assert states(conn) == {"completed": MANY}


def test_a_locked_row_holds_up_none_of_the_others(
    dsn: str, schema: str, conn: Conn, completing: dict[str, Any]
) -> None:
    claims = start_jobs(conn, MANY)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as locker:
        locker.execute("SELECT FROM river_job WHERE id = %s FOR UPDATE", (claims[0].id,))
        with rig(dsn, schema, **completing) as completer:
            completer.complete(claims)
            until(lambda: completer.stats()["recorded"] == MANY - 1)
            locker.rollback()
            assert completer.settled()["recorded"] == MANY
    assert states(conn) == {"completed": MANY}
