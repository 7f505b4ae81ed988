"""One inserts, the other works: every field of a row, however odd, comes over as it was stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.interop.conftest import Make
from tests.interop.fields import micros

WAYS = pytest.mark.parametrize(("inserts", "works"), [("go", "ours"), ("ours", "go")], ids=lambda side: side)
PAST = micros(datetime.now(UTC) - timedelta(hours=30))
QUEUES = {"default": 10, "other|queue-2": 10}
LONG = "".join(chr(0x4E00 + i % 5000) for i in range(20_000))

JOBS: dict[str, dict[str, Any]] = {
    "empty": {"args": {}},
    "nested": {"args": {"b": {"z": [1, {"y": None}], "a": True}, "a": [[], {}, ""]}},
    "big numbers": {"args": {"over": 2**64 + 1, "under": -(2**70), "exact": 9007199254740993}},
    "floats as written": {"text": '{"e":1e400,"z":-0.0,"d":1.10,"long":0.1000000000000000055511151231257827,"i":1E3}'},
    "a key twice": {"text": '{"twice":1,"twice":[2]}'},
    "whitespace": {"text": '{ "a" :\t[ 1 , 2 ]\n}'},
    "unicode": {"args": {"é": "漢字 🎉 \u2028\u2029 <>& \x7f \x01", "🎉": "\\\"/", "": "\ufeff", "e\u0301": "ﷺ"}},
    "long text": {"args": {"text": LONG}},
    "tags": {"args": {}, "opts": {"tags": ["one-tag", "two_tag", "x" * 255]}},
    "metadata": {"args": {}, "opts": {"metadata": {"trace": {"id": "a\u2028<b>", "n": 2**65}, "": [None]}}},
    "queue, priority, attempts": {"args": {}, "opts": {"queue": "other|queue-2", "priority": 4, "max_attempts": 32767}},
    "scheduled in the past": {"args": {}, "opts": {"scheduled_at": PAST}},
    "all at once": {
        "args": {"k": "v"},
        "opts": {
            "tags": ["abc"], "metadata": {"m": "é"}, "priority": 2, "max_attempts": 1, "queue": "other|queue-2",
            "scheduled_at": PAST, "unique": {"by_args": True, "by_queue": True},
        },
    },
}  # fmt: skip
CHANGING = {"state", "attempt", "attempted_at", "attempted_by", "scheduled_at", "finalized_at"}


@WAYS
@pytest.mark.parametrize("verb", ["insert", "insert_many", "insert_many_fast"])
def test_every_field_comes_over(make: Make, conn: psycopg.Connection, inserts: str, works: str, verb: str) -> None:
    one, other = make(inserts), make(works, queues=QUEUES, start=False)
    jobs = [{"kind": "interop", **job} for job in JOBS.values()]
    if verb == "insert":
        ids = [one.insert(**job)["job"]["id"] for job in jobs]
    elif verb == "insert_many":
        ids = [result["job"]["id"] for result in one.insert_many(jobs=jobs)]
    else:
        assert one.insert_many_fast(jobs=jobs) == len(jobs)
        ids = [row[0] for row in conn.execute("SELECT id FROM river_job ORDER BY id").fetchall()]
    stored = dict(conn.execute("SELECT id, ARRAY[args::text, metadata::text] FROM river_job").fetchall())
    before = {job_id: one.job_get(id=job_id) for job_id in ids}
    other.start()
    for name, job_id in zip(JOBS, ids, strict=True):
        worked = other.event("working", job_id)["job"]
        done = other.event("job_completed", job_id)["job"]
        for key, value in before[job_id].items():
            if key not in CHANGING:
                assert worked[key] == value == done[key], f"{name}: {key}"
        assert [worked["args"], worked["metadata"]] == stored[job_id], name
        assert (worked["state"], worked["attempt"]) == ("running", 1)
        assert one.job_get(id=job_id) == other.job_get(id=job_id) == done, name
    check_options(dict(zip(JOBS, before.values(), strict=True)))


def check_options(jobs: dict[str, dict[str, Any]]) -> None:
    """The rows are those that were asked for, and not merely read alike."""
    assert json.loads(jobs["big numbers"]["args"]) == JOBS["big numbers"]["args"]
    assert json.loads(jobs["unicode"]["args"]) == JOBS["unicode"]["args"]
    assert json.loads(jobs["metadata"]["metadata"]) == JOBS["metadata"]["opts"]["metadata"]
    assert jobs["tags"]["tags"] == JOBS["tags"]["opts"]["tags"]
    everything = jobs["all at once"]
    assert (everything["state"], everything["scheduled_at"]) == ("scheduled", PAST)
    assert (everything["priority"], everything["max_attempts"], everything["queue"]) == (2, 1, "other|queue-2")
    assert jobs["queue, priority, attempts"]["max_attempts"] == 32767
    assert jobs["empty"]["max_attempts"] == 25


@WAYS
def test_worker_is_told_of_an_insert(make: Make, inserts: str, works: str) -> None:
    """Polls once in a minute, so that it was the notification; each side's first fetch is over by then."""
    one, other = make(inserts), make(works, queues={"default": 10}, poll_ms=60_000)
    other.event("working", one.insert(kind="interop", args={})["job"]["id"])
    for _ in range(3):
        other.event("working", one.insert(kind="interop", args={})["job"]["id"])
    assert one.insert_many_fast(jobs=[{"kind": "interop", "args": {"fast": True}}]) == 1
    other.event("working")


@WAYS
def test_priorities_and_times_order_the_fetch(make: Make, inserts: str, works: str) -> None:
    one, other = make(inserts), make(works, queues={"default": 1}, start=False)
    orders = [4, 2, 1, 3, 1]
    ids = [one.insert(kind="interop", args={}, opts={"priority": order})["job"]["id"] for order in orders]
    other.start()
    for job_id in ids:
        other.event("job_completed", job_id)
    worked = [line["job"]["id"] for line in other.all_events("working")]
    assert worked == [ids[2], ids[4], ids[1], ids[3], ids[0]]


@WAYS
def test_pending_and_unknown_kinds(make: Make, inserts: str, works: str) -> None:
    one, other = make(inserts), make(works, queues={"default": 10}, retry_ms=60_000)
    pending = one.insert(kind="interop", args={}, opts={"pending": True})["job"]
    unknown = one.insert(kind="nobody_works", args={})["job"]["id"]
    failed = other.event("job_failed", unknown)["job"]
    assert (failed["state"], failed["attempt"]) == ("retryable", 1)
    assert "nobody_works" in failed["errors"][0]["error"]
    assert other.job_get(id=pending["id"]) == pending
    assert pending["state"] == "pending"


@WAYS
def test_who_fetches_known_kinds_alone_leaves_the_others_to_the_other(make: Make, inserts: str, works: str) -> None:
    one = make(inserts, queues={"default": 5}, kinds=["one_kind"], known_kinds_only=True)
    ids = [one.insert(kind=kind, args={})["job"]["id"] for kind in ("one_kind", "one_kind")]
    other_client = make(works)
    others = [other_client.insert(kind="other_kind", args={})["job"]["id"] for _ in range(2)]
    for job_id in ids:
        one.event("job_completed", job_id)
    assert {one.job_get(id=job_id)["attempt"] for job_id in others} == {0}
    other = make(works, queues={"default": 5}, kinds=["other_kind"], known_kinds_only=True)
    more = other_client.insert(kind="one_kind", args={})["job"]["id"]
    for job_id in others:
        assert other.event("job_completed", job_id)["job"]["attempt"] == 1
    one.event("job_completed", more)
    assert {line["job"]["kind"] for line in one.all_events("working")} == {"one_kind"}
    assert {line["job"]["kind"] for line in other.all_events("working")} == {"other_kind"}
