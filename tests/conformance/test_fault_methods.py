"""Connections counted, cut and made anew: no request may fail for a connection that was idle when it died."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually


def test_every_connection_carries_the_name(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    names = (
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND application_name NOT LIKE 'river-conformance-%'"
    )
    before = set(database.execute(names))
    adapter.call("start", client_id="c", max_workers=50)
    for number in range(100):
        adapter.call("insert", behavior="transactional_complete" if number % 2 else "")
    adapter.call("tx_begin", handle="t")
    eventually(lambda: len(adapter.call("list", states=["completed"])["jobs"]) == 100)
    assert 5 <= adapter.call("connection_count")["count"] <= 20
    assert set(database.execute(names)) <= before
    adapter.call("tx_rollback", handle="t")


def test_as_many_transactions_as_are_left_may_be_open(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c", max_workers=1000)
    opened = []
    for number in range(20):
        if adapter.refused_or_none("tx_begin", handle=str(number)) is None:
            opened.append(str(number))
    job = adapter.call("insert")
    assert adapter.call("wait", id=job["id"])["state"] == "completed"
    assert len(opened) >= 4
    assert adapter.call("connection_count")["count"] <= 20
    for handle in opened:
        adapter.call("tx_rollback", handle=handle)


@pytest.mark.parametrize("times", [1, 3])
def test_listener_comes_back(adapter: AdapterProcess, times: int) -> None:
    adapter.call("start", client_id="c", fetch_poll_interval_ms=60_000)
    for _ in range(times):
        eventually(lambda: adapter.call("listener_count")["count"] == 1)
        assert adapter.call("fault_disconnect_listeners") == {"count": 1}
    eventually(lambda: adapter.call("listener_count")["count"] == 1)
    job = adapter.call("insert")
    assert adapter.call("wait", id=job["id"])["state"] == "completed"
    job = adapter.call("insert", behavior="cooperative_cancel")
    adapter.call("wait", id=job["id"], states=["running"])
    adapter.call("cancel", id=job["id"])
    assert adapter.call("wait", id=job["id"])["state"] == "cancelled"


def test_no_request_fails_for_connections_that_died_idle(
    adapter: AdapterProcess, make_adapter: Callable[..., AdapterProcess]
) -> None:
    other = make_adapter()
    for _ in range(5):
        job = adapter.call("insert")
        adapter.call("raw_job_row", id=job["id"])
        assert other.call("fault_disconnect_application", application_name=adapter.name)["count"] >= 1
        assert adapter.call("get", id=job["id"]) == job
        assert adapter.call("raw_job_timestamps", id=job["id"])
        assert adapter.call("list")["jobs"]


def test_working_client_survives_the_loss_of_all_its_connections(
    adapter: AdapterProcess, make_adapter: Callable[..., AdapterProcess]
) -> None:
    other = make_adapter()
    adapter.call("start", client_id="c")
    for _ in range(3):
        jobs = other.call("insert_many", jobs=[{"behavior": "sleep", "duration_ms": 20}] * 20)["results"]
        assert other.call("fault_disconnect_application", application_name=adapter.name)["count"] >= 4
        eventually(lambda: not other.call("list", states=["available", "running"])["jobs"])
        for inserted in jobs:
            assert other.call("get", id=inserted["job"]["id"])["state"] == "completed"


def test_only_adapters_may_be_disconnected(adapter: AdapterProcess) -> None:
    assert adapter.refused("fault_disconnect_application", application_name="psql") == "invalid_params"
    for name in ("river-conformance-harness", "river-conformance-"):
        assert adapter.refused("fault_disconnect_application", application_name=name) == "rejected"
    assert adapter.call("fault_disconnect_application", application_name="river-conformance-nobody") == {"count": 0}


def test_broken_transaction_is_given_up_by_name(
    adapter: AdapterProcess, make_adapter: Callable[..., AdapterProcess]
) -> None:
    adapter.call("tx_begin", handle="t")
    make_adapter().call("fault_disconnect_application", application_name=adapter.name)
    assert adapter.refused("tx_insert", handle="t", job={}) in ("database_error", "rejected")
    assert adapter.refused_or_none("tx_commit", handle="t") != "not_found"
    assert adapter.refused("tx_commit", handle="t") == "not_found"
    assert adapter.call("list")["jobs"] == []
