"""The failures this project was born from, each by its name. Each guards against its failure coming back."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args, eventually, workers_of


@pytest.mark.parametrize("completer", ["batch", "async"])
@pytest.mark.timeout(300)
def test_regression_send_on_closed_channel(make_client: Any, conn: psycopg.Connection, completer: str) -> None:
    """River 0.7 closed the completer's channel while jobs still sent to it (#400, #401). Here: stop or cancel a loaded
    client at 200 random points; every outcome that was accepted is written, nothing raises, nothing stays running."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    failures: list[str] = []
    hook, threading.excepthook = threading.excepthook, lambda args: failures.append(repr(args.exc_value))
    ran = threading.Semaphore(0)

    def work(job: river.Job[Args]) -> None:
        ran.release()
        if job.args.n % 5 == 0:
            time.sleep(0.003)  # still running when the stop comes: only these meet a completer that closes too soon
        if job.args.n % 7 == 0:
            raise ValueError("every seventh fails")

    client = make_client(workers_of(work), max_workers=50, completer=completer)
    try:
        for point in range(200):
            client.insert_many_fast([Args(n) for n in range(300)])
            client.start()
            for _ in range(rng.randrange(0, 120)):
                ran.acquire(timeout=5)
            report = client.stop(10) if rng.random() < 0.5 else client.stop_and_cancel(10)
            assert report.graceful, (seed, point, report)
            running = conn.execute("SELECT count(*) FROM river_job WHERE state = 'running'").fetchone()
            assert running == (0,), (seed, point)
    finally:
        threading.excepthook = hook
    assert failures == [], seed
    odd = conn.execute(
        "SELECT id, state, attempt, errors FROM river_job"
        " WHERE (state = 'completed' AND attempt <> coalesce(cardinality(errors), 0) + 1)"
        " OR (state <> 'completed' AND attempt <> coalesce(cardinality(errors), 0))"
    ).fetchall()
    assert odd == [], seed


def test_regression_completer_blocked_by_a_subscriber_that_never_reads(
    make_client: Any, conn: psycopg.Connection
) -> None:
    """River's completers send unconditionally to a channel; with no reader, Stop hung for ever (#601)."""
    client = make_client(workers_of(lambda job: None), max_workers=50)
    deaf = client.subscribe(buffer_size=1)
    client.insert_many_fast([Args(n) for n in range(3000)])
    client.start()
    eventually(lambda: conn.execute("SELECT count(*) FROM river_job WHERE state = 'completed'").fetchone()[0] == 3000)
    began = time.monotonic()
    assert client.stop(10).graceful
    assert time.monotonic() - began < 2
    assert deaf.dropped == 2999


def test_regression_double_close(make_client: Any) -> None:
    """Wakapi's aggregation service closed a channel twice (#754): ten threads stop, start and stop one client."""
    client = make_client(workers_of(lambda job: None))
    failures: list[BaseException] = []

    def hammer() -> None:
        try:
            for _ in range(50):
                client.start()
                client.stop(5)
                client.stop_and_cancel(5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(110)
        assert not thread.is_alive()
    client.stop(5)
    assert failures == []
    assert not [t for t in threading.enumerate() if t.name.startswith("river_fast")]


@dataclass
class Report(river.JobArgs, kind="unique_report"):
    """A unique job."""

    account: Annotated[str, river.unique]


def test_regression_unique_scheduled_job_discarded_as_its_own_duplicate(
    make_client: Any, conn: psycopg.Connection, dsn: str, schema: str
) -> None:
    """River 0.12.0's scheduler took each unique job for its own rival (#590, #618, #619)."""
    workers = river.Workers()
    workers.work(Report)(lambda job: None)
    client = make_client(workers)
    due = datetime.now(UTC) + timedelta(seconds=1)
    opts = river.InsertOpts(scheduled_at=due, unique=river.UniqueOpts(by_args=True))
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as own:
        first = client.insert_tx(own, Report("a"), opts)
        again = client.insert_tx(own, Report("a"), opts)
        own.commit()
    assert not first.unique_skipped_as_duplicate
    assert again.unique_skipped_as_duplicate
    assert again.job.id == first.job.id
    assert first.job.state == "scheduled"
    client.start()  # leads, since nobody else does: its scheduler runs
    job = client.wait(first.job, 30)
    assert job.state == "completed"
    assert "unique_key_conflict" not in job.metadata
    assert conn.execute("SELECT count(*) FROM river_job").fetchone() == (1,)
