"""What every Python contestant shares: its options, and the lines it exchanges with bench/decide.py.

Imported by programs that run in a virtual environment without river_fast: the standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

WARM_UP = 20


def parse(description: str, verbs: Sequence[str]) -> argparse.Namespace:
    """A verb and its options; DATABASE_URL comes in the environment."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("--schema", required=True)
    parser.add_argument("--settings", default="")
    parser.add_argument("--max-workers", type=int, default=100)
    parser.add_argument("--sleep-ms", type=float, default=0)
    parser.add_argument("--mode", choices=("sync", "async"), default="sync")
    parser.add_argument("--loop", choices=("best", "asyncio"), default="best", help="best: uvloop if it is there")
    parser.add_argument("--way", choices=("single", "many", "fast"), default="single")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--burners", type=int, default=0)
    parser.add_argument("--switch-interval", type=float)
    options = parser.parse_args()
    options.database_url = os.environ["DATABASE_URL"]
    return options


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def ready() -> None:
    """All is made; waits for the line that lets it go."""
    say(ready=True)
    if not sys.stdin.readline():
        raise SystemExit("nobody let this program go")


def told_to_stop() -> threading.Event:
    """Set when the second line comes."""
    told = threading.Event()

    def read() -> None:
        sys.stdin.readline()
        told.set()

    threading.Thread(target=read, daemon=True).start()
    return told


class Tally:
    """Jobs entered and, where they take time, how many were in hand at once. One thread at a time."""

    def __init__(self, sleep_ms: float = 0) -> None:
        self.sleep = sleep_ms / 1000
        self.worked = self.at_once = self.most = 0
        self.first = 0.0

    def enter(self) -> None:
        if self.worked == 0:
            self.first = time.time()
        self.worked += 1

    async def work(self) -> None:
        """One job of an asyncio contestant."""
        self.enter()
        if self.sleep > 0:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await asyncio.sleep(self.sleep)
            self.at_once -= 1


async def work_until_told(
    tally: Tally,
    start: Callable[[], Awaitable[Callable[[], Awaitable[None]]]],
    first: Callable[[], float] | None = None,
) -> None:
    """The whole of `work` for an asyncio contestant: `start` returns what stops it, `first` when it first fetched."""
    await asyncio.to_thread(ready)
    before = time.process_time()
    stop = await start()
    told = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    said = 0
    while not told.done():
        if tally.worked != said:
            said = tally.worked
            say(worked=said)
        await asyncio.wait([told], timeout=0.005)
    used, begin = time.process_time() - before, time.monotonic()
    await stop()
    seconds = time.monotonic() - begin
    say(
        worked=tally.worked,
        cpu_s=used,
        stop_s=seconds,
        first=tally.first if first is None else first(),
        most=tally.most,
    )


async def insert_all(options: argparse.Namespace, insert: Callable[[int], Awaitable[Any]]) -> None:
    """The whole of `insert` for an asyncio contestant: `insert(first)` inserts one batch."""
    calls = max(options.jobs // options.batch // options.callers, 1)

    async def caller(number: int) -> None:
        for call in range(calls):
            await insert((number * calls + call) * options.batch)

    await asyncio.gather(*(insert(0) for _ in range(options.callers)))  # connections opened, statements prepared
    await asyncio.to_thread(ready)
    before, begin = time.process_time(), time.monotonic()
    await asyncio.gather(*map(caller, range(options.callers)))
    say_inserted(options, calls, time.monotonic() - begin, time.process_time() - before)


def say_inserted(options: argparse.Namespace, calls: int, seconds: float, cpu: float) -> None:
    inserted = calls * options.callers * options.batch
    say(inserted=inserted, warmed=options.callers * options.batch, seconds=seconds, cpu_s=cpu)


class Timed:
    """When jobs were inserted and entered, by number, in nanoseconds of one clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.jobs = round(options.rate * options.seconds)
        self.rate = options.rate
        self.entered: dict[int, int] = {}
        self._called: list[int] = []
        self._returned: list[int] = []

    def enter(self, num: int) -> None:
        self.entered[num] = time.monotonic_ns()

    async def run(self, insert: Callable[[int], Awaitable[Any]]) -> None:
        """The whole of `latency` for an asyncio contestant that works already."""
        for num in range(WARM_UP):
            await insert(self.jobs + num)
        await self._entered(WARM_UP)
        await asyncio.sleep(1)  # the client goes idle
        await asyncio.to_thread(ready)
        begin = time.monotonic()
        for num in range(self.jobs):
            await asyncio.sleep(max(0.0, begin + num / self.rate - time.monotonic()))
            self._called.append(time.monotonic_ns())
            await insert(num)
            self._returned.append(time.monotonic_ns())
        await self._entered(self.jobs + WARM_UP)
        self.say()

    def run_sync(self, insert: Callable[[int], Any]) -> None:
        """The same for a contestant of threads."""
        for num in range(WARM_UP):
            insert(self.jobs + num)
        self._wait_entered(WARM_UP)
        time.sleep(1)
        ready()
        begin = time.monotonic()
        for num in range(self.jobs):
            time.sleep(max(0.0, begin + num / self.rate - time.monotonic()))
            self._called.append(time.monotonic_ns())
            insert(num)
            self._returned.append(time.monotonic_ns())
        self._wait_entered(self.jobs + WARM_UP)
        self.say()

    def say(self) -> None:
        waited = [(self.entered[num] - self._returned[num]) / 1e6 for num in range(self.jobs)]
        inserts = [(self._returned[num] - self._called[num]) / 1e6 for num in range(self.jobs)]
        say(waited_ms=[round(value, 3) for value in waited], insert_ms=[round(value, 3) for value in inserts])

    async def _entered(self, jobs: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.entered) < jobs:
            self._check(deadline, jobs)
            await asyncio.sleep(0.005)

    def _wait_entered(self, jobs: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.entered) < jobs:
            self._check(deadline, jobs)
            time.sleep(0.005)

    def _check(self, deadline: float, jobs: int) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(self.entered)} of {jobs} jobs were started")
