"""Resumable jobs: what one side's attempt finished, the other's next attempt passes over, with every cursor.

Each story is told four times, by each side alone and by both in turn, and must come out the same.
"""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.interop.conftest import Make
from tests.interop.peers import Peer
from tests.interop.rescue import HOURS, age

CURSOR = {"n": 2**60, "é": ["\u2028<&>", None], "": 0.1}


def step(name: str, attempt: int = 0, ends: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "attempt": attempt, "ends": ends, **more}


def cursor_step(name: str, value: Any, attempt: int = 1, ends: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "cursor": True, "set": value, "attempt": attempt, "ends": ends, **more}


STORIES: dict[str, list[dict[str, Any]]] = {
    "a step fails": [step("one"), step("two", 1, "fail"), step("three")],
    "the first step fails": [step("one", 1, "fail"), step("two")],
    "fails twice": [step("one"), step("two", 1, "fail"), step("three", 2, "fail"), step("four")],
    "a cursor": [step("one"), cursor_step("two", CURSOR, 1, "fail"), step("three")],
    "a cursor of the first step": [cursor_step("one", [1, 2], 1, "fail"), step("two")],
    "a cursor of text, then of null": [cursor_step("one", "é", 1, "fail"), cursor_step("two", None, 2, "fail")],
    "two cursors": [cursor_step("one", 1, 1), cursor_step("two", {"x": 2}, 1, "fail"), step("three", 2, "fail")],
    "a cursor that is moved on": [step("one"), cursor_step("two", 1, 1, "fail"), cursor_step("three", 2, 2, "fail")],
    "a cancel keeps it": [step("one"), cursor_step("two", 5, 1, "cancel"), step("three")],
    "a snooze keeps it": [step("one"), cursor_step("two", 5, 1, "snooze"), step("three")],
    "a transaction": [step("one", 1, tx=True), step("two", 1, "fail")],
    "a cursor in a transaction": [cursor_step("one", CURSOR, 1, "fail", tx=True), step("two")],
    "steps that succeed": [step("one"), cursor_step("two", 1, 1), step("three", 1, tx=True)],
    "a name twice": [step("one"), step("one")],
}
TURNS = list(itertools.product(("go", "ours"), repeat=2))  # River alone first


@pytest.fixture
def peers(make: Make) -> dict[str, Peer]:
    """Each works a queue of its own, and retries only what it is told to."""
    return {side: make(side, queues={side: 4}, retry_ms=3_600_000) for side in ("go", "ours")}


def told(
    peers: dict[str, Peer], conn: psycopg.Connection, story: list[dict[str, Any]], turns: tuple[str, ...]
) -> list[dict[str, Any]]:
    """What each attempt did and left behind; the turns go on in a circle until the job has ended."""
    args = {"do": "steps", "steps": story}
    opts = {"queue": turns[0], "max_attempts": 3}
    job_id = peers[turns[0]].insert(kind="interop", args=args, opts=opts)["job"]["id"]
    attempts = []
    for side in itertools.islice(itertools.cycle(turns), 3):
        peer = peers[side]
        if attempts:
            conn.execute("UPDATE river_job SET queue = %s WHERE id = %s", [side, job_id])
            peers["ours"].job_retry(id=job_id)  # ours tells the queue's workers of it
        peer.event("working", job_id)
        row = peer.outcome(job_id)
        steps = [peer.event("step", job_id) for line in peer.all_events("step") if line["job"]["id"] == job_id]
        metadata = json.loads(row["metadata"])
        metadata.pop("cancel_attempted_at", None)
        attempts.append({
            "steps": [(line["step"], line["cursor"]) for line in steps],
            "state": row["state"],
            "attempt": row["attempt"],
            "errors": [error["error"] for error in row["errors"]],
            "metadata": metadata,
        })  # fmt: skip
        if row["state"] in ("completed", "discarded"):
            break
    return attempts


@pytest.mark.parametrize("story", STORIES)
def test_story_is_the_same_whoever_tells_it(peers: dict[str, Peer], conn: psycopg.Connection, story: str) -> None:
    with ThreadPoolExecutor(len(TURNS)) as tellers:
        alone, *others = tellers.map(lambda turns: told(peers, conn, STORIES[story], turns), TURNS)
    for turns, other in zip(TURNS[1:], others, strict=True):
        assert other == alone, turns


@pytest.mark.parametrize(("dies", "rescues"), [("go", "ours"), ("ours apart", "go")])
def test_what_a_killed_client_stored_in_transactions_is_passed_over(
    make: Make, conn: psycopg.Connection, until: Any, dies: str, rescues: str
) -> None:
    story = [step("one", 1, tx=True), cursor_step("two", CURSOR, 1, tx=True, block=True), step("three")]
    client = make(dies, id="dies", queues={"default": 1}, follows=True)
    job_id = client.insert(kind="interop", args={"do": "steps", "steps": story})["job"]["id"]
    assert [client.event("step", job_id)["step"] for _ in range(2)] == ["one", "two"]
    until("SELECT metadata -> 'river:resumable_cursor' -> 'two' ->> 'n' FROM river_job", str(2**60))
    client.kill()
    age(conn, job_id)
    rescuer = make(rescues, id="rescues", queues={"default": 1}, **HOURS)
    done = rescuer.event("job_completed", job_id)["job"]
    assert (done["attempt"], done["attempted_by"]) == (2, ["dies", "rescues"])
    steps = [(line["step"], line["cursor"]) for line in rescuer.all_events("step")]
    assert steps == [("two", CURSOR), ("three", None)]
