"""Lists and their cursors, deletes and updates: both sides asked the same, on the same rows.

Pages must hold the same ids in the same order, cursors the same bytes, and each continues from the other's. What is
asked is drawn at random, from a seed that is printed, or that of RIVER_FAST_SEED.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import psycopg
import pytest

from river_fast.job import FINAL_STATES, JobState
from tests.interop.conftest import Make
from tests.interop.peers import Peer, PeerError

ROWS = 400
LISTS = 150
PAGES_MOST = 40
# What Go escapes, what it leaves, and what makes base64url differ from base64.
KINDS = ("plain", "a<b>&c", "\u2028\u2029\x7f\b\f\x01", "ünï·cöde", 'quo"te\\', "~~~???>>>")
QUEUES = ("default", "q|1", "Any Name")
TAGS = ("one", "two", "three", "comma,d")
TIMES = ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5Z", "2026-01-02T03:04:05.678901Z", "1999-12-31T23:59:59.00001Z")
METADATA = ({}, {"a": 1}, {"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [2]}}, {"n": 1.50})


def fill(conn: psycopg.Connection[Any], draw: random.Random) -> None:
    """Jobs in every state, many with equal times, some without."""
    rows = []
    for _ in range(ROWS):
        state = draw.choice(list(JobState))
        final = state in FINAL_STATES
        rows.append((
            draw.choice(KINDS), draw.choice(QUEUES), draw.randint(1, 4), state, draw.choice(TIMES),
            draw.choice((None, *TIMES)), draw.choice(TIMES) if final else None,
            draw.sample(TAGS, draw.randint(0, 3)), json.dumps(draw.choice(METADATA)),
        ))  # fmt: skip
    insert = (
        "INSERT INTO river_job (args, kind, queue, priority, state, scheduled_at, attempted_at, finalized_at, tags,"
        " metadata) VALUES ('{}', %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    )
    with conn.cursor() as cursor:
        cursor.executemany(insert, rows)


def drawn_filters(draw: random.Random) -> dict[str, Any]:
    """Never an empty list: River takes that for no filter."""
    possible: dict[str, Any] = {
        "ids": lambda: draw.sample(range(1, ROWS + 20), draw.randint(1, 60)),
        "kinds": lambda: draw.sample(KINDS, draw.randint(1, 3)),
        "priorities": lambda: draw.sample(range(1, 6), draw.randint(1, 3)),
        "queues": lambda: draw.sample(QUEUES, draw.randint(1, 2)),
        "states": lambda: [str(state) for state in draw.sample(list(JobState), draw.randint(1, 4))],
        "tags_all": lambda: draw.sample(TAGS, draw.randint(1, 2)),
        "tags_any": lambda: draw.sample(TAGS, draw.randint(1, 2)),
        "metadata": lambda: draw.choice(METADATA),
    }
    return {name: possible[name]() for name in draw.sample(list(possible), draw.randint(0, 3))}


def asked_of(peer: Peer, verb: str, **asked: Any) -> Any:
    try:
        answer = peer.call(verb, asked)
    except PeerError:
        return "refused"
    jobs = answer["jobs"] if verb == "job_list" else answer
    ids = [job["id"] for job in jobs]
    return (ids, answer["cursor"]) if verb == "job_list" else ids


@pytest.fixture
def draw() -> random.Random:
    seed = int(os.environ.get("RIVER_FAST_SEED") or random.randrange(2**32))
    print(f"RIVER_FAST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def rows(conn: psycopg.Connection[Any], draw: random.Random) -> None:
    fill(conn, draw)


def test_pages_and_cursors_are_the_same(make: Make, rows: None, draw: random.Random) -> None:
    """All pages of each list, asked of both, and continued from the one's cursor or the other's."""
    go, ours = make("go"), make("ours")
    for _ in range(LISTS):
        asked = {
            **drawn_filters(draw),
            "order_by": draw.choice(("id", "time", "time", "scheduled_at", "finalized_at")),
            "descending": draw.choice((False, True)),
            "limit": draw.choice((1, 3, 17, 100)),
        }
        for _ in range(PAGES_MOST):
            theirs, mine = (asked_of(peer, "job_list", **asked) for peer in (go, ours))
            assert mine == theirs, asked
            if mine == "refused" or mine[1] is None:
                break
            asked["after"] = draw.choice((mine, theirs))[1]


def test_rows_of_a_page_are_the_same(make: Make, rows: None) -> None:
    assert make("go").job_list(limit=10_000) == make("ours").job_list(limit=10_000)


def test_what_is_refused_and_what_is_deleted(make: Make, rows: None) -> None:
    """Each deletes the lowest ids that pass, never a running job."""
    go, ours = make("go"), make("ours")
    for asked in ({}, {"unsafe_all": True, "kinds": ["plain"]}, {"unsafe_all": True, "limit": 10_001}):
        assert asked_of(go, "job_delete_many", **asked) == asked_of(ours, "job_delete_many", **asked) == "refused"
    assert asked_of(go, "job_delete_many", kinds=["none"]) == asked_of(ours, "job_delete_many", kinds=["none"]) == []
    for states in (["running"], ["available", "running"], ["completed"]):
        ids, _ = asked_of(ours, "job_list", states=[s for s in states if s != "running"] or ["running"], limit=10_000)
        expected = [] if states == ["running"] else ids
        assert asked_of(ours, "job_delete_many", states=states, limit=5) == expected[:5]
        assert asked_of(go, "job_delete_many", states=states, limit=5) == expected[5:10]


WAYS = pytest.mark.parametrize(("asks", "sees"), [("go", "ours"), ("ours", "go")], ids=lambda side: side)


@WAYS
def test_output_is_updated(make: Make, asks: str, sees: str) -> None:
    one, other = make(asks), make(sees)
    job_id = one.insert(kind="interop", args={}, opts={"metadata": {"n": 2**70, "o": 1.5}})["job"]["id"]
    for output in ({"é": [1, None, "\u2028<&>"]}, "text", 0, False, None):
        updated = one.job_update(id=job_id, output=output)
        assert json.loads(updated["metadata"]) == {"n": 2**70, "o": 1.5, "output": output}
        assert other.job_get(id=job_id) == updated
    with pytest.raises(PeerError) as raised:
        one.job_update(id=job_id + 1, output=1)
    assert raised.value.sort == "not_found"


@WAYS
def test_queue_metadata_is_updated(make: Make, asks: str, sees: str) -> None:
    one, other = make(asks), make(sees, queues={"default": 1})
    metadata = {"limit": 2**60, "é": "<\u2028&>"}
    updated = one.queue_update(name="default", metadata=metadata)
    assert json.loads(updated["metadata"]) == metadata == json.loads(other.queue_get(name="default")["metadata"])
    assert json.loads(one.queue_update(name="default")["metadata"]) == metadata
    with pytest.raises(PeerError) as raised:
        one.queue_update(name="nobody", metadata={})
    assert raised.value.sort == "not_found"
