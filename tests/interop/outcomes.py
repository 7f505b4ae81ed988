"""A job goes from one to the other with all that befell it: errors, snoozes, attempts, output, metadata, interrupts."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import pytest

from tests.interop.conftest import Make
from tests.interop.peers import Peer

WAYS = pytest.mark.parametrize(("first", "second"), [("go", "ours"), ("ours", "go")], ids=lambda side: side)
SOON = 1  # milliseconds


def insert(peer: Peer, args: dict[str, Any], **opts: Any) -> int:
    """A job that waits for its release each time."""
    job_id: int = peer.insert(kind="interop", args={"hold": True, **args}, opts=opts)["job"]["id"]
    return job_id


def in_turn(make: Make, job_id: int, sides: list[str], event: str, **config: Any) -> list[dict[str, Any]]:
    """The job after each of `sides` has worked it once, alone: the queue is paused while it may run again at once."""
    rows = []
    for side in sides:
        with make(side, queues={"default": 1}, **config) as peer:
            if peer.queue_get(name="default")["paused_at"] is not None:
                peer.queue_resume(name="default")
            working = peer.event("working", job_id)["job"]
            peer.queue_pause(name="default")
            peer.event("queue_paused")
            peer.release(id=job_id)
            rows.append(peer.event(event, job_id)["job"])
            assert working["attempted_by"] == rows[-1]["attempted_by"]
            peer.stop()
    return rows


@WAYS
def test_errors_of_both_stand_in_one_history(make: Make, first: str, second: str) -> None:
    one, other = make(first), make(second)
    job_id = insert(one, {"do": "fail", "text": "née \u2028<&> 🎉"}, max_attempts=4)
    rows = in_turn(make, job_id, [first, second, first, second], "job_failed", retry_ms=SOON)
    assert [row["state"] for row in rows] == ["available", "available", "available", "discarded"]
    last = rows[-1]
    assert one.job_get(id=job_id) == other.job_get(id=job_id) == last
    assert [error["attempt"] for error in last["errors"]] == [1, 2, 3, 4]
    assert {error["error"] for error in last["errors"]} == {"née \u2028<&> 🎉"}
    assert last["errors"][:3] == rows[2]["errors"], "what stands there is left as it is"
    assert len(last["attempted_by"]) == 4
    assert [error["at"] for error in last["errors"]] == sorted(error["at"] for error in last["errors"])


@WAYS
def test_default_policy_counts_the_others_errors(make: Make, first: str, second: str) -> None:
    job_id = insert(make(first), {"do": "fail", "text": "no"})
    in_turn(make, job_id, [first, second], "job_failed", retry_ms=SOON)
    (row,) = in_turn(make, job_id, [first], "job_failed")
    assert row["state"] == "retryable"
    delay = (row["scheduled_at"] - row["attempted_at"]) / 1e6
    assert 81 * 0.89 <= delay <= 81 * 1.1 + 10, "the third failure"


@WAYS
def test_panics_keep_their_trace(make: Make, first: str, second: str) -> None:
    one = make(first)
    job_id = insert(one, {"do": "panic", "text": "oh"}, max_attempts=2)
    rows = in_turn(make, job_id, [first, second], "job_failed", retry_ms=SOON)
    assert [error["error"] for error in rows[1]["errors"]] == ["oh", "oh"]
    assert all(error["trace"] for error in rows[1]["errors"])
    assert one.job_get(id=job_id) == rows[1]


@WAYS
@pytest.mark.parametrize("millis", [10, 6_000], ids=["at once", "by the scheduler"])
def test_snoozes_are_counted_on_and_give_their_attempt_back(make: Make, first: str, second: str, millis: int) -> None:
    one = make(first)
    job_id = insert(one, {"do": "snooze", "ms": millis})
    (row,) = in_turn(make, job_id, [first], "job_snoozed")
    assert (row["state"], row["attempt"], row["errors"]) == ("available" if millis < 5_000 else "scheduled", 0, [])
    assert json.loads(row["metadata"]) == {"snoozes": 1}
    (row,) = in_turn(make, job_id, [second], "job_completed")
    assert (row["attempt"], json.loads(row["metadata"])) == (1, {"snoozes": 1})
    assert len(row["attempted_by"]) == 2


@WAYS
def test_output_and_metadata_come_over(make: Make, first: str, second: str) -> None:
    one = make(first)
    value = {"é": [1, 2**60, None, "\u2028<>&"], "nested": {"b": 1, "a": 0.1}}
    args = {"do": "fail", "text": "no", "times": 1, "set": {"from": "worker"}, "output": value}
    job_id = insert(one, args, metadata={"mine": 1})
    (failed,) = in_turn(make, job_id, [first], "job_failed", retry_ms=SOON)
    expected = {"mine": 1, "from": "worker", "output": value}
    assert json.loads(failed["metadata"]) == expected
    (done,) = in_turn(make, job_id, [second], "job_completed")
    assert json.loads(done["metadata"]) == expected
    assert make(second).job_get(id=job_id) == one.job_get(id=job_id) == done


@WAYS
def test_logs_of_both_stand_in_one_list(make: Make, first: str, second: str) -> None:
    one = make(first)
    args = {"do": "fail", "text": "no", "log": "né \u2028<&> 🎉"}
    job_id = insert(one, args, max_attempts=3)
    rows = in_turn(make, job_id, [first, second, first], "job_failed", retry_ms=SOON)
    logs = [json.loads(row["metadata"])["river:log"] for row in rows]
    assert [entry["attempt"] for entry in logs[2]] == [1, 2, 3]
    assert logs[2][:2] == logs[1]
    assert logs[1][:1] == logs[0]
    assert all(set(entry) == {"attempt", "log"} and entry["log"].count("né") == 1 for entry in logs[2])


@WAYS
def test_interrupted_job_is_worked_by_the_other(make: Make, first: str, second: str) -> None:
    job_id = make(first).insert(kind="interop", args={"do": "block"})["job"]["id"]
    with make(first, queues={"default": 1}) as stopped:
        stopped.event("working", job_id)
        stopped.stop_and_cancel()
        interrupted = stopped.event("job_interrupted", job_id)["job"]
    assert (interrupted["state"], interrupted["attempt"], interrupted["errors"]) == ("available", 0, [])
    other = make(second, queues={"default": 1})
    working = other.event("working", job_id)["job"]
    assert working["attempt"] == 1
    assert len(working["attempted_by"]) == 2
    other.release(id=job_id)
    other.event("job_completed", job_id)


@WAYS
def test_self_cancel_and_its_retry(make: Make, first: str, second: str) -> None:
    args = {"do": "cancel", "text": "not today", "times": 1}
    one = make(first)
    job_id = insert(one, args, max_attempts=1)
    (row,) = in_turn(make, job_id, [first], "job_cancelled")
    assert [error["error"] for error in row["errors"]] == ["JobCancelError: not today"]
    again = make(second).job_retry(id=job_id)
    assert (again["state"], again["max_attempts"], again["errors"]) == ("available", 2, row["errors"])
    (row,) = in_turn(make, job_id, [second], "job_completed")
    assert row["attempt"] == 2


@WAYS
def test_cancel_asked_for_while_one_ran_is_obeyed_when_it_fails(make: Make, first: str, second: str) -> None:
    """A worker that hears of nothing any more: the row alone says that it was cancelled."""
    one = make(second)
    with ExitStack() as stack:
        worker: Peer = stack.enter_context(make(first, queues={"default": 1}, retry_ms=SOON))
        args = {"do": "block", "deaf": True, "text": "late"}
        job_id = one.insert(kind="interop", args=args)["job"]["id"]
        worker.event("working", job_id)
        one.job_cancel(id=job_id)
        worker.release(id=job_id)
        row = worker.event("job_cancelled", job_id)["job"]
    assert row["state"] == "cancelled"
    assert one.job_get(id=job_id) == row
