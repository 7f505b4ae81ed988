"""Rows as another program writes them, and how they are told."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.conformance.contract import DATA
from tests.conformance.process import AdapterProcess

VALUES = json.loads((DATA / "protocol_values.json").read_text("utf-8"))


def test_full_row_is_told_in_every_member(adapter: AdapterProcess) -> None:
    job = adapter.call("raw_insert_full_row")
    assert job == {
        "args": {"nested": {"enabled": True}, "values": [1, "two", None]},
        "attempt": 3,
        "attempted_at": "2026-01-02T03:04:06.123456Z",
        "attempted_by": ["go-client", "candidate-client"],
        "created_at": "2026-01-02T03:04:05.6789Z",
        "errors": [
            {
                "at": "2026-01-02T03:04:06.123456Z",
                "attempt": 3,
                "error": VALUES["attempt_error"]["error"],
                "trace": VALUES["attempt_error"]["trace"],
            }
        ],
        "finalized_at": "2026-01-02T03:04:07.000001Z",
        "id": 1,
        "kind": "conformance_full_row",
        "max_attempts": 4,
        "metadata": {"output": {"ok": True}, "river:rescue_count": 2, "user": "metadata"},
        "priority": 2,
        "queue": "priority_jobs",
        "scheduled_at": "2026-01-02T03:04:05.999999Z",
        "state": "discarded",
        "tags": ["alpha_tag", "beta_tag"],
        "unique_key": "ab" * 32,
        "unique_states": ["available", "completed", "pending", "retryable", "running", "scheduled"],
    }
    assert adapter.call("get", id=job["id"]) == job
    row = adapter.call("raw_job_row", id=job["id"])
    assert (row["unique_key"], row["unique_states"]) == ("AB" * 32, "11110101")
    assert json.loads(row["metadata"]) == job["metadata"]
    assert row["created_at"] == adapter.call("raw_job_timestamps", id=job["id"])["created_at"]
    assert adapter.call("delete", id=job["id"]) == job


def test_states_are_rivers_bits(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    job = adapter.call("raw_insert_full_row")
    for state in VALUES["job_states"]:
        query = "UPDATE river_job SET unique_states = %s::int::bit(8) WHERE id = %s"
        database.execute(query, [state["unique_bit"], job["id"]])
        assert adapter.call("get", id=job["id"])["unique_states"] == [state["state"]]


def test_numbers_keep_every_digit(adapter: AdapterProcess) -> None:
    metadata = '{"negative":-1,"big_integer":12345678901234567890123456789,"beyond_float":1e400,"long_decimal":1.10}'
    plain = adapter.call("raw_insert_exact_json")["id"]
    exact = adapter.call("raw_insert_exact_json", id=2**63 - 1, metadata_json=metadata)["id"]
    assert exact == 2**63 - 1
    assert adapter.call("raw_job_exact_json", id=plain) == {
        "decimal": "0.12345678901234567890123456789",
        "integer": "9223372036854775807",
        "negative": "-9223372036854775808",
    }
    told = adapter.call("raw_job_exact_json", id=exact)
    assert (told["big_integer"], told["long_decimal"]) == ("12345678901234567890123456789", "1.10")
    assert told["beyond_float"] == "1" + "0" * 400
    job = adapter.call("get", id=exact)
    assert job["metadata"] is None, "one of its numbers fits no double"
    assert job["args"]["integer"] == 2**63 - 1
    assert job["args"]["decimal"] == Decimal("0.12345678901234567890123456789")
    assert adapter.refused("raw_job_exact_json", id=adapter.call("insert")["id"]) == "rejected"


def test_rows_of_no_unique_state_and_the_nonce_are_left_out(adapter: AdapterProcess) -> None:
    identity = adapter.call("raw_insert_exact_json", metadata_json='{"river:unique_nonce": "x", "a": 9007199254740993}')
    assert adapter.call("get", id=identity["id"])["metadata"] == {"a": 9007199254740993}


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (
            {"at": "2026-01-02T03:04:05.123456789Z", "attempt": 1, "error": "e", "trace": "t"},
            {"at": "2026-01-02T03:04:05.123456789Z", "attempt": 1, "error": "e", "trace": "t"},
        ),
        (
            {"at": "2026-01-02T03:04:05.120+02:00", "attempt": "7", "error": {"a": [1, "x"]}, "trace": None},
            {"at": "2026-01-02T01:04:05.12Z", "attempt": 7, "error": '{"a":[1,"x"]}', "trace": ""},
        ),
        ({"at": "soon"}, {"at": "0001-01-01T00:00:00Z", "attempt": 0, "error": "", "trace": ""}),
        ([1, 2], {"at": "0001-01-01T00:00:00Z", "attempt": 0, "error": "[1,2]", "trace": ""}),
    ],
)
def test_errors_of_foreign_rows_are_read_leniently(
    adapter: AdapterProcess, database: psycopg.Connection, stored: Any, told: Any
) -> None:
    job = adapter.call("insert")
    database.execute("UPDATE river_job SET errors = ARRAY[%s::jsonb] WHERE id = %s", [json.dumps(stored), job["id"]])
    assert adapter.call("get", id=job["id"])["errors"] == [told]
    assert json.loads(adapter.call("raw_job_row", id=job["id"])["errors"][2:-2].replace("\\", "")) is not None


def test_raw_insert_takes_a_kind_and_no_options(adapter: AdapterProcess) -> None:
    job = adapter.call("raw_insert_no_notify", kind="nobody", message="m", opts={"priority": 4, "tags": ["ignored"]})
    assert (job["kind"], job["args"]["message"], job["priority"], job["tags"]) == ("nobody", "m", 1, [])
    assert job["max_attempts"] == 25
    assert adapter.call("raw_insert_no_notify")["kind"] == "conformance_echo"
    assert adapter.refused("raw_insert_no_notify", schema="x") == "invalid_params"


def test_only_a_running_row_is_finalized_from_outside(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    job = adapter.call("insert")
    assert adapter.refused("raw_finalize", id=job["id"], state="completed") == "not_found"
    database.execute("UPDATE river_job SET state = 'running', attempt = 1 WHERE id = %s", [job["id"]])
    assert adapter.refused("raw_finalize", id=job["id"], state="cancelled") == "invalid_params"
    done = adapter.call("raw_finalize", id=job["id"], state="discarded", metadata={"by": "hand"})
    assert (done["state"], done["metadata"]) == ("discarded", {"by": "hand"})
    assert done["finalized_at"] is not None
    assert done["errors"] == [
        {"at": "2026-02-03T04:05:06.789Z", "attempt": 1, "error": "external discard", "trace": "external trace"}
    ]


def test_missing_rows_are_not_found(adapter: AdapterProcess) -> None:
    for method in ("raw_job_row", "raw_job_timestamps", "raw_job_exact_json"):
        assert adapter.refused(method, id=1) == "not_found"


def test_methods_of_sqlite_check_their_params_and_are_unsupported(adapter: AdapterProcess) -> None:
    assert adapter.refused("raw_notifications", after_id=-1) == "invalid_params"
    assert adapter.refused("raw_notifications", after_id=0) == "unsupported"
    assert adapter.refused("raw_replace_json_text", id=1, column="kind", text="{}") == "invalid_params"
    assert adapter.refused("raw_replace_json_text", id=1, column="args", text=None) == "unsupported"
