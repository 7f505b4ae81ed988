"""A short life of whole clients, run in a sanitized copy: every kind of outcome, lost connections, stops in mid load.

Prints `ok jobs=<n>` when the database says that every job ended as its work says, and no row is running.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver

EXPECTED = {"done": "completed", "async": "completed", "output": "completed", "snooze": "completed",
            "error": "discarded", "cancel": "cancelled"}  # fmt: skip
DEADLINE = 120.0


@dataclass
class Args(river.JobArgs, kind="load"):
    """`does`: how the job ends. `body`: bytes to carry."""

    does: str
    body: str = ""


@dataclass
class AsyncArgs(Args, kind="load_async"):
    """The same, worked on the event loop."""


def end(job: river.Job[Any]) -> None:
    does = job.args.does
    if does == "error":
        raise ValueError("\0 bad \ud800 text " * 20)
    if does == "cancel":
        raise river.JobCancelError("not wanted")
    if does == "snooze" and "seen" not in job.metadata:
        job.set_metadata("seen", True)
        raise river.JobSnoozeError(0.05)
    if does == "output":
        job.record_output({"size": len(job.args.body)})


def workers() -> river.Workers:
    made = river.Workers()

    @made.work(Args)
    def work(job: river.Job[Args]) -> None:
        end(job)

    @made.work(AsyncArgs)
    async def work_async(job: river.Job[AsyncArgs]) -> None:
        await asyncio.sleep(0)
        end(job)

    return made


def jobs(count: int) -> list[river.InsertManyParams]:
    kinds = tuple(EXPECTED)
    opts = river.InsertOpts(max_attempts=1)
    made = []
    for n in range(count):
        does = kinds[n % len(kinds)]
        args = (AsyncArgs if n % 3 == 0 else Args)(does, "x" * (n % 7) * 300)
        made.append(river.InsertManyParams(args, opts if does == "error" else None))
    return made


def disturb(dsn: str, ending: threading.Event, every: float) -> None:
    """Terminates a backend of ours now and then."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        while not ending.wait(every):
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name IN ('river_fast/fetcher', 'river_fast/completer') ORDER BY random() LIMIT 1"
            )


def life(dsn: str, schema: str, completer: Any, count: int, disturbed: bool) -> None:
    config = river.Config(
        schema=schema, workers=workers(), completer=completer,
        queues={"default": river.QueueConfig(max_workers=20), "other": river.QueueConfig(max_workers=3)},
    )  # fmt: skip
    client = river.Client(dsn, config)
    subscription = client.subscribe(river.EventKind.JOB_COMPLETED, river.EventKind.JOB_FAILED, buffer_size=50)
    client.insert_many(jobs(count))
    ending = threading.Event()
    trouble = threading.Thread(target=disturb, args=(dsn, ending, 0.3)) if disturbed else None
    if trouble:
        trouble.start()
    for _ in range(3):  # stops in mid load, thrice
        client.start()
        client.insert(Args("done"), river.InsertOpts(queue="other"))
        subscription.get(5)
        client.queue_pause("other")
        client.queue_resume("other")
        client.job_cancel(client.insert(Args("done"), river.InsertOpts(queue="other")).job.id)
        client.stop(20)
    client.start()
    waited_until = time.monotonic() + DEADLINE
    with psycopg.connect(dsn, autocommit=True) as conn:
        left = f"SELECT count(*) FROM {schema}.river_job WHERE finalized_at IS NULL"
        while (row := conn.execute(left).fetchone()) and row[0]:
            assert time.monotonic() < waited_until, f"{row[0]} jobs did not end"
            time.sleep(0.05)
    ending.set()
    if trouble:
        trouble.join()
    report = client.stop(20)
    assert report.finished, report


def main(dsn: str, count: int) -> None:
    schema = f"sanitize_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE SCHEMA {schema}")
    try:
        driver = PsycopgDriver(dsn, schema)
        river.Migrator(driver).migrate_up()
        driver.close()
        for completer in ("batch", "async", "inline"):
            life(dsn, schema, completer, count, disturbed=completer != "inline")
        with psycopg.connect(dsn, autocommit=True) as conn:
            ends = conn.execute(
                "SELECT args->>'does', state::text, pg_catalog.count(*)"
                f" FROM {schema}.river_job WHERE queue = 'default' GROUP BY 1, 2"
            ).fetchall()
            assert {(does, state) for does, state, _ in ends} == set(EXPECTED.items()), ends
            print(f"ok jobs={sum(number for _, _, number in ends)}")
    finally:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"DROP SCHEMA {schema} CASCADE")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
