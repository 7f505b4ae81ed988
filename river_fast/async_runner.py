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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from river_fast.event_loop import new_event_loop
from river_fast.job import Job
from river_fast.job_executor import JobExecutor

if TYPE_CHECKING:
    from river_fast._ext.fetcher import Fetcher

EAGER = sys.version_info >= (3, 12)
ROOM_LOOK = 0.01  # how soon a full completion ring is tried again
# Jobs started in one turn of the loop. So few that other callbacks get their turn, and that what is alive at once stays
# under the garbage collector's first threshold: at 128 it ran for every batch, a seventh of the loop's time.
PUMP_MAX = 32


class _LoopQueue:
    """One queue as the event loop sees it."""

    __slots__ = ("_asked", "_index", "_runner", "_running", "_try_pop", "active", "ended", "shared")

    def __init__(self, index: int, active: dict[int, Job[Any]], runner: AsyncRunner) -> None:
        self._index = index
        self._runner = runner
        self._try_pop = runner._fetcher.try_pop
        self._running = 0  # Tasks of this queue that have not called `ended`
        self._asked = False  # a pump runs, or is on its way
        self.shared = False  # from the first stuck job on: its slot is free while its Task is counted here
        self.active = active
        self.ended = self._ended  # bound once: every job calls it

    def look(self) -> None:
        """Something changed: there may be jobs, or slots for them."""
        if not self._asked:
            self._pump()

    def _ended(self) -> None:
        """A Task's last call. The next job takes the free slot here and now, not after the other ends of this turn."""
        self._running -= 1
        if not self._asked:
            self._pump()

    def _pump(self) -> None:
        """Takes jobs and begins them, as many as there are and as one turn may."""
        self._asked = True  # also while a Task that starts eagerly runs to its end inside `begin`: no recursion
        try:
            for _ in range(PUMP_MAX):
                job = self._try_pop(self._index, 0 if self.shared else self._running)
                if job is None:
                    self._asked = False
                    return
                self._begin(job)
            self._runner._loop.call_soon(self._pump)
        except BaseException:  # Ctrl-C on the caller's own loop, no memory: the next look begins anew
            self._asked = False
            raise

    def _begin(self, job: Job[Any]) -> None:
        self._running += 1
        try:
            self._runner.begin(job, self)
        except BaseException:
            self._running -= 1
            self._runner._executor.try_give_back(job, self.active)
            raise


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
        # where Tasks do not start eagerly: jobs whose Task's first step is to come, and those whose step has come
        # when `_look_for_lost` runs next
        self._begun: list[tuple[Job[Any], _LoopQueue]] = []
        self._stepped: list[tuple[Job[Any], _LoopQueue]] = []
        self._queues: dict[int, _LoopQueue] = {}
        self._closed = False

    @property
    def dead(self) -> bool:
        """Whether the loop was closed: what ran on it will never end."""
        return self._started and self._loop.is_closed()

    def start(self) -> None:
        """From any thread; on the caller's loop it takes effect at that loop's next turn."""
        self._executor.cancel_task = self.cancel
        self._loop = new_event_loop() if self._given is None else self._given
        self._started = True
        if self._given is None:
            self._thread = threading.Thread(target=self._run_loop, name="river_fast.event_loop", daemon=True)
            self._thread.start()
        self._loop.call_soon_threadsafe(self._watch)

    def cancel(self, job: Job[Any]) -> None:
        """Deliver a cancel to the job's Task, if it has one. Any thread."""
        self._call(self._cancel, job)

    def slot_freed(self, index: int) -> None:
        """A stuck job's slot serves others while its Task lives on. Any thread, after the slot was given back."""
        self._call(self._slot_freed, index)

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
        for index in self._fetcher.take_loop_ready():
            queue = self._queues.get(index)
            if queue is None:
                queue = self._queues[index] = _LoopQueue(index, self._active_of(index), self)
            queue.look()

    def _slot_freed(self, index: int) -> None:
        queue = self._queues[index]
        queue.shared = True
        queue.look()

    def begin(self, job: Job[Any], queue: _LoopQueue) -> None:
        """Makes the job's Task, which takes its first step here where Tasks start eagerly."""
        body = self._executor.execute_async(job, queue.active, self._tasks, queue.ended)
        context = self._context.copy()
        if EAGER:
            task = asyncio.Task(body, loop=self._loop, context=context, eager_start=True)  # type: ignore[call-arg]
            if not task.done():
                self._tasks[job] = task
        else:
            self._tasks[job] = asyncio.Task(body, loop=self._loop, context=context)
            if not self._begun and not self._stepped:
                self._loop.call_soon(self._look_for_lost)
            self._begun.append((job, queue))

    def _look_for_lost(self) -> None:
        """Tasks that somebody cancelled before their first step (`asyncio.all_tasks()`): their jobs go back.

        A Task that took its first step is not done, or has left `_tasks`. Those that were begun after this look was
        asked for step after it: they are for the next.
        """
        stepped, self._stepped, self._begun = self._stepped, self._begun, []
        for position, (job, queue) in enumerate(stepped):
            task = self._tasks.get(job)
            if task is not None and task.done():
                if not self._executor.try_give_back(job, queue.active):
                    self._stepped += stepped[position:]
                    self._loop.call_later(ROOM_LOOK, self._look_for_lost)
                    return
                del self._tasks[job]
                queue.ended()
        if self._stepped:
            self._loop.call_soon(self._look_for_lost)

    def _cancel(self, job: Job[Any]) -> None:
        task = self._tasks.get(job)
        if task is not None:
            task.cancel()
