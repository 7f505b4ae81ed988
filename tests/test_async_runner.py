"""The event loop's side of a queue: when a slot comes free, its next job begins without a wake-up from elsewhere."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
from typing import Any, cast

import pytest

import river_fast as river
from river_fast.async_runner import AsyncRunner
from river_fast.job import Job
from river_fast.job_executor import JobExecutor
from river_fast.retry_policy import DefaultRetryPolicy

SLOTS = 3
TURNS = 3  # of the loop, from what a job waited for to the next job's first step, where Tasks do not start eagerly


class Row:
    """What the executor reads of a fetched row."""

    kind_index, queue_index, attempt, max_attempts, started_ns = 0, 0, 1, 25, 0
    plain, cancelled, undecodable, encoded_args = True, False, None, b"{}"

    def __init__(self, number: int) -> None:
        self.id = self.claim = number

    def begin(self) -> None: ...


class Ring:
    """Jobs that are there, their slots, and where outcomes go: fetcher and completer at once, counting wake-ups."""

    def __init__(self, jobs: int) -> None:
        self.jobs = [Job(cast(Any, Row(number))) for number in range(jobs)]
        self.active: dict[int, Job[Any]] = {}
        self.started = self.wakeups = self.completed = 0
        self.running: list[int] = []  # what each look that found no slot said of its own Tasks
        self._sockets = socket.socketpair()

    def close(self) -> None:
        for end in self._sockets:
            end.close()

    def loop_fileno(self) -> int:
        return self._sockets[0].fileno()

    def take_loop_ready(self) -> list[int]:
        self.wakeups += 1
        return [0]

    def try_pop(self, queue: int, running: int = 0) -> Job[Any] | None:
        if not self.jobs:
            return None
        if self.started == SLOTS:
            self.running.append(running)
            return None
        self.started += 1
        job = self.jobs.pop(0)
        self.active[job.id] = job
        return job

    def try_push_completed(self, claim: int) -> int:
        self.started -= 1
        self.completed += 1
        return 0

    push_completed = try_push_completed

    def try_push(self, claim: int, outcome: object) -> int:
        self.started -= 1
        return 0


def runner_of(function: Any, ring: Ring) -> AsyncRunner:
    workers = river.Workers()
    workers.work("work")(function)
    context, logger = contextvars.copy_context(), logging.getLogger("test")
    executor = JobExecutor(
        list(workers), cast(Any, None), cast(Any, ring), job_timeout=60.0, retry_policy=DefaultRetryPolicy(),
        context=context, logger=logger,
    )  # fmt: skip
    return AsyncRunner(
        cast(Any, ring), executor, lambda index: ring.active, context, logger, asyncio.get_running_loop()
    )


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_freed_slot_takes_its_next_job_without_a_wake_up() -> None:
    ring, begun = Ring(20), []
    gates = [asyncio.Event() for _ in ring.jobs]

    async def work(job: river.Job[Any]) -> None:
        begun.append(job.id)
        await gates[job.id].wait()

    runner = runner_of(work, ring)
    runner.start()
    await turns(TURNS)
    assert begun == [0, 1, 2]
    for ended in range(20 - SLOTS):
        gates[ended].set()
        await turns(TURNS)
        assert begun[-1] == ended + SLOTS, "the next job runs in the slot that came free"
        assert len(ring.active) == SLOTS
    assert ring.wakeups == 1
    assert set(ring.running) == {SLOTS}, "all slots are its own: nobody is asked for a wake-up"
    for gate in gates:
        gate.set()
    await turns(TURNS)
    assert ring.completed == 20
    runner.close(1)
    await turns(1)
    ring.close()


async def test_jobs_that_end_at_once_do_not_recurse_and_leave_turns_to_others() -> None:
    ring = Ring(5000)
    others = 0

    async def work(job: river.Job[Any]) -> None:
        pass

    runner = runner_of(work, ring)
    runner.start()
    while ring.completed < 5000:
        await asyncio.sleep(0)
        others += 1
    assert others >= 5000 / 32 / 2
    assert ring.active == {}
    runner.close(1)
    await turns(1)
    ring.close()


async def test_slot_of_a_stuck_job_is_known_to_be_somebody_elses() -> None:
    ring, begun = Ring(10), []
    never = asyncio.Event()

    async def work(job: river.Job[Any]) -> None:
        begun.append(job.id)
        await never.wait()

    runner = runner_of(work, ring)
    runner.start()
    await turns(TURNS)
    ring.started -= 1  # a stuck job's slot was given back
    ring.running.clear()
    runner.slot_freed(0)
    await turns(TURNS)
    assert begun == [0, 1, 2, 3]
    assert ring.running == [0], "its Tasks no longer tell how many slots it holds: it asks to be woken"
    never.set()
    await turns(10 * TURNS)
    assert ring.completed == 10
    runner.close(1)
    await turns(1)
    ring.close()


async def test_job_whose_beginning_fails_goes_back_and_the_queue_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ring, begun = Ring(4), []

    async def work(job: river.Job[Any]) -> None:
        begun.append(job.id)

    runner = runner_of(work, ring)
    begin = runner.begin

    def no_memory(job: Job[Any], queue: Any) -> None:
        if job.id == 1:
            raise MemoryError
        begin(job, queue)

    monkeypatch.setattr(runner, "begin", no_memory)
    monkeypatch.setattr(asyncio.get_running_loop(), "call_exception_handler", lambda context: None)
    runner.start()
    await turns(TURNS)
    runner.slot_freed(0)
    await turns(2 * TURNS)
    assert begun == [0, 2, 3]
    assert ring.active == {}
    assert ring.started == 0
    runner.close(1)
    await turns(1)
    ring.close()
