"""Scenarios of River's conformance contract, by their names: our adapter at its pipe beside River's own Go client.

The job is the contract's; what it asks of River's side here stands beside it in the args, and our worker reads past it.
"""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from river_fast.job import FINAL_STATES
from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually
from tests.interop.conftest import Adapters, Make
from tests.interop.peers import Peer

KIND = "conformance_echo"
CANCELLED = "JobCancelError: job cancelled remotely"
TUNED = {"elect_interval_ms": 100, "rescuer_interval_ms": 100, "scheduler_interval_ms": 100}


def working(make: Make, **params: Any) -> Peer:
    """River's client, started, for the contract's kind."""
    peer: Peer = make("go", id="go", queues={"default": 10}, kinds=[KIND], **params)
    return peer


def args(behavior: str = "", message: str = "", **theirs: Any) -> dict[str, Any]:
    return {"behavior": behavior, "duration_ms": 0, "message": message, **theirs}


def final(ours: AdapterProcess, job_id: int) -> Any:
    return ours.call("wait", id=job_id)


def test_candidate_insert_reference_work(make: Make, ours: AdapterProcess) -> None:
    go = working(make)
    job = ours.call("insert", message="ü<&>\u2028", opts={"metadata": {"n": 2**53 + 1}, "tags": ["one_tag"]})
    outcome = go.outcome(job["id"])
    assert json.loads(outcome["args"]) == job["args"]
    done = final(ours, job["id"])
    assert (done["state"], done["attempted_by"], done["metadata"]) == ("completed", ["go"], {"n": 2**53 + 1})


def test_reference_insert_candidate_work(make: Make, ours: AdapterProcess) -> None:
    go = make("go")
    ours.call("start", client_id="ours")
    job = go.insert(kind=KIND, args=args("output", "m"), opts={"metadata": {"n": 1}, "priority": 3})["job"]
    done = final(ours, job["id"])
    assert (done["state"], done["attempted_by"], done["priority"]) == ("completed", ["ours"], 3)
    assert done["metadata"] == {"n": 1, "output": {"message": "m"}}
    seen = go.job_get(id=job["id"])
    assert (seen["state"], json.loads(seen["metadata"])) == ("completed", done["metadata"])


@pytest.mark.parametrize("behavior", [("fail", "error"), ("cancel", "cancel"), ("", "")], ids=lambda pair: pair[1])
def test_job_row_round_trip_of_outcomes(make: Make, ours: AdapterProcess, behavior: tuple[str, str]) -> None:
    """The same job, worked by either side, leaves the same row but for times and who it was."""
    texts = {"fail": "conformance retryable error", "cancel": "cancelled by conformance worker"}
    opts = {"max_attempts": 1, "unique": {"by_args": True, "by_queue": True}}
    theirs, our = behavior
    go = working(make)
    first = go.insert(kind=KIND, args=args(our, do=theirs, text=texts.get(theirs, "")), opts=opts)["job"]["id"]
    one = final(ours, first)
    raw = ours.call("raw_job_row", id=first)
    go.stop()
    ours.call("delete", id=first)
    second = go.insert(kind=KIND, args=args(our, do=theirs, text=texts.get(theirs, "")), opts=opts)["job"]["id"]
    ours.call("start", client_id="ours")
    other = final(ours, second)
    for same in ("args", "attempt", "kind", "max_attempts", "metadata", "state", "unique_key", "unique_states"):
        assert one[same] == other[same], same
    assert [error["error"] for error in one["errors"]] == [error["error"] for error in other["errors"]]
    again = ours.call("raw_job_row", id=second)
    for same in ("args", "metadata", "tags", "unique_key", "unique_states"):
        assert raw[same] == again[same], same


def test_cross_language_unique_conflict(make: Make, ours: AdapterProcess) -> None:
    go = make("go")
    opts = {"unique": {"by_args": True, "by_period_ms": 3_600_000, "by_queue": True}}
    theirs = {"unique": {"by_args": True, "by_period": 3600, "by_queue": True}}
    message = 'ü<&>\u2028"\\'
    job = ours.call("insert", message=message, opts=opts)
    again = go.insert(kind=KIND, args=args(message=message), opts=theirs)
    assert (again["duplicate"], again["job"]["id"]) == (True, job["id"])
    other = go.insert(kind=KIND, args=args(message="other"), opts=theirs)["job"]["id"]
    (result,) = ours.call("insert_many", jobs=[{"message": "other", "opts": opts}])["results"]
    assert (result["unique_skipped_as_duplicate"], result["job"]["id"]) == (True, other)


def test_remote_cancel_notification(make: Make, ours: AdapterProcess) -> None:
    go = working(make)
    job = ours.call("insert", behavior="cooperative_cancel")["id"]
    assert final(ours, job)["state"] == "completed", "River's side here reads past our behaviors"
    blocked = go.insert(kind=KIND, args=args(do="block"))["job"]["id"]
    go.event("working", blocked)
    assert ours.call("cancel", id=blocked)["state"] == "running"
    assert [error["error"] for error in final(ours, blocked)["errors"]] == [CANCELLED]
    go.stop()
    ours.call("start", client_id="ours")
    job = ours.call("insert", behavior="cooperative_cancel")["id"]
    ours.call("wait", id=job, states=["running"])
    go.job_cancel(id=job)
    done = final(ours, job)
    assert (done["state"], [error["error"] for error in done["errors"]]) == ("cancelled", [CANCELLED])


def test_claim_time_cancellation(make: Make, ours: AdapterProcess) -> None:
    go = make("go")
    ours.call("barrier_create", name="claim")
    ours.call("start", client_id="ours", claim_barrier="claim")
    job = go.insert(kind=KIND, args=args("cooperative_cancel"))["job"]["id"]
    ours.call("wait", id=job, states=["running"])
    assert go.job_cancel(id=job)["state"] == "running"
    ours.call("barrier_release", name="claim")
    done = final(ours, job)
    assert (done["state"], [error["error"] for error in done["errors"]]) == ("cancelled", [CANCELLED])
    assert ours.call("runtime_stats")["cancelled_at_start"] == 1


def test_pause_resume_notification(make: Make, ours: AdapterProcess) -> None:
    go = working(make)
    ours.call("queue_pause", name="default")
    assert go.event("queue_paused")["queue"] == "default"
    job = ours.call("insert")["id"]
    ours.call("queue_resume", name="*")
    go.event("queue_resumed")
    assert final(ours, job)["attempted_by"] == ["go"]
    go.stop()
    ours.call("start", client_id="ours")
    go.queue_pause(name="*")
    eventually(lambda: ours.call("runtime_stats")["events"] == ["queue_paused"])
    go.queue_resume(name="default")
    eventually(lambda: ours.call("runtime_stats")["events"] == ["queue_paused", "queue_resumed"])


def test_transactional_insert_notification_commit_only(make: Make, ours: AdapterProcess) -> None:
    go = working(make, poll_ms=60_000)
    for end in ("tx_rollback", "tx_commit"):
        ours.call("tx_begin", handle="t")
        job = ours.call("tx_insert", handle="t", job={})["id"]
        ours.call(end, handle="t")
    assert go.outcome(job)["state"] == "completed"


def test_transactional_cross_language_cancel(make: Make, ours: AdapterProcess) -> None:
    go = working(make)
    job = go.insert(kind=KIND, args=args(do="block"))["job"]["id"]
    go.event("working", job)
    ours.call("tx_begin", handle="t")
    assert ours.call("tx_cancel", handle="t", id=job)["state"] == "running"
    assert "cancel_attempted_at" not in json.loads(go.job_get(id=job)["metadata"])
    ours.call("tx_commit", handle="t")
    assert go.event("job_cancelled", job)["job"]["errors"][0]["error"] == CANCELLED


def test_mixed_skip_locked_competition(make: Make, ours: AdapterProcess, conn: psycopg.Connection) -> None:
    go = working(make)
    ours.call("start", client_id="ours", max_workers=10)
    for _ in range(5):
        go.insert_many(jobs=[{"kind": KIND, "args": args(), "opts": {}}] * 50)
        ours.call("insert_many", jobs=[{}] * 50)
    once = "state = 'completed' AND attempt = 1 AND array_length(attempted_by, 1) = 1"
    count = f"SELECT count(*) FROM river_job WHERE {once}"
    eventually(lambda: conn.execute(count).fetchone() == (500,), what="500 jobs worked once")
    by = conn.execute("SELECT DISTINCT attempted_by[1] FROM river_job ORDER BY 1").fetchall()
    assert [name for (name,) in by] == ["go", "ours"]


def test_mixed_leader_failover_both_directions(make: Make, ours: AdapterProcess) -> None:
    ours.call("start", client_id="ours", **TUNED)
    eventually(lambda: ours.call("leader")["leader_id"] == "ours")
    go = working(make)
    ours.call("stop")
    eventually(lambda: ours.call("leader")["leader_id"] == "go")
    ours.call("start", client_id="ours", periodic_run_on_start=True, instrumented=True, **TUNED)
    go.stop()
    eventually(lambda: ours.call("leader")["leader_id"] == "ours")
    eventually(lambda: ours.call("runtime_stats")["periodic_starts"] == 1)


def test_mixed_request_resign_terms(make: Make, ours: AdapterProcess) -> None:
    ours.call("start", client_id="ours", **TUNED)
    eventually(lambda: ours.call("leader")["leader_id"] == "ours")
    first = ours.call("leader")
    make("go").request_resign()
    eventually(lambda: ours.call("leader")["leader_id"] is not None and ours.call("leader") != first)
    ours.call("stop")
    go = working(make)
    eventually(lambda: ours.call("leader")["leader_id"] == "go")
    first = ours.call("leader")
    ours.call("request_resign")
    eventually(lambda: ours.call("leader")["leader_id"] is not None and ours.call("leader") != first)
    go.stop()


def test_candidate_process_kill_reference_rescue(make: Make, ours: AdapterProcess, adapters: Adapters) -> None:
    killed = adapters("killed")
    killed.call("start", client_id="killed", leader_election_disabled=True)
    job = ours.call("insert", behavior="ignored_cancel")["id"]
    ours.call("wait", id=job, states=["running"])
    killed.kill()
    working(make, rescue_ms=1, timeout_ms=1, retry_ms=60_000)
    rescued = ours.call("wait", id=job, states=["retryable"])
    assert rescued["errors"][0]["error"] == "Stuck job rescued by JobRescuer"
    assert rescued["metadata"] == {"river:rescue_count": 1}


def test_reference_process_kill_candidate_rescue(make: Make, ours: AdapterProcess) -> None:
    go: Any = working(make)
    job = go.insert(kind=KIND, args=args(do="block", deaf=True))["job"]["id"]
    go.event("working", job)
    go.kill()
    ours.call("start", client_id="ours", rescue_after_ms=500, job_timeout_ms=500, retry_delay_ms=1, **TUNED)
    eventually(lambda: ours.call("get", id=job)["state"] in FINAL_STATES, timeout=40)
    done = ours.call("get", id=job)
    assert (done["state"], done["attempted_by"]) == ("completed", ["go", "ours"])
    assert [error["error"] for error in done["errors"]] == ["Stuck job rescued by JobRescuer"]


def test_resumable_cross_engine_cursor(make: Make, ours: AdapterProcess) -> None:
    """River's side begins, ours goes on, River's ends."""
    steps = [
        {"name": "first", "attempt": 0},
        {"name": "second", "cursor": True, "attempt": 1, "set": 7, "ends": "fail"},
        {"name": "third", "attempt": 0},
    ]
    go = working(make, retry_ms=600_000)
    job = go.insert(kind=KIND, args=args("resumable_cursor", do="steps", steps=steps))["job"]["id"]
    ours.call("wait", id=job, states=["retryable"])
    go.stop()
    ours.call("start", client_id="ours", retry_delay_ms=600_000)
    ours.call("retry", id=job)
    eventually(lambda: ours.call("get", id=job)["attempt"] == 2)
    second = ours.call("wait", id=job, states=["retryable"])
    assert [error["error"] for error in second["errors"]] == ["in step second", "retry after consuming cursor"]
    assert second["metadata"]["cursor_observed"] == 7
    assert second["metadata"]["river:resumable_step"] == "second"
    assert second["metadata"]["river:resumable_cursor"] is None
    ours.call("stop")
    go = working(make)
    ours.call("retry", id=job)
    assert final(ours, job)["state"] == "completed"
    assert [event["step"] for event in go.all_events("step")] == ["third"]


def test_mixed_unknown_kind_error(make: Make, ours: AdapterProcess) -> None:
    go = working(make, retry_ms=60_000)
    job = ours.call("raw_insert_no_notify", kind="nobody")["id"]
    theirs = ours.call("wait", id=job, states=["retryable"])["errors"][0]
    go.stop()
    ours.call("start", client_id="ours", retry_delay_ms=60_000)
    ours.call("retry", id=job)
    eventually(lambda: len(ours.call("get", id=job)["errors"]) == 2)
    our = ours.call("get", id=job)["errors"][1]
    assert our["error"] == theirs["error"]


def test_job_list_cursor_interchange(make: Make, ours: AdapterProcess) -> None:
    go = make("go")
    jobs = [{"opts": {"queue": "a-b" if number % 2 else "default"}} for number in range(6)]
    ours.call("insert_many", jobs=jobs)
    for order_by, states in (("id", []), ("scheduled_at", ["available"]), ("time", ["available"])):
        told = ours.call("list", limit=2, order_by=order_by, states=states)
        theirs = go.job_list(limit=2, order_by=order_by, **({"states": states} if states else {}))
        assert theirs["cursor"] == told["cursor"]
        options = {"order_by": order_by, "limit": 2}
        following = go.job_list(after=told["cursor"], **options, **({"states": states} if states else {}))
        ids = [job["id"] for job in ours.call("list", after=theirs["cursor"], states=states, **options)["jobs"]]
        assert ids == [job["id"] for job in following["jobs"]] == [3, 4]


def test_reference_migrator_candidate_runtime(make: Make, ours: AdapterProcess) -> None:
    go = make("go")
    go.migrate(way="down", version=0)
    go.migrate(way="up", version=8)
    assert ours.call("migrate") == {"applied": [], "existing": list(range(1, 9)), "valid": True}
    ours.call("start", client_id="ours")
    assert final(ours, go.insert(kind=KIND, args=args())["job"]["id"])["attempted_by"] == ["ours"]


def test_candidate_migrator_reference_runtime(make: Make, ours: AdapterProcess) -> None:
    go = make("go")
    ours.call("migrate", direction="down", target_version=-1)
    assert ours.call("migrate")["valid"]
    assert go.validate() == []
    working(make)
    assert final(ours, ours.call("insert")["id"])["attempted_by"] == ["go"]
