"""River's runtime, mixed, chaos and performance scenarios, by their names: River's own client and ours behind the same
methods, each at work while the other asks, in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually
from tests.interop.contract_storage import alike

BOTH = pytest.mark.parametrize("sides", [("ours", "go"), ("go", "ours")], ids=["candidate_works", "reference_works"])
CANCELLED = "JobCancelError: job cancelled remotely"
LONG = 600_000  # milliseconds: not while the test runs
Sides = tuple[AdapterProcess, AdapterProcess]


@pytest.fixture
def pair(adapters: Callable[..., AdapterProcess], sides: tuple[str, str]) -> Sides:
    """Who works, and who asks."""
    works, asks = sides
    return adapters(works, works), adapters(asks, asks)


def start(adapter: AdapterProcess, client_id: str = "works", **options: Any) -> None:
    """Ours keeps River's intervals but where a term begins: River's client offers no others."""
    tuned = {} if adapter.name.startswith("river-conformance-go") else {"elect_interval_ms": 100}
    adapter.call("start", client_id=client_id, **tuned, **options)


def running(adapter: AdapterProcess, behavior: str, works: AdapterProcess | None = None, **params: Any) -> int:
    """Of a job that runs, says its row; and has begun, says `works`, which may still give back what it has claimed."""
    job = adapter.call("insert", behavior=behavior, **params)["id"]
    for side in (adapter, works or adapter):
        side.call("wait", id=job, states=["running"])
    return int(job)


def errors(job: Any) -> list[str]:
    return [error["error"] for error in job["errors"]]


def events(adapter: AdapterProcess) -> Any:
    return adapter.call("runtime_stats")["events"]


def leads(adapter: AdapterProcess, conn: psycopg.Connection, client_id: str) -> None:
    query = "SELECT leader_id FROM river_leader WHERE expires_at > now()"
    eventually(lambda: conn.execute(query).fetchone() == (client_id,), timeout=40, what=f"{client_id}'s term")


OUTCOMES: dict[str, dict[str, Any]] = {
    "completed": {},
    "output": {"behavior": "output", "message": "m"},
    "retryable": {"behavior": "error"},
    "discarded": {"behavior": "discard", "opts": {"max_attempts": 1}},
    "panic": {"behavior": "panic"},
    "cancelled": {"behavior": "cancel"},
    "snoozed": {"behavior": "snooze_once", "duration_ms": 1},
    "scheduled": {"behavior": "snooze_once", "duration_ms": LONG},
    "transactional": {"behavior": "transactional_complete"},
    "resumable": {"behavior": "resumable"},
    "cursor": {"behavior": "resumable_cursor"},
    "null_step": {"behavior": "resumable", "opts": {"metadata": {"river:resumable_step": None}}},
    "empty_step": {"behavior": "resumable", "opts": {"metadata": {"river:resumable_step": ""}}},
    "unknown_step": {"behavior": "resumable", "opts": {"metadata": {"river:resumable_step": "none"}}},
    "timeout": {"behavior": "cancel_error"},
    "timeout_panic": {"behavior": "cancel_panic"},
}


def test_single_implementation_worker_outcomes(ours: AdapterProcess, reference: AdapterProcess) -> None:
    """And panic_attempt_trace, snooze_once_metadata_transition, resumable_retry, resumable_validation,
    timeout_cancellation, transactional_completion, reserved_metadata_cross_engine: the same rows of either side."""
    rows: list[dict[str, Any]] = []
    for adapter in (reference, ours):
        ours.call("reset")
        start(adapter, retry_delay_ms=LONG, job_timeout_ms=300)
        jobs = {name: adapter.call("insert", **params)["id"] for name, params in OUTCOMES.items()}
        ended = ["cancelled", "completed", "discarded", "retryable"]
        rows.append({})
        for name, job in jobs.items():
            row = adapter.call("wait", id=job, states=[*ended, *(["scheduled"] if name == "scheduled" else [])])
            assert all(bool(error["trace"]) for error in row["errors"] if "panic" in error["error"])
            rows[-1][name] = {
                **alike(row),
                "errors": [(error["attempt"], error["error"]) for error in row["errors"]],
            }
        count = len(OUTCOMES) + 1
        eventually(lambda adapter=adapter, count=count: len(events(adapter)) == count)
        rows[-1]["events"] = sorted(events(adapter))
        adapter.call("stop")
    assert rows[1] == rows[0]


@BOTH
def test_cooperative_remote_cancellation(pair: Sides) -> None:
    """And multi_engine_directed_candidate_work_notification_cancellation, refetched_attempt_cancellation: nothing is
    polled for."""
    works, asks = pair
    works.call("barrier_create", name="b")
    start(works, fetch_poll_interval_ms=LONG)
    left = {"cooperative_cancel": CANCELLED, "barrier_wait": CANCELLED, "cancel_error": CANCELLED}
    for behavior, error in {**left, "cancel_panic": "conformance panic after cancellation"}.items():
        job = running(asks, behavior, works, message="b")
        assert "cancel_attempted_at" in asks.call("cancel", id=job)["metadata"]
        done = asks.call("wait", id=job)
        assert (done["state"], errors(done), list(done["metadata"])) == ("cancelled", [error], ["cancel_attempted_at"])
    job = asks.call("insert", behavior="snooze_then_cancel", duration_ms=1)["id"]
    eventually(lambda: asks.call("get", id=job)["metadata"] == {"snoozes": 1})
    asks.call("insert")  # wakes the worker that does not poll
    asks.call("wait", id=job, states=["running"])
    asks.call("cancel", id=job)
    done = asks.call("wait", id=job)
    assert (done["state"], errors(done), done["attempt"]) == ("cancelled", [CANCELLED], 1)
    eventually(lambda: sorted(events(works)) == ["job_cancelled"] * 5 + ["job_completed", "job_snoozed"])


@BOTH
def test_hard_shutdown_soft_stop_classification(pair: Sides) -> None:
    works, asks = pair
    works.call("barrier_create", name="b")
    start(works, retry_delay_ms=LONG)
    failing = {
        "cancel_error": "conformance failure after cancellation",
        "cancel_panic": "conformance panic after cancellation",
    }
    jobs = {
        behavior: running(asks, behavior, works, message="b")
        for behavior in ("cooperative_cancel", "barrier_wait", *failing)
    }
    works.call("stop", cancel=True)
    for behavior, job in jobs.items():
        left = asks.call("get", id=job)
        state, failures = ("retryable", [failing[behavior]]) if behavior in failing else ("available", [])
        assert (left["state"], errors(left), left["metadata"]) == (state, failures, {}), behavior
        assert (left["attempt"], left["attempted_by"]) == (len(failures), ["works"])


@BOTH
def test_external_terminal_completion_race(pair: Sides, ours: AdapterProcess) -> None:
    works, asks = pair
    for state, event, failures in (
        ("completed", "job_completed", []),
        ("discarded", "job_failed", ["external discard"]),
    ):
        works.call("barrier_create", name="b")
        start(works)
        job = running(asks, "barrier_output", works, message="b")
        ours.call("raw_finalize", id=job, state=state, metadata={"external": 1})
        finalized = asks.call("get", id=job)["finalized_at"]
        works.call("barrier_release", name="b")
        eventually(lambda event=event: events(works) == [event])
        done = asks.call("get", id=job)
        assert (done["state"], errors(done), done["finalized_at"]) == (state, failures, finalized)
        assert done["metadata"] == {"external": 1, "output": {"race": "worker"}}
        works.call("stop")


@BOTH
def test_error_handler_cancel_override(pair: Sides, ours: AdapterProcess) -> None:
    works, asks = pair
    unknown = ours.call("raw_insert_no_notify", kind="nobody")["id"]
    start(works, error_handler_cancel=True)
    ids = [unknown, *(asks.call("insert", behavior=behavior)["id"] for behavior in ("error", "panic"))]
    for job, text in zip(
        ids, ("not registered", "conformance retryable error", "conformance worker panic"), strict=True
    ):
        done = asks.call("wait", id=job)
        assert (done["state"], done["attempt"], len(done["errors"])) == ("cancelled", 1, 1)
        assert text in errors(done)[0]
    assert works.call("runtime_stats")["error_handler_calls"] == 3
    own = asks.call("insert", behavior="cancel")["id"]
    assert errors(asks.call("wait", id=own)) == ["JobCancelError: cancelled by conformance worker"]
    assert works.call("runtime_stats")["error_handler_calls"] == 3


@BOTH
def test_claimed_row_decode_isolation(pair: Sides, conn: psycopg.Connection) -> None:
    works, asks = pair
    bad = asks.call("insert", opts={"pending": True})["id"]
    good = [asks.call("insert", opts={"pending": True})["id"] for _ in range(3)]
    conn.execute("UPDATE river_job SET errors = ARRAY[NULL]::jsonb[] WHERE id = %s", [bad])
    conn.execute("UPDATE river_job SET state = 'available'")
    start(works, retry_delay_ms=LONG)
    for job in good:
        assert asks.call("wait", id=job)["state"] == "completed"
    query = f"SELECT state::text, errors[1] IS NULL, errors[2]->>'error' FROM river_job WHERE id = {bad}"
    eventually(lambda: (conn.execute(query).fetchone() or ("",))[0] == "retryable")
    row = conn.execute(query).fetchone()
    assert row is not None
    assert row[1], "what was stored is untouched"
    assert row[2].startswith("job row couldn't be decoded: ")


@BOTH
def test_default_retry_policy_schedule(pair: Sides, conn: psycopg.Connection) -> None:
    works, asks = pair
    start(works)
    job = asks.call("insert", behavior="error")["id"]
    delay = "SELECT extract(epoch FROM scheduled_at - attempted_at) FROM river_job WHERE id = %s"
    for number, state, least, most in ((1, "available", 0.9, 1.6), (2, "retryable", 14.4, 18.1)):
        eventually(lambda number=number: len(asks.call("get", id=job)["errors"]) == number, what=f"error {number}")
        assert asks.call("get", id=job)["state"] == state
        row = conn.execute(delay, [job]).fetchone()
        assert row is not None
        assert least < row[0] < most


@BOTH
def test_dynamic_queue_add_reconfigure_remove(pair: Sides) -> None:
    works, asks = pair
    start(works)
    works.call("queue_add", name="other")
    assert asks.call("wait", id=asks.call("insert", opts={"queue": "other"})["id"])["state"] == "completed"
    works.call("queue_add", name="other", max_workers=2)
    works.call("barrier_create", name="b")
    two = [running(asks, "barrier_wait", works, message="b", opts={"queue": "other"}) for _ in range(2)]
    works.call("barrier_release", name="b")
    assert [asks.call("wait", id=job)["state"] for job in two] == ["completed"] * 2
    works.call("queue_remove", name="other")
    left = asks.call("insert", opts={"queue": "other"})["id"]
    assert asks.call("wait", id=asks.call("insert")["id"])["state"] == "completed"
    assert asks.call("get", id=left)["state"] == "available"
    assert asks.call("queue_get", name="other")["name"] == "other"
    works.call("queue_add", name="other")
    assert asks.call("wait", id=left)["state"] == "completed"


@BOTH
def test_remote_queue_subscription_events(pair: Sides) -> None:
    """Without polling: paused, nothing is fetched; resumed, what waits is."""
    works, asks = pair
    start(works, fetch_poll_interval_ms=LONG)
    asks.call("queue_pause", name="default")
    eventually(lambda: events(works) == ["queue_paused"])
    job = asks.call("insert")["id"]
    asks.call("queue_pause", name="*")
    asks.call("queue_resume", name="*")
    assert asks.call("wait", id=job)["state"] == "completed"
    eventually(lambda: sorted(events(works)) == ["job_completed", "queue_paused", "queue_resumed"])


@BOTH
def test_leader_election_disabled_both_directions(pair: Sides, conn: psycopg.Connection) -> None:
    """And multi_engine_leader_election_disabled, multi_engine_leader_failover: the one that may leads, and resigns."""
    follows, may = pair
    start(follows, "follows", leader_election_disabled=True)
    start(may, "may")
    leads(may, conn, "may")
    may.call("stop")
    assert conn.execute("SELECT count(*) FROM river_leader WHERE leader_id = 'follows'").fetchone() == (0,)
    follows.call("stop")
    assert (
        follows.refused("start", client_id="x", leader_election_disabled=True, periodic_run_on_start=True) == "rejected"
    )
    start(follows, "first")
    leads(follows, conn, "first")
    start(may, "second", periodic_run_on_start=True)
    follows.call("stop")
    leads(may, conn, "second")
    (job,) = eventually(lambda: may.call("list", states=["completed"])["jobs"])
    assert job["metadata"] == {"periodic": True, "river:periodic_job_id": "conformance-periodic"}


@BOTH
def test_periodic_unique_cross_engine(pair: Sides) -> None:
    one, other = pair
    options = {"periodic_run_on_start": True, "periodic_unique": True, "queue": "elsewhere"}
    start(one, "one", **options)
    eventually(lambda: len(one.call("list")["jobs"]) == 2)
    start(other, "other", **options)
    one.call("stop")
    eventually(lambda: len(other.call("list")["jobs"]) == 3)
    messages = sorted(job["args"]["message"] for job in other.call("list")["jobs"])
    assert messages == ["periodic marker", "periodic marker", "periodic run on start"]


@BOTH
def test_multi_engine_process_kill_rescue_failover(pair: Sides, conn: psycopg.Connection) -> None:
    """And mixed_leader_death_failover_both_directions: the leader dies with jobs of its own."""
    dies, heir = pair
    start(dies, "dies")
    leads(dies, conn, "dies")
    again, last = (running(heir, "ignored_cancel", opts={"max_attempts": most}) for most in (25, 1))
    dies.kill()
    options = {"rescue_after_ms": 500, "retry_delay_ms": LONG, "queue": "elsewhere", "periodic_run_on_start": True}
    conn.execute("UPDATE river_job SET attempted_at = now() - interval '1 hour'")
    conn.execute("UPDATE river_leader SET expires_at = now() - interval '1 s'")
    start(heir, "heir", **options)
    leads(heir, conn, "heir")
    for job, state in ((again, "retryable"), (last, "discarded")):
        rescued = heir.call("wait", id=job, states=[state])
        assert (errors(rescued), rescued["metadata"]) == (
            ["Stuck job rescued by JobRescuer"],
            {"river:rescue_count": 1},
        )


@BOTH
def test_listener_backend_disconnect_reconnect(pair: Sides, conn: psycopg.Connection) -> None:
    works, asks = pair
    start(works, fetch_poll_interval_ms=LONG)
    mine = "FROM pg_stat_activity WHERE application_name = %s AND query LIKE 'LISTEN%%'"
    count = conn.execute(f"SELECT count(*) {mine}", [works.name]).fetchone()
    pids = {row[0] for row in conn.execute(f"SELECT pid {mine}", [works.name])}
    conn.execute(f"SELECT pg_terminate_backend(pid) {mine}", [works.name])
    eventually(
        lambda: (
            conn.execute(f"SELECT count(*) {mine} AND pid <> ALL (%s)", [works.name, list(pids)]).fetchone() == count
        )
    )
    assert asks.call("wait", id=asks.call("insert")["id"])["state"] == "completed"
    job = running(asks, "cooperative_cancel", works)
    asks.call("cancel", id=job)
    assert errors(asks.call("wait", id=job)) == [CANCELLED]
