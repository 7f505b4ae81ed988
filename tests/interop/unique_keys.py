"""Unique jobs of one are duplicates of the other's: the same key, the same states, the same row handed back."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.interop.conftest import Make
from tests.interop.fields import micros
from tests.interop.inserts import WAYS
from tests.interop.peers import Peer, PeerError

STATES = ["available", "pending", "running", "scheduled", "cancelled"]
DAY = datetime(2031, 5, 3, 22, 30, tzinfo=UTC)  # another day in most zones


def combinations() -> list[dict[str, Any]]:
    found = []
    for by_args, by_period, by_queue, exclude_kind, by_state in itertools.product((False, True), repeat=5):
        if not (by_args or by_period or by_queue or by_state) or (
            exclude_kind and not (by_args or by_period or by_queue)
        ):
            continue
        unique: dict[str, Any] = {"by_args": by_args, "by_queue": by_queue, "exclude_kind": exclude_kind}
        if by_period:
            unique["by_period"] = 86_400
        if by_state:
            unique["by_state"] = STATES
        found.append(unique)
    return found


def job_of(number: int, unique: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """No two numbers share what any combination looks at."""
    opts = {"queue": f"queue{number}", "scheduled_at": micros(DAY + timedelta(days=2 * number)), "unique": unique}
    job = {"kind": f"interop{number}", "args": {"number": number, "nested": {"b": 1, "a": "<é>"}}, "opts": opts}
    for name, value in changed.items():
        (job if name in job else opts)[name] = value
    return job


def others(number: int, unique: dict[str, Any]) -> list[dict[str, Any]]:
    """Jobs that differ in the one thing that the combination looks at."""
    found = []
    if unique["by_args"]:
        found.append(job_of(number, unique, args={"number": number, "nested": {"a": "<é>", "b": 1}}))
    if unique.get("by_period"):
        found.append(job_of(number, unique, scheduled_at=micros(DAY + timedelta(days=2 * number + 1))))
    if unique["by_queue"]:
        found.append(job_of(number, unique, queue=f"other{number}"))
    if not unique["exclude_kind"]:
        found.append(job_of(number, unique, kind=f"other{number}"))
    return found


def check_pair(one: Peer, other: Peer, conn: psycopg.Connection, job: dict[str, Any]) -> None:
    first, second = one.insert(**job), other.insert(**job)
    assert (first["duplicate"], second["duplicate"]) == (False, True), job
    assert first["job"] == second["job"]
    again = one.insert_many(jobs=[job])[0]
    assert again == {**second, "job": first["job"]}


@WAYS
def test_every_combination_collides(make: Make, conn: psycopg.Connection, inserts: str, works: str) -> None:
    one, other = make(inserts), make(works)
    for number, unique in enumerate(combinations()):
        check_pair(one, other, conn, job_of(number, unique))
        for job in others(number, unique):
            assert not other.insert(**job)["duplicate"], job
    rows = conn.execute("SELECT DISTINCT unique_states::text FROM river_job").fetchall()
    assert {row[0] for row in rows} == {"11110101", "11010011"}


@WAYS
def test_periods_of_now(make: Make, conn: psycopg.Connection, inserts: str, works: str) -> None:
    one, other = make(inserts), make(works)
    for seconds in (1000 * 86_400, 777 * 86_400 + 7):  # too long to end during the test
        check_pair(one, other, conn, {"kind": f"now{seconds}", "args": {}, "opts": {"unique": {"by_period": seconds}}})


def tagged(id: int, region: str, amount: float, path: str, **label: str) -> dict[str, Any]:
    account = {"id": id, "region": region, "note": "a"}
    return {"account": account, "amount": amount, "path/key.with@more": path, "noise": 1, **label}


TAGGED = [
    tagged(7, "eu", 1.5, "p"),
    tagged(2**62, "<é&\u2028>", 1e21, ""),
    tagged(-1, "", 1e-7, "\x7f", label="l"),
    tagged(0, "r", 0.1, "🎉", label=""),
    tagged(0, "r", 5e-324, "q"),
]


@WAYS
def test_tagged_fields(make: Make, conn: psycopg.Connection, inserts: str, works: str) -> None:
    one, other = make(inserts), make(works)
    for args in TAGGED:
        job = {"kind": "interop_tagged", "args": args, "opts": {"unique": {"by_args": True}}}
        check_pair(one, other, conn, job)
        unlike = {**args, "noise": 99, "account": {**args["account"], "note": "other"}}
        assert other.insert(**{**job, "args": unlike})["duplicate"], "only tagged fields count"
        changed = {**args, "account": {**args["account"], "region": "another"}}
        assert not other.insert(**{**job, "args": changed})["duplicate"]
    assert conn.execute("SELECT count(*), count(DISTINCT unique_key) FROM river_job").fetchone() == (10, 10)


ODD_KEYS = dict.fromkeys(("", "a.b", "@x", ":lead", "!bang", "[open", "{b", "a\\b", 'a"b', "a<b", "é"), 1)


@WAYS
def test_odd_keys_and_values(make: Make, conn: psycopg.Connection, inserts: str, works: str) -> None:
    one, other = make(inserts), make(works)
    all_args = [{}, ODD_KEYS, {"line\n": 1, "a\u2028b": 2}, {"n": [2**70, -5, 1.5, 1e300], "s": "<>&\u2028\u2029"}]
    for number, args in enumerate(all_args):
        check_pair(one, other, conn, {"kind": f"odd{number}", "args": args, "opts": {"unique": {"by_args": True}}})


@WAYS
def test_retry_beside_an_equal_job_is_refused(make: Make, conn: psycopg.Connection, inserts: str, works: str) -> None:
    one, other = make(inserts), make(works)
    job = {"kind": "again", "args": {}, "opts": {"unique": {"by_args": True}}}
    cancelled = one.insert(**job)["job"]["id"]
    other.job_cancel(id=cancelled)
    assert not other.insert(**job)["duplicate"], "a cancelled job gives its key free"
    for peer in (one, other):
        with pytest.raises(PeerError) as raised:
            peer.job_retry(id=cancelled)
        assert raised.value.sort == "unique"
    assert one.job_get(id=cancelled)["state"] == "cancelled"


@pytest.mark.parametrize("leads", ["go", "ours"])
def test_scheduler_lets_the_first_of_equals_through(make: Make, leads: str, until: Any) -> None:
    """Two retryable rows of one key, which only a ByState without retryable allows; each side made one."""
    unique = {"by_args": True, "by_state": ["available", "pending", "running", "scheduled"]}
    job = {"kind": "interop", "args": {"do": "fail", "times": 1}, "opts": {"unique": unique}}
    ids = []
    for side in ("go", "ours"):
        with make(side, queues={"default": 1}, retry_ms=7_000, follows=True) as peer:
            ids.append(peer.insert(**job)["job"]["id"])
            assert peer.event("job_failed", ids[-1])["job"]["state"] == "retryable"
            peer.stop()
    leader = make(leads, queues={"default": 1})
    until(f"SELECT state::text FROM river_job WHERE id = {ids[0]}", "completed")
    loser = leader.job_get(id=ids[1])
    assert loser["state"] == "discarded"
    assert '"unique_key_conflict": "scheduler_discarded"' in loser["metadata"]
