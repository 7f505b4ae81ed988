"""What each behavior of the built-in job comes to in its row, and what the client counts of it."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually

SOON = {"fetch_poll_interval_ms": 10, "retry_delay_ms": 1}


def worked(adapter: AdapterProcess, behavior: str, *states: str, **params: Any) -> Any:
    """The job once it is in one of the states (none named: final)."""
    job = adapter.call("insert", behavior=behavior, **params)
    return adapter.call("wait", id=job["id"], **({"states": list(states)} if states else {}))


def events(adapter: AdapterProcess, *expected: str) -> None:
    eventually(lambda: adapter.call("runtime_stats")["events"] == list(expected), what=f"events {expected}")


@pytest.fixture
def working(adapter: AdapterProcess) -> AdapterProcess:
    adapter.call("start", client_id="c", **SOON)
    return adapter


def test_empty_completes(working: AdapterProcess) -> None:
    job = worked(working, "")
    assert (job["state"], job["attempt"], job["errors"], job["attempted_by"]) == ("completed", 1, [], ["c"])
    assert job["finalized_at"] >= job["attempted_at"]
    events(working, "job_completed")


def test_output_and_sleep(working: AdapterProcess) -> None:
    assert worked(working, "output", message="m")["metadata"] == {"output": {"message": "m"}}
    assert worked(working, "sleep", duration_ms=20)["state"] == "completed"


def test_barriers_hold_jobs_until_released(working: AdapterProcess) -> None:
    working.call("barrier_create", name="b")
    assert working.refused("barrier_create", name="b") == "rejected"
    waiting = [working.call("insert", behavior="barrier_wait", message="b") for _ in range(2)]
    output = working.call("insert", behavior="barrier_output", message="b")
    for job in (*waiting, output):
        working.call("wait", id=job["id"], states=["running"])
    working.call("barrier_release", name="b")
    assert working.refused("barrier_release", name="b") == "not_found"
    assert working.call("wait", id=output["id"])["metadata"] == {"output": {"race": "worker"}}
    for job in waiting:
        assert working.call("wait", id=job["id"])["state"] == "completed"
    lost = worked(working, "barrier_wait", message="b", opts={"max_attempts": 1})
    assert lost["state"] == "discarded", "the barrier is forgotten"


def test_cancel_ends_a_wait_at_a_barrier(working: AdapterProcess) -> None:
    working.call("barrier_create", name="b")
    job = worked(working, "barrier_wait", "running", message="b")
    working.call("cancel", id=job["id"])
    assert working.call("wait", id=job["id"])["state"] == "cancelled"


@pytest.mark.parametrize(
    ("behavior", "text"),
    [
        ("error", "conformance retryable error"),
        ("discard", "conformance discard"),
        ("panic", "conformance worker panic"),
    ],
)
def test_failures_are_recorded_and_discarded_at_last(working: AdapterProcess, behavior: str, text: str) -> None:
    job = worked(working, behavior, opts={"max_attempts": 2})
    assert (job["state"], job["attempt"]) == ("discarded", 2)
    assert [(error["attempt"], error["error"]) for error in job["errors"]] == [(1, text), (2, text)]
    assert job["errors"][0]["trace"]
    events(working, "job_failed", "job_failed")


def test_cancel_cancels_itself(working: AdapterProcess) -> None:
    job = worked(working, "cancel")
    assert job["state"] == "cancelled"
    assert [error["error"] for error in job["errors"]] == ["JobCancelError: cancelled by conformance worker"]
    events(working, "job_cancelled")


@pytest.mark.parametrize("behavior", ["cooperative_cancel", "cancel_error", "snooze_then_cancel"])
def test_remote_cancel_of_a_running_job(working: AdapterProcess, behavior: str) -> None:
    job = worked(working, behavior, "running")
    if behavior == "snooze_then_cancel":
        eventually(lambda: working.call("get", id=job["id"])["metadata"].get("snoozes") == 1)
        working.call("wait", id=job["id"], states=["running"])
    told = working.call("cancel", id=job["id"])
    assert told["state"] == "running"
    assert "cancel_attempted_at" in told["metadata"]
    done = working.call("wait", id=job["id"])
    assert (done["state"], done["attempt"]) == ("cancelled", 1)
    assert [error["error"] for error in done["errors"]] == ["JobCancelError: job cancelled remotely"]
    assert working.call("runtime_stats")["cancelled_at_start"] == 0


def test_remote_cancel_of_a_job_that_panics_keeps_the_panic(working: AdapterProcess) -> None:
    job = worked(working, "cancel_panic", "running")
    working.call("cancel", id=job["id"])
    done = working.call("wait", id=job["id"])
    assert done["state"] == "cancelled"
    assert "conformance panic after cancellation" in done["errors"][0]["error"]
    assert done["errors"][0]["trace"]


def test_snooze_gives_the_attempt_back(working: AdapterProcess) -> None:
    job = worked(working, "snooze_once", duration_ms=10)
    assert (job["state"], job["attempt"], job["metadata"]) == ("completed", 1, {"snoozes": 1})
    assert job["attempted_by"] == ["c", "c"]
    events(working, "job_snoozed", "job_completed")
    assert worked(working, "snooze_once", "scheduled", duration_ms=3_600_000)["attempt"] == 0
    assert worked(working, "snooze_once", opts={"metadata": {"snoozes": 3}})["metadata"] == {"snoozes": 3}


def test_resumable_runs_no_step_twice(working: AdapterProcess) -> None:
    job = worked(working, "resumable")
    assert (job["state"], job["attempt"], job["metadata"]) == ("completed", 2, {"river:resumable_step": "first"})
    assert job["errors"][0]["error"] == "fail second resumable step once"
    told = working.call("runtime_stats")
    assert (told["resumable_first_runs"], told["resumable_second_runs"]) == (1, 2)


@pytest.mark.parametrize("metadata", [{}, {"river:resumable_step": "first"}], ids=["fresh", "skipped"])
def test_resumable_duplicate_fails_though_the_step_is_skipped(working: AdapterProcess, metadata: Any) -> None:
    job = worked(working, "resumable_duplicate", opts={"max_attempts": 1, "metadata": metadata})
    assert job["state"] == "discarded"
    assert "duplicate resumable step" in job["errors"][0]["error"]
    assert working.call("runtime_stats")["resumable_second_runs"] == 0


def test_resumable_cursor_is_used_up(working: AdapterProcess) -> None:
    job = worked(working, "resumable_cursor")
    assert (job["state"], job["attempt"]) == ("completed", 3)
    assert [error["error"] for error in job["errors"]] == ["retry with cursor", "retry after consuming cursor"]
    assert {name: job["metadata"][name] for name in ("first_attempt", "cursor_observed", "river:resumable_step")} == {
        "first_attempt": 1,
        "cursor_observed": 7,
        "river:resumable_step": "second",
    }
    assert not job["metadata"]["river:resumable_cursor"]


def test_resumable_state_is_checked_before_the_job_runs(working: AdapterProcess) -> None:
    bad = {"max_attempts": 1, "metadata": {"river:resumable_cursor": [1]}}
    assert worked(working, "resumable", opts=bad)["state"] == "discarded"
    assert working.call("runtime_stats")["resumable_first_runs"] == 0
    assert worked(working, "resumable", opts={"metadata": {"river:resumable_step": ""}})["state"] == "completed"


def test_transactional_complete(working: AdapterProcess) -> None:
    job = worked(working, "transactional_complete")
    assert (job["state"], job["metadata"]) == ("completed", {"transactional_completion": True})
    events(working, "job_completed")


def test_timeout_cancels_and_counts_as_a_failure(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c", job_timeout_ms=50, retry_delay_ms=60_000)
    job = worked(adapter, "cooperative_cancel", "retryable")
    assert (job["attempt"], len(job["errors"])) == (1, 1)
    assert "timed out" in job["errors"][0]["error"]


def test_unknown_kind_is_retried_with_rivers_error(working: AdapterProcess) -> None:
    job = working.call("raw_insert_no_notify", kind="nobody_knows")
    eventually(lambda: working.call("get", id=job["id"])["errors"])
    error = working.call("get", id=job["id"])["errors"][0]["error"]
    assert error == "job kind is not registered in the client's Workers bundle: nobody_knows"
    assert working.call("get", id=job["id"])["state"] in ("available", "running", "retryable")


def test_row_that_cannot_be_decoded_fails_alone(working: AdapterProcess, database: psycopg.Connection) -> None:
    working.call("queue_pause", name="default")
    bad = working.call("insert")
    good = [working.call("insert") for _ in range(3)]
    database.execute("UPDATE river_job SET errors = ARRAY[NULL]::jsonb[], max_attempts = 1 WHERE id = %s", [bad["id"]])
    working.call("queue_resume", name="default")
    for job in good:
        assert working.call("wait", id=job["id"])["state"] == "completed"
    row = "SELECT state::text, errors[2] ->> 'error' FROM river_job WHERE id = %s"
    eventually(lambda: database.execute(row, [bad["id"]]).fetchone()[0] == "discarded")  # type: ignore[index]
    _, error = database.execute(row, [bad["id"]]).fetchone()  # type: ignore[misc]
    assert error.startswith("job row couldn't be decoded: ")


def test_default_retries_go_by_rivers_schedule(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c")
    first = worked(adapter, "error", "available", "retryable")
    eventually(lambda: len(adapter.call("get", id=first["id"])["errors"]) == 2)
    second = adapter.call("get", id=first["id"])
    assert second["state"] == "retryable", "about 16 s away"


@pytest.mark.parametrize("state", ["completed", "discarded"])
def test_change_from_outside_wins_over_a_late_completion(working: AdapterProcess, state: str) -> None:
    working.call("barrier_create", name="b")
    job = worked(working, "barrier_output", "running", message="b")
    forced = working.call("raw_finalize", id=job["id"], state=state, metadata={"by": "hand"})
    working.call("barrier_release", name="b")
    events(working, "job_completed" if state == "completed" else "job_failed")
    late = working.call("get", id=job["id"])
    assert late["metadata"] == {"by": "hand", "output": {"race": "worker"}}
    assert {**late, "metadata": None} == {**forced, "metadata": None}


def test_cancel_that_came_between_claim_and_start(adapter: AdapterProcess) -> None:
    adapter.call("barrier_create", name="claim")
    adapter.call("start", client_id="c", claim_barrier="claim", max_workers=1)
    job = worked(adapter, "cooperative_cancel", "running")
    told = adapter.call("cancel", id=job["id"])
    assert told["state"] == "running"
    adapter.call("barrier_release", name="claim")
    done = adapter.call("wait", id=job["id"])
    assert (done["state"], done["errors"][0]["error"]) == ("cancelled", "JobCancelError: job cancelled remotely")
    assert adapter.call("runtime_stats")["cancelled_at_start"] == 1
    assert worked(adapter, "")["state"] == "completed", "later claims do not wait"


@pytest.mark.parametrize("hard", [False, True])
def test_stop_releases_a_held_claim(adapter: AdapterProcess, hard: bool) -> None:
    adapter.call("barrier_create", name="claim")
    adapter.call("start", client_id="c", claim_barrier="claim")
    job = worked(adapter, "", "running")
    began = time.monotonic()
    adapter.call("stop", cancel=hard)
    assert time.monotonic() - began < 20
    stored = adapter.call("get", id=job["id"])
    assert stored["state"] in (("completed", "available") if hard else ("completed",))
