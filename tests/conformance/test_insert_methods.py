"""Inserting, alone, together, unique, and against the clock."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.conformance.process import AdapterProcess

UNIQUE = {"unique": {"by_args": True}}


def test_insert_stores_what_it_is_given(adapter: AdapterProcess) -> None:
    plain = adapter.call("insert")
    assert plain["args"] == {"behavior": "", "duration_ms": 0, "message": ""}
    assert (plain["state"], plain["max_attempts"], plain["priority"], plain["queue"]) == ("available", 25, 1, "default")
    opts = {
        "max_attempts": 3,
        "metadata": {"n": 1, "deep": {"a": [None]}},
        "priority": 4,
        "queue": "a|b",
        "scheduled_at": "2030-01-02T03:04:05.123456789+02:00",
        "tags": ["one", "two"],
    }
    job = adapter.call("insert", behavior="sleep", duration_ms=5, message="m", opts=opts)
    assert job["args"] == {"behavior": "sleep", "duration_ms": 5, "message": "m"}
    assert {name: job[name] for name in ("max_attempts", "metadata", "priority", "queue", "tags")} == {
        name: opts[name] for name in ("max_attempts", "metadata", "priority", "queue", "tags")
    }
    assert (job["state"], job["scheduled_at"]) == ("scheduled", "2030-01-02T01:04:05.123456Z")
    assert adapter.call("insert", opts={"pending": True})["state"] == "pending"
    whole = {"scheduled_at": "2030-01-01T00:00:00Z"}
    assert adapter.call("insert", opts=whole)["scheduled_at"] == whole["scheduled_at"]


def test_metadata_is_stored_digit_by_digit(adapter: AdapterProcess) -> None:
    request = (
        b'{"jsonrpc":"2.0","id":1,"method":"insert","params":{"opts":{"metadata":'
        b'{"negative":-9007199254740993,"long_decimal":0.1234567890123456789,"big_integer":123456789012345678901234}}}}'
    )
    row = adapter.call("raw_job_row", id=adapter.ask(request)["result"]["id"])
    assert '"negative": -9007199254740993' in row["metadata"]
    assert '"long_decimal": 0.1234567890123456789' in row["metadata"]
    assert '"big_integer": 123456789012345678901234' in row["metadata"]


def test_state_of_rivers_own_may_be_carried_over(adapter: AdapterProcess) -> None:
    metadata = {"river:resumable_step": "first", "snoozes": 2, "cancel_attempted_at": "2026-01-02T03:04:05Z"}
    assert adapter.call("insert", opts={"metadata": metadata})["metadata"] == metadata


@pytest.mark.parametrize(
    "opts",
    [
        {"priority": 5},
        {"priority": -1},
        {"queue": "No Queue"},
        {"tags": ["a tag"]},
        {"max_attempts": 100_000},
        {"unique": {"exclude_kind": True}},
        {"unique": {"by_period_ms": 1}},
        {"unique": {"by_state": ["available"]}},
    ],
    ids=str,
)
def test_what_river_refuses_is_rejected_and_nothing_is_written(
    adapter: AdapterProcess, database: psycopg.Connection, opts: dict[str, Any]
) -> None:
    assert adapter.refused("insert", opts=opts) == "rejected"
    assert adapter.refused("insert_many", jobs=[{}, {"opts": opts}]) == "rejected"
    assert database.execute("SELECT count(*) FROM river_job").fetchone() == (0,)


def test_unique_duplicate_is_the_job_that_exists(adapter: AdapterProcess) -> None:
    first = adapter.call("insert", message="one", opts=UNIQUE)
    assert len(first["unique_key"]) == 64
    assert first["unique_states"] == ["available", "completed", "pending", "retryable", "running", "scheduled"]
    assert adapter.call("insert", message="one", opts=UNIQUE) == first
    assert adapter.call("insert", message="two", opts=UNIQUE)["id"] != first["id"]


def test_batch_is_told_in_its_order_with_its_duplicates(adapter: AdapterProcess) -> None:
    first = adapter.call("insert", message="b", opts=UNIQUE)
    jobs = [{"message": "a"}, {"message": "b", "opts": UNIQUE}, {"message": "c", "opts": {"priority": 2}}]
    results = adapter.call("insert_many", jobs=jobs)["results"]
    assert [result["job"]["args"]["message"] for result in results] == ["a", "b", "c"]
    assert [result["unique_skipped_as_duplicate"] for result in results] == [False, True, False]
    assert results[1]["job"] == first


def test_batch_is_refused_as_a_whole(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    assert adapter.refused("insert_many", jobs=[]) == "rejected"
    assert adapter.refused("insert_many", jobs=[{"kind": "x"}]) == "invalid_params"
    assert adapter.refused("insert_many", jobs=[{"schema": "x"}]) == "invalid_params"
    twice = [{"message": "x", "opts": UNIQUE}] * 2
    adapter.refused("insert_many", jobs=[{"message": "y"}, *twice])
    assert database.execute("SELECT count(*) FROM river_job").fetchone() == (0,)
    adapter.call("tx_begin", handle="t")
    adapter.refused("tx_insert_many", handle="t", jobs=twice)
    adapter.call("tx_rollback", handle="t")


def test_enqueuing_is_measured_one_after_the_other(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    measured = adapter.call("benchmark_enqueue", jobs=20)
    assert 0 < measured["p95_ns"] <= measured["duration_ns"]
    rows = database.execute("SELECT args ->> 'message' FROM river_job ORDER BY id").fetchall()
    assert [row[0] for row in rows] == [f"benchmark-enqueue-{number}" for number in range(20)]
    assert adapter.refused("benchmark_enqueue", jobs=0) == "invalid_params"


def test_insert_goes_to_the_schema_it_names(adapter: AdapterProcess, other_schema: str) -> None:
    schema = other_schema
    assert adapter.call("migrate", schema=schema)["valid"]
    job = adapter.call("insert", message="there", schema=schema)
    assert adapter.call("get", id=job["id"], schema=schema) == job
    assert adapter.refused("get", id=job["id"]) == "not_found"
    assert adapter.call("work", id=job["id"], schema=schema)["state"] == "completed"
    assert adapter.call("reset", schema=schema) == {}
    assert adapter.refused("get", id=job["id"], schema=schema) == "not_found"
    assert adapter.refused("insert", schema="s" * 47) == "rejected"
    assert adapter.refused("insert", schema="no such") == "rejected"
    assert adapter.refused("insert", schema="nowhere") == "database_error"
