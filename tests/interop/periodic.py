"""Periodic jobs that one side's leader inserts and the other works; and the same ones known to both."""

from __future__ import annotations

import itertools
import json
from typing import Any

import psycopg
import pytest

from tests.interop.conftest import Make

WAYS = pytest.mark.parametrize(("leads", "works"), [("go", "ours"), ("ours", "go")], ids=lambda side: side)
EVERY = 400  # milliseconds


def periodic(id: str, every_ms: int, **opts: Any) -> dict[str, Any]:
    return {
        "id": id, "every_ms": every_ms, "at_start": True,
        "job": {"kind": "interop", "args": {"é": "<" + id}, "opts": opts},
    }  # fmt: skip


@WAYS
def test_one_inserts_and_the_other_works(make: Make, leads: str, works: str) -> None:
    opts = {"metadata": {"mine": [1]}, "tags": ["abc"], "priority": 2, "max_attempts": 3}
    other = make(works, queues={"default": 5}, follows=True)
    make(leads, queues={"elsewhere": 1}, periodic=[periodic("each-beat", EVERY, **opts)])
    jobs = [other.event("job_completed")["job"] for _ in range(5)]
    for job in jobs:
        metadata = json.loads(job["metadata"])
        assert {key: metadata[key] for key in ("mine", "periodic", "river:periodic_job_id")} == {
            "mine": [1], "periodic": True, "river:periodic_job_id": "each-beat",
        }  # fmt: skip
        assert (job["tags"], job["priority"], job["max_attempts"]) == (["abc"], 2, 3)
        assert json.loads(job["args"]) == {"é": "<each-beat"}
    times = sorted(job["scheduled_at"] for job in jobs)[1:]  # the first came at the start of the term
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {EVERY * 1000}


@WAYS
def test_unique_ones_known_to_both_are_inserted_once(
    make: Make, conn: psycopg.Connection, until: Any, leads: str, works: str
) -> None:
    """The second leader's own job of its start comes with, or after, the one that is a duplicate."""
    known = [periodic("once", 3_600_000, unique={"by_args": True, "by_period": 1000 * 86_400})]
    known.append(periodic("each-term", 3_600_000))
    terms = "SELECT count(*) FROM river_job WHERE metadata ->> 'river:periodic_job_id' = 'each-term'"
    one = make(leads, queues={"default": 1}, periodic=known)
    until(terms, 1, 30)
    make(works, queues={"default": 1}, periodic=known)
    one.stop()
    until(terms, 2, 30)
    once = conn.execute("SELECT count(*) FROM river_job WHERE metadata ->> 'river:periodic_job_id' = 'once'")
    assert once.fetchone() == (1,)
    until("SELECT count(*) FROM river_job WHERE state <> 'completed'", 0)
