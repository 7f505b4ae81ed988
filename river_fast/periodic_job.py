"""Periodic jobs: what to insert, and by which schedule. River: PeriodicJob, PeriodicSchedule, PeriodicInterval.

Values, any thread. A client keeps them (`Config.periodic_jobs`, `client.periodic_jobs`); the one that leads inserts.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, runtime_checkable

from river_fast.cron_schedule import cron, moved
from river_fast.errors import ConfigError, ValidationError
from river_fast.insert_opts import InsertManyParams, InsertOpts

ID_NAME: Final = re.compile(r"\A\w[\w\-\[\]<>/.·:+]+\Z", re.ASCII)  # River's rule for kinds
ID_MAX: Final = 127
INTERVAL_MIN: Final = 0.1  # seconds: more often than this a loop in a job does better
INTERVAL_MAX: Final = 1e9

PERIODIC: Final = "periodic"  # in a job's metadata: true
PERIODIC_JOB_ID: Final = "river:periodic_job_id"


@runtime_checkable
class PeriodicSchedule(Protocol):
    """Anything that says when to run next. River: PeriodicSchedule."""

    def next(self, current: datetime) -> datetime | None:
        """The first time after `current` (aware; periodic jobs ask in UTC), None for never."""
        ...


class PeriodicInterval:
    """Every so often: seconds (float) or timedelta, 0.1 s to 31 years. River: PeriodicInterval."""

    __slots__ = ("period",)

    def __init__(self, period: float | timedelta) -> None:
        value = period.total_seconds() if isinstance(period, timedelta) else period
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not INTERVAL_MIN <= value <= INTERVAL_MAX:
            raise ConfigError(
                f"a periodic interval must be {INTERVAL_MIN:g} to {INTERVAL_MAX:g} seconds (or a timedelta), "
                f"got {period!r:.80}"
            )
        self.period = timedelta(seconds=value)

    def next(self, current: datetime) -> datetime | None:
        """`period` after `current`."""
        return moved(current, self.period)

    def __repr__(self) -> str:
        return f"PeriodicInterval({self.period.total_seconds():g})"


class NeverSchedule:
    """Never: with `run_on_start` a job that runs once in each leadership term. River: NeverSchedule."""

    __slots__ = ()

    def next(self, current: datetime) -> datetime | None:
        """None."""
        return None


class ScheduleFunc:
    """A function as a schedule: it is given a time (aware, UTC) and returns the next one, or None for never."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[datetime], datetime | None]) -> None:
        if not callable(function):
            raise ConfigError(f"ScheduleFunc needs a function of a time, got {type(function).__name__}")
        self._function = function

    def next(self, current: datetime) -> datetime | None:
        """What the function gives."""
        return self._function(current)


@dataclass(frozen=True, slots=True, eq=False)
class PeriodicJob:
    """A job to insert again and again. River: PeriodicJob, PeriodicJobOpts.

    `schedule`: `PeriodicInterval`, `cron("0 9 * * mon-fri")`, `NeverSchedule()`, `ScheduleFunc`, or anything with their
    `next`; a string is taken as a cron expression, in UTC unless it names a zone. `constructor` is called for each run,
    on the leader's thread for periodic jobs, so it must be quick: it gives the args, or args and `InsertOpts` as a pair
    (or `InsertManyParams`), or None to skip this run. What it raises is logged, and the run is left out. `id` (2 to 127
    characters, unique in a client) is stored with each job as `river:periodic_job_id`. `run_on_start`: also once when a
    client begins to lead. Raises `ConfigError`.
    """

    schedule: PeriodicSchedule
    constructor: Callable[[], Any]
    id: str | None = None
    run_on_start: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", checked_schedule(self.schedule))
        if not callable(self.constructor) or inspect.iscoroutinefunction(self.constructor):
            raise ConfigError(
                "a periodic job's constructor must be a plain function that gives args (not async: it is called on a"
                f" thread), got {self.constructor!r:.80}"
            )
        if self.id is not None:
            check_periodic_id(self.id)
        if not isinstance(self.run_on_start, bool):
            raise ConfigError(f"run_on_start must be True or False, got {self.run_on_start!r:.80}")

    def construct(self) -> InsertManyParams | None:
        """What to insert now, None to skip; raises what the constructor raises, `ValidationError` for no job."""
        made = self.constructor()
        if made is None or isinstance(made, InsertManyParams):
            return made
        args, opts = made if type(made) is tuple and len(made) == 2 else (made, None)
        if inspect.iscoroutine(args):
            args.close()
            raise ValidationError("args", "the constructor gave a coroutine; it must be a plain function")
        if opts is not None and not isinstance(opts, InsertOpts):
            raise ValidationError("opts", f"the constructor must give InsertOpts or None, got {type(opts).__name__}")
        return None if args is None else InsertManyParams(args, opts)


def periodic_opts(opts: InsertOpts | None, id: str | None) -> InsertOpts:
    """The options with what tells a periodic job from others in the metadata."""
    own: dict[str, Any] = {PERIODIC: True} if id is None else {PERIODIC: True, PERIODIC_JOB_ID: id}
    opts = opts or InsertOpts()
    metadata = opts.metadata
    if metadata is None:
        return replace(opts, metadata=own)
    if isinstance(metadata, Mapping):
        return replace(opts, metadata={**metadata, **own})
    # JSON text stays as its writer wrote it; what is no object is left for the insert to refuse
    text = bytes(metadata).strip(b" \t\r\n")
    if not text.endswith(b"}"):
        return opts
    comma = b"" if text[1:-1].strip(b" \t\r\n") == b"" else b","
    return replace(opts, metadata=text[:-1] + comma + json.dumps(own).encode()[1:])


def checked_schedule(schedule: Any) -> PeriodicSchedule:
    """`ConfigError` for what is no schedule, or a cron expression that never fires."""
    if isinstance(schedule, str):
        schedule = cron(schedule)
    if isinstance(schedule, type) or not isinstance(schedule, PeriodicSchedule):
        raise ConfigError(
            "a schedule must be PeriodicInterval(seconds), cron(text), NeverSchedule(), ScheduleFunc(function) or an"
            f" object with a method next, got {schedule!r:.80}"
        )
    if getattr(schedule, "never_fires", False) is True:
        raise ConfigError(f"{schedule!r:.80} never fires: there is no such date; meant to be so: NeverSchedule()")
    return schedule


def check_periodic_id(id: object) -> str:
    """River's rule; `ConfigError` otherwise."""
    if not isinstance(id, str) or len(id) > ID_MAX or not ID_NAME.match(id):
        raise ConfigError(
            f"periodic job id {id!r:.80} must be 2 to {ID_MAX} ASCII letters, digits or any of _ - [ ] < > / . : +, "
            "the first a letter, a digit or _"
        )
    return id
