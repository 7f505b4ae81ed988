"""Renewals of attempted_at: the row's own copy, its claim, and outcomes that were pushed before them; heartbeats."""

from __future__ import annotations

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.job_set_state import JobSetState
from river_fast.migrate import Migrator
from tests.ext.completer_rig import FEW, MANY, Conn, both_forms, rig, start_jobs
from tests.ext.fetch_rig import Rig, insert, wait_for

AT = "(extract(epoch FROM attempted_at - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint"


def later(conn: Conn, seconds: int = 60) -> list[tuple[int, int, int]]:
    """Every running row renewed, past the client: its moves."""
    before = dict(conn.execute(f"SELECT id, {AT} FROM river_job WHERE state = 'running'").fetchall())
    conn.execute("UPDATE river_job SET attempted_at = attempted_at + make_interval(secs => %s)", [seconds])
    return [(job_id, at, at + seconds * 1_000_000) for job_id, at in before.items()]


@both_forms
@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("bare", [True, False])
def test_outcomes_pushed_before_a_renewal_are_recorded_after_it(
    dsn: str, schema: str, conn: Conn, copy: bool, count: int, bare: bool
) -> None:
    with rig(dsn, schema, copy=copy, started=False) as made:
        claims = start_jobs(conn, count)
        if bare:
            made.complete(claims)
        else:
            for claim in claims:
                made.push(claim, JobSetState.cancelled(b'{"error": "x"}'))
        made.compiled.moved(later(conn))
        made.start()
        stats = made.settled()
        assert stats["recorded"] == count
        assert stats["fenced"] == 0
    state = "completed" if bare else "cancelled"
    assert conn.execute("SELECT DISTINCT state::text, attempt FROM river_job").fetchall() == [(state, 1)]


def test_a_renewal_that_never_reached_the_server_changes_nothing(dsn: str, schema: str, conn: Conn) -> None:
    with rig(dsn, schema) as made:
        claims = start_jobs(conn, FEW)
        made.compiled.moved([(claim.id, claim.attempted_at, claim.attempted_at + 1) for claim in claims])
        made.complete(claims)
        assert made.settled()["recorded"] == FEW


def test_only_a_renewal_of_that_very_run_is_followed(dsn: str, schema: str, conn: Conn) -> None:
    """Another job's, one of another start of this row, and one that another hand changed since."""
    with rig(dsn, schema, started=False) as made:
        claims = start_jobs(conn, 4)
        made.complete(claims)
        moves = {job_id: (before, after) for job_id, before, after in later(conn)}
        ids = [claim.id for claim in claims]
        before, after = moves[ids[0]]
        made.compiled.moved([(10**9, before, after), (ids[1], before - 1, after), (ids[2], before, after + 1)])
        conn.execute("UPDATE river_job SET attempt = 2 WHERE id = %s", [ids[3]])
        made.start()
        assert made.settled()["fenced"] == 4
    assert conn.execute("SELECT DISTINCT state::text FROM river_job").fetchall() == [("running",)]


def test_a_later_telling_replaces_the_earlier(dsn: str, schema: str, conn: Conn) -> None:
    with rig(dsn, schema, started=False) as made:
        made.complete(start_jobs(conn, 1))
        made.compiled.moved(later(conn))
        made.compiled.moved([])
        made.start()
        assert made.settled()["fenced"] == 1


def test_a_fetched_row_follows_its_renewal_once_that_is_committed(
    dsn: str, schema: str, conn: psycopg.Connection
) -> None:
    insert(conn)
    with Rig(dsn, schema) as fetching:
        queue = fetching.queue()
        job = fetching.pop(queue)
        row, before = job._row, job._row.attempted_at_us
        shown = job.attempted_at
        row.renew(before + 5)
        assert (row.renewing_us, row.attempted_at_us, job.attempted_at) == (before + 5, before, shown)
        row.renewed(False)
        assert (row.renewing_us, row.attempted_at_us, job.attempted_at) == (0, before, shown)
        row.renew(before + 1_000_000)
        row.renewed(True)
        assert (row.renewing_us, row.attempted_at_us) == (0, before + 1_000_000)
        assert (job.attempted_at - shown).total_seconds() == 1.0
        fetching.finish(job)


def test_a_registered_client_beats_before_its_first_fetch_and_after_each_reconnect(
    dsn: str, schema: str, conn: psycopg.Connection, fast: None
) -> None:
    conn.execute(
        "CREATE FUNCTION first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f' IF NOT EXISTS (SELECT FROM "{schema}".river_fast_client) THEN RAISE \'not registered\'; END IF;'
        " RETURN new; END $$"
    )
    conn.execute("CREATE TRIGGER first BEFORE UPDATE ON river_job FOR EACH ROW EXECUTE FUNCTION first()")
    insert(conn)
    with Rig(dsn, schema, client_id="worker-1", lock_key=77, heartbeat_key=77) as fetching:
        fetching.finish(fetching.pop(fetching.queue()))
        assert conn.execute("SELECT id, key, locks FROM river_fast_client").fetchall() == [("worker-1", 77, True)]
        assert fetching.stats("fetch_errors") == 0
        fetching.kill_backend()
        wait_for("a second heartbeat", lambda: fetching.stats("heartbeats") == 2)


def test_a_client_without_a_lock_beats_every_five_seconds(
    dsn: str, schema: str, conn: psycopg.Connection, fast: None
) -> None:
    with Rig(dsn, schema, heartbeat_key=5) as fetching:
        fetching.queue()
        wait_for("a second heartbeat", lambda: fetching.stats("heartbeats") == 2)
        assert conn.execute("SELECT locks FROM river_fast_client").fetchall() == [(False,)]
        fetching.fetcher.stop_fetching(5.0)
        wait_for("one while the stop waits for jobs", lambda: fetching.stats("heartbeats") == 3)


def test_a_heartbeat_that_is_refused_is_told_of_and_keeps_no_job(
    dsn: str, schema: str, conn: psycopg.Connection
) -> None:
    """The table is not there."""
    with Rig(dsn, schema, heartbeat_key=5) as fetching:
        queue = fetching.queue()
        wait_for("the notice", lambda: [text for *_, text in fetching.notices if "heartbeat was refused" in text])
        insert(conn, notify=True)
        fetching.finish(fetching.pop(queue))
        assert fetching.lost() == []


@pytest.fixture
def fast(dsn: str, schema: str) -> None:
    driver = PsycopgDriver(dsn, schema)
    Migrator(driver, "fast").migrate_up()
    driver.close()
