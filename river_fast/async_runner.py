"""Runs `async def` jobs as Tasks: on an event loop of its own, in a thread of its own, or on the caller's.

Everything but the constructor, `start`, `cancel` and `close` runs on the loop's thread. The fetcher's descriptor tells
the loop that jobs are there; it takes as many as it may start, and never blocks.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from river_fast.job import Job
from river_fast.job_executor import JobExecutor

if TYPE_CHECKING:
    from river_fast._ext.fetcher import Fetcher

EAGER = sys.version_info >= (3, 12)
ROOM_LOOK = 0.01  # how soon a full completion ring is tried again
PUMP_MAX = 128  # jobs started in one turn of the loop, so that other callbacks get theirs


class AsyncRunner:
    """One per client that has async workers."""

    _loop: asyncio.AbstractEventLoop  # from `start` on

    def __init__(
        self,
        fetcher: Fetcher,
        executor: JobExecutor,
        active_of: Callable[[int], dict[int, Job[Any]]],
        context: contextvars.Context,
        logger: logging.Logger,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._executor = executor
        self._active_of = active_of
        self._context = context
        self._logger = logger
        self._given = loop
        self._started = False
        self._thread: threading.Thread | None = None
        self._tasks: dict[Job[Any], asyncio.Task[None]] = {}
        # strong references until the first step registers the task (only where Tasks do not start eagerly)
        self._begun: dict[asyncio.Task[None], tuple[Job[Any], dict[int, Job[Any]]]] = {}
        self._pumping: set[int] = set()  # queues with a pump already asked for
        self._closed = False

    @property
    def dead(self) -> bool:
        """Whether the loop was closed: what ran on it will never end."""
        return self._started and self._loop.is_closed()

    def start(self) -> None:
        """From any thread; on the caller's loop it takes effect at that loop's next turn."""
        self._executor.cancel_task = self.cancel
        self._loop = asyncio.new_event_loop() if self._given is None else self._given
        self._started = True
        if self._given is None:
            self._thread = threading.Thread(target=self._run_loop, name="river_fast.event_loop", daemon=True)
            self._thread.start()
        self._loop.call_soon_threadsafe(self._watch)

    def cancel(self, job: Job[Any]) -> None:
        """Deliver a cancel to the job's Task, if it has one. Any thread."""
        self._call(self._cancel, job)

    def close(self, timeout: float) -> bool:
        """Stop watching; end the own loop. Tasks that still run are left to their fate. False: the thread lives on."""
        self._closed = True
        if not self._started:
            return True
        self._call(self._unwatch)
        thread = self._thread
        if thread is None:
            return True
        self._call(self._loop.stop)
        if thread is not threading.current_thread():
            thread.join(timeout)
        return not thread.is_alive()

    def _call(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            self._logger.debug("the event loop is closed; %s not delivered", function.__name__)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._closed:
                try:
                    self._loop.run_forever()
                except BaseException:  # asyncio lets SystemExit and KeyboardInterrupt of a job's own Tasks through
                    self._logger.exception("a Task made by a job raised through the event loop, which goes on")
            for task in list(self._tasks.values()):
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # abandoned: the report names it
        finally:
            self._loop.close()

    def _watch(self) -> None:
        self._loop.add_reader(self._fetcher.loop_fileno(), self._ready)
        self._ready()

    def _unwatch(self) -> None:
        self._loop.remove_reader(self._fetcher.loop_fileno())

    def _ready(self) -> None:
        for queue in self._fetcher.take_loop_ready():
            self._pump(queue)

    def _pump(self, queue: int) -> None:
        self._pumping.discard(queue)
        active = self._active_of(queue)
        for _ in range(PUMP_MAX):
            job = self._fetcher.try_pop(queue)
            if job is None:
                break
            self._begin(job, active, self._work(queue, job, active))
        else:
            self._pump_soon(queue)
        if self._begun:
            self._loop.call_soon(self._look_for_lost)  # after the first steps of all these

    def _pump_soon(self, queue: int) -> None:
        if queue not in self._pumping:
            self._pumping.add(queue)
            self._loop.call_soon(self._pump, queue)

    def _begin(self, job: Job[Any], active: dict[int, Job[Any]], body: Coroutine[Any, Any, None]) -> None:
        context = self._context.copy()
        if EAGER:
            asyncio.Task(body, loop=self._loop, context=context, eager_start=True)  # type: ignore[call-arg]
        else:
            task = self._loop.create_task(body, context=context)
            self._begun[task] = (job, active)

    async def _work(self, queue: int, job: Job[Any], active: dict[int, Job[Any]]) -> None:
        if not EAGER:
            del self._begun[asyncio.current_task()]  # type: ignore[arg-type]
        await self._executor.execute_async(job, active, self._tasks)
        self._pump_soon(queue)

    def _look_for_lost(self) -> None:
        """Tasks that somebody cancelled before their first step (`asyncio.all_tasks()`): their jobs go back."""
        for task, (job, active) in [entry for entry in self._begun.items() if entry[0].done()]:
            if self._executor.try_give_back(job, active):
                del self._begun[task]
            else:
                self._loop.call_later(ROOM_LOOK, self._look_for_lost)
                return

    def _cancel(self, job: Job[Any]) -> None:
        task = self._tasks.get(job)
        if task is not None:
            task.cancel()
