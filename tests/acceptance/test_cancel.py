"""A running job that is cancelled: by somebody far away, or by its own timeout."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import river_fast as river
from tests.fix_client import Args, workers_of
from tests.fix_outcomes import work_one


def test_remote_cancel_reaches_a_sync_job_that_looks(make_client: Any) -> None:
    running = threading.Event()

    def work(job: river.Job[Args]) -> None:
        running.set()
        assert job.wait_cancelled(20)
        assert job.cancel_cause == "remote"
        job.raise_if_cancelled()

    client = make_client(workers_of(work))
    with client.subscribe("job_cancelled") as events:
        job = client.insert(Args(1)).job
        client.start()
        assert running.wait(20)
        client.job_cancel(job.id)
        assert events.get(20) is not None
    job = client.job_get(job.id)
    assert job.state == "cancelled"
    assert job.errors[0].error == "JobCancelError: job cancelled remotely"


def test_remote_cancel_reaches_an_async_job(make_client: Any) -> None:
    running = threading.Event()

    async def work(job: river.Job[Args]) -> None:
        running.set()
        await asyncio.sleep(30)

    client = make_client(workers_of(work))
    with client.subscribe("job_cancelled") as events:
        job = client.insert(Args(1)).job
        client.start()
        assert running.wait(20)
        client.job_cancel(job.id)
        assert events.get(20) is not None
    job = client.job_get(job.id)
    assert job.state == "cancelled"
    assert job.errors[0].error == "JobCancelError: job cancelled remotely"


def test_remotely_cancelled_job_that_returns_is_completed(make_client: Any) -> None:
    running = threading.Event()

    def work(job: river.Job[Args]) -> None:
        running.set()
        job.wait_cancelled(20)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert running.wait(20)
    client.job_cancel(job.id)
    assert client.wait(job, 20).state == "completed"


@pytest.mark.parametrize("error", [ValueError("anything"), river.JobSnoozeError(60)], ids=["error", "snooze"])
def test_remotely_cancelled_job_that_fails_is_cancelled(make_client: Any, error: Exception) -> None:
    running = threading.Event()

    def work(job: river.Job[Args]) -> None:
        running.set()
        job.wait_cancelled(20)
        raise error

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert running.wait(20)
    client.job_cancel(job.id)
    job = client.wait(job, 20)
    assert job.state == "cancelled"
    assert job.errors[0].error == "JobCancelError: job cancelled remotely"


def test_remotely_cancelled_job_that_panics_is_cancelled_with_the_panics_text(make_client: Any) -> None:
    class Panic(BaseException):
        """Go's panic: no `Exception`, which a job's own code might have caught."""

    running = threading.Event()

    def work(job: river.Job[Args]) -> None:
        running.set()
        job.wait_cancelled(20)
        raise Panic("everything is lost")

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert running.wait(20)
    client.job_cancel(job.id)
    job = client.wait(job, 20)
    assert job.state == "cancelled"
    assert job.errors[0].error == "everything is lost"
    assert "raise Panic" in job.errors[0].trace


def test_timeout_cancels_an_async_job_and_counts_as_an_error(make_client: Any) -> None:
    async def work(job: river.Job[Args]) -> None:
        await asyncio.sleep(30)

    job = work_one(make_client(workers_of(work, timeout=0.05)))
    assert job.state == "available"
    assert job.errors[0].error == "job timed out after 0.05 s"


def test_timeout_is_told_to_a_sync_job(make_client: Any) -> None:
    def work(job: river.Job[Args]) -> None:
        assert job.wait_cancelled(20)
        assert job.cancel_cause == "timeout"
        job.raise_if_cancelled()

    job = work_one(make_client(workers_of(work, timeout=timedelta(milliseconds=50))))
    assert job.errors[0].error == "job timed out after 0.05 s"


def test_class_worker_decides_timeout_and_retry_by_job(make_client: Any) -> None:
    class Slow(river.Worker[Args]):
        def timeout(self, job: river.Job[Args]) -> float:
            return 0.05 * job.args.n

        def next_retry(self, job: river.Job[Args]) -> datetime:
            return datetime.now(UTC) + timedelta(hours=job.args.n)

        def work(self, job: river.Job[Args]) -> None:
            job.wait_cancelled(20)
            job.raise_if_cancelled()

    workers = river.Workers()
    workers.add(Slow())
    job = work_one(make_client(workers))
    assert job.state == "retryable"
    assert job.errors[0].error == "job timed out after 0.05 s"


def test_timeout_of_never_is_no_timeout(make_client: Any) -> None:
    def work(job: river.Job[Args]) -> None:
        assert not job.wait_cancelled(0.3)

    client = make_client(workers_of(work), job_timeout=river.NEVER)
    assert work_one(client).state == "completed"
