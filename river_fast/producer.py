"""Fetches jobs and has them worked: the compiled fetcher, every queue's threads, the event loop. River: producer.

One per client, however many queues. Its own thread starts worker threads when the fetcher asks for them, watches
timeouts, and passes on what the fetcher has to say. Owns the fetcher, its thread, the worker threads and the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from river_fast._ext import fetcher as compiled
from river_fast.async_runner import AsyncRunner
from river_fast.config import Config, QueueConfig
from river_fast.deadline_watch import DeadlineWatch
from river_fast.driver import Capabilities, Driver
from river_fast.errors import QueueAlreadyAddedError, QueueNotFoundError
from river_fast.job import Job
from river_fast.job_executor import JobExecutor
from river_fast.job_row import PG_EPOCH
from river_fast.job_set_state import JobSetState
from river_fast.plugin import Metric
from river_fast.startstop import Service
from river_fast.worker import Workers, WorkUnit

HELD_TIMEOUT = 1.0  # how long the fetcher may take to tell what it holds; then: ask again later
STATEMENTS = ("job_get_available", "job_give_back", "queue_poll", "client_lock", "client_heartbeat")  # the fetcher's


def fetcher_statements(driver: Driver, capabilities: Capabilities, only_known: bool = False) -> dict[str, bytes]:
    """The texts for the compiled fetcher, on the driver's schema; `only_known`: with kinds as the last parameter."""
    texts = {name: driver.statement_text(name) for name in STATEMENTS}
    if capabilities.is_yugabyte:  # it has no ctid
        texts["job_get_available"] = driver.statement_text("job_get_available_by_id")
    if only_known:
        texts = {name: text.replace(b"--known", b"") for name, text in texts.items()}
    return texts


@dataclass(slots=True)
class WorkedQueue:
    """One queue of this client: its index in the fetcher, what runs of it, who runs it."""

    name: str
    index: int
    config: QueueConfig
    active: dict[int, Job[Any]]
    paused: bool = False
    threads: list[threading.Thread] = field(default_factory=list)


class Producer(Service):
    """Start after the completer, stop before it: `stop_fetching`, `wait_idle` (and `cancel_all`), `abandon`, `stop`."""

    name = "producer"

    def __init__(
        self,
        driver: Driver,
        config: Config,
        workers: Workers,
        capabilities: Capabilities,
        client_id: str,
        lock_key: int,
        heartbeat_key: int = 0,
        *,
        executor: Callable[[Sequence[WorkUnit], contextvars.Context], JobExecutor],
        context: contextvars.Context,
        logger: logging.Logger,
        loop: asyncio.AbstractEventLoop | None = None,
        on_connection: Callable[[bool, datetime | None], None] = lambda connected, since: None,
    ) -> None:
        super().__init__()
        self._config = config
        self._logger = logger
        self._on_connection = on_connection
        units = [(kind, unit) for kind in workers.kinds() if (unit := workers.get(kind)) is not None]
        self._executor = executor([unit for _, unit in units], context)
        self._executor.on_unstuck = self._unstuck
        self._work_loop = compiled.WorkLoop(
            self._executor.units,
            self._executor.context,
            self._executor.push_completed,
            self._executor.execute,
            self._executor.settle,
        )
        compiled.load_libpq(driver.libpq_path())
        poll_only = config.poll_only or not capabilities.listen
        channels = () if poll_only else (f"{driver.schema}.river_insert",)
        self._fetcher = compiled.Fetcher(
            conninfo=driver.hot_conninfo("fetcher"),
            setup=driver.hot_setup("fetcher", channels),
            statements=fetcher_statements(driver, capabilities, config.fetch_only_known_kinds),
            client_id=client_id,
            lock_key=lock_key if capabilities.session_locks else 0,
            kinds=[kind for kind, _ in units],
            async_kinds=[unit.is_async for _, unit in units],
            job_type=Job,
            notify=capabilities.notify,
            begin=driver.hot_begin("fetcher"),
            heartbeat_key=heartbeat_key,
            only_known=config.fetch_only_known_kinds,
        )
        self._metric_hooks = config.extensions().metric_emit
        if self._metric_hooks:
            compiled.keep_metrics(self._fetcher)
        self._queues: dict[str, WorkedQueue] = {}
        self._by_index: dict[int, WorkedQueue] = {}
        self._queues_lock = threading.Lock()
        self._runner: AsyncRunner | None = None
        if any(unit.is_async for _, unit in units):
            self._runner = AsyncRunner(self._fetcher, self._executor, self._active_of, context, logger, loop)
        self._watch = DeadlineWatch(
            self._executor,
            self.running,
            self._stuck,
            float(config.job_stuck_threshold),  # type: ignore[arg-type]
            logger,
            config.job_stuck_handler,
        )
        self._fetcher_thread: threading.Thread | None = None
        self._closed = False

    # What runs and what is held; any thread.

    @property
    def fetcher(self) -> compiled.Fetcher:
        """For the completer, which keeps it alive: claims point into it."""
        return self._fetcher

    def running(self) -> list[Job[Any]]:
        """Jobs that were started here and have not ended, stuck ones included."""
        return [job for queue in self._all_queues() for job in list(queue.active.values())]

    def awaited(self) -> list[Job[Any]]:
        """Those of the running that may still end: not the async ones once the caller's loop was closed under us."""
        running = self.running()
        if self._runner is not None and self._runner.dead:
            running = [job for job in running if not self._executor.is_async(job)]
        return running

    def held(self) -> set[tuple[int, int]] | None:
        """(id, attempted_at in PostgreSQL's microseconds) of every job in a ring or running; None: not known now."""
        unstarted = self._fetcher.unstarted(HELD_TIMEOUT)
        if unstarted is None:
            return None
        # after the rings: a job that left one meanwhile is among the running
        return {*unstarted, *((job.id, job._row.attempted_at_us) for job in self.running())}  # type: ignore[attr-defined]

    def hold(self, on: bool) -> None:
        """Back-pressure: while on, nothing is fetched."""
        self._fetcher.hold(on)

    def stats(self) -> dict[str, int]:
        return self._fetcher.stats()

    # Queues; any thread.

    def add_queue(self, name: str, config: QueueConfig, paused: bool = False) -> None:
        """Work one more queue. `QueueAlreadyAddedError`."""
        with self._queues_lock:
            if name in self._queues:
                raise QueueAlreadyAddedError(f"queue {name!r} is worked by this client already")
            active: dict[int, Job[Any]] = {}
            index = self._fetcher.add_queue(
                name,
                config.max_workers,
                float(config.fetch_cooldown),  # type: ignore[arg-type]  # `QueueConfig.checked` filled it in
                float(config.fetch_poll_interval),  # type: ignore[arg-type]
                -1 if config.prefetch == "auto" else config.prefetch,
                active,
                paused,
            )
            queue = WorkedQueue(name, index, config, active, paused)
            self._by_index[index] = queue
            self._queues[name] = queue

    def remove_queue(self, name: str) -> None:
        """Stop fetching from the queue and give back what has not started; `QueueNotFoundError`. Running jobs go on."""
        with self._queues_lock:
            queue = self._queues.pop(name, None)
        if queue is None:
            raise QueueNotFoundError(f"queue {name!r} is not worked by this client")
        self._fetcher.remove_queue(queue.index)

    def queue_has_ended(self, name: str) -> bool:
        """Whether no job of the removed queue of that name runs, and no thread is left to start one."""
        with self._queues_lock:
            removed = [q for q in self._by_index.values() if q.name == name and self._queues.get(name) is not q]
        return not any(queue.active or any(thread.is_alive() for thread in queue.threads) for queue in removed)

    def set_paused(self, name: str, paused: bool) -> list[str]:
        """Pause or resume a queue, `"*"`: all; the names of those that changed. Unknown names change nothing."""
        changed = []
        for queue in self._all_queues():
            if name in ("*", queue.name) and queue.paused != paused:
                queue.paused = paused
                (self._fetcher.pause if paused else self._fetcher.resume)(queue.index)
                changed.append(queue.name)
        return changed

    def notify(self, names: Iterable[str]) -> None:
        """As an insert notification for each of the queues: there is something to fetch."""
        for name in names:
            queue = self._queues.get(name)
            if queue is not None:
                self._fetcher.notify(queue.index)

    # Cancelling; any thread.

    def cancel(self, job_id: int) -> None:
        """A remote cancel: of a running job, of one in a ring, or of one that the fetch in flight brings."""
        if not self._cancel_running(job_id):
            self._fetcher.cancel(job_id)
            self._cancel_running(job_id)  # it may have been popped in between

    def cancel_all(self) -> None:
        """A stop's cancel of every running job; again: of those that began since."""
        for job in self.running():
            self._executor.cancel(job, "stop")

    def _cancel_running(self, job_id: int) -> bool:
        found = False
        for queue in self._all_queues():
            job = queue.active.get(job_id)
            if job is not None:
                self._executor.cancel(job, "remote")
                found = True
        return found

    # Stopping, in this order; any thread but a worker's.

    def stop_fetching(self, timeout: float) -> compiled.StopFetch:
        """Fetch no more, give back what has not started."""
        return self._fetcher.stop_fetching(timeout)

    def interrupted(self, job: Job[Any]) -> JobSetState:
        """The outcome of a job that was abandoned."""
        return self._executor.interrupted(job)

    def abandon(self) -> list[Job[Any]]:
        """Give up on the jobs that would not end: their later outcome counts no more. Their rows are the caller's."""
        abandoned = self.running()
        for job in abandoned:
            self._executor.run_of(job).abandoned = True
        return abandoned

    def close(self, timeout: float) -> bool:
        """Connection closed, threads joined but those of abandoned jobs; False if one of ours would not end."""
        deadline = time.monotonic() + timeout
        self._closed = True  # a start under way is seen through by the stop below, a later one is refused
        self.request_stop()  # before the close, which wakes our thread: it must find the stop then
        self._fetcher.close()
        ended = self.stop(max(deadline - time.monotonic(), 0.05))
        if self._fetcher_thread is not None:
            self._fetcher_thread.join(max(deadline - time.monotonic(), 0.05))
            ended = ended and not self._fetcher_thread.is_alive()
        if self._runner is not None:
            ended = self._runner.close(max(deadline - time.monotonic(), 0.05)) and ended
        for queue in self._by_index.values():
            for thread in queue.threads:
                if not queue.active and thread is not threading.current_thread():
                    thread.join(max(deadline - time.monotonic(), 0.0))
        return ended

    # The service's own thread.

    def _start(self) -> None:
        if self._closed or self._fetcher_thread is not None:
            raise RuntimeError("a producer is started once, and not after its close: make another")
        self._fetcher_thread = threading.Thread(target=self._fetcher.run, name="river_fast.fetcher", daemon=True)
        self._fetcher_thread.start()
        if self._runner is not None:
            self._runner.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for what, index, number, text in self._fetcher.take_attention(min(self._watch.wait(), 1.0)):
                if what == compiled.GROW:
                    self._grow(self._queue_at(index), number)
                elif what == compiled.NOTICE:
                    self._logger.log(number, "%s", text)
                elif what == compiled.CONNECTED:
                    # since when its lock is held, by the server's clock, if this server has locks
                    since = PG_EPOCH + timedelta(microseconds=int(text)) if text else None
                    self._on_connection(True, since)
                elif what == compiled.LOST:
                    self._on_connection(False, None)
            self._watch.scan()
            self._emit_metrics()
        self._emit_metrics()

    def _emit_metrics(self) -> None:
        """What the fetches since the last look took and brought, to each hook."""
        for index, jobs, took in compiled.take_metrics(self._fetcher) if self._metric_hooks else ():
            queue = self._queue_at(index).name
            duration = Metric("job_get_available_duration", queue, took / 1e9)
            for metric in (duration, Metric("job_get_available_count", queue, jobs)):
                for role in self._metric_hooks:
                    try:
                        role.function(metric)
                    except BaseException:  # the jobs of this client do not wait for its metrics
                        self._logger.exception("%s raised", role.name)

    def _queue_at(self, index: int) -> WorkedQueue:
        with self._queues_lock:  # it is just being added, perhaps, and its first jobs came sooner
            return self._by_index[index]

    def _grow(self, queue: WorkedQueue, count: int) -> None:
        queue.threads = [thread for thread in queue.threads if thread.is_alive()]
        for _ in range(count):
            thread = threading.Thread(
                target=self._work_loop.run,
                args=(self._fetcher, queue.index),
                name=f"river_fast.worker.{queue.name}",
                daemon=True,
            )
            self._fetcher.worker_started(queue.index, 1)
            try:
                thread.start()
            except RuntimeError:
                self._fetcher.worker_started(queue.index, -1)
                self._logger.warning("no more threads can be started; queue %s goes on with fewer", queue.name)
                return
            queue.threads.append(thread)

    def _stuck(self, job: Job[Any]) -> None:
        row = job._row
        assert isinstance(row, compiled.FetchedRow)
        self._fetcher.release_slot(row)
        if not self._executor.is_async(job):
            self._fetcher.worker_started(row.queue_index, -1)  # its thread serves nobody: let another take its place
        elif self._runner is not None:
            self._runner.slot_freed(row.queue_index)

    def _unstuck(self, job: Job[Any]) -> None:
        row = job._row
        assert isinstance(row, compiled.FetchedRow)
        if not self._executor.is_async(job):
            self._fetcher.worker_started(row.queue_index, 1)
        self._logger.warning("stuck job %d (%s) came back", job.id, job.kind)

    def _active_of(self, index: int) -> dict[int, Job[Any]]:
        return self._queue_at(index).active

    def _all_queues(self) -> Iterable[WorkedQueue]:
        """Removed ones too: their jobs may still run."""
        return list(self._by_index.values())
