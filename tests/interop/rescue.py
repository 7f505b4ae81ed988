"""Jobs of a client that died, or stood still for too long, taken back by the other side's leader."""

from __future__ import annotations

import json
import signal
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.interop.conftest import Make
from tests.interop.peers import Peer

WAYS = pytest.mark.parametrize(("dies", "rescues"), [("go", "ours"), ("ours apart", "go")], ids=lambda side: side)
RESCUED = "Stuck job rescued by JobRescuer"
RESCUE = {"rescue_ms": 1_000, "timeout_ms": 1_000, "retry_ms": 1}
OLD = "SELECT bool_and(attempted_at < now() - interval '1.5 s') FROM river_job WHERE state = 'running'"


def stranded(make: Make, dies: str, kind: str = "interop", **opts: Any) -> tuple[Any, int]:
    """A client that does not lead, and the job it runs."""
    client = make(dies, id="dies", queues={"default": 5}, kinds=["interop", "known_to_one"], follows=True)
    args = {"do": "block", "times": 1}
    job_id: int = client.insert(kind=kind, args=args, opts={"metadata": {"mine": 1}, **opts})["job"]["id"]
    client.event("working", job_id)
    return client, job_id


@WAYS
def test_job_of_a_killed_client_runs_again(make: Make, until: Any, dies: str, rescues: str) -> None:
    client, job_id = stranded(make, dies)
    client.kill()
    until(OLD, True)
    rescuer = make(rescues, id="rescues", queues={"default": 1}, **RESCUE)
    done = rescuer.event("job_completed", job_id)["job"]
    assert (done["attempt"], done["attempted_by"]) == (2, ["dies", "rescues"])
    (error,) = done["errors"]
    assert (error["attempt"], error["error"], error["trace"]) == (1, RESCUED, "")
    metadata = json.loads(done["metadata"])
    assert (metadata["mine"], metadata["river:rescue_count"]) == (1, 1)


@WAYS
def test_what_else_becomes_of_stranded_jobs(
    make: Make, conn: psycopg.Connection, until: Any, dies: str, rescues: str
) -> None:
    client, last_attempt = stranded(make, dies, max_attempts=1)
    cancelled = client.insert(kind="interop", args={"do": "block", "deaf": True})["job"]["id"]
    unknown = client.insert(kind="known_to_one", args={"do": "block"})["job"]["id"]
    for job_id in (cancelled, unknown):
        client.event("working", job_id)
    client.job_cancel(id=cancelled)
    client.event("told", cancelled)
    client.kill()
    until(OLD, True)
    leader = make(rescues, queues={"other": 1}, **RESCUE)
    until("SELECT count(*) FROM river_job WHERE state = 'running'", 0)
    # River's leader discards what it does not know; ours never loses a job so.
    after = {last_attempt: {"discarded"}, cancelled: {"cancelled"}}
    after[unknown] = {"discarded"} if rescues == "go" else {"retryable", "available"}
    for job_id, states in after.items():
        job = leader.job_get(id=job_id)
        assert job["state"] in states
        assert [error["error"] for error in job["errors"]] == [RESCUED]


HOURS = {"rescue_ms": 3_600_000, "retry_ms": 1}


def age(conn: psycopg.Connection, job_id: int) -> None:
    """As if it had begun two hours before."""
    conn.execute("UPDATE river_job SET attempted_at = attempted_at - interval '2 h' WHERE id = %s", [job_id])


@WAYS
def test_job_that_is_not_old_enough_is_left_alone(
    make: Make, conn: psycopg.Connection, until: Any, dies: str, rescues: str
) -> None:
    """The leader has looked at both once the older one is rescued."""
    client, young = stranded(make, dies)
    old = client.insert(kind="interop", args={"do": "block"})["job"]["id"]
    client.event("working", old)
    age(conn, old)
    leader = make(rescues, queues={"other": 1}, **HOURS)
    until(f"SELECT state <> 'running' FROM river_job WHERE id = {old}", True)
    assert leader.job_get(id=young)["errors"] == []


def test_our_late_outcome_does_not_touch_the_run_that_came_after(make: Make, conn: psycopg.Connection) -> None:
    """A client of ours that stood still while River's leader took its job away and another run of it began."""
    ours = make("ours apart", queues={"default": 1}, follows=True)
    job_id = ours.insert(kind="interop", args={"do": "block"})["job"]["id"]
    ours.event("working", job_id)
    ours.signal(signal.SIGSTOP)
    age(conn, job_id)
    go: Peer = make("go", id="go", queues={"default": 1}, **HOURS)
    assert go.event("working", job_id)["job"]["attempt"] == 2
    second = go.job_get(id=job_id)
    ours.signal(signal.SIGCONT)
    ours.release(id=job_id)
    ours.stop()
    assert go.job_get(id=job_id) == second
    go.release(id=job_id)
    assert go.event("job_completed", job_id)["job"]["attempt"] == 2


def test_our_long_jobs_are_left_alone_by_rivers_leader_where_they_are_refreshed(
    make: Make, conn: psycopg.Connection, until: Any
) -> None:
    """It rescues by age alone and discards the kind it does not know: as the one that nobody refreshes shows."""
    kinds = ["interop", "known_to_one"]
    refreshing: dict[str, Any] = {"rescue_ms": 2_000, "job_timeout": river.NEVER, "refresh_long_jobs": True}
    ours = make("ours", queues={"default": 5}, kinds=kinds, follows=True, **refreshing)
    careless = make("ours apart", queues={"other": 5}, kinds=kinds, follows=True)
    kept = [ours.insert(kind=kind, args={"do": "block"})["job"]["id"] for kind in kinds]
    lost = careless.insert(kind="known_to_one", args={"do": "block"}, opts={"queue": "other"})["job"]["id"]
    for peer, job_id in (*((ours, job_id) for job_id in kept), (careless, lost)):
        peer.event("working", job_id)
    until(f"SELECT attempted_at < now() - interval '4 s' FROM river_job WHERE id = {lost}", True)
    make("go", queues={"elsewhere": 1}, rescue_ms=2_000, timeout_ms=1_000)
    until(f"SELECT state::text FROM river_job WHERE id = {lost}", "discarded", 60)
    rows = conn.execute("SELECT state::text, attempt, errors FROM river_job WHERE id = ANY (%s)", [kept]).fetchall()
    assert rows == [("running", 1, None)] * 2
    for job_id in kept:
        ours.release(id=job_id)
        assert ours.event("job_completed", job_id)["job"]["attempt"] == 1


def test_our_killed_client_is_missed_by_ours_whoever_leads(make: Make, conn: psycopg.Connection, until: Any) -> None:
    """River's leader would look for it after an hour."""
    killed = make("ours apart", queues={"default": 1}, follows=True)
    leader = make("go", id="go", queues={"elsewhere": 1})
    until("SELECT leader_id FROM river_leader", "go", 30)
    job_id = killed.insert(kind="interop", args={"do": "block", "times": 1})["job"]["id"]
    killed.event("working", job_id)
    ours = make("ours", queues={"default": 1}, retry_ms=1)
    killed.kill()
    done = ours.event("job_completed", job_id)["job"]
    assert (done["attempt"], len(done["errors"])) == (2, 1)
    assert leader.job_get(id=job_id) == done
