"""River UI, as released, looks at our jobs and steers them through its HTTP API: our client acts on it at once."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.interop.conftest import Make
from tests.interop.peers import Peer

Ask = Callable[..., tuple[int, Any]]
POLL_MS = 60_000  # so that what comes at once came by notification


@pytest.fixture
def ui(make: Make) -> Iterator[Ask]:
    """`ui(path, body=None, method=None)`: status and decoded answer."""
    base = make("go", kinds=[]).ui()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(path: str, body: Any = None, method: str | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with opener.open(request, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        return status, json.loads(text) if text[:1] in b"{[" else text

    yield ask
    opener.close()


@pytest.fixture
def ours(make: Make) -> Peer:
    peer: Peer = make("ours", queues={"default": 5, "second|q": 5}, poll_ms=POLL_MS, retry_ms=600_000)
    return peer


def listed(ui: Ask, query: str) -> list[int]:
    status, answer = ui(f"/api/jobs?{query}")
    assert status == 200
    return [job["id"] for job in answer["data"]]


def insert(peer: Peer, args: Any = None, **opts: Any) -> int:
    job_id: int = peer.insert(kind="interop", args=args or {}, opts=opts)["job"]["id"]
    return job_id


def test_page_and_health(ui: Ask) -> None:
    status, page = ui("/")
    assert status == 200
    assert b"<html" in page
    assert ui("/api/health-checks/complete") == (200, {"status": "ok"})
    assert ui("/api/features")[0] == 200


def test_lists_and_shows_our_jobs(ui: Ask, ours: Peer) -> None:
    value = {"big": 2**60, "é": "\u2028<&>"}
    done = insert(ours, {"output": value, "set": {"note": "ours"}}, tags=["one-tag"], metadata={"mine": [1]})
    failed = insert(ours, {"do": "fail", "text": "no 🎉"}, priority=3, queue="second|q")
    running = insert(ours, {"do": "block"})
    pending = insert(ours, pending=True)
    ours.event("job_completed", done)
    ours.event("job_failed", failed)
    ours.event("working", running)
    by_state = {"completed": done, "retryable": failed, "running": running, "pending": pending}
    for state, job_id in by_state.items():
        assert listed(ui, f"state={state}") == [job_id]
    assert listed(ui, "state=retryable&kinds=interop&queues=second%7Cq&priorities=3") == [failed]
    assert listed(ui, "state=retryable&kinds=other") == []
    counts = ui("/api/states")[1]
    assert {state: count for state, count in counts.items() if count} == dict.fromkeys(by_state, 1)
    for job_id in by_state.values():
        status, shown = ui(f"/api/jobs/{job_id}")
        assert status == 200
        check_shown(shown, ours.job_get(id=job_id))
    assert ui("/api/jobs/999999")[0] == 404
    assert ui("/api/autocomplete?facet=job_kind&match=inter")[1] == {"data": ["interop"]}
    assert ui("/api/autocomplete?facet=queue_name&match=second")[1] == {"data": ["second|q"]}


def check_shown(shown: dict[str, Any], job: dict[str, Any]) -> None:
    assert shown["args"] == json.loads(job["args"])
    assert shown["metadata"] == json.loads(job["metadata"])
    for name in ("id", "kind", "queue", "state", "attempt", "max_attempts", "attempted_by", "priority", "tags"):
        assert shown[name] == job[name], name
    assert [error["error"] for error in shown["errors"]] == [error["error"] for error in job["errors"]]


def test_cancels_retries_and_deletes_our_jobs(ui: Ask, ours: Peer) -> None:
    running, other = insert(ours, {"do": "block"}), insert(ours, {"do": "block"})
    failed = insert(ours, {"do": "fail", "text": "no", "times": 1})
    for job_id in (running, other):
        ours.event("working", job_id)
    ours.event("job_failed", failed)
    assert ui("/api/jobs/cancel", {"ids": [str(running)]}) == (200, {"status": "ok"})
    assert ours.event("job_cancelled", running)["job"]["state"] == "cancelled"
    assert ui("/api/jobs/cancel", {"ids": [str(999999)]})[0] == 404
    assert ui("/api/jobs/delete", {"ids": [str(other)]})[0] == 400, "it runs"
    assert ui("/api/jobs/delete", {"ids": [str(running)]}) == (200, {"status": "ok"})
    assert ui(f"/api/jobs/{running}")[0] == 404
    assert ui("/api/jobs/retry", {"ids": [str(failed)]}) == (200, {"status": "ok"})
    assert ours.job_get(id=failed)["state"] == "available"
    insert(ours)  # River tells nobody of a retry
    assert ours.event("job_completed", failed)["job"]["attempt"] == 2
    ours.release(id=other)


def test_retry_beside_an_equal_job_is_refused(ui: Ask, ours: Peer) -> None:
    unique = {"by_args": True}
    first = insert(ours, {"do": "cancel", "text": "no"}, unique=unique)
    ours.event("job_cancelled", first)
    ours.insert(kind="interop", args={"do": "cancel", "text": "no"}, opts={"unique": unique, "pending": True})
    assert ui("/api/jobs/retry", {"ids": [str(first)]})[0] == 409


def test_pauses_and_resumes_our_queues(ui: Ask, ours: Peer) -> None:
    queues = {queue["name"]: queue for queue in ui("/api/queues")[1]["data"]}
    assert {name: queue["paused_at"] for name, queue in queues.items()} == {"default": None, "second|q": None}
    assert ui("/api/queues/second%7Cq/pause", method="PUT") == (200, {"status": "ok"})
    assert ours.event("queue_paused")["queue"] == "second|q"
    waits = insert(ours, queue="second|q")
    for _ in range(2):
        ours.event("job_completed", insert(ours))
    status, queue = ui("/api/queues/second%7Cq")
    assert (status, queue["count_available"], queue["count_running"]) == (200, 1, 0)
    assert queue["paused_at"] is not None
    assert ours.job_get(id=waits)["state"] == "available"
    assert ui("/api/queues/second%7Cq/resume", method="PUT") == (200, {"status": "ok"})
    assert ours.event("queue_resumed")["queue"] == "second|q"
    ours.event("job_completed", waits)
    limits = {"global_limit": 7, "local_limit": 3, "partition": {"by_args": ["a"], "by_kind": True}}
    assert ui("/api/queues/default", {"concurrency": limits}, "PATCH")[0] == 200
    assert json.loads(ours.queue_get(name="default")["metadata"]) == {"concurrency": limits}
    assert ui("/api/queues/nobody/pause", method="PUT")[0] == 404
