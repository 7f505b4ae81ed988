"""Generation B: its fourteen methods, each with its schema and its transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.conformance.generation_b import PARAMS
from tests.conformance.process import AdapterProcess, Refused
from tests.fix_client import eventually

JOB_MEMBERS = {
    "args", "attempt", "attempted_at", "attempted_by", "created_at", "errors", "finalized_at", "id", "kind",
    "max_attempts", "metadata", "priority", "queue", "scheduled_at", "state", "tags", "unique_key", "unique_states",
}  # fmt: skip
INTERNAL, NOT_FOUND, REJECTED, INVALID_PARAMS, METHOD_NOT_FOUND = -32603, -32001, -32002, -32602, -32601


@pytest.fixture(scope="module")
def process_b(url: str) -> Iterator[AdapterProcess]:
    name = f"river-conformance-river_fast-{uuid.uuid4().hex[:6]}"
    with AdapterProcess(url, name, RIVER_CONFORMANCE_DRIVER="postgres") as adapter:
        yield adapter


@pytest.fixture
def b(process_b: AdapterProcess, database: psycopg.Connection) -> AdapterProcess:
    """Without a client, with empty tables."""
    process_b.refused_or_none("stop", cancel=True)
    database.execute("TRUNCATE river_job, river_queue, river_leader RESTART IDENTITY")
    return process_b


def code(adapter: AdapterProcess, method: str, /, **params: Any) -> int:
    with pytest.raises(Refused) as caught:
        adapter.call(method, **params)
    return caught.value.code


def insert(adapter: AdapterProcess, behavior: str = "", **params: Any) -> dict[str, Any]:
    args = {"behavior": behavior, "duration_ms": 0, "message": ""}
    (result,) = adapter.call("insert", jobs=[{**args, **params}])["results"]
    job: dict[str, Any] = result["job"]
    return job


def stored(adapter: AdapterProcess, job_id: int) -> Any:
    return adapter.call("list", ids=[job_id])["jobs"][0]


def done(adapter: AdapterProcess, job_id: int, *states: str) -> Any:
    wanted = states or ("cancelled", "completed", "discarded")
    eventually(lambda: stored(adapter, job_id)["state"] in wanted)
    return stored(adapter, job_id)


def test_handshake_and_methods(b: AdapterProcess) -> None:
    told = b.call("handshake")
    assert told == {"driver": "postgres", "implementation": "river_fast", "version": river.__version__}
    assert len(PARAMS) == 14
    for method in PARAMS:
        assert code(b, method, surprise=1) == INVALID_PARAMS
    for method in ("get", "tx_insert", "raw_job_row"):
        assert code(b, method) == METHOD_NOT_FOUND


def test_insert_tells_every_member_in_order(b: AdapterProcess) -> None:
    opts = {"metadata": {"n": 2**53 + 1}, "priority": 2, "tags": ["one", "two"], "unique": {"by_args": True}}
    jobs = [{"behavior": "", "duration_ms": 1, "message": "a", "opts": opts}, {"behavior": "output", "message": "b"}]
    results = b.call("insert", jobs=jobs)["results"]
    assert [result["unique_skipped_as_duplicate"] for result in results] == [False, False]
    job = results[0]["job"]
    assert set(job) == JOB_MEMBERS
    assert job["args"] == {"behavior": "", "duration_ms": 1, "message": "a"}
    assert job["metadata"] == {"n": 2**53 + 1}
    again = b.call("insert", jobs=[jobs[0]])["results"][0]
    assert (again["unique_skipped_as_duplicate"], again["job"]) == (True, job)
    assert code(b, "insert", jobs=[]) == REJECTED
    assert code(b, "insert", jobs=[{"opts": {"priority": 7}}]) == REJECTED
    assert code(b, "insert", jobs=[jobs[0] | {"message": "x"}] * 2) == REJECTED
    assert code(b, "insert", jobs=[{"behavior": "panic"}]) == INVALID_PARAMS


def test_metadata_is_told_exactly(b: AdapterProcess, database: psycopg.Connection) -> None:
    job = insert(b)
    text = '{"river:unique_nonce": "x", "big": 1e400, "long": 0.1234567890123456789}'
    database.execute("UPDATE river_job SET metadata = %s::jsonb", [text])
    told = stored(b, job["id"])["metadata"]
    assert set(told) == {"big", "long"}
    assert (told["big"], str(told["long"])) == (10**400, "0.1234567890123456789")


def test_list_filters_pages_and_refuses(b: AdapterProcess) -> None:
    for number in range(3):
        insert(b, message=str(number), opts={"queue": "q", "tags": ["tag_a"], "metadata": {"n": number}})
    first = b.call("list", limit=2, queues=["q"], tags_all=["tag_a"], direction="", states=[])
    assert [job["id"] for job in first["jobs"]] == [1, 2]
    assert [job["id"] for job in b.call("list", after=first["cursor"])["jobs"]] == [3]
    assert [job["id"] for job in b.call("list", metadata={"n": 1}, order_by="scheduled_at")["jobs"]] == [2]
    assert b.call("list", kinds=["nobody"]) == {"cursor": None, "jobs": []}
    assert code(b, "list", after="nonsense") == INVALID_PARAMS
    assert code(b, "list", order_by="finalized_at", states=["available"]) == REJECTED
    assert code(b, "list", tags_any=["x"]) == INVALID_PARAMS


def test_cancel_and_retry_tell_the_job(b: AdapterProcess) -> None:
    job = insert(b)
    cancelled = b.call("cancel", id=job["id"])
    assert (cancelled["state"], set(cancelled)) == ("cancelled", JOB_MEMBERS)
    assert b.call("retry", id=job["id"])["state"] == "available"
    for method in ("cancel", "retry"):
        assert code(b, method, id=99) == NOT_FOUND


def test_queue_is_paused_resumed_and_updated(b: AdapterProcess, database: psycopg.Connection) -> None:
    assert code(b, "queue", action="pause", name="q") == NOT_FOUND
    assert code(b, "queue", action="explode", name="q") == INVALID_PARAMS
    database.execute("INSERT INTO river_queue (name, updated_at) VALUES ('q', now())")
    query = "SELECT paused_at IS NOT NULL, metadata::text FROM river_queue"
    assert b.call("queue", action="pause", name="*") == {}
    assert b.call("queue", action="update", name="q", metadata={"a": 1}) == {}
    assert database.execute(query).fetchone() == (True, '{"a": 1}')
    assert b.call("queue", action="resume", name="q") == {}
    assert b.call("queue", action="update", name="q") == {}
    assert database.execute(query).fetchone() == (False, '{"a": 1}')


def test_transactions_by_name(b: AdapterProcess, database: psycopg.Connection) -> None:
    database.execute("INSERT INTO river_queue (name, updated_at) VALUES ('q', now())")
    outside = insert(b)
    for commit in (False, True):
        b.call("tx_begin", tx="t")
        assert code(b, "tx_begin", tx="t") == REJECTED
        inserted = b.call("insert", jobs=[{"message": "within"}], tx="t")["results"][0]["job"]
        assert b.call("cancel", id=outside["id"], tx="t")["state"] == "cancelled"
        assert b.call("retry", id=outside["id"], tx="t")["state"] == "available"
        b.call("queue", action="pause", name="q", tx="t")
        b.call("request_resign", tx="t")
        assert [job["id"] for job in b.call("list", tx="t")["jobs"]] == [outside["id"], inserted["id"]]
        assert len(b.call("list")["jobs"]) == 1
        assert b.call("tx_end", tx="t", commit=commit) == {}
        assert code(b, "tx_end", tx="t") == NOT_FOUND
        assert len(b.call("list")["jobs"]) == 1 + commit
    assert code(b, "list", tx="t") == NOT_FOUND
    assert code(b, "tx_begin", tx="") == INVALID_PARAMS


def test_migrate_tells_versions_in_their_order(
    b: AdapterProcess, database: psycopg.Connection, other_schema: str
) -> None:
    schema = other_schema
    assert code(b, "migrate", schema=schema) == REJECTED, "the suite makes the schema"
    database.execute(f'CREATE SCHEMA "{schema}"')
    assert b.call("migrate", schema=schema, target_version=3)["versions"] == [1, 2, 3]
    assert b.call("migrate", schema=schema)["versions"] == [4, 5, 6, 7, 8]
    job = b.call("insert", jobs=[{"message": "there"}], schema=schema)["results"][0]["job"]
    assert b.call("list", schema=schema)["jobs"] == [job]
    assert b.call("list")["jobs"] == []
    assert b.call("migrate", schema=schema, direction="down")["versions"] == [8]
    told = b.call("migrate", schema=schema, direction="down", target_version=-1)
    assert told["versions"] == [7, 6, 5, 4, 3, 2, 1]


def test_client_starts_works_and_tells_what_it_saw(b: AdapterProcess) -> None:
    for method in ("stop", "stats"):
        assert code(b, method) == REJECTED
    b.call("start", client_id="b", queues=["default", "other"], fetch_poll_interval_ms=20, retry_delay_ms=1)
    assert code(b, "start", client_id="again") == REJECTED
    plain, other = insert(b), insert(b, opts={"queue": "other"})
    for job in (plain, other):
        assert done(b, job["id"])["attempted_by"] == ["b"]
    assert done(b, insert(b, "output", message="m")["id"])["metadata"] == {"output": {"message": "m"}}
    assert done(b, insert(b, "cancel")["id"])["errors"][0]["error"] == "JobCancelError: cancelled by conformance worker"
    assert done(b, insert(b, "snooze_once")["id"])["metadata"] == {"snoozes": 1}
    assert done(b, insert(b, "sleep", duration_ms=10)["id"])["state"] == "completed"
    failed = done(b, insert(b, "error", opts={"max_attempts": 2})["id"])
    assert [error["error"] for error in failed["errors"]] == ["conformance retryable error"] * 2
    stats = b.call("stats")
    assert set(stats) == {"cancelled_at_start", "error_handler_calls", "events", "periodic_starts"}
    completed, failed_twice = "job_completed", ["job_failed", "job_failed"]
    expected = [completed] * 3 + ["job_cancelled", "job_snoozed", completed, completed, *failed_twice]
    eventually(lambda: b.call("stats")["events"] == expected)
    b.call("stop")


def test_barriers_need_no_making(b: AdapterProcess) -> None:
    b.call("start", client_id="b", fetch_poll_interval_ms=20)
    waiting = insert(b, "barrier_output", message="one")
    done(b, waiting["id"], "running")
    b.call("release", name="one")
    b.call("release", name="two")
    assert done(b, waiting["id"])["metadata"] == {"output": {"race": "worker"}}
    assert done(b, insert(b, "barrier_wait", message="two")["id"])["state"] == "completed"


def test_claim_is_held_while_it_is_cancelled(b: AdapterProcess) -> None:
    b.call("start", client_id="b", claim_barrier="claim", fetch_poll_interval_ms=20)
    job = insert(b, "cooperative_cancel")
    done(b, job["id"], "running")
    b.call("cancel", id=job["id"])
    b.call("release", name="claim")
    assert done(b, job["id"])["state"] == "cancelled"
    assert b.call("stats")["cancelled_at_start"] == 1


def test_hard_stop_interrupts_a_sleep_without_an_event(b: AdapterProcess) -> None:
    b.call("start", client_id="b", fetch_poll_interval_ms=20)
    job = insert(b, "sleep", duration_ms=60_000)
    done(b, job["id"], "running")
    b.call("stop", cancel=True)
    assert (stored(b, job["id"])["state"], stored(b, job["id"])["attempt"]) == ("available", 0)


def test_resumable_cursor_goes_on_where_it_was(b: AdapterProcess) -> None:
    b.call("start", client_id="b", fetch_poll_interval_ms=20, retry_delay_ms=1)
    job = done(b, insert(b, "resumable_cursor")["id"])
    assert (job["state"], job["attempt"]) == ("completed", 3)
    assert (job["metadata"]["first_attempt"], job["metadata"]["cursor_observed"]) == (1, 7)


def test_worker_kinds_and_the_alias(b: AdapterProcess, database: psycopg.Connection) -> None:
    kinds = ["conformance_echo_peer", "conformance_echo_renamed"]
    b.call("start", client_id="b", worker_kinds=kinds, fetch_only_known_kinds=True, fetch_poll_interval_ms=20)
    args = '{"behavior": "", "duration_ms": 0, "message": ""}'
    query = "INSERT INTO river_job (args, kind, max_attempts) VALUES (%s, %s, 25) RETURNING id"
    ids = [database.execute(query, [args, kind]).fetchone()[0] for kind in ("nobody", *kinds)]  # type: ignore[index]
    assert done(b, insert(b)["id"])["state"] == "completed", "by its new name"
    for job_id in ids[1:]:
        assert done(b, job_id)["state"] == "completed"
    assert stored(b, ids[0])["state"] == "available", "nobody here knows it"
    b.call("stop")
    b.call("start", client_id="b", worker_kinds=kinds[:1], fetch_poll_interval_ms=20)
    eventually(lambda: stored(b, insert(b)["id"]) and stored(b, ids[0])["errors"])


def test_periodic_starts_are_counted_always(b: AdapterProcess) -> None:
    tuning = {"elect_interval_ms": 50, "scheduler_interval_ms": 0}
    b.call("start", client_id="b", periodic_run_on_start=True, tuning=tuning, fetch_poll_interval_ms=20)
    eventually(lambda: b.call("stats")["periodic_starts"] == 1)
    eventually(lambda: b.call("list", states=["completed"])["jobs"])
    b.call("stop")
    assert code(b, "start", client_id="b", periodic_unique=True) == INVALID_PARAMS
    assert code(b, "start", client_id="b", periodic_run_on_start=True, leader_election_disabled=True) == REJECTED


def test_error_handler_and_rescue(b: AdapterProcess, database: psycopg.Connection) -> None:
    lost = insert(b, opts={"queue": "elsewhere"})
    sets = "state = 'running', attempt = 1, attempted_at = now() - interval '1 hour'"
    database.execute(f"UPDATE river_job SET {sets} WHERE id = %s", [lost["id"]])
    options = {"job_timeout_ms": 1000, "rescue_after_ms": 1000, "retry_delay_ms": 60_000, "fetch_poll_interval_ms": 20}
    b.call("start", client_id="b", error_handler_cancel=True, tuning={"rescuer_interval_ms": 50}, **options)
    assert done(b, lost["id"], "retryable")["errors"][0]["error"] == "Stuck job rescued by JobRescuer"
    assert done(b, insert(b, "error")["id"])["state"] == "cancelled"
    assert b.call("stats")["error_handler_calls"] == 1


def test_at_most_ten_connections(b: AdapterProcess, database: psycopg.Connection) -> None:
    b.call("start", client_id="b", max_workers=50, fetch_poll_interval_ms=20)
    b.call("insert", jobs=[{}] * 200)
    b.call("tx_begin", tx="t")
    eventually(lambda: not b.call("list", states=["available", "running"])["jobs"])
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    listening = query + " AND query ILIKE 'listen%%'"
    assert 4 <= database.execute(query, [b.name]).fetchone()[0] <= 10  # type: ignore[index]
    assert database.execute(listening, [b.name]).fetchone() == (1,)
    b.call("tx_end", tx="t")


def test_unknown_action_on_every_channel_is_ignored(
    b: AdapterProcess, database: psycopg.Connection, own_schema: str
) -> None:
    b.call("start", client_id="b", fetch_poll_interval_ms=60_000)
    for topic in ("insert", "control", "leadership"):
        database.execute("SELECT pg_notify(%s, %s)", [f"{own_schema}.river_{topic}", '{"action":"conformance_marker"}'])
    assert done(b, insert(b)["id"])["state"] == "completed"


def test_end_of_stdin_ends_the_process(url: str) -> None:
    with AdapterProcess(url, "river-conformance-b-end", RIVER_CONFORMANCE_DRIVER="postgres") as adapter:
        adapter.call("tx_begin", tx="t")
        adapter.call("start", client_id="b")
        assert adapter.close() == 0
