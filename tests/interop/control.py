"""One cancels, pauses, resumes and deletes what the other works: over notifications, and where it only polls."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.interop.conftest import Make
from tests.interop.peers import Peer, PeerError

WAYS = pytest.mark.parametrize(("asks", "works"), [("go", "ours"), ("ours", "go")], ids=lambda side: side)
HEARS = pytest.mark.parametrize("poll_only", [False, True], ids=["told", "polls"])
CANCELLED = "JobCancelError: job cancelled remotely"


def blocked(one: Peer, other: Peer, **args: Any) -> int:
    """A job that `one` inserted and `other` runs."""
    job_id: int = one.insert(kind="interop", args={"do": "block", **args})["job"]["id"]
    other.event("working", job_id)
    return job_id


@WAYS
@HEARS
def test_running_job_is_cancelled(make: Make, asks: str, works: str, poll_only: bool) -> None:
    one, other = make(asks), make(works, queues={"default": 5}, poll_only=poll_only)
    job_id, stays, deaf = blocked(one, other), blocked(one, other), blocked(one, other, deaf=True)
    for asked in (one.job_cancel(id=job_id), one.job_cancel(id=deaf)):
        assert asked["state"] == "running"
        assert "cancel_attempted_at" in json.loads(asked["metadata"])
    cancelled = other.event("job_cancelled", job_id)["job"]
    assert cancelled == one.job_get(id=job_id)
    assert (cancelled["state"], cancelled["attempt"]) == ("cancelled", 1)
    assert [error["error"] for error in cancelled["errors"]] == [CANCELLED]
    assert cancelled["finalized_at"] is not None
    other.event("told", deaf)  # and goes on all the same
    for released in (deaf, stays):
        other.release(id=released)
        assert other.event("job_completed", released)["job"]["errors"] == []


@WAYS
def test_waiting_jobs_are_cancelled_retried_and_deleted(make: Make, asks: str, works: str) -> None:
    one, other = make(asks), make(works)
    ids = [one.insert(kind="interop", args={}, opts={"pending": n == 1})["job"]["id"] for n in range(3)]
    for job_id in ids:
        cancelled = one.job_cancel(id=job_id)
        assert cancelled["state"] == "cancelled"
        assert other.job_cancel(id=job_id) == cancelled == other.job_get(id=job_id), "a final row is left alone"
    again = other.job_retry(id=ids[0])
    assert (again["state"], again["finalized_at"]) == ("available", None)
    assert "cancel_attempted_at" not in json.loads(again["metadata"])
    assert one.job_retry(id=ids[0]) == again, "one that is due stays as it is"
    assert one.job_delete(id=ids[1])["id"] == ids[1]
    assert other.job_delete(id=ids[2])["id"] == ids[2]
    for peer in (one, other):
        for verb in ("job_get", "job_cancel", "job_retry", "job_delete"):
            with pytest.raises(PeerError) as raised:
                peer.call(verb, {"id": ids[1]})
            assert raised.value.sort == "not_found", verb


@WAYS
def test_running_job_cannot_be_deleted(make: Make, asks: str, works: str) -> None:
    one, other = make(asks), make(works, queues={"default": 1})
    job_id = blocked(one, other)
    with pytest.raises(PeerError) as raised:
        one.job_delete(id=job_id)
    assert raised.value.sort == "running"
    assert one.job_retry(id=job_id)["state"] == "running"


@WAYS
@HEARS
def test_queue_is_paused_and_resumed(
    make: Make, conn: psycopg.Connection, asks: str, works: str, poll_only: bool
) -> None:
    one = make(asks)
    other = make(works, queues={"default": 5, "second": 5}, poll_only=poll_only, poll_ms=100)

    def lets_pass(name: str) -> bool:
        """Whether a job of that queue is worked by the time a later one of the other queue is."""
        job_id = one.insert(kind="interop", args={}, opts={"queue": name})["job"]["id"]
        later = "second" if name == "default" else "default"
        for _ in range(2):
            other.event("job_completed", one.insert(kind="interop", args={}, opts={"queue": later})["job"]["id"])
        return bool(one.job_get(id=job_id)["state"] == "completed")

    running = blocked(one, other)
    one.queue_pause(name="default")
    assert other.event("queue_paused")["queue"] == "default"
    assert not lets_pass("default")
    assert other.queue_get(name="default") == one.queue_get(name="default")
    assert one.queue_get(name="default")["paused_at"] is not None
    other.release(id=running)
    other.event("job_completed", running)  # what runs goes on
    one.queue_resume(name="default")
    assert other.event("queue_resumed")["queue"] == "default"
    waited = conn.execute("SELECT id FROM river_job WHERE queue = 'default' ORDER BY id DESC LIMIT 1").fetchone()
    assert waited is not None
    other.event("job_completed", waited[0])
    one.queue_pause(name="*")
    assert {other.event("queue_paused")["queue"] for _ in range(2)} == {"default", "second"}
    one.queue_resume(name="*")
    assert {other.event("queue_resumed")["queue"] for _ in range(2)} == {"default", "second"}


@WAYS
def test_queue_paused_before_the_start(make: Make, asks: str, works: str, until: Any) -> None:
    with make(works, queues={"default": 1}) as first:
        until("SELECT count(*) FROM river_queue", 1)
        first.stop()
    one = make(asks)
    one.queue_pause(name="default")
    job_id = one.insert(kind="interop", args={})["job"]["id"]
    other = make(works, queues={"default": 1, "second": 1})
    for _ in range(2):
        other.event("job_completed", one.insert(kind="interop", args={}, opts={"queue": "second"})["job"]["id"])
    assert one.job_get(id=job_id)["state"] == "available"
    one.queue_resume(name="default")
    other.event("job_completed", job_id)


@WAYS
def test_queues_as_both_see_them(make: Make, asks: str, works: str) -> None:
    one, other = make(asks), make(works, queues={"default": 1, "a|b_c-1": 1})
    listed = one.queue_list()
    assert listed == other.queue_list()
    assert [queue["name"] for queue in listed] == ["a|b_c-1", "default"]
    with pytest.raises(PeerError) as raised:
        one.queue_pause(name="nobody")
    assert raised.value.sort == "not_found"
