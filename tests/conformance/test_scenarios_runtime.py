"""River's runtime, mixed and performance scenarios, by their names, with adapters of ours on every side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from tests.conformance.process import AdapterProcess
from tests.conformance.values import time_text
from tests.fix_client import eventually

Make = Callable[..., AdapterProcess]
TUNED = {"elect_interval_ms": 100, "rescuer_interval_ms": 100, "scheduler_interval_ms": 100}
OPEN = ["available", "pending", "retryable", "running", "scheduled"]


def term(adapter: AdapterProcess) -> tuple[str | None, str | None]:
    told = adapter.call("leader")
    return told["leader_id"], told["elected_at"]


def test_mixed_skip_locked_competition(adapter: AdapterProcess, make_adapter: Make) -> None:
    fleet = [adapter, make_adapter(), make_adapter()]
    for number, member in enumerate(fleet):
        member.call("start", client_id=f"c{number}", max_workers=10)
    with ThreadPoolExecutor(len(fleet)) as threads:
        list(threads.map(lambda member: member.call("insert_many", jobs=[{}] * 200), fleet))
    eventually(lambda: not adapter.call("list", states=OPEN)["jobs"])
    jobs = adapter.call("list", limit=1000)["jobs"]
    assert len(jobs) == 600
    assert all((job["state"], job["attempt"], len(job["attempted_by"])) == ("completed", 1, 1) for job in jobs)
    events = [member.call("runtime_stats")["events"] for member in fleet]
    eventually(lambda: sum(len(member.call("runtime_stats")["events"]) for member in fleet) == 600, what=str(events))


def test_completion_batching(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    adapter.call("insert_many", jobs=[{}] * 1000)
    adapter.call("start", client_id="c")
    eventually(lambda: not adapter.call("list", states=OPEN, limit=1)["jobs"])
    row = database.execute("SELECT count(DISTINCT xmin::text), count(*) FROM river_job").fetchone()
    assert row is not None
    assert row[0] < 250
    assert row[1] == 1000


def test_pool_pressure_completion(adapter: AdapterProcess) -> None:
    """As many transactions as may be open are held while jobs are worked."""
    adapter.call("start", client_id="c", max_workers=100)
    handles = [str(number) for number in range(20) if adapter.refused_or_none("tx_begin", handle=str(number)) is None]
    adapter.call("insert_many", jobs=[{"behavior": "transactional_complete"}] * 100)
    adapter.call("insert_many", jobs=[{"behavior": "output"}] * 100)
    eventually(lambda: not adapter.call("list", states=OPEN, limit=1)["jobs"])
    assert adapter.call("connection_count")["count"] <= 20
    for handle in handles:
        adapter.call("tx_rollback", handle=handle)


def test_notification_only_wakeups(adapter: AdapterProcess, make_adapter: Make) -> None:
    worker = make_adapter()
    worker.call("start", client_id="c", fetch_poll_interval_ms=60_000)
    for _ in range(3):
        job = adapter.call("insert")
        assert adapter.call("wait", id=job["id"])["state"] == "completed"
    adapter.call("tx_begin", handle="t")
    job = adapter.call("tx_insert", handle="t", job={})
    adapter.call("tx_commit", handle="t")
    assert adapter.call("wait", id=job["id"])["state"] == "completed"


def test_remote_queue_subscription_events(adapter: AdapterProcess, make_adapter: Make) -> None:
    worker = make_adapter()
    worker.call("start", client_id="c")
    for method, name in (
        ("queue_pause", "default"), ("queue_pause", "*"), ("queue_resume", "*"), ("queue_resume", "default"),
    ):  # fmt: skip
        adapter.call(method, name=name)
    adapter.call("queue_update", name="default", metadata={"a": 1})
    eventually(lambda: worker.call("runtime_stats")["events"] == ["queue_paused", "queue_resumed"])


def test_clock_boundary_scheduling(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c")
    due = datetime.now(UTC) + timedelta(milliseconds=700)
    job = adapter.call("insert", opts={"scheduled_at": time_text(due)})
    done = adapter.call("wait", id=job["id"])
    assert done["attempted_at"] >= done["scheduled_at"] == job["scheduled_at"], "not a moment early"


def test_leadership_same_client_id_term_replacement(
    adapter: AdapterProcess, make_adapter: Make, database: psycopg.Connection
) -> None:
    adapter.call("start", client_id="same", **TUNED)
    eventually(lambda: term(adapter)[0] == "same")
    first = term(adapter)
    adapter.call("fault_expire_leader")
    database.execute("DELETE FROM river_leader")
    other = make_adapter()
    other.call("start", client_id="same", **TUNED)
    eventually(lambda: term(adapter) not in (first, (None, None)))
    adapter.call("stop")
    eventually(lambda: term(other)[0] == "same")
    kept = term(other)
    expires = "SELECT expires_at FROM river_leader"
    before = database.execute(expires).fetchone()
    eventually(lambda: database.execute(expires).fetchone() != before, what="the renewal of the lease")
    assert term(other) == kept, "the one that stopped resigned its own term, not this one"
    other.call("stop")
    assert term(adapter) == (None, None)


def test_mixed_request_resign_terms(adapter: AdapterProcess, make_adapter: Make) -> None:
    other = make_adapter()
    adapter.call("start", client_id="one", **TUNED)
    eventually(lambda: term(adapter)[0] == "one")
    other.call("start", client_id="other", **TUNED)
    before = term(adapter)
    other.call("request_resign")
    eventually(lambda: term(adapter) not in (before, (None, None)))


def test_maintenance_rescuer_full_batch_of_unexpired_jobs(
    adapter: AdapterProcess, database: psycopg.Connection
) -> None:
    count = 10_000
    database.execute(
        "INSERT INTO river_job (args, kind, max_attempts, state, attempt, attempted_at)"
        " SELECT '{}', 'conformance_echo', 25, 'running', 1, now() - interval '1 hour' FROM generate_series(1, %s)",
        [count],
    )
    last = adapter.call("raw_insert_no_notify", kind="nobody")["id"]
    sets = "state = 'running', attempt = 1, attempted_at = now() - interval '1 hour'"
    database.execute(f"UPDATE river_job SET {sets} WHERE id = %s", [last])
    options = {"rescue_after_ms": 1000, "job_timeout_disabled": True, "queue": "other"}
    adapter.call("start", client_id="c", **options, **TUNED)
    eventually(lambda: adapter.call("get", id=last)["state"] == "discarded")
    row = database.execute("SELECT count(*) FROM river_job WHERE state = 'running' AND errors IS NULL").fetchone()
    assert row == (count,)


def test_maintenance_rescuer_stale_selection(
    adapter: AdapterProcess, database: psycopg.Connection, url: str
) -> None:
    """Selected for rescue, and worked anew by somebody before the rescue was written: left alone."""
    stale = adapter.call("raw_insert_no_notify")["id"]
    sets = "state = 'running', attempt = 1, attempted_at = now() - interval '1 hour'"
    database.execute(f"UPDATE river_job SET {sets} WHERE id = %s", [stale])
    with psycopg.connect(url) as holder:
        holder.execute("UPDATE river_job SET attempt = 2, attempted_at = now() WHERE id = %s", [stale])
        options = {"rescue_after_ms": 60_000, "queue": "other"}
        adapter.call("start", client_id="c", job_timeout_ms=60_000, **options, **TUNED)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
        eventually(lambda: database.execute(waits, [adapter.name]).fetchone() != (0,), what="the rescuer's wait")
        holder.commit()
    marker = adapter.call("raw_insert_no_notify", kind="nobody")["id"]
    database.execute(f"UPDATE river_job SET {sets} WHERE id = %s", [marker])
    eventually(lambda: adapter.call("get", id=marker)["state"] == "discarded")
    assert (adapter.call("get", id=stale)["state"], adapter.call("get", id=stale)["errors"]) == ("running", [])


def cancelled_while_running(adapter: AdapterProcess) -> dict[str, Any]:
    """A job that another process had begun when it was cancelled: one that merely waited there has no error."""
    while True:
        job = adapter.call("insert", behavior="cooperative_cancel")
        adapter.call("wait", id=job["id"], states=["running"])
        if adapter.call("cancel", id=job["id"])["state"] == "running":
            return job


def test_shutdown_after_cancel_attempt(adapter: AdapterProcess, make_adapter: Make) -> None:
    worker = make_adapter()
    for hard in (False, True):
        worker.call("start", client_id="c")
        job = cancelled_while_running(adapter)
        worker.call("stop", cancel=hard)
        stored = adapter.call("get", id=job["id"])
        assert stored["state"] == "cancelled"
        errors = [error["error"] for error in stored["errors"]]
        # a hard stop may interrupt the job before the cancel is heard of: then it has no error to record
        assert errors == ["JobCancelError: job cancelled remotely"] or (hard and errors == [])


def test_resumable_cross_engine_cursor(adapter: AdapterProcess, make_adapter: Make) -> None:
    """Each attempt in another process."""
    job = adapter.call("insert", behavior="resumable_cursor")
    for number in range(3):
        worker = make_adapter()
        worker.call("start", client_id=f"c{number}", retry_delay_ms=600_000)
        states = ["completed"] if number == 2 else ["retryable"]
        done = adapter.call("wait", id=job["id"], states=states)
        worker.call("stop")
        if number < 2:
            adapter.call("retry", id=job["id"])
    assert done["attempted_by"] == ["c0", "c1", "c2"]
    assert (done["metadata"]["first_attempt"], done["metadata"]["cursor_observed"]) == (1, 7)


def test_rolling_deployment_same_protocol(adapter: AdapterProcess, make_adapter: Make) -> None:
    """Workers come and go under load, and every job is worked once."""
    done = threading.Event()
    members = [make_adapter() for _ in range(2)]

    def roll() -> None:
        round_number = 0
        while not done.is_set():
            member = members[round_number % 2]
            member.call("start", client_id=f"c{round_number}", max_workers=5)
            round_number += 1
            if round_number > 1:
                members[round_number % 2].call("stop")

    thread = threading.Thread(target=roll)
    thread.start()
    for _ in range(10):
        adapter.call("insert_many", jobs=[{"behavior": "sleep", "duration_ms": 2}] * 50)
    eventually(lambda: not adapter.call("list", states=OPEN, limit=1)["jobs"], timeout=60)
    done.set()
    thread.join(60)
    jobs = adapter.call("list", limit=1000)["jobs"]
    assert len(jobs) == 500
    assert all((job["state"], job["errors"]) == ("completed", []) for job in jobs)


def test_unsafe_int64_job_ids_rpc_list_cursors(adapter: AdapterProcess) -> None:
    ids = [2**53 + 1, 2**62, 2**63 - 2, 2**63 - 1]
    for job_id in ids:
        adapter.call("raw_insert_exact_json", id=job_id)
    assert [job["id"] for job in adapter.call("list", ids=ids[1:])["jobs"]] == ids[1:]
    page: dict[str, Any] = adapter.call("list", limit=1)
    seen = [page["jobs"][0]["id"]]
    while page["jobs"]:
        page = adapter.call("list", limit=1, after=page["cursor"]) if page["cursor"] else {"jobs": [], "cursor": None}
        seen += [job["id"] for job in page["jobs"]]
    assert seen == ids
    assert adapter.call("cancel", id=ids[-1])["state"] == "cancelled"
    assert [job["id"] for job in adapter.call("delete_many", ids=ids)["jobs"]] == ids
