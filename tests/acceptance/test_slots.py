"""The slots of a queue: never more jobs at once than `max_workers`, of whatever sort, and none lost to a stuck one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest

import river_fast as river
from tests.fix_client import Args, workers_of
from tests.fix_outcomes import BOTH


@BOTH
def test_stuck_jobs_slot_serves_others(make_client: Any, is_async: bool) -> None:
    release = threading.Event()

    def work(job: river.Job[Args]) -> None:
        if job.args.n == 1:
            release.wait(30)

    async def work_async(job: river.Job[Args]) -> None:
        while job.args.n == 1 and not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)

    function = work_async if is_async else work
    client = make_client(workers_of(function, timeout=0.05), max_workers=1, job_stuck_threshold=0.05)
    try:
        stuck = client.insert(Args(1)).job
        client.start()
        for number in range(2, 5):
            assert client.wait(client.insert(Args(number)).job, 20).state == "completed"
        assert client.job_get(stuck.id).state == "running"
    finally:
        release.set()
    assert client.wait(stuck, 20).state == "completed"


@BOTH
@pytest.mark.parametrize("max_workers", [1, 7])
def test_max_workers_is_kept_exactly(make_client: Any, is_async: bool, max_workers: int) -> None:
    lock, full = threading.Lock(), threading.Event()  # none ends before all slots were taken at once
    running = most = 0

    def enter() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == max_workers:
                full.set()

    def leave() -> None:
        nonlocal running
        with lock:
            running -= 1

    def work(job: river.Job[Args]) -> None:
        enter()
        assert full.wait(20)
        time.sleep(0.002)
        leave()

    async def work_async(job: river.Job[Args]) -> None:
        enter()
        while not full.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.002)
        leave()

    client = make_client(workers_of(work_async if is_async else work), max_workers=max_workers)
    client.insert_many([Args(n) for n in range(100)])
    with client.subscribe() as events:
        client.start()
        for _ in range(100):
            assert events.get(20) is not None
    assert most == max_workers


def test_sync_and_async_jobs_share_the_queues_slots(make_client: Any) -> None:
    lock, full = threading.Lock(), threading.Event()  # none ends before all slots were taken at once
    running = most = 0

    def step(change: int) -> None:
        nonlocal running, most
        with lock:
            running += change
            most = max(most, running)
            if running == 3:
                full.set()

    workers = river.Workers()

    @workers.work("sync_kind")
    def work(job: river.Job[Any]) -> None:
        step(1)
        assert full.wait(20)
        time.sleep(0.002)
        step(-1)

    @workers.work("async_kind")
    async def work_async(job: river.Job[Any]) -> None:
        step(1)
        while not full.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.002)
        step(-1)

    client = make_client(workers, max_workers=3)
    client.insert_many([river.RawArgs("sync_kind" if n % 2 else "async_kind", {}) for n in range(100)])
    with client.subscribe() as events:
        client.start()
        for _ in range(100):
            assert events.get(20) is not None
    assert most == 3
