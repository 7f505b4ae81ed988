"""Each option of `start`, by what it does to jobs, rows and counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually

TUNED = {"elect_interval_ms": 50, "rescuer_interval_ms": 50, "scheduler_interval_ms": 50}
WORK_TRACE = ["middleware:work_before", "hook:work_begin", "hook:work_end", "middleware:work_after"]
INSERT_TRACE = ["middleware:insert_before", "hook:insert_begin", "middleware:insert_after"]


def old(database: psycopg.Connection, job_id: int, **columns: Any) -> None:
    """As if something had happened to the job an hour ago."""
    sets = ", ".join(f"{name} = {value}" for name, value in columns.items())
    database.execute(f"UPDATE river_job SET {sets} WHERE id = %s", [job_id])


def test_instrumented_client_traces_its_extensions(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c", instrumented=True, leader_election_disabled=True)
    job = adapter.call("insert")
    adapter.call("wait", id=job["id"])
    eventually(lambda: len(adapter.call("runtime_stats")["trace"]) == 7)
    trace = adapter.call("runtime_stats")["trace"]
    assert [entry for entry in trace if "insert" in entry] == INSERT_TRACE
    assert [entry for entry in trace if "work" in entry] == WORK_TRACE
    adapter.call("insert_many", jobs=[{}, {}])
    adapter.call("tx_begin", handle="t")
    adapter.call("tx_insert", handle="t", job={})
    adapter.call("tx_rollback", handle="t")
    inserts = [entry for entry in adapter.call("runtime_stats")["trace"] if "insert" in entry]
    before, begin, after = INSERT_TRACE
    assert inserts[3:] == [before, begin, begin, after, before, begin, after]


def test_client_that_is_not_instrumented_traces_nothing(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c", periodic_run_on_start=True)
    eventually(lambda: adapter.call("list", states=["completed"])["jobs"])
    told = adapter.call("runtime_stats")
    assert (told["trace"], told["periodic_starts"]) == ([], 0)


@pytest.mark.parametrize("behavior", ["error", "panic"])
def test_error_handler_turns_failures_into_cancellations(adapter: AdapterProcess, behavior: str) -> None:
    adapter.call("start", client_id="c", error_handler_cancel=True)
    job = adapter.call("insert", behavior=behavior)
    done = adapter.call("wait", id=job["id"])
    assert (done["state"], len(done["errors"])) == ("cancelled", 1)
    assert adapter.call("runtime_stats")["error_handler_calls"] == 1
    for quiet in ("cancel", "snooze_once"):
        job = adapter.call("insert", behavior=quiet)
        adapter.call("wait", id=job["id"])
    assert adapter.call("runtime_stats")["error_handler_calls"] == 1
    unknown = adapter.call("raw_insert_no_notify", kind="nobody")
    assert adapter.call("wait", id=unknown["id"])["state"] == "cancelled"
    assert adapter.call("runtime_stats")["error_handler_calls"] == 2


@pytest.mark.parametrize("delay", [0, 1, 60_000])
def test_retry_delay_is_fixed(adapter: AdapterProcess, delay: int) -> None:
    adapter.call("start", client_id="c", retry_delay_ms=delay)
    job = adapter.call("insert", behavior="error", opts={"max_attempts": 3})
    if delay < 5000:
        assert adapter.call("wait", id=job["id"])["attempt"] == 3
    else:
        assert adapter.call("wait", id=job["id"], states=["retryable"])["attempt"] == 1


def test_scheduler_interval_is_also_the_threshold_for_available(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c", retry_delay_ms=500, scheduler_interval_ms=100)
    job = adapter.call("insert", behavior="error", opts={"max_attempts": 2})
    adapter.call("wait", id=job["id"], states=["retryable"])
    assert adapter.call("wait", id=job["id"])["attempt"] == 2


def test_scheduled_job_becomes_due(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    adapter.call("start", client_id="c", **TUNED)
    job = adapter.call("insert", opts={"scheduled_at": "2026-01-01T00:00:00Z"})
    assert job["state"] == "scheduled"
    assert adapter.call("wait", id=job["id"])["state"] == "completed"


def test_stuck_jobs_are_counted(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c", job_timeout_ms=20, job_stuck_threshold_ms=20)
    job = adapter.call("insert", behavior="ignored_cancel")
    eventually(lambda: adapter.call("runtime_stats")["stuck_jobs"] == 1)
    assert adapter.call("get", id=job["id"])["state"] == "running"


def test_disabled_timeout_is_none(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c", job_timeout_disabled=True)
    job = adapter.call("insert", behavior="cooperative_cancel")
    adapter.call("wait", id=job["id"], states=["running"])
    adapter.call("stop", cancel=True)


def test_rescue_by_age(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    lost, last, unknown = (
        adapter.call("raw_insert_no_notify", kind=kind)["id"] for kind in ("conformance_echo",) * 2 + ("nobody",)
    )
    for job_id in (lost, last, unknown):
        old(database, job_id, state="'running'", attempt=1, attempted_at="now() - interval '1 hour'", priority=1)
    old(database, last, max_attempts=1)
    adapter.call("start", client_id="c", rescue_after_ms=1000, retry_delay_ms=60_000, queue="other", **TUNED)
    rescued = adapter.call("wait", id=lost, states=["retryable"])
    assert rescued["errors"][0]["error"] == "Stuck job rescued by JobRescuer"
    assert rescued["metadata"] == {"river:rescue_count": 1}
    assert adapter.call("wait", id=last)["state"] == "discarded"
    assert adapter.call("wait", id=unknown)["state"] == "discarded"


def test_running_jobs_without_a_timeout_are_not_rescued(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    jobs = [adapter.call("raw_insert_no_notify", kind=kind)["id"] for kind in ("conformance_echo", "nobody")]
    for job_id in jobs:
        old(database, job_id, state="'running'", attempt=1, attempted_at="now() - interval '1 hour'")
    options = {"rescue_after_ms": 1000, "job_timeout_disabled": True, "queue": "other"}
    adapter.call("start", client_id="c", **options, **TUNED)
    assert adapter.call("wait", id=jobs[1])["state"] == "discarded"
    assert adapter.call("get", id=jobs[0])["state"] == "running"


def test_retention_deletes_by_state_or_keeps_for_ever(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    ids = {state: adapter.call("insert")["id"] for state in ("cancelled", "completed", "discarded")}
    for state, job_id in ids.items():
        old(database, job_id, state=f"'{state}'", finalized_at="now() - interval '1 hour'")
    options = {"cancelled_job_retention_ms": 1000, "completed_job_retention_ms": -1, "job_cleaner_interval_ms": 50}
    adapter.call("start", client_id="c", **options, discarded_job_retention_ms=7_200_000, queue="other")
    eventually(lambda: adapter.refused_or_none("get", id=ids["cancelled"]) == "not_found")
    assert adapter.call("get", id=ids["completed"])["state"] == "completed"
    assert adapter.call("get", id=ids["discarded"])["state"] == "discarded"


def test_queues_that_nobody_works_are_cleaned(adapter: AdapterProcess, database: psycopg.Connection) -> None:
    for name, age in (("idle", "25 hours"), ("fresh", "23 hours")):
        database.execute(f"INSERT INTO river_queue (name, updated_at) VALUES ('{name}', now() - interval '{age}')")
    adapter.call("start", client_id="c", queue_cleaner_interval_ms=50)
    eventually(lambda: adapter.refused_or_none("queue_get", name="idle") == "not_found")
    assert [queue["name"] for queue in adapter.call("queue_list")["queues"]] == ["default", "fresh"]


def test_reindexer_rebuilds_what_it_is_told_and_skips_debris(
    adapter: AdapterProcess, database: psycopg.Connection, own_schema: str
) -> None:
    def node(name: str) -> Any:
        row = database.execute("SELECT relfilenode FROM pg_class WHERE oid = %s::regclass", [f"{own_schema}.{name}"])
        return row.fetchone()

    names = ["river_job_kind", "river_job_args_index", "nowhere"]
    before = [node(name) for name in names[:2]]
    database.execute("CREATE INDEX river_job_args_index_ccnew ON river_job (id)")
    try:
        adapter.call("start", client_id="c", reindexer_index_names=names, reindexer_interval_ms=100)
        eventually(lambda: node(names[0]) != before[0])
        adapter.call("stop")
        assert node(names[1]) == before[1]
    finally:
        database.execute("DROP INDEX river_job_args_index_ccnew")


def test_periodic_job_runs_when_a_term_begins(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c", instrumented=True, periodic_run_on_start=True, elect_interval_ms=50)
    eventually(lambda: adapter.call("list", states=["completed"])["jobs"])
    (job,) = adapter.call("list")["jobs"]
    assert job["args"]["message"] == "periodic run on start"
    assert job["metadata"] == {"periodic": True, "river:periodic_job_id": "conformance-periodic"}
    told = adapter.call("runtime_stats")
    assert told["periodic_starts"] == 1
    assert told["trace"][:4] == ["hook:periodic_start", *INSERT_TRACE]
    adapter.call("request_resign")
    eventually(lambda: len(adapter.call("list", states=["completed"])["jobs"]) == 2)
    assert adapter.call("runtime_stats")["periodic_starts"] == 2


def test_unique_periodic_job_is_inserted_once_and_its_marker_each_term(
    adapter: AdapterProcess, make_adapter: Callable[..., AdapterProcess]
) -> None:
    options = {"periodic_run_on_start": True, "periodic_unique": True, "elect_interval_ms": 50}
    adapter.call("start", client_id="first", **options)
    messages = ["periodic run on start", "periodic marker"]

    def done(*expected: str) -> bool:
        jobs = adapter.call("list", states=["completed"])["jobs"]
        return [job["args"]["message"] for job in jobs] == list(expected)

    eventually(lambda: done(*messages))
    other = make_adapter()
    other.call("start", client_id="second", **options)
    adapter.call("stop")
    eventually(lambda: other.call("leader")["leader_id"] == "second")
    eventually(lambda: done(*messages, messages[1]))
    marker = adapter.call("list", direction="desc", limit=1)["jobs"][0]
    assert marker["metadata"]["river:periodic_job_id"] == "conformance-periodic-marker"


def test_elect_interval_beyond_a_lease_is_unsupported(adapter: AdapterProcess) -> None:
    assert adapter.refused("start", client_id="c", elect_interval_ms=60_000) == "unsupported"
