"""The client for event loops: the same services, a face that is awaited. River: Client.

Every method is for the loop that called `start` (or any loop, on a client that only inserts). Async jobs run as Tasks
on that loop; sync jobs on threads. The services underneath are threads, written once, so nothing here blocks the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from river_fast.async_client_admin import AsyncClientAdmin
from river_fast.async_client_durable_periodic_jobs import AsyncClientDurablePeriodicJobs
from river_fast.client import WAIT_POLL_FIRST, WAIT_POLL_LAST, Client
from river_fast.client_notify import AsyncClientNotify
from river_fast.client_periodic_jobs import ClientPeriodicJobs
from river_fast.client_queues import AsyncClientQueues
from river_fast.config import Config, Duration, seconds
from river_fast.event import EventKind
from river_fast.insert_opts import InsertOpts, JobInsertResult
from river_fast.job import FINAL_STATES, Job
from river_fast.stop_report import StopReport
from river_fast.subscription_manager import Subscription

STOP_MARGIN = 0.9  # beyond the timeout, which the shutdown keeps itself; within the second that `stop` promises


class AsyncClient(AsyncClientAdmin):
    """`AsyncClient(database_url=None, config=None)`, as `Client`; `async with client:` starts and stops it."""

    def __init__(self, database_url: str | None = None, config: Config | None = None) -> None:
        self._client = Client(database_url, config)
        self._starting: asyncio.Future[None] | None = None

    @classmethod
    def from_pool(cls, pool: Any, config: Config | None = None) -> Self:
        """As `Client.from_pool`."""
        made = cls.__new__(cls)
        made._client = Client.from_pool(pool, config)
        made._starting = None
        return made

    @property
    def id(self) -> str:
        """As `Client.id`."""
        return self._client.id

    @property
    def stop_timeout(self) -> float:
        """As `Client.stop_timeout`."""
        return self._client.stop_timeout

    @property
    def periodic_jobs(self) -> ClientPeriodicJobs:
        """As `Client.periodic_jobs`; nothing of it waits."""
        return self._client.periodic_jobs

    @property
    def durable_periodic_jobs(self) -> AsyncClientDurablePeriodicJobs:
        """As `Client.durable_periodic_jobs`, awaited."""
        return AsyncClientDurablePeriodicJobs(self._client)

    @property
    def queues(self) -> AsyncClientQueues:
        """What the client works, changed while it runs. River: Queues()."""
        return AsyncClientQueues(self._client.queues)

    @property
    def notify(self) -> AsyncClientNotify:
        """What may be told to the other clients. River: Notify()."""
        return AsyncClientNotify(self._client.notify)

    async def start(self) -> None:
        """As `Client.start`. Cancelled meanwhile: the client is stopped again."""
        loop = asyncio.get_running_loop()
        given_up = threading.Event()
        self._client._inserter.use_loop(loop)
        starting = asyncio.ensure_future(asyncio.to_thread(self._client._start, loop, given_up))
        self._starting = starting
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            given_up.set()  # for a start that goes on; the request is for one that is over
            self._client.request_stop(hard=True)
            starting.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else asks for it
            raise

    async def stop(self, timeout: Duration | None = None) -> StopReport:
        """As `Client.stop`. A cancelled caller stops waiting; the stop goes on."""
        return await self._stop(timeout, hard=False)

    async def stop_and_cancel(self, timeout: Duration | None = None) -> StopReport:
        """As `Client.stop_and_cancel`."""
        return await self._stop(timeout, hard=True)

    def request_stop(self, timeout: Duration | None = None, *, hard: bool = False) -> None:
        """As `Client.request_stop`; returns at once."""
        self._client.request_stop(timeout, hard=hard)

    async def wait_stopped(self, timeout: Duration | None = None) -> bool:
        """As `Client.wait_stopped`."""
        limit = None if timeout is None else seconds("timeout", timeout)
        if self._client.wait_stopped(0):
            return True
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        # no thread is taken: the default executor may be full of the caller's work
        with self._client.telling_when_stopped(lambda: _call_on(loop, stopped.set)), contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), limit)
        return self._client.wait_stopped(0)

    async def _stop(self, timeout: Duration | None, hard: bool) -> StopReport:
        client = self._client
        client.request_stop(timeout, hard=hard)
        if client.would_wait_for_itself():
            return client.stop_report()
        deadline = None if timeout is None else time.monotonic() + seconds("timeout", timeout) + STOP_MARGIN
        starting = self._starting
        if starting is not None and not starting.done() and starting.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([starting], timeout=_left(deadline))  # it is seen through first, then has our request
            if not starting.done():
                return StopReport(graceful=False, duration=0.0, finished=False)
        if await self.wait_stopped(_left(deadline)):
            await client._driver.close_async()
        return client.stop_report()

    async def __aenter__(self) -> Self:
        if self._client._queues:
            await self.start()
        else:
            await asyncio.to_thread(self._client._driver.open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # the task may be cancelled: the stop is seen through all the same
        await asyncio.shield(self.stop(self._client._config.stop_timeout))

    # Inserting: coroutines on the client's own async pool, or in the caller's transaction.

    async def insert(self, args: Any, opts: InsertOpts | None = None) -> JobInsertResult:
        """As `Client.insert`."""
        self._client._check_process()
        return await self._client._inserter.insert_async(args, opts)

    async def insert_many(self, params: Iterable[Any]) -> list[JobInsertResult]:
        """As `Client.insert_many`."""
        self._client._check_process()
        return await self._client._inserter.insert_many_async(params)

    async def insert_many_fast(self, params: Iterable[Any]) -> int:
        """As `Client.insert_many_fast`."""
        self._client._check_process()
        return await self._client._inserter.insert_many_fast_async(params)

    async def insert_tx(self, conn: Any, args: Any, opts: InsertOpts | None = None) -> JobInsertResult:
        """As `Client.insert_tx`, on an `AsyncConnection`."""
        result: JobInsertResult = await self._client.insert_tx(self._async(conn), args, opts)
        return result

    async def insert_many_tx(self, conn: Any, params: Iterable[Any]) -> list[JobInsertResult]:
        """As `Client.insert_many_tx`, on an `AsyncConnection`."""
        results: list[JobInsertResult] = await self._client.insert_many_tx(self._async(conn), params)
        return results

    async def insert_many_fast_tx(self, conn: Any, params: Iterable[Any]) -> int:
        """As `Client.insert_many_fast_tx`, on an `AsyncConnection`."""
        count: int = await self._client.insert_many_fast_tx(self._async(conn), params)
        return count

    # Watching.

    def subscribe(self, *kinds: EventKind | str, buffer_size: int = 1000) -> Subscription:
        """As `Client.subscribe`; iterate it with `async for`."""
        return self._client.subscribe(*kinds, buffer_size=buffer_size)

    async def wait(self, job: Job[Any] | int, timeout: Duration | None = None) -> Job[Any]:
        """As `Client.wait`."""
        job_id = job.id if isinstance(job, Job) else job
        limit = None if timeout is None else seconds("timeout", timeout)
        deadline = None if limit is None else time.monotonic() + limit
        pause = WAIT_POLL_FIRST
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        with self._client._subscriptions.waiting_for(job_id, lambda: loop.call_soon_threadsafe(told.set)):
            while True:
                stored = await self.job_get(job_id)
                if stored.state in FINAL_STATES:
                    return stored
                left = pause if deadline is None else min(pause, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"job {job_id} is {stored.state} and not final after {limit:g} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(told.wait(), left)
                told.clear()
                pause = min(pause * 1.5, WAIT_POLL_LAST)

    def stats(self) -> dict[str, int]:
        """As `Client.stats`."""
        return self._client.stats()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def _call_on(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # a loop that was closed waits for nothing
        loop.call_soon_threadsafe(function)
