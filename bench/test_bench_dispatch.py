"""From a popped job to its outcome pushed: the executor, without the compiled doors on either side.

What async jobs take, and jobs with a deadline, a hook or an error. A plain `def` job that succeeds takes the compiled
path (`_ext/work_loop.pxi`) on its worker thread; throughput.py measures that one, as client CPU a job.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any, cast

import river_fast as river
from bench.conftest import PerItem
from river_fast.job import Job
from river_fast.job_executor import JobExecutor
from river_fast.retry_policy import DefaultRetryPolicy

JOBS = 5_000


class Row:
    """What the executor reads of a fetched row."""

    kind_index, attempt, max_attempts, started_ns = 0, 1, 25, 0
    plain, cancelled, undecodable = True, False, None
    encoded_args = b'{"num": 1}'

    def __init__(self, number: int) -> None:
        self.id = self.claim = number

    def begin(self) -> None: ...

    def field(self, column: int) -> None:
        return None


class Counter:
    """A completer that only counts."""

    def __init__(self) -> None:
        self.completed = self.others = 0

    def push_completed(self, claim: int) -> int:
        self.completed += 1
        return 0

    try_push_completed = push_completed

    def push(self, claim: int, outcome: object) -> int:
        self.others += 1
        return 0

    async def push_async(self, claim: int, outcome: object) -> int:
        self.others += 1
        return 0


def executor_of(function: Any) -> tuple[JobExecutor, Counter]:
    workers = river.Workers()
    workers.work("bench")(function)
    counter = Counter()
    executor = JobExecutor(
        list(workers),
        cast(Any, None),
        cast(Any, counter),
        job_timeout=60.0,
        retry_policy=DefaultRetryPolicy(),
        context=contextvars.copy_context(),
        logger=logging.getLogger("bench"),
    )
    return executor, counter


def fetched() -> list[Job[Any]]:
    return [Job(cast(Any, Row(number))) for number in range(JOBS)]


def dispatch(function: Any) -> tuple[Any, Counter]:
    executor, counter = executor_of(function)

    def run() -> None:
        active: dict[int, Job[Any]] = {}
        for job in fetched():
            active[job.id] = job
            executor.execute(job, active)
        assert not active

    return run, counter


def test_dispatch_of_a_job_that_does_nothing(per_item: PerItem) -> None:
    def work(job: Job[Any]) -> None:
        pass

    run, counter = dispatch(work)
    per_item(run, JOBS)
    assert counter.completed >= JOBS
    assert counter.others == 0


def test_dispatch_of_a_job_that_reads_its_args(per_item: PerItem) -> None:
    def work(job: Job[Any]) -> None:
        assert job.args == {"num": 1}

    run, counter = dispatch(work)
    per_item(run, JOBS)
    assert counter.completed >= JOBS


def test_dispatch_of_a_job_that_fails(per_item: PerItem) -> None:
    def work(job: Job[Any]) -> None:
        raise ValueError("no")

    run, counter = dispatch(work)
    per_item(run, JOBS)
    assert counter.others >= JOBS
    assert counter.completed == 0


def test_dispatch_of_an_async_job(per_item: PerItem) -> None:
    async def work(job: Job[Any]) -> None:
        pass

    executor, counter = executor_of(work)

    async def run_all() -> None:
        active: dict[int, Job[Any]] = {}
        tasks: dict[Job[Any], asyncio.Task[None]] = {}
        loop = asyncio.get_running_loop()
        started = []

        def ended() -> None:
            pass

        for job in fetched():
            active[job.id] = job
            started.append(loop.create_task(executor.execute_async(job, active, tasks, ended)))
        for task in started:
            await task

    per_item(lambda: asyncio.run(run_all()), JOBS)
    assert counter.completed >= JOBS
