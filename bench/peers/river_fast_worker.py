"""river_fast as a contestant of bench/decide.py: the public clients at their default settings but `max_workers`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import river_fast as river

OPTIONS = protocol.parse(__doc__.splitlines()[0], ("work", "insert", "latency"))
if OPTIONS.loop == "asyncio":
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # as if it were not installed


@dataclass
class NoopArgs(river.JobArgs, kind="bench_noop"):
    num: int = 0


class Count:
    """Sleeping jobs in hand, from any thread: single steps of a set and of lists need no lock."""

    def __init__(self) -> None:
        self._now: set[int] = set()
        self._records = [0]
        self._entered: list[float] = []
        self._left: list[float] = []

    def enter(self, job_id: int) -> None:
        self._entered.append(time.monotonic())
        self._now.add(job_id)
        now = len(self._now)
        if now > self._records[-1]:
            self._records.append(now)

    def leave(self, job_id: int) -> None:
        self._now.discard(job_id)
        self._left.append(time.monotonic())

    @property
    def most(self) -> int:
        """At once, ever."""
        return max(self._records)

    def idle_ms(self, slots: int) -> float | None:
        """How long a slot stood idle between two jobs, in the mean, while there were jobs: from the second tenth of
        the jobs on to the ninth. What a job spends outside of its function, before and after, counts as idle."""
        entered = sorted(self._entered)
        jobs = len(entered) // 10 * 8
        if jobs == 0:
            return None
        begin, end = entered[jobs // 8], entered[jobs // 8 + jobs]

        def within(moments: list[float]) -> float:
            return sum(min(max(moment, begin), end) for moment in moments)

        busy = within(self._left) - within(entered)
        return (slots * (end - begin) - busy) / jobs * 1000


def make_workers(count: Count) -> river.Workers:
    """An empty function where jobs take no time: nothing is counted that the client does not count itself."""
    sleep, workers = OPTIONS.sleep_ms / 1000, river.Workers()
    if OPTIONS.mode == "async":

        async def noop_async(job: river.Job[NoopArgs]) -> None:
            pass

        async def sleep_async(job: river.Job[NoopArgs]) -> None:
            count.enter(job.id)
            await asyncio.sleep(sleep)
            count.leave(job.id)

        workers.work(NoopArgs)(sleep_async if sleep else noop_async)
    else:

        def noop(job: river.Job[NoopArgs]) -> None:
            pass

        def sleep_sync(job: river.Job[NoopArgs]) -> None:
            count.enter(job.id)
            time.sleep(sleep)
            count.leave(job.id)

        workers.work(NoopArgs)(sleep_sync if sleep else noop)
    return workers


def config(workers: river.Workers) -> river.Config:
    queues = {"default": river.QueueConfig(max_workers=OPTIONS.max_workers)}
    return river.Config(schema=OPTIONS.schema, queues=queues, workers=workers)


def work() -> None:
    count = Count()
    client = river.Client(OPTIONS.database_url, config(make_workers(count)))
    protocol.ready()
    before = time.process_time()
    client.start()
    told = protocol.told_to_stop()
    said = 0
    while not told.wait(0.005):
        recorded = client.stats()["completer_recorded"]
        if recorded != said:
            said = recorded
            protocol.say(worked=said)
    used, begin = time.process_time() - before, time.monotonic()
    graceful = client.stop(30).graceful
    seconds, idle = time.monotonic() - begin, count.idle_ms(OPTIONS.max_workers)
    protocol.say(worked=said, cpu_s=used, stop_s=seconds, most=count.most, graceful=graceful, idle_ms=idle)


def one_batch(client: river.Client) -> Callable[[int], Any]:
    size = OPTIONS.batch
    return {
        "single": lambda first: client.insert(NoopArgs(first)),
        "many": lambda first: client.insert_many([NoopArgs(first + num) for num in range(size)]),
        "fast": lambda first: client.insert_many_fast([NoopArgs(first + num) for num in range(size)]),
    }[OPTIONS.way]


def insert() -> None:
    """One caller in the main thread, several in threads of their own."""
    client = river.Client(OPTIONS.database_url, river.Config(schema=OPTIONS.schema))
    call_one = one_batch(client)
    calls = max(OPTIONS.jobs // OPTIONS.batch // OPTIONS.callers, 1)

    def caller(number: int) -> None:
        for call in range(calls):
            call_one((number * calls + call) * OPTIONS.batch)

    each_caller(lambda _: call_one(0))  # connections opened, statements prepared
    protocol.ready()
    before, begin = time.process_time(), time.monotonic()
    each_caller(caller)
    protocol.say_inserted(OPTIONS, calls, time.monotonic() - begin, time.process_time() - before)
    client.stop(10)


def each_caller(call: Callable[[int], Any]) -> None:
    if OPTIONS.callers == 1:
        call(0)
        return
    failed: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            call(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(OPTIONS.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


async def insert_async() -> None:
    client = river.AsyncClient(OPTIONS.database_url, river.Config(schema=OPTIONS.schema))
    await protocol.insert_all(OPTIONS, lambda first: client.insert(NoopArgs(first)))
    await client.stop(10)


def latency() -> None:
    timed = protocol.Timed(OPTIONS)
    workers = river.Workers()

    def noop(job: river.Job[NoopArgs]) -> None:
        now = time.monotonic_ns()  # before anything of the job is decoded
        timed.entered[job.args.num] = now

    workers.work(NoopArgs)(noop)
    with river.Client(OPTIONS.database_url, config(workers)) as client, burning():
        timed.run_sync(lambda num: client.insert(NoopArgs(num)))


@contextlib.contextmanager
def burning() -> Iterator[None]:
    """Threads that never give the GIL away by themselves."""
    stop = False

    def burn() -> None:
        while not stop:
            pass

    if OPTIONS.switch_interval:
        sys.setswitchinterval(OPTIONS.switch_interval)
    threads = [threading.Thread(target=burn, daemon=True) for _ in range(OPTIONS.burners)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop = True
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    if OPTIONS.verb == "insert" and OPTIONS.mode == "async":
        asyncio.run(insert_async())
    else:
        {"work": work, "insert": insert, "latency": latency}[OPTIONS.verb]()
