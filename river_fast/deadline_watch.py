"""Cancels jobs that run past their timeout, and frees the slots of those that ignore it. River: stuck jobs (7.10).

Runs on the producer's thread; owns nothing. A job's start costs nothing here: the watch looks at all running jobs, and
not before the earliest moment at which one of them can be due.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from river_fast.config import NEVER
from river_fast.job import Job
from river_fast.job_executor import BoundUnit, JobExecutor, time_limit

if TYPE_CHECKING:
    from river_fast._ext.fetcher import FetchedRow

LONGEST_SLEEP = 3600.0
# Timeouts that a worker decides job by job are not known before the job starts; look this often.
UNKNOWN_LIMIT = 0.25


class DeadlineWatch:
    """`scan` when `wait` has passed."""

    def __init__(
        self,
        executor: JobExecutor,
        running: Callable[[], Iterable[Job[Any]]],
        on_stuck: Callable[[Job[Any]], None],
        stuck_threshold: float,
        logger: logging.Logger,
    ) -> None:
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
                "job %d (%s) ignores its timeout of %g s: it is stuck; its slot serves others",
                job.id,
                job.kind,
                time_limit(job),
            )
            self._on_stuck(job)


def shortest_limit(units: Sequence[BoundUnit]) -> float:
    """The shortest timeout any job can have, in seconds: nothing that starts now is due sooner."""
    limits = [UNKNOWN_LIMIT if unit.timeout_of is not None else unit.timeout for unit in units]
    return min((limit for limit in limits if limit is not None and limit != NEVER), default=LONGEST_SLEEP)
