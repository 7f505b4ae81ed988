"""Queues: their rows, and which of them a running client works."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest

from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually


def put(database: psycopg.Connection, *names: str) -> None:
    for name in names:
        times = "'2026-01-02T03:04:05.12Z', now()"
        database.execute(f"INSERT INTO river_queue (name, created_at, updated_at) VALUES (%s, {times})", [name])


def test_queue_is_told_in_every_member(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    put(database, "a|b")
    queue = adapter.call("queue_get", name="a|b")
    assert (queue["name"], queue["created_at"], queue["metadata"]) == ("a|b", "2026-01-02T03:04:05.12Z", {})
    assert queue["paused_at"] is None
    for method in ("queue_get", "queue_pause", "queue_resume", "queue_update"):
        assert adapter.refused(method, name="nobody works it") == "not_found"


def test_queues_are_listed_by_name(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    put(database, "c", "a", "b")
    assert [queue["name"] for queue in adapter.call("queue_list")["queues"]] == ["a", "b", "c"]
    assert [queue["name"] for queue in adapter.call("queue_list", limit=2)["queues"]] == ["a", "b"]
    assert adapter.refused("queue_list", limit=10_001) == "rejected"


def test_pause_and_resume_name_one_or_all(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    assert adapter.call("queue_pause", name="*") == {}
    put(database, "a", "b")
    adapter.call("queue_pause", name="a")
    paused = adapter.call("queue_get", name="a")
    assert paused["paused_at"] is not None
    adapter.call("queue_pause", name="a")
    assert adapter.call("queue_get", name="a") == paused
    adapter.call("queue_pause", name="*")
    assert all(queue["paused_at"] for queue in adapter.call("queue_list")["queues"])
    adapter.call("queue_resume", name="*")
    assert not any(queue["paused_at"] for queue in adapter.call("queue_list")["queues"])


def test_update_replaces_the_metadata_or_leaves_it(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    put(database, "a")
    request = (
        b'{"jsonrpc":"2.0","id":1,"method":"queue_update","params":{"name":"a","metadata":'
        b'{"n":9007199254740993,"d":1.10,"s":"<&>"}}}'
    )
    queue = adapter.ask(request)["result"]
    assert queue["metadata"] == {"n": 9007199254740993, "d": Decimal("1.1"), "s": "<&>"}
    assert adapter.call("queue_update", name="a")["metadata"] == queue["metadata"]
    assert adapter.call("queue_update", name="a", metadata={})["metadata"] == {}
    row = database.execute("SELECT metadata::text FROM river_queue").fetchone()
    assert row == ("{}",)


def test_queue_is_added_reconfigured_and_removed_while_the_client_runs(
    adapter: AdapterProcess, database: psycopg.Connection
) -> None:
    assert adapter.refused("queue_add", name="more") == "rejected"
    assert adapter.refused("queue_remove", name="more") == "rejected"
    adapter.call("start", client_id="c")
    adapter.call("queue_add", name="more")
    job = adapter.call("insert", opts={"queue": "more"})
    assert adapter.call("wait", id=job["id"])["state"] == "completed"
    adapter.call("barrier_create", name="hold")
    held = [
        adapter.call("insert", behavior="barrier_wait", message="hold", opts={"queue": "more"})["id"] for _ in range(3)
    ]
    adapter.call("wait", id=held[0], states=["running"])
    adapter.call("barrier_release", name="hold")
    adapter.call("queue_add", name="more", max_workers=3)
    adapter.call("queue_remove", name="more")
    assert adapter.refused("queue_remove", name="more") == "not_found"
    assert adapter.call("queue_get", name="more")["name"] == "more", "the row stays"
    late = adapter.call("insert", opts={"queue": "more"})
    seen = adapter.call("insert")
    adapter.call("wait", id=seen["id"])
    assert adapter.call("get", id=late["id"])["state"] == "available"
    assert adapter.refused("queue_add", name="No Queue") == "rejected"


def test_paused_queue_is_not_fetched_from(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c")
    adapter.call("queue_pause", name="default")
    eventually(lambda: adapter.call("runtime_stats")["events"] == ["queue_paused"])
    adapter.call("queue_pause", name="default")
    job = adapter.call("insert")
    adapter.call("queue_resume", name="default")
    assert adapter.call("wait", id=job["id"])["state"] == "completed"
    adapter.call("queue_resume", name="*")
    events = ["queue_paused", "queue_resumed", "job_completed"]
    eventually(lambda: adapter.call("runtime_stats")["events"] == events)


@pytest.mark.parametrize("who", ["row", "client"])
def test_queue_paused_before_the_start_stays_so(
    adapter: AdapterProcess, database: psycopg.Connection, who: str
) -> None:
    put(database, "default")
    adapter.call("queue_pause", name="default" if who == "client" else "*")
    adapter.call("start", client_id="c")
    job = adapter.call("insert")
    adapter.call("queue_resume", name="default")
    assert adapter.call("wait", id=job["id"])["state"] == "completed"
