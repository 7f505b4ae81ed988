"""Cancels jobs that run past their timeout, and frees the slots of those that ignore it. River: stuck jobs (7.10).

Runs on the producer's thread, a stuck job's handler on one of its own; owns nothing. A job's start costs nothing here:
the watch looks at all running jobs, and not before the earliest moment at which one of them can be due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from river_fast.config import NEVER
from river_fast.job import Job
from river_fast.job_executor import BoundUnit, JobExecutor, time_limit
from river_fast.job_run import JobRun
from river_fast.job_stuck_handler import JobStuckHandler, JobStuckHandlerParams, JobStuckHandlerResult

if TYPE_CHECKING:
    from river_fast._ext.fetcher import FetchedRow

LONGEST_SLEEP = 3600.0
# Timeouts that a worker decides job by job are not known before the job starts; look this often.
UNKNOWN_LIMIT = 0.25


class DeadlineWatch:
    """`scan` when `wait` has passed. `on_stuck`: the job's slot shall serve others, which `handler` may prevent."""

    def __init__(
        self,
        executor: JobExecutor,
        running: Callable[[], Iterable[Job[Any]]],
        on_stuck: Callable[[Job[Any]], None],
        stuck_threshold: float,
        logger: logging.Logger,
        handler: JobStuckHandler | None = None,
    ) -> None:
        self._handler = handler
        self._executor = executor
        self._running = running
        self._on_stuck = on_stuck
        self._stuck_threshold = stuck_threshold
        self._logger = logger
        self._shortest = shortest_limit(executor.units)
        self._next = 0.0

    def wait(self) -> float:
        """Seconds until the next scan is due."""
        return max(self._next - time.monotonic(), 0.0)

    def scan(self) -> None:
        """Look at every running job, if the time has come."""
        now = time.monotonic()
        if now < self._next:
            return
        nearest = now + self._shortest
        for job in self._running():
            limit = time_limit(job)
            if job._unit is None or limit == NEVER:
                continue
            row: FetchedRow = job._row  # type: ignore[assignment]
            due = row.started_ns / 1e9 + limit
            if now >= due:
                self._time_out(job, now >= due + self._stuck_threshold)
                due += self._stuck_threshold
            if due > now:
                nearest = min(nearest, due)
        self._next = nearest

    def _time_out(self, job: Job[Any], stuck: bool) -> None:
        run = self._executor.run_of(job)
        if run.cancel_cause is None:
            self._executor.cancel(job, "timeout")
        if stuck and not run.stuck:
            run.stuck = True
            self._logger.warning(
                "job %d (%s) ignores its timeout of %g s: it is stuck", job.id, job.kind, time_limit(job)
            )
            if self._handler is None:
                self._free_slot(job, run)
                return
            total = sum(other._run is not None and other._run.stuck for other in self._running())
            params = JobStuckHandlerParams(job.id, job.kind, job.queue, total)
            # not here: whatever it waits for, this thread has others to look after
            threading.Thread(
                target=self._ask, args=(job, run, self._handler, params), name="river_fast.job_stuck", daemon=True
            ).start()

    def _ask(self, job: Job[Any], run: JobRun, handler: JobStuckHandler, params: JobStuckHandlerParams) -> None:
        try:
            result = self._executor.context.copy().run(handler, params)
            if result is None:
                result = JobStuckHandlerResult()
            elif not isinstance(result, JobStuckHandlerResult):
                raise TypeError(f"job_stuck_handler gave {result!r:.80}, not a JobStuckHandlerResult")
        except BaseException:
            self._logger.exception("job_stuck_handler failed for job %d; its slot serves others", params.id)
            result = JobStuckHandlerResult()
        if result.add_worker_slot:
            self._free_slot(job, run)

    def _free_slot(self, job: Job[Any], run: JobRun) -> None:
        if run.free_slot():
            self._on_stuck(job)


def shortest_limit(units: Sequence[BoundUnit]) -> float:
    """The shortest timeout any job can have, in seconds: nothing that starts now is due sooner."""
    limits = [UNKNOWN_LIMIT if unit.timeout_of is not None else unit.timeout for unit in units]
    return min((limit for limit in limits if limit is not None and limit != NEVER), default=LONGEST_SLEEP)
