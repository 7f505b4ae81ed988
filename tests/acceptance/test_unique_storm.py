"""Unique scheduled jobs in a storm: eight inserters of a hundred keys, two clients that work, lead in turn and maintain
(the very index of the keys is rebuilt), a second scheduler beside the leader's. River 0.12.0 lost jobs (#590, #618).

`RIVER_FAST_STORM_INSERTS` says how many inserts (`make chaos`: 80,000).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance.intervals import MaintenanceIntervals
from river_fast.maintenance.job_scheduler import JobScheduler
from tests.fix_client import eventually

INSERTS = int(os.environ.get("RIVER_FAST_STORM_INSERTS", "4000"))
INSERTERS, KEYS = 8, 100
# Held from insert to completion, retries included: whoever has the key has it alone, so none may ever be discarded.
HELD = ["available", "pending", "retryable", "running", "scheduled"]
INTERVALS = MaintenanceIntervals(
    elector=0.2, job_cleaner=0.1, job_rescuer=0.1, job_scheduler=0.05, queue_cleaner=0.1, reindexer=0.2
)


@dataclass
class Report(river.JobArgs, kind="storm_report"):
    """A unique job; `n` is not part of its key."""

    key: Annotated[int, river.unique]
    n: int


class SoonOrLater:
    """The retry policy: within the scheduler's interval, so that the job stays available, or beyond it."""

    def next_retry(self, job: river.Job[Any]) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=random.uniform(0.0, 0.15))


class Ledger:
    """What was inserted and what ran, told by who did it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: set[int] = set()
        self.inserted: set[int] = set()
        self.refused = 0
        self.runs: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        self.overlaps: list[int] = []
        self.errors: list[BaseException] = []

    def insert(self, results: list[river.JobInsertResult]) -> None:
        with self._lock:
            for result in results:
                if result.unique_skipped_as_duplicate:
                    self.refused += 1
                else:
                    assert result.job.id not in self.inserted, "one row told of twice as new"
                    self.inserted.add(result.job.id)

    def work(self, job: river.Job[Report]) -> None:
        key = job.args.key
        with self._lock:
            if key in self._active:
                self.overlaps.append(key)
            self._active.add(key)
            self.runs[job.id] += 1
        time.sleep(job.args.n % 4 / 1000)  # long enough for a second one of the key to be seen beside it
        fails = job.attempt == 1 and job.args.n % 5 == 0
        with self._lock:
            self._active.discard(key)
            self.done[job.id] += not fails
        if fails:
            raise ValueError("every fifth fails at first")


def insert_many(client: river.Client, ledger: Ledger, number: int) -> None:
    rng = random.Random(number)
    left = INSERTS // INSERTERS
    try:
        while left > 0:
            size = min(left, rng.choice((1, 1, 1, 10)))
            left -= size
            params = [
                river.InsertManyParams(
                    Report(rng.randrange(KEYS), rng.randrange(1000)),
                    river.InsertOpts(
                        scheduled_at=datetime.now(UTC) + timedelta(seconds=rng.uniform(-0.1, 0.2)),
                        unique=river.UniqueOpts(by_args=True, by_state=HELD),
                    ),
                )
                for _ in range(size)
            ]
            if size == 1:
                ledger.insert([client.insert(params[0].args, params[0].opts)])
            else:
                ledger.insert(client.insert_many(params))
    except BaseException as error:
        ledger.errors.append(error)


@pytest.mark.timeout(900)
def test_of_unique_scheduled_jobs_none_is_doubled_and_none_discarded(
    make_client: Callable[..., river.Client], dsn: str, schema: str, conn: psycopg.Connection
) -> None:
    ledger = Ledger()
    workers = river.Workers()
    workers.work(Report)(ledger.work)
    settings: dict[str, Any] = {
        "retry_policy": SoonOrLater(), "completed_job_retention_period": 0.5, "test_only": True,
        "reindexer_index_names": ["river_job_unique_idx", "river_job_prioritized_fetching_index"],
    }  # fmt: skip
    clients = [make_client(workers, max_workers=20, id=f"storm {number}", **settings) for number in range(2)]
    for client in clients:
        client._intervals = INTERVALS
        client.start()
    driver = PsycopgDriver(dsn, schema)
    rival = JobScheduler(driver, interval=0.03)
    rival.lead(lambda: True, stagger=False)
    rival.start()
    began = time.monotonic()
    inserters = [
        threading.Thread(target=insert_many, args=(clients[number % 2], ledger, number)) for number in range(INSERTERS)
    ]
    for thread in inserters:
        thread.start()
    terms, builds, turn = set(), set(), 0
    while any(thread.is_alive() for thread in inserters):
        terms.add(conn.execute("SELECT leader_id, elected_at FROM river_leader").fetchone())
        builds.add(conn.execute("SELECT pg_relation_filenode('river_job_unique_idx')").fetchone())
        inserters[turn % INSERTERS].join(0.1)
        turn += 1
        if turn % 20 == 0:
            clients[0].notify.request_resign()  # whoever leads: both hear it
    took = time.monotonic() - began
    active = "SELECT count(*) FROM river_job WHERE state NOT IN ('completed', 'discarded', 'cancelled')"
    eventually(lambda: conn.execute(active).fetchone() == (0,), 120, "every job to end")
    for service in (*clients, rival):
        assert service.stop(30)
    driver.close()
    print(
        f"{INSERTS} inserts of {KEYS} keys by {INSERTERS} in {took:.0f} s: {len(ledger.inserted)} jobs,"
        f" {ledger.refused} duplicates refused, {sum(ledger.runs.values())} runs, {len(terms)} terms and"
        f" {len(builds)} builds of the index seen, {len(ledger.overlaps)} overlaps"
    )
    assert ledger.errors == []
    assert ledger.overlaps == []
    assert len(ledger.inserted) + ledger.refused == INSERTS
    assert ledger.done == dict.fromkeys(ledger.inserted, 1), "each job that was inserted succeeds once, and no other"
    odd = conn.execute(
        "SELECT id, state, metadata, errors FROM river_job"
        " WHERE state <> 'completed' OR metadata ? 'unique_key_conflict'"
    ).fetchall()
    assert odd == []
