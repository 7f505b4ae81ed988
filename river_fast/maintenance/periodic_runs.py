"""When the periodic jobs of one leadership term run next, and which runs are due. River: PeriodicJobEnqueuer's state.

For the enqueuer's thread alone, in memory alone. What it says is due stays due until it is settled.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from river_fast.periodic_job import PeriodicJob, PeriodicSchedule

# Runs of one job that are made up at a time, the newest. More than a leader can miss: it trusts itself for 14 s, and
# nothing is more frequent than every 0.1 s; but a schedule of the user's own may say anything.
MISSED_MOST: Final = 200
STEPS_MOST: Final = 10_000  # of a schedule, before it is asked anew from the present


@dataclass(slots=True, eq=False)
class _Entry:
    handle: int
    job: PeriodicJob
    next_run_at: datetime | None
    starts: bool  # run on start is to come


@dataclass(frozen=True, slots=True, eq=False)
class PeriodicRun:
    """One run that is due. `nominal`: the time it was due at; `then`: the job's next run after it."""

    entry: _Entry
    nominal: datetime
    then: datetime | None
    on_start: bool = False

    @property
    def job(self) -> PeriodicJob:
        return self.entry.job


class PeriodicRuns:
    """`started`: handles of the jobs whose run on start this term has had already."""

    def __init__(self, started: set[int], logger: logging.Logger) -> None:
        self._started = started
        self._logger = logger
        self._entries: dict[int, _Entry] = {}

    def adopt(self, jobs: Mapping[int, PeriodicJob], now: datetime) -> None:
        """Jobs that are new are scheduled from now on; those that are no more are forgotten."""
        for handle in self._entries.keys() - jobs.keys():
            del self._entries[handle]
        for handle, job in jobs.items():
            if handle not in self._entries:
                starts = job.run_on_start and handle not in self._started
                self._entries[handle] = _Entry(handle, job, self._next(job, now), starts)

    def begin_anew(self, now: datetime) -> None:
        """The clock was set: what was scheduled by the old one means nothing."""
        for entry in self._entries.values():
            entry.next_run_at = self._next(entry.job, now)

    def due(self, now: datetime) -> list[PeriodicRun]:
        """Runs on start first, then every run due by now, in the order of the jobs."""
        entries = list(self._entries.values())
        runs = [PeriodicRun(entry, now, entry.next_run_at, on_start=True) for entry in entries if entry.starts]
        for entry in entries:
            if entry.next_run_at is not None and entry.next_run_at <= now:
                runs += self._missed(entry, entry.next_run_at, now)
        return runs

    def settle(self, run: PeriodicRun) -> None:
        """It was inserted, or is given up."""
        if run.on_start:
            run.entry.starts = False
            self._started.add(run.entry.handle)
        else:
            run.entry.next_run_at = run.then

    def next_at(self) -> datetime | None:
        """When the first of them is due."""
        return min((entry.next_run_at for entry in self._entries.values() if entry.next_run_at), default=None)

    def _missed(self, entry: _Entry, first: datetime, now: datetime) -> list[PeriodicRun]:
        runs: deque[PeriodicRun] = deque(maxlen=MISSED_MOST)
        at: datetime | None = first
        steps = 0
        while at is not None and at <= now:
            steps += 1
            then = self._next(entry.job, at if steps < STEPS_MOST else now)
            runs.append(PeriodicRun(entry, at, then))
            at = then
        if steps > MISSED_MOST:
            self._logger.warning(
                "%s missed %d runs, of which the newest %d are made up", name_of(entry.job), steps, MISSED_MOST
            )
        return list(runs)

    def _next(self, job: PeriodicJob, current: datetime) -> datetime | None:
        try:
            return next_of(job.schedule, current)
        except BaseException:  # the schedule may be the user's own
            self._logger.exception("the schedule of %s failed: it does not run again in this term", name_of(job))
            return None


def next_of(schedule: PeriodicSchedule, current: datetime) -> datetime | None:
    """What the schedule says, in UTC. `ValueError` for a time that is not aware, or not later than `current`."""
    at: Any = schedule.next(current)
    if at is None:
        return None
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise ValueError(f"{schedule!r:.80} gave {at!r:.80}, which is no aware datetime")
    if at <= current:
        raise ValueError(f"{schedule!r:.80} gave {at.isoformat()} as the next time after {current.isoformat()}")
    return at.astimezone(UTC)


def name_of(job: PeriodicJob) -> str:
    """For a log: the id, or what is known without one."""
    if job.id is not None:
        return f"periodic job {job.id!r}"
    return f"the periodic job of {getattr(job.constructor, '__qualname__', 'a constructor')} ({job.schedule!r})"
