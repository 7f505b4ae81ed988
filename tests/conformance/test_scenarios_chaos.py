"""River's chaos scenarios, by their names, with an adapter of ours on either side: faults between the client and its
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually
from tests.fix_proxy import Proxy

Make = Callable[..., AdapterProcess]
TUNED = {"elect_interval_ms": 100, "rescuer_interval_ms": 100, "scheduler_interval_ms": 100}


def running(adapter: AdapterProcess, behavior: str, **params: Any) -> int:
    """The id of a job that has begun."""
    job = adapter.call("insert", behavior=behavior, **params)
    return int(adapter.call("wait", id=job["id"], states=["running"])["id"])


@pytest.fixture
def failing(database: psycopg.Connection) -> Iterator[Callable[[str, int], None]]:
    """`failing(sqlstate, times)`: so many statements that complete a job fail, then they succeed."""
    database.execute("CREATE SEQUENCE conform_failures")

    def install(sqlstate: str, times: int) -> None:
        database.execute(
            "CREATE FUNCTION conform_fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF NEW.state = 'completed' AND nextval('conform_failures') <= {times} THEN"
            f" RAISE EXCEPTION 'not yet' USING ERRCODE = '{sqlstate}'; END IF; RETURN NEW; END $$"
        )
        database.execute(
            "CREATE TRIGGER conform_fail BEFORE UPDATE ON river_job FOR EACH ROW EXECUTE FUNCTION conform_fail()"
        )

    yield install
    database.execute("DROP TRIGGER IF EXISTS conform_fail ON river_job")
    database.execute("DROP FUNCTION IF EXISTS conform_fail")
    database.execute("DROP SEQUENCE conform_failures")


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
def test_completion_transient_failure_retry(
    adapter: AdapterProcess, failing: Callable[[str, int], None], sqlstate: str
) -> None:
    failing(sqlstate, 3)
    adapter.call("start", client_id="c")
    jobs = [adapter.call("insert", behavior="output", message="m") for _ in range(3)]
    for job in jobs:
        done = adapter.call("wait", id=job["id"])
        assert (done["state"], done["attempt"], done["metadata"]) == ("completed", 1, {"output": {"message": "m"}})
    eventually(lambda: adapter.call("runtime_stats")["events"] == ["job_completed"] * 3)


def test_completion_row_lock_wait(adapter: AdapterProcess, url: str) -> None:
    adapter.call("barrier_create", name="b")
    adapter.call("start", client_id="c")
    locked = running(adapter, "barrier_wait", message="b")
    with psycopg.connect(url) as holder:
        holder.execute("SELECT 1 FROM river_job WHERE id = %s FOR UPDATE", [locked])
        adapter.call("barrier_release", name="b")
        other = adapter.call("insert")
        assert adapter.call("wait", id=other["id"])["state"] == "completed", "one locked row holds up nobody else"
        assert adapter.call("get", id=locked)["state"] == "running"
        holder.rollback()
    assert adapter.call("wait", id=locked)["state"] == "completed"
    assert adapter.call("get", id=locked)["attempt"] == 1


def test_database_unavailable_reconnect(adapter: AdapterProcess, url: str) -> None:
    """The candidate's way to the database is cut while a job of it runs, and opened after the job has ended."""
    proxy = Proxy(url)
    try:
        with AdapterProcess(proxy.conninfo, "river-conformance-away") as candidate:
            candidate.call("barrier_create", name="b")
            candidate.call("start", client_id="c")
            job = running(candidate, "barrier_output", message="b")
            waiting = adapter.call("insert", opts={"scheduled_at": "2026-01-01T00:00:00Z"})
            refused = proxy.accepted
            proxy.refusing = True
            proxy.cut()
            candidate.call("barrier_release", name="b")
            eventually(lambda: proxy.accepted > refused + 3, what="attempts to connect again")
            assert adapter.call("get", id=job)["state"] == "running"
            proxy.refusing = False
            done = adapter.call("wait", id=job)
            assert (done["state"], done["attempt"]) == ("completed", 1)
            assert done["metadata"] == {"output": {"race": "worker"}}
            eventually(lambda: adapter.call("get", id=waiting["id"])["state"] == "completed", timeout=40)
            assert candidate.call("get", id=job) == done
    finally:
        proxy.close()


def test_lost_notification_poll_recovery(adapter: AdapterProcess, make_adapter: Make) -> None:
    candidate = make_adapter()
    candidate.call("start", client_id="c", fetch_poll_interval_ms=300)
    candidate.call("fault_disconnect_listeners")
    job = adapter.call("raw_insert_no_notify")
    assert adapter.call("wait", id=job["id"])["state"] == "completed"


def test_process_kill_restart_and_rescue(adapter: AdapterProcess, make_adapter: Make) -> None:
    killed = make_adapter()
    killed.call("start", client_id="dies", leader_election_disabled=True)
    lost = running(adapter, "ignored_cancel", opts={"max_attempts": 1})
    again = running(adapter, "cooperative_cancel")
    killed.kill()
    rescuer = make_adapter(killed.name)
    options = {"rescue_after_ms": 500, "job_timeout_ms": 500, "retry_delay_ms": 60_000}
    rescuer.call("start", client_id="rescues", queue="other", **options, **TUNED)
    assert adapter.call("wait", id=lost)["state"] == "discarded"
    rescued = adapter.call("wait", id=again, states=["retryable"])
    assert [error["error"] for error in rescued["errors"]] == ["Stuck job rescued by JobRescuer"]
    assert (rescued["metadata"], rescued["attempt"]) == ({"river:rescue_count": 1}, 1)


def test_ignored_cancellation_hard_abort(adapter: AdapterProcess, make_adapter: Make) -> None:
    candidate = make_adapter()
    candidate.call("start", client_id="c")
    job = running(adapter, "ignored_cancel")
    adapter.call("cancel", id=job)
    candidate.call("stop", cancel=True)
    stored = adapter.call("get", id=job)
    assert stored["state"] == "cancelled", "a cancel was asked for: it is not run again"
    assert candidate.refused("runtime_stats") == "rejected"


def test_mixed_leader_death_failover(adapter: AdapterProcess, make_adapter: Make) -> None:
    dying = make_adapter()
    dying.call("start", client_id="dying", **TUNED)
    eventually(lambda: adapter.call("leader")["leader_id"] == "dying")
    dying.kill()
    adapter.call("start", client_id="heir", periodic_run_on_start=True, **TUNED)
    adapter.call("fault_expire_leader")
    eventually(lambda: adapter.call("leader")["leader_id"] == "heir")
    eventually(lambda: adapter.call("list", states=["completed"])["jobs"])


def test_completions_of_many_threads_survive_the_loss_of_every_connection(
    adapter: AdapterProcess, make_adapter: Make
) -> None:
    candidate = make_adapter()
    candidate.call("start", client_id="c", max_workers=20)
    for _ in range(5):
        adapter.call("insert_many", jobs=[{"behavior": "sleep", "duration_ms": 5}] * 100)
        adapter.call("fault_disconnect_application", application_name=candidate.name)
    eventually(lambda: not adapter.call("list", states=["available", "running", "retryable"])["jobs"], timeout=60)
    jobs = adapter.call("list", limit=1000, states=["completed"])["jobs"]
    assert len(jobs) == 500
    assert not any(job["errors"] for job in jobs)


def test_leadership_renewal_under_slow_maintenance(
    adapter: AdapterProcess, database: psycopg.Connection, url: str
) -> None:
    """Its scheduler, rescuer and cleaner wait for a lock that somebody holds: the term goes on."""
    adapter.call("insert", opts={"scheduled_at": "2020-01-01T00:00:00Z"})
    expires = "SELECT expires_at FROM river_leader"
    with psycopg.connect(url) as holder:
        holder.execute("LOCK TABLE river_job IN SHARE MODE")
        adapter.call("start", client_id="c", queue="other", rescue_after_ms=500, **TUNED)
        eventually(lambda: adapter.call("leader")["leader_id"] == "c")
        term = adapter.call("leader")
        for _ in range(3):
            before = database.execute(expires).fetchone()
            eventually(lambda before=before: database.execute(expires).fetchone() != before, what="the renewal")
        assert adapter.call("leader") == term
        holder.rollback()
    adapter.call("stop")
    assert adapter.call("leader")["leader_id"] is None
