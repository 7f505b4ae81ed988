"""River's storage and codec scenarios, by their names: River's own client and ours, behind the same methods, answer the
same and leave the same rows.

What differs between two runs of the same requests, times and ids in cursors, is made equal before they are compared.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
import pytest

from tests.conformance.process import AdapterProcess, Refused
from tests.fix_client import eventually

TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
SET_TIME = "2030-01-02T03:04:05"  # of the suite's own making: not made equal
FINAL_BY_HAND = (
    "UPDATE river_job SET state = '{}', finalized_at = now(), attempt = 1, attempted_at = now() WHERE id = {}"
)
Step = tuple[str, dict[str, Any]]


def alike(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: alike(member) for name, member in value.items() if name != "cursor"} | (
            {"cursor": cursor(value["cursor"])} if "cursor" in value else {}
        )
    if isinstance(value, list):
        return [alike(member) for member in value]
    if isinstance(value, str) and TIME.fullmatch(value) and not value.startswith(SET_TIME):
        return "some time"
    return value


def cursor(text: str | None) -> Any:
    return None if text is None else alike(json.loads(base64.urlsafe_b64decode(text)))


def step(method: str, /, **params: Any) -> Step:
    return method, params


def played(adapter: AdapterProcess, steps: Iterable[Step], conn: psycopg.Connection) -> list[Any]:
    """Each step with its answer, or the name of its error."""
    found = []
    for method, params in steps:
        try:
            answer = conn.execute(params["sql"]).rowcount if method == "sql" else alike(adapter.call(method, **params))
        except Refused as refused:
            answer = refused.name
        found.append((method, params, answer))
    return found


@pytest.fixture
def differ(ours: AdapterProcess, reference: AdapterProcess, conn: psycopg.Connection) -> Any:
    """`differ(steps)` plays them with River's client, then with ours, each from empty tables."""

    def compare(steps: Sequence[Step]) -> None:
        expected = played(reference, steps, conn)
        ours.call("reset")
        for theirs, our in zip(expected, played(ours, steps, conn), strict=True):
            assert our == theirs

    return compare


def insertions() -> list[Step]:
    unique = [
        {"by_args": True},
        {"by_queue": True, "by_args": True},
        {"by_args": True, "exclude_kind": True},
        {"by_queue": True, "by_state": ["available", "pending", "running", "scheduled"]},
    ]
    opts: list[dict[str, Any]] = [
        {},
        {"priority": 2, "max_attempts": 3, "queue": "q-1", "tags": ["one", "two_2"]},
        {"pending": True},
        {"metadata": {"a": {"b": [1, None, True]}, "z": 1.5, "ü": "<&>"}},
        {"scheduled_at": f"{SET_TIME}.678901Z"},
        {"scheduled_at": f"{SET_TIME}.6789019Z"},
        {"scheduled_at": "2020-01-02T03:04:05Z"},
        {"priority": 0},
        {"pending": True, "scheduled_at": f"{SET_TIME}Z"},
        {"queue": "a|b"},
        {"queue": ""},
        {"max_attempts": 32767},
    ]
    refused = [
        {"priority": 5},
        {"priority": -1},
        {"tags": ["a,b"]},
        {"tags": ["x" * 256]},
        {"tags": ["ü"]},
        {"queue": "a b"},
        {"queue": "x" * 129},
        {"unique": {"exclude_kind": True}},
        {"unique": {"by_state": ["available"]}},
    ]
    return [
        step("insert", message='ü<&>\u2028\x7f"\\\n\x01', behavior="output", duration_ms=5),
        *(step("insert", opts=given) for given in [*refused, *opts]),
        *(step("insert", message="u", opts={"unique": given}) for given in unique * 2),
    ]


def test_differential_job_crud(differ: Any) -> None:
    differ(
        [
            *insertions(),
            *(
                step(verb, id=number)
                for verb in ("get", "cancel", "cancel", "retry", "retry")
                for number in (1, 3, 5, 8, 999)
            ),
            *(
                step("update", id=2, **given)
                for given in ({}, {"output": {"a": 1}}, {"output": None}, {"output": [1.5, "x"]})
            ),
            step("update", id=999, output=1),
            step("delete", id=3),
            step("delete", id=3),
            step("sql", sql="UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now() WHERE id = 2"),
            *(step(verb, id=2) for verb in ("delete", "retry", "cancel", "cancel", "get")),
            *(
                given
                for state in ("completed", "discarded", "cancelled")
                for given in (
                    step("sql", sql=FINAL_BY_HAND.format(state, 2)),
                    step("cancel", id=2),
                    step("retry", id=2),
                    step("get", id=2),
                )
            ),
        ]
    )


def test_differential_job_list_filters_and_cursors(differ: Any) -> None:
    final = ["cancelled", "completed", "discarded"]
    filters: list[dict[str, Any]] = [
        {},
        {"limit": 3},
        {"limit": 10_001},
        {"ids": [1, 2, 999]},
        {"ids": []},
        {"kinds": []},
        {"kinds": ["none"]},
        {"metadata": {"a": {"b": [1]}}},
        {"metadata": {}},
        {"priorities": [2, 3]},
        {"queues": ["q-1", "a|b"]},
        {"states": ["scheduled"]},
        {"states": []},
        {"tags_all": ["one", "two_2"]},
        {"tags_any": ["one", "none"]},
        {"tags_all": []},
        {"order_by": "id", "direction": "desc", "limit": 4},
        {"after": "nonsense"},
        {"order_by": "scheduled_at", "limit": 4},
        {"order_by": "scheduled_at", "direction": "desc"},
        {"order_by": "finalized_at"},
        {"order_by": "finalized_at", "states": ["available"]},
        {"order_by": "finalized_at", "states": final},
        {"order_by": "time", "limit": 3},
        {"order_by": "time", "states": final},
        {"order_by": "time", "states": ["available", "completed"]},
        {"order_by": "time", "states": ["completed", "available"]},
    ]
    differ(
        [
            *insertions(),
            *(step("sql", sql=FINAL_BY_HAND.format(state, number)) for number, state in enumerate(final, 1)),
            *(step("list", **given) for given in filters),
        ]
    )


def test_differential_queue_crud(differ: Any) -> None:
    """And queue_names_and_unknown_queue_control."""
    names = ("a", "b|c", "*", "none", "a b", "x" * 200)
    differ(
        [
            step("queue_list"),
            step("queue_pause", name="*"),
            step("queue_resume", name="*"),
            step(
                "sql", sql="INSERT INTO river_queue (name, updated_at) SELECT unnest('{a,b|c,Z,_x,a-b}'::text[]), now()"
            ),
            *(
                given
                for name in names
                for given in (
                    step("queue_get", name=name),
                    step("queue_pause", name=name),
                    step("queue_pause", name=name),
                    step("queue_list"),
                    step("queue_resume", name=name),
                    step("queue_resume", name=name),
                    step("queue_list", limit=2),
                    step("queue_update", name=name, metadata={"x": {"y": "<&>"}}),
                    step("queue_update", name=name),
                )
            ),
            step("queue_list", limit=10_001),
            *(step(method) for method in ("stop", "runtime_stats")),
            step("queue_remove", name="a"),
            step("queue_add", name="a"),
        ]
    )


def within_a_transaction(jobs: list[Any]) -> list[Step]:
    return [
        step("tx_insert", handle="t", job={"message": "in"}),
        step("tx_insert_many", handle="t", jobs=jobs),
        step("tx_queue_pause", handle="t", name="q"),
        step("tx_queue_update", handle="t", name="q", metadata={"t": 1}),
        step("tx_queue_get", handle="t", name="q"),
        step("tx_queue_list", handle="t"),
        step("queue_get", name="q"),
        step("tx_cancel", handle="t", id=1),
        step("tx_retry", handle="t", id=2),
        step("tx_delete", handle="t", id=3),
        step("tx_update", handle="t", id=2, output={"a": 1}),
        step("tx_get", handle="t", id=2),
        step("get", id=2),
        step("tx_list", handle="t"),
        step("list"),
        step("tx_queue_resume", handle="t", name="*"),
        step("tx_get", handle="t", id=999),
        step("tx_insert", handle="t", job={"opts": {"priority": 9}}),
        step("tx_delete_many", handle="t", all=True, limit=1),
        step("tx_delete_many", handle="t"),
        step("tx_list", handle="t"),
    ]


def test_typed_batch_insertion(differ: Any) -> None:
    """And transactional_batch_insertion, bulk_delete_safety, transactional_crud_commit_rollback,
    transactional_queue_operations, and the visibility of what is committed, rolled back, or aborted."""
    bulk = (
        {},
        {"ids": []},
        {"limit": 3},
        {"kinds": []},
        {"queues": ["none"]},
        {"ids": [1, 2], "limit": 1},
        {"all": True, "limit": 2},
        {"all": True, "limit": 10_001},
        {"states": ["running"]},
        {"all": True},
    )
    unique = {"opts": {"unique": {"by_args": True}}}
    jobs = [{}, {"message": "b", "opts": {"priority": 3}}, {"message": "u", **unique}]
    differ(
        [
            step("insert_many", jobs=[]),
            step("insert_many", jobs=jobs),
            step("insert_many", jobs=[{"message": "c"}, *jobs]),
            step("insert_many", jobs=[{}, {"opts": {"priority": 9}}]),
            step("insert_many", jobs=[{"opts": {"unique": {"exclude_kind": True}}}]),
            step("list"),
            step("sql", sql="INSERT INTO river_queue (name, updated_at) VALUES ('q', now())"),
            *(
                given
                for end in ("tx_rollback", "tx_commit")
                for given in (
                    step("tx_begin", handle="t"),
                    step("tx_begin", handle="t"),
                    *within_a_transaction(jobs),
                    step(end, handle="t"),
                    step(end, handle="t"),
                    step("list"),
                    step("queue_list"),
                )
            ),
            step("tx_begin", handle="t"),
            step("tx_insert", handle="t", job={}),
            step("tx_fail", handle="t"),
            step("tx_insert", handle="t", job={}),
            step("tx_get", handle="t", id=1),
            step("tx_rollback", handle="t"),
            step("list"),
            step("sql", sql="UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now() WHERE id = 2"),
            *(step("delete_many", **given) for given in bulk),
            step("list"),
        ]
    )


def test_job_row_round_trip_all_fields(ours: AdapterProcess, reference: AdapterProcess) -> None:
    """And multi_engine_job_list_cursor_interchange."""
    full = ours.call("raw_insert_full_row")
    assert reference.call("get", id=full["id"]) == full
    for adapter in (ours, reference):
        adapter.call("insert_many", jobs=[{"opts": {"priority": number}} for number in range(1, 5)])
    for options in ({"order_by": "id"}, {"order_by": "scheduled_at"}, {"order_by": "time", "direction": "desc"}):
        pages: list[list[Any]] = [[], []]
        for number, sides in enumerate(((ours, reference), (reference, ours))):
            after: dict[str, Any] = {}
            while (page := sides[len(pages[number]) % 2].call("list", limit=2, **options, **after))["jobs"]:
                pages[number].append(page)
                after = {"after": page["cursor"]}
        assert pages[0] == pages[1]
        assert sum(len(page["jobs"]) for page in pages[0]) == 9


def test_unique_column_bytes(ours: AdapterProcess, reference: AdapterProcess) -> None:
    opts = {"unique": {"by_args": True, "by_queue": True, "by_state": ["available", "pending", "running", "scheduled"]}}
    rows = []
    for adapter in (reference, ours):
        job = adapter.call("insert", message='ü<&>\u2028"\\', opts=opts)["id"]
        rows.append(ours.call("raw_job_row", id=job))
        ours.call("delete", id=job)
    assert {name: rows[0][name] for name in ("args", "metadata", "tags", "unique_key", "unique_states")} == {
        name: rows[1][name] for name in ("args", "metadata", "tags", "unique_key", "unique_states")
    }


@pytest.mark.parametrize("sides", [("ours", "go"), ("go", "ours")], ids=["candidate_migrates", "reference_migrates"])
def test_custom_schema_migrate_here_work_there(
    adapters: Any, conn: psycopg.Connection, empty_schema: str, sides: tuple[str, str]
) -> None:
    """And historical_migration_down_up, migration_mixed_case_schema: each goes on where the other stopped."""
    one, other = (adapters(side, side) for side in sides)
    schema, every = f"Mixed_{empty_schema}", list(range(1, 9))
    try:
        assert one.call("migrate", schema=schema) == {"applied": every, "existing": every, "valid": True}
        other.call("start", client_id="works", schema=schema)
        job = one.call("insert", schema=schema)["id"]
        assert other.call("wait", id=job)["attempted_by"] == ["works"]
        other.call("stop")
        for version in (6, 4, 1):
            down = {"schema": schema, "direction": "down", "target_version": version}
            applied = other.call("migrate", **down)
            assert (applied["existing"], applied["valid"]) == (every[:version], False)
            planned = one.call("migrate", schema=schema, dry_run=True)
            assert (planned["applied"], planned["existing"]) == (every[version:], every[:version])
            assert one.call("migrate", schema=schema, max_steps=1)["applied"] == [version + 1]
            assert other.call("migrate", schema=schema) == {
                "applied": every[version + 1 :],
                "existing": every,
                "valid": True,
            }
        assert one.call("migrate", schema=schema, direction="down", target_version=-1)["existing"] == []
    finally:
        conn.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


def test_notification_payload_bytes(
    dsn: str, schema: str, conn: psycopg.Connection, ours: AdapterProcess, reference: AdapterProcess
) -> None:
    heard = [told(dsn, schema, conn, adapter, ours) for adapter in (reference, ours)]
    retries = 1  # ours tells of a job that retry made available; River's waits for its next poll
    assert len(heard[1]) == len(heard[0]) + retries
    assert [message for message in heard[1] if message != ("river_insert", '{"queue": "retried"}')] == heard[0]


def told(dsn: str, schema: str, conn: psycopg.Connection, adapter: AdapterProcess, ours: AdapterProcess) -> list[Any]:
    """What was said on all channels, in its order."""
    ours.call("reset")
    conn.execute("INSERT INTO river_queue (name, updated_at) VALUES ('qq', now())")
    with psycopg.connect(dsn, autocommit=True) as listener:
        for topic in ("river_insert", "river_control", "river_leadership"):
            listener.execute(f'LISTEN "{schema}.{topic}"')
        adapter.call("start", client_id="x", queue="other")
        eventually(lambda: ours.call("leader")["leader_id"] == "x")
        final = adapter.call("insert", opts={"queue": "retried", "scheduled_at": "2040-01-01T00:00:00Z"})["id"]
        adapter.call("insert_many", jobs=[{"opts": {"queue": "q-2"}}] * 2)
        for method, name in (
            ("queue_pause", "qq"),
            ("queue_pause", "*"),
            ("queue_resume", "*"),
            ("queue_resume", "qq"),
        ):
            adapter.call(method, name=name)
        adapter.call("queue_update", name="qq", metadata={"b": "<&>\u2028", "a": [1, 2.5, None]})
        adapter.call("queue_update", name="qq")
        adapter.call("cancel", id=final)
        adapter.call("retry", id=final)
        job = adapter.call("insert", behavior="cooperative_cancel", opts={"queue": "other"})["id"]
        adapter.call("wait", id=job, states=["running"])
        adapter.call("cancel", id=job)
        adapter.call("wait", id=job)
        adapter.call("stop")
        return [(message.channel.partition(".")[2], message.payload) for message in listener.notifies(timeout=0.2)]
