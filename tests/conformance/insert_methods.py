"""Methods that insert the built-in job, alone, together, in a transaction, or one after the other against the clock.

The request loop's thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import psycopg

import river_fast as river
from tests.conformance.built_in_job import ARGS, KIND
from tests.conformance.contract import timestamp
from tests.conformance.errors import rejected
from tests.conformance.exact_json import dump
from tests.conformance.session import Session


def insert(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    schema = params.get("schema")
    result = session.client(schema).insert(args_of(params), opts_of(params))
    return session.job(result.job, schema=schema)


def insert_many(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    client, jobs = session.client(), [item_of(job) for job in params["jobs"]]
    if not any_unique(jobs):
        return written(session, client.insert_many(jobs))
    with session.pooled() as conn, conn.transaction():
        # The transaction's end is the batch's: a key that comes twice in it undoes all.
        return written(session, without_repeats(client.insert_many_tx(conn, jobs)), conn)


def tx_insert(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    conn = session.transactions.get(params["handle"])
    result = session.client().insert_tx(conn, args_of(params["job"]), opts_of(params["job"]))
    return session.job(result.job, conn)


def tx_insert_many(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    conn = session.transactions.get(params["handle"])
    return written(session, insert_many_within(session.client(), conn, [item_of(job) for job in params["jobs"]]), conn)


def benchmark_enqueue(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    client, taken = session.client(), []
    began = time.perf_counter_ns()
    for number in range(params["jobs"]):
        sent = time.perf_counter_ns()
        client.insert(ARGS[KIND](message=f"benchmark-enqueue-{number}"))
        taken.append(time.perf_counter_ns() - sent)
    duration = time.perf_counter_ns() - began
    return {"duration_ns": duration, "p95_ns": sorted(taken)[math.ceil(0.95 * len(taken)) - 1]}


def insert_many_within(
    client: river.Client, conn: psycopg.Connection[Any], jobs: Sequence[river.InsertManyParams]
) -> list[river.JobInsertResult]:
    """In the suite's transaction; a batch that holds a key twice is undone alone, and refused."""
    if not any_unique(jobs):
        return client.insert_many_tx(conn, jobs)
    with conn.transaction():  # a savepoint
        return without_repeats(client.insert_many_tx(conn, jobs))


def any_unique(jobs: Sequence[river.InsertManyParams]) -> bool:
    return any(job.opts is not None and job.opts.unique is not None for job in jobs)


def without_repeats(results: list[river.JobInsertResult]) -> list[river.JobInsertResult]:
    """River's server refuses a batch with the same unique key twice; ours tells the second as a duplicate."""
    ids = [result.job.id for result in results]
    if len(set(ids)) < len(ids):
        raise rejected("the batch holds the same unique key twice")
    return results


def written(
    session: Session,
    results: Sequence[river.JobInsertResult],
    conn: psycopg.Connection[Any] | None = None,
    schema: str | None = None,
) -> dict[str, Any]:
    jobs = session.jobs((result.job for result in results), conn, schema)
    return {
        "results": [
            {"job": job, "unique_skipped_as_duplicate": result.unique_skipped_as_duplicate}
            for job, result in zip(jobs, results, strict=True)
        ]
    }


def item_of(job: Mapping[str, Any]) -> river.InsertManyParams:
    return river.InsertManyParams(args_of(job), opts_of(job))


def args_of(job: Mapping[str, Any]) -> Any:
    return ARGS[job.get("kind", KIND)](job.get("behavior", ""), job.get("duration_ms", 0), job.get("message", ""))


def opts_of(job: Mapping[str, Any]) -> river.InsertOpts:
    opts = job.get("opts", {})
    scheduled_at = opts.get("scheduled_at")
    return river.InsertOpts(
        max_attempts=opts.get("max_attempts") or None,
        metadata=_metadata(opts["metadata"]) if "metadata" in opts else None,
        pending=opts.get("pending", False),
        priority=opts.get("priority") or None,  # Go's zero means the default
        queue=opts.get("queue") or None,
        scheduled_at=None if scheduled_at is None else timestamp(scheduled_at, "scheduled_at"),
        tags=opts.get("tags") or None,
        unique=_unique(opts["unique"]) if "unique" in opts else None,
    )


def _metadata(value: Any) -> bytes:
    try:
        return dump(value)
    except TypeError:
        raise rejected("metadata is nested too deeply") from None


def _unique(unique: Mapping[str, Any]) -> river.UniqueOpts | None:
    opts = river.UniqueOpts(
        by_args=unique.get("by_args", False),
        by_period=timedelta(milliseconds=unique["by_period_ms"]) if unique.get("by_period_ms") else None,
        by_queue=unique.get("by_queue", False),
        by_state=unique.get("by_state") or None,
        exclude_kind=unique.get("exclude_kind", False),
    )
    return None if opts.is_empty() else opts


METHODS = {
    "insert": insert,
    "insert_many": insert_many,
    "tx_insert": tx_insert,
    "tx_insert_many": tx_insert_many,
    "benchmark_enqueue": benchmark_enqueue,
}
