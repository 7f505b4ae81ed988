"""The suite's own transactions: what is done in them is there at the commit, and only then."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually

BY_ARGS = {"opts": {"unique": {"by_args": True}}}


@pytest.fixture
def tx(adapter: AdapterProcess) -> AdapterProcess:
    """With transaction `t` open."""
    if adapter.refused_or_none("tx_begin", handle="t") is not None:
        adapter.call("tx_rollback", handle="t")
        adapter.call("tx_begin", handle="t")
    return adapter


def test_every_operation_within_is_undone_by_a_rollback(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    database.execute("INSERT INTO river_queue (name, updated_at) VALUES ('q', now())")
    jobs = [adapter.call("insert", message=str(number)) for number in range(6)]
    adapter.call("cancel", id=jobs[1]["id"])
    before, queues = adapter.call("list"), adapter.call("queue_list")
    adapter.call("tx_begin", handle="t")
    assert adapter.call("tx_get", handle="t", id=jobs[0]["id"]) == jobs[0]
    assert adapter.call("tx_cancel", handle="t", id=jobs[0]["id"])["state"] == "cancelled"
    assert adapter.call("tx_retry", handle="t", id=jobs[1]["id"])["state"] == "available"
    assert adapter.call("tx_update", handle="t", id=jobs[2]["id"], output=1)["metadata"] == {"output": 1}
    assert adapter.call("tx_delete", handle="t", id=jobs[3]["id"]) == jobs[3]
    assert adapter.call("tx_delete_many", handle="t", ids=[jobs[4]["id"]])["jobs"] == [jobs[4]]
    inserted = adapter.call("tx_insert", handle="t", job={"message": "within", **BY_ARGS})
    assert inserted["unique_key"] is not None
    batch = [{"message": "a"}, {"message": "within", **BY_ARGS}]
    many = adapter.call("tx_insert_many", handle="t", jobs=batch)["results"]
    assert [result["unique_skipped_as_duplicate"] for result in many] == [False, True]
    assert many[1]["job"] == inserted
    listed = adapter.call("tx_list", handle="t", states=["available"])
    assert inserted["id"] in [job["id"] for job in listed["jobs"]]
    adapter.call("tx_queue_pause", handle="t", name="q")
    assert adapter.call("tx_queue_get", handle="t", name="q")["paused_at"] is not None
    adapter.call("tx_queue_resume", handle="t", name="*")
    assert adapter.call("tx_queue_update", handle="t", name="q", metadata={"a": 1})["metadata"] == {"a": 1}
    assert adapter.call("tx_queue_list", handle="t")["queues"][0]["metadata"] == {"a": 1}
    assert adapter.call("request_resign", handle="t") == {}
    assert (adapter.call("list"), adapter.call("queue_list")) == (before, queues), "nobody else sees it yet"
    adapter.call("tx_rollback", handle="t")
    assert (adapter.call("list"), adapter.call("queue_list")) == (before, queues)


def test_commit_makes_it_visible(tx: AdapterProcess, database: psycopg.Connection) -> None:
    job = tx.call("tx_insert", handle="t", job={"message": "m"})
    assert tx.refused("get", id=job["id"]) == "not_found"
    assert database.execute("SELECT count(*) FROM river_job").fetchone() == (0,)
    tx.call("tx_commit", handle="t")
    assert tx.call("get", id=job["id"]) == job
    assert tx.refused("tx_commit", handle="t") == "not_found"


def test_names_are_unique_and_used_up(tx: AdapterProcess) -> None:
    assert tx.refused("tx_begin", handle="t") == "rejected"
    assert tx.refused("tx_begin", handle="") == "invalid_params"
    assert tx.refused("reset") == "rejected"
    tx.call("tx_rollback", handle="t")
    for method in ("tx_commit", "tx_rollback", "tx_fail"):
        assert tx.refused(method, handle="t") == "not_found"
    assert tx.refused("tx_get", handle="t", id=1) == "not_found"
    assert tx.refused("tx_get", id=1) == "invalid_params"
    assert tx.refused("request_resign", handle="t") == "not_found"
    assert tx.call("reset") == {}


@pytest.mark.parametrize("end", ["tx_commit", "tx_rollback"])
def test_failed_transaction_refuses_everything_but_its_end(tx: AdapterProcess, end: str) -> None:
    job = tx.call("tx_insert", handle="t", job={})
    assert tx.refused("tx_fail", handle="t") == "database_error"
    assert tx.refused("tx_get", handle="t", id=job["id"]) == "database_error"
    assert tx.refused("tx_insert", handle="t", job={}) == "database_error"
    tx.refused_or_none(end, handle="t")
    assert tx.refused(end, handle="t") == "not_found"
    assert tx.call("list") == {"jobs": [], "cursor": None}


def test_transactions_stand_beside_each_other(tx: AdapterProcess) -> None:
    tx.call("tx_begin", handle="u")
    first = tx.call("tx_insert", handle="t", job={})
    second = tx.call("tx_insert", handle="u", job={})
    assert tx.refused("tx_get", handle="u", id=first["id"]) == "not_found"
    tx.call("tx_commit", handle="u")
    tx.call("tx_rollback", handle="t")
    assert [job["id"] for job in tx.call("list")["jobs"]] == [second["id"]]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_unique_insert_waits_for_another_process_transaction(
    adapter: AdapterProcess, make_adapter: Callable[..., AdapterProcess], database: psycopg.Connection, end: str
) -> None:
    other = make_adapter()
    other.call("tx_begin", handle="u")
    first = other.call("tx_insert", handle="u", job={"message": "m", **BY_ARGS})
    adapter.send({"jsonrpc": "2.0", "id": 1, "method": "insert", "params": {"message": "m", **BY_ARGS}})
    waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
    eventually(lambda: database.execute(waits, [adapter.name]).fetchone() == (1,))
    other.call(f"tx_{end}", handle="u")
    got = adapter.receive()["result"]
    assert (got["id"] == first["id"]) == (end == "commit")


def test_running_client_serves_the_transactions(tx: AdapterProcess) -> None:
    tx.call("start", client_id="c")
    job = tx.call("tx_insert", handle="t", job={})
    tx.call("tx_commit", handle="t")
    assert tx.call("wait", id=job["id"])["state"] == "completed"
