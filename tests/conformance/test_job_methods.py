"""Looking at jobs and steering them."""

from __future__ import annotations

import base64
import json
from typing import Any

import psycopg
import pytest

from tests.conformance.process import AdapterProcess

FINAL = ("cancelled", "completed", "discarded")


def put(database: psycopg.Connection, state: str, **columns: Any) -> int:
    """A row in that state."""
    values: dict[str, Any] = {"args": "{}", "kind": "k", "max_attempts": 25, "state": state, **columns}
    if state in FINAL:
        values.setdefault("finalized_at", "2026-01-02T03:04:05Z")
    names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    row = database.execute(
        f"INSERT INTO river_job ({names}) VALUES ({marks}) RETURNING id", list(values.values())
    ).fetchone()
    assert row is not None
    return int(row[0])


def ids(result: Any) -> list[int]:
    return [job["id"] for job in result["jobs"]]


def test_unknown_job_is_not_found(adapter: AdapterProcess) -> None:
    for method in ("get", "cancel", "retry", "delete", "update", "wait"):
        assert adapter.refused(method, id=2**63 - 1) == "not_found"
        assert adapter.refused(method, id=0) == "invalid_params"
    assert adapter.refused("work", id=1) == "not_found"


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [1, 2, 3, 4]),
        ({"ids": [1, 4, 99]}, [1, 4]),
        ({"ids": []}, [1, 2, 3, 4]),
        ({"kinds": ["k", "x"]}, [2, 3]),
        ({"queues": ["other"]}, [3]),
        ({"states": ["scheduled", "completed"]}, [2, 3]),
        ({"priorities": [2, 3]}, [3]),
        ({"tags_all": ["one", "two"]}, [4]),
        ({"tags_any": ["one", "three"]}, [3, 4]),
        ({"metadata": {"a": {"b": 1}}}, [4]),
        ({"limit": 2}, [1, 2]),
        ({"direction": "desc", "limit": 3}, [4, 3, 2]),
        ({"states": ["completed"], "order_by": "finalized_at"}, [2]),
        ({"order_by": "scheduled_at", "direction": "desc"}, [3, 4, 2, 1]),
    ],
    ids=str,
)
def test_list_filters_orders_and_limits(
    adapter: AdapterProcess, database: psycopg.Connection, filters: dict[str, Any], found: list[int]
) -> None:
    adapter.call("insert", message="first")
    put(database, "completed")
    put(database, "scheduled", queue="other", priority=3, tags=["three"], scheduled_at="2040-01-01T00:00:00Z")
    opts = {"tags": ["one", "two"], "metadata": {"a": {"b": 1, "c": 2}}}
    adapter.call("insert", message="last", opts=opts)
    assert ids(adapter.call("list", **filters)) == found


def test_list_pages_by_cursors_of_rivers_form(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    for _ in range(5):
        put(database, "completed", queue="a&b")
    first = adapter.call("list", limit=2)
    assert base64.urlsafe_b64decode(first["cursor"]) == (
        b'{"id":2,"kind":"k","queue":"a\\u0026b","sort_field":"id","time":"0001-01-01T00:00:00Z"}'
    )
    second = adapter.call("list", limit=2, after=first["cursor"])
    assert ids(second) == [3, 4]
    assert ids(adapter.call("list", after=second["cursor"])) == [5]
    done = adapter.call("list", states=["completed"], order_by="time", direction="desc", limit=1)
    assert json.loads(base64.urlsafe_b64decode(done["cursor"]))["time"] == "2026-01-02T03:04:05Z"
    assert adapter.call("list", kinds=["nobody"]) == {"jobs": [], "cursor": None}


@pytest.mark.parametrize(
    "params",
    [
        {"after": "nonsense"},
        {"limit": 10_001},
        {"order_by": "finalized_at", "states": ["available"]},
    ],
    ids=str,
)
def test_list_refuses_what_river_refuses(adapter: AdapterProcess, params: dict[str, Any]) -> None:
    assert adapter.refused("list", **params) == "rejected"


def test_list_answers_no_more_than_a_line_may_hold(adapter: AdapterProcess) -> None:
    for _ in range(5):
        adapter.call("insert", message="ü" * 450_000)
    assert adapter.refused("list") == "rejected"
    assert len(adapter.call("list", limit=4)["jobs"]) == 4


@pytest.mark.parametrize("state", ["available", "pending", "retryable", "scheduled"])
def test_cancel_of_a_job_that_waits_is_final(adapter: AdapterProcess, database: psycopg.Connection, state: str) -> None:
    job = adapter.call("cancel", id=put(database, state))
    assert job["state"] == "cancelled"
    assert job["finalized_at"] is not None
    assert job["metadata"]["cancel_attempted_at"].endswith("Z")
    assert adapter.call("cancel", id=job["id"]) == job


@pytest.mark.parametrize("state", FINAL)
def test_retry_makes_a_final_job_available(adapter: AdapterProcess, database: psycopg.Connection, state: str) -> None:
    job = adapter.call("retry", id=put(database, state, attempt=25, attempted_at="2026-01-01T00:00:00Z"))
    assert (job["state"], job["finalized_at"], job["attempt"], job["max_attempts"]) == ("available", None, 25, 26)


def test_retry_leaves_a_running_job_and_tells_of_a_conflict(
    adapter: AdapterProcess, database: psycopg.Connection
) -> None:
    running = put(database, "running", attempt=1, attempted_at="2026-01-01T00:00:00Z")
    assert adapter.call("retry", id=running)["state"] == "running"
    unique = {"unique": {"by_args": True}}
    old = adapter.call("insert", opts=unique)
    adapter.call("cancel", id=old["id"])
    adapter.call("insert", opts=unique)
    assert adapter.refused("retry", id=old["id"]) == "database_error"
    assert adapter.call("get", id=old["id"])["state"] == "cancelled"


def test_delete_gives_the_row_and_spares_what_runs(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    running = put(database, "running", attempt=1, attempted_at="2026-01-01T00:00:00Z")
    assert adapter.refused("delete", id=running) == "rejected"
    job = adapter.call("insert", opts={"unique": {"by_args": True}})
    assert adapter.call("delete", id=job["id"]) == job
    assert adapter.refused("get", id=job["id"]) == "not_found"


def test_delete_many_needs_a_filter_or_all(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    put(database, "running", attempt=1, attempted_at="2026-01-01T00:00:00Z")
    for _ in range(4):
        put(database, "available", queue="doomed")
    kept = put(database, "completed")
    assert adapter.refused("delete_many") == "rejected"
    assert adapter.refused("delete_many", ids=[]) == "rejected"
    assert ids(adapter.call("delete_many", queues=["doomed"], limit=3)) == [2, 3, 4]
    assert ids(adapter.call("delete_many", kinds=["k"], states=["available", "running"])) == [5]
    assert ids(adapter.call("delete_many", ids=[kept])) == [kept]
    unique = adapter.call("insert", opts={"unique": {"by_queue": True}})
    assert adapter.call("delete_many", all=True)["jobs"] == [unique]
    assert ids(adapter.call("list")) == [1], "running jobs stay"


@pytest.mark.parametrize("output", [None, 7, "text", [1, {"a": None}], {"n": 2**53 + 1}])
def test_update_writes_the_output_and_nothing_else(adapter: AdapterProcess, output: Any) -> None:
    metadata = '{"negative": 1.10, "big_integer": 12345678901234567890123}'
    job_id = adapter.call("raw_insert_exact_json", metadata_json=metadata)["id"]
    assert adapter.call("update", id=job_id)["metadata"].keys() == {"negative", "big_integer"}
    assert adapter.call("update", id=job_id, output=output)["metadata"]["output"] == output
    told = adapter.call("raw_job_exact_json", id=job_id)
    assert (told["negative"], told["big_integer"]) == ("1.10", "12345678901234567890123")


def test_output_keeps_its_digits(adapter: AdapterProcess) -> None:
    job = adapter.call("insert")
    update = b'{"jsonrpc":"2.0","id":1,"method":"update","params":{"id":%d,"output":1.23456789012345678901}}'
    assert "result" in adapter.ask(update % job["id"])
    assert '"output": 1.23456789012345678901' in adapter.call("raw_job_row", id=job["id"])["metadata"]


def test_delete_finalized_is_one_batch_of_a_cleaner(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    for state in (*FINAL, "available"):
        for queue in ("a", "b"):
            put(database, state, queue=queue)
    put(database, "completed", finalized_at="2027-01-01T00:00:00Z")

    def delete(limit: int = 100, **params: Any) -> int:
        return int(adapter.call("delete_finalized", before="2026-06-01T00:00:00Z", limit=limit, **params)["deleted"])

    assert delete(queues_included=[]) == 0
    assert delete(queues_included=["a"], queues_excluded=["a"]) == 0
    assert delete(queues_excluded=["a"], limit=1) == 1
    assert ids(adapter.call("list")) == [1, 3, 4, 5, 6, 7, 8, 9], "the lowest id that no filter keeps"
    assert delete(queues_included=["b"]) == 2
    assert delete(queues_included=None) == 3
    assert ids(adapter.call("list")) == [7, 8, 9]
    assert adapter.refused("delete_finalized", before="2026-06-01T00:00:00Z", limit=0) == "invalid_params"


def test_work_runs_one_job_and_stops(adapter: AdapterProcess) -> None:
    job = adapter.call("insert", behavior="output", message="m")
    done = adapter.call("work", id=job["id"], client_id="short")
    assert (done["state"], done["attempted_by"]) == ("completed", ["short"])
    assert done["metadata"] == {"output": {"message": "m"}}
    assert adapter.refused("stop") == "rejected", "no client is left"
    assert len(adapter.call("work", id=adapter.call("insert")["id"])["attempted_by"]) == 1


def test_wait_gives_up_after_ten_seconds(adapter: AdapterProcess) -> None:
    job = adapter.call("insert")
    assert adapter.call("wait", id=job["id"], states=["available", "completed"]) == job
    assert adapter.refused("wait", id=job["id"]) == "rejected"
