"""Clients started and stopped, schemas migrated and emptied, leaders looked at."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually

ALL = list(range(1, 9))


def test_one_client_runs_at_a_time(adapter: AdapterProcess) -> None:
    for method in ("stop", "runtime_stats"):
        assert adapter.refused(method) == "rejected"
    adapter.call("start", client_id="c", queue="other", max_workers=2)
    assert adapter.refused("start", client_id="d") == "rejected"
    assert adapter.refused("reset") == "rejected"
    job = adapter.call("insert", opts={"queue": "other"})
    assert adapter.call("wait", id=job["id"])["attempted_by"] == ["c"]
    adapter.call("stop")
    assert adapter.refused("stop") == "rejected"
    adapter.call("start", client_id="d")
    assert adapter.call("runtime_stats")["events"] == [], "each client begins at zero"


def test_start_needs_a_client_id_and_known_options(adapter: AdapterProcess) -> None:
    assert adapter.refused("start") == "invalid_params"
    assert adapter.refused("start", client_id="c", surprise=1) == "invalid_params"
    assert adapter.refused("start", client_id="c", claim_barrier="nowhere") == "invalid_params"
    assert adapter.refused("start", client_id="c" * 101) == "rejected"
    assert adapter.refused("start", client_id="c", queue="No Queue") == "rejected"
    assert adapter.refused("start", client_id="c", schema="nowhere") in ("rejected", "database_error")
    assert adapter.refused("start", client_id="c", periodic_unique=True) in ("rejected", "invalid_params")
    assert adapter.refused("start", client_id="c", job_timeout_ms=60_000, rescue_after_ms=1) == "rejected"
    assert adapter.refused("runtime_stats") == "rejected", "none of them left a client running"


def test_running_client_serves_its_own_schema_alone(adapter: AdapterProcess, other_schema: str) -> None:
    schema = other_schema
    adapter.call("migrate", schema=schema)
    adapter.call("start", client_id="c", schema=schema)
    assert adapter.refused("insert", schema="another") == "rejected"
    assert adapter.refused("get", id=1, schema="another") == "rejected"
    job = adapter.call("insert", schema=schema, behavior="output", message="m")
    assert adapter.call("wait", id=job["id"])["metadata"] == {"output": {"message": "m"}}
    assert adapter.call("raw_job_row", id=job["id"])["metadata"] == '{"output": {"message": "m"}}'
    eventually(lambda: adapter.call("leader")["leader_id"] == "c")
    adapter.call("stop")
    assert adapter.refused("get", id=job["id"]) == "not_found"
    assert adapter.call("get", id=job["id"], schema=schema)["state"] == "completed"


def test_graceful_stop_awaits_and_hard_stop_interrupts(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c")
    job = adapter.call("insert", behavior="sleep", duration_ms=300)
    adapter.call("wait", id=job["id"], states=["running"])
    adapter.call("stop")
    assert adapter.call("get", id=job["id"])["state"] == "completed"
    job = adapter.call("insert", behavior="cooperative_cancel")
    adapter.call("start", client_id="c")
    adapter.call("wait", id=job["id"], states=["running"])
    adapter.call("stop", cancel=True)
    given_back = adapter.call("get", id=job["id"])
    assert (given_back["state"], given_back["attempt"], given_back["errors"]) == ("available", 0, [])


def test_hard_stop_leaves_a_job_behind_that_ignores_it(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c")
    job = adapter.call("insert", behavior="ignored_cancel")
    adapter.call("wait", id=job["id"], states=["running"])
    began = time.monotonic()
    adapter.call("stop", cancel=True)
    assert time.monotonic() - began < 25, "ten seconds on a quiet machine"
    given_back = adapter.call("get", id=job["id"])
    assert (given_back["state"], given_back["attempt"], given_back["errors"]) == ("available", 0, [])
    adapter.call("delete", id=job["id"])
    adapter.call("start", client_id="d")
    job = adapter.call("insert")
    assert adapter.call("wait", id=job["id"])["attempted_by"] == ["d"]


@pytest.mark.parametrize("behavior", ["cancel_error", "cancel_panic"])
def test_failure_of_its_own_during_a_hard_stop_is_a_failure(adapter: AdapterProcess, behavior: str) -> None:
    adapter.call("start", client_id="c")
    job = adapter.call("insert", behavior=behavior)
    adapter.call("wait", id=job["id"], states=["running"])
    adapter.call("stop", cancel=True)
    stored = adapter.call("get", id=job["id"])
    assert (stored["state"], stored["attempt"]) == ("available", 1), "its first retry is a second away"
    kind = {"cancel_error": "failure", "cancel_panic": "panic"}[behavior]
    assert stored["errors"][0]["error"] == f"conformance {kind} after cancellation"


def test_reset_empties_everything_and_starts_ids_anew(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    adapter.call("barrier_create", name="b")
    for _ in range(3):
        adapter.call("insert")
    adapter.call("start", client_id="c")
    eventually(lambda: adapter.call("leader")["leader_id"] == "c")
    adapter.call("stop", cancel=True)
    adapter.call("reset")
    for table in ("river_job", "river_queue", "river_leader"):
        assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert adapter.call("insert")["id"] == 1
    assert adapter.refused("barrier_release", name="b") == "not_found"


def test_leader_is_told_with_its_term(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    assert adapter.call("leader") == {"leader_id": None, "elected_at": None}
    adapter.call("start", client_id="c")
    eventually(lambda: adapter.call("leader")["leader_id"] == "c")
    first = adapter.call("leader")
    assert first["elected_at"].endswith("Z")
    adapter.call("request_resign")
    eventually(lambda: adapter.call("leader") not in (first, {"leader_id": None, "elected_at": None}))
    adapter.call("fault_expire_leader")
    assert adapter.call("leader") == {"leader_id": None, "elected_at": None}


def test_client_without_leader_election_never_leads(adapter: AdapterProcess) -> None:
    refused = adapter.refused("start", client_id="c", leader_election_disabled=True, periodic_run_on_start=True)
    assert refused == "rejected"
    adapter.call("start", client_id="c", leader_election_disabled=True)
    job = adapter.call("insert")
    adapter.call("wait", id=job["id"])
    assert adapter.call("leader")["leader_id"] is None


class Migrations:
    """One schema, up and down."""

    def __init__(self, adapter: AdapterProcess, schema: str) -> None:
        self._adapter = adapter
        self.schema = schema

    def __call__(self, **params: Any) -> tuple[list[int], list[int], bool]:
        told = self._adapter.call("migrate", schema=self.schema, **params)
        return told["applied"], told["existing"], told["valid"]


def test_migrations_go_down_and_up_by_steps_and_targets(adapter: AdapterProcess, other_schema: str) -> None:
    schema = other_schema
    migrate = Migrations(adapter, schema)
    assert migrate(direction="down", target_version=-1) == ([], [], False), "harmless on an empty schema"
    assert migrate(dry_run=True) == (ALL, [], False)
    assert migrate(max_steps=2) == ([1, 2], [1, 2], False)
    assert migrate(target_version=5) == ([3, 4, 5], ALL[:5], False)
    assert migrate() == ([6, 7, 8], ALL, True)
    assert migrate(direction="up") == ([], ALL, True)
    job = adapter.call("insert", schema=schema)
    assert migrate(direction="down") == ([8], ALL[:7], False)
    assert migrate(direction="down", max_steps=2) == ([7, 6], ALL[:5], False)
    assert migrate(direction="down", target_version=3, dry_run=True) == ([5, 4], ALL[:5], False)
    assert migrate(direction="down", target_version=3) == ([5, 4], ALL[:3], False)
    assert migrate() == ([4, 5, 6, 7, 8], ALL, True)
    assert adapter.call("get", id=job["id"], schema=schema)["id"] == job["id"], "the jobs are still there"
    assert migrate(direction="down", target_version=-1) == (ALL[::-1], [], False)
    assert migrate() == (ALL, ALL, True)
    job = adapter.call("insert", schema=schema)
    assert adapter.call("work", id=job["id"], schema=schema)["state"] == "completed"
    assert adapter.refused("migrate", schema=schema, target_version=99) == "rejected"
    assert adapter.refused("migrate", schema=schema, direction="sideways") == "invalid_params"
    assert adapter.refused("migrate", schema="s" * 47) == "rejected"


def test_schema_that_another_program_migrates_is_met_as_it_is(
    adapter: AdapterProcess, database: psycopg.Connection, other_schema: str
) -> None:
    schema = other_schema
    other = Migrations(adapter, schema)
    other()
    for _ in range(8):  # statements are prepared by now
        adapter.call("insert", schema=schema, opts={"unique": {"by_args": True}})
        adapter.call("get", id=1, schema=schema)
    database.execute(f'DROP SCHEMA "{schema}" CASCADE')
    database.execute(f'CREATE SCHEMA "{schema}"')
    with psycopg.connect(database.info.dsn, autocommit=True) as elsewhere:
        _migrate(elsewhere, schema)
    job = adapter.call("insert", schema=schema, opts={"unique": {"by_args": True}})
    assert adapter.call("get", id=job["id"], schema=schema)["id"] == 1


def _migrate(conn: psycopg.Connection, schema: str) -> None:
    """As another process does it."""
    from river_fast.driver.psycopg import PsycopgDriver
    from river_fast.migrate import Migrator

    driver = PsycopgDriver(conn.info.dsn, schema)
    try:
        Migrator(driver).migrate_up()
    finally:
        driver.close()
