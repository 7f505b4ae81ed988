"""A durable periodic job: one whose schedule is a row of the database. Ours; River: none (Pro: durable periodic jobs).

A frozen value, any thread. Any client may define one, an insert-only one too; whichever river_fast client leads runs
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from river_fast.args_codec import Codec
from river_fast.canonical_json import Path
from river_fast.cron_schedule import CronSchedule, EverySchedule, cron
from river_fast.encoding import check_raw, decode
from river_fast.errors import ConfigError, ValidationError
from river_fast.insert_opts import InsertManyParams, InsertOpts, UniqueOpts
from river_fast.insert_params import InsertBatch
from river_fast.job import JobState
from river_fast.job_args import ArgsInfo, RawArgs
from river_fast.job_row import decode_timestamptz
from river_fast.periodic_job import PeriodicInterval, check_periodic_id, checked_schedule, periodic_opts
from river_fast.unique import STATE_BITS

CATCH_UP_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class DurablePeriodicJob:
    """One row. Times are aware datetimes, by the server's clock.

    `schedule`: a cron expression or `@every` with a duration; `zone`: an IANA name, None for UTC or what the schedule
    itself names. `kind`, `encoded_args`, `opts`: what each run inserts, every option given. `catch_up`: how many missed
    runs are made up for, the newest. `paused_at` None: it runs. `next_run_at` None: never again. `last_run_at`: when
    its newest run was due. `last_error`: why the leader could not run it, None while it can.
    """

    id: str
    schedule: str
    zone: str | None
    kind: str
    encoded_args: bytes
    opts: InsertOpts
    catch_up: int
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_error: str | None
    paused_at: datetime | None
    resumed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    _unique_paths: tuple[Path, ...] = ()
    _go_floats: bool = False
    _unreadable: bool = False  # what the row's `opts` holds was never written by us

    @property
    def args(self) -> Any:
        """The args as plain JSON."""
        return decode(self.encoded_args)

    def run(self, nominal: datetime) -> InsertManyParams:
        """What is inserted for the run that is due at `nominal`. `ConfigError` for a row that cannot be read."""
        self._check_readable()
        info = ArgsInfo(self.kind, (), _codec(self._unique_paths), None, self._go_floats)
        args = RawArgs.known(info, self.encoded_args)
        return InsertManyParams(args, replace(periodic_opts(self.opts, self.id), scheduled_at=nominal))

    def due(self, now: datetime) -> tuple[list[datetime], datetime | None]:
        """The runs to insert by now, the newest `catch_up` of those missed, and the next one after them. `ConfigError`
        where this machine does not know the zone, and for a row that cannot be read."""
        self._check_readable()
        if self.next_run_at is None or self.next_run_at > now:
            return [], self.next_run_at
        schedule = schedule_of(self.schedule, self.zone)
        times = missed_times(schedule, self.next_run_at, now, self.catch_up)
        return [at for at in times if self.resumed_at is None or at > self.resumed_at], schedule.next(times[-1])

    def _check_readable(self) -> None:
        if self._unreadable:
            raise ConfigError(f"the options stored of periodic job {self.id!r} cannot be read: define it again")

    @classmethod
    def stored(cls, row: Sequence[bytes | None]) -> DurablePeriodicJob:
        """A row of our statements, binary."""
        text = [None if value is None else value.decode("utf-8", "replace") for value in row[:4]]
        stored: Any = orjson.loads((row[6] or b"\1{}")[1:])
        metadata = (row[5] or b"\1{}")[1:]
        try:
            opts, unreadable = _stored_opts(stored, metadata), False
            unique_paths = tuple(tuple(path) for path in stored.get("unique_paths", ()))
        except (AttributeError, KeyError, TypeError, ValueError):  # somebody else's hand; the others are read
            opts, unique_paths, unreadable = InsertOpts(metadata=metadata), (), True
        times = [decode_timestamptz(row[column]) for column in (8, 9, 11, 12, 13, 14)]
        id, schedule, zone, kind = text
        created_at, updated_at = times[4:]
        assert id is not None
        assert schedule is not None
        assert kind is not None
        assert created_at is not None
        assert updated_at is not None
        return cls(
            id=id,
            schedule=schedule,
            zone=zone,
            kind=kind,
            encoded_args=row[4] or b"{}",
            opts=opts,
            catch_up=int.from_bytes(row[7] or b"", "big"),
            next_run_at=times[0],
            last_run_at=times[1],
            last_error=None if row[10] is None else row[10].decode("utf-8", "replace"),
            paused_at=times[2],
            resumed_at=times[3],
            created_at=created_at,
            updated_at=updated_at,
            _unique_paths=unique_paths,
            _go_floats=not unreadable and bool(stored.get("go_floats", False)),
            _unreadable=unreadable,
        )


def schedule_of(text: str, zone: str | None) -> CronSchedule | EverySchedule:
    """`ConfigError` for what is no schedule, or one that never fires."""
    schedule = checked_schedule(cron(text if zone is None else f"CRON_TZ={zone} {text}"))
    assert isinstance(schedule, CronSchedule | EverySchedule)
    return schedule


def schedule_text(schedule: Any, zone: Any) -> tuple[str, str | None]:
    """The form in which the database keeps a schedule. `ValidationError`."""
    if isinstance(schedule, PeriodicInterval | timedelta | int | float) and not isinstance(schedule, bool):
        schedule = _every(schedule)
    elif isinstance(schedule, CronSchedule | EverySchedule):
        schedule = schedule.text
    if not isinstance(schedule, str):
        raise ValidationError(
            "schedule", "must be a cron expression, PeriodicInterval or seconds: it is kept in the database as text,"
            f" got {schedule!r:.80}"
        )  # fmt: skip
    if zone is not None and (not isinstance(zone, str) or not zone or " " in zone):
        raise ValidationError("zone", f"must be an IANA name, as Europe/Berlin, or None, got {zone!r:.80}")
    if zone is not None and schedule.startswith(("TZ=", "CRON_TZ=")):
        raise ValidationError("zone", f"is given twice: {zone!r:.60} and in the schedule {schedule!r:.80}")
    try:
        schedule_of(schedule, zone)
    except ConfigError as error:
        raise ValidationError("schedule", str(error)) from None
    return schedule, zone


def definition_of(batch: InsertBatch) -> dict[str, Any]:
    """The parameters that say what job is inserted: of a batch of one, whose options are resolved."""
    info, opts = batch.infos[0], batch.opts[0]
    if opts.scheduled_at is not None:
        raise ValidationError("opts", "scheduled_at cannot be given: the schedule says when each run is due")
    stored: dict[str, Any] = {
        "queue": opts.queue_name,
        "priority": int.from_bytes(opts.priority[4:], "big"),
        "max_attempts": int.from_bytes(opts.max_attempts[4:], "big"),
        "tags": [tag.decode() for tag in opts.tags_array],
        "pending": opts.state is JobState.PENDING,
    }
    if (rule := opts.rule) is not None:
        stored["unique"] = {
            "by_args": rule.by_args,
            "by_period_ns": rule.period_ns,
            "by_queue": rule.by_queue,
            "by_state": [state.value for state, bit in STATE_BITS.items() if rule.states & bit],
            "exclude_kind": rule.exclude_kind,
        }
        stored["unique_paths"] = info.unique_paths
        stored["go_floats"] = info.go_floats
    return {
        "kind": info.kind,
        "args": batch.args[0].decode(),
        "metadata": opts.metadata[5:].decode(),
        "opts": orjson.dumps(stored).decode(),
    }


def checked_id(id: object) -> str:
    """`ValidationError` unless River's rule allows it."""
    try:
        return check_periodic_id(id)
    except ConfigError as error:
        raise ValidationError("id", str(error)) from None


def checked_catch_up(catch_up: object) -> int:
    """`ValidationError` for what is no number of runs."""
    if isinstance(catch_up, bool) or not isinstance(catch_up, int) or not 1 <= catch_up <= CATCH_UP_MAX:
        raise ValidationError(
            "catch_up", f"must be how many missed runs are made up for, 1 (only the newest) to {CATCH_UP_MAX},"
            f" got {catch_up!r:.80}"
        )  # fmt: skip
    return catch_up


def missed_times(
    schedule: CronSchedule | EverySchedule, first: datetime, now: datetime, most: int
) -> list[datetime]:
    """The newest `most` runs from `first` (due itself) up to `now`, without going through all there were."""
    if isinstance(schedule, EverySchedule):
        newest = (now - first) // schedule.period
        return [first + number * schedule.period for number in range(max(newest - most + 1, 0), newest + 1)]
    span = timedelta(minutes=most)
    while True:
        since = now - span
        at = first if since <= first else schedule.next(since)
        times: list[datetime] = []
        while at is not None and at <= now:
            times.append(at)
            at = schedule.next(at)
        if len(times) >= most or since <= first:
            return times[-most:]
        span *= 4


def _every(period: PeriodicInterval | timedelta | float) -> str:
    try:
        interval = period if isinstance(period, PeriodicInterval) else PeriodicInterval(period)
    except ConfigError as error:
        raise ValidationError("schedule", str(error)) from None
    if interval.period % timedelta(seconds=1):
        raise ValidationError("schedule", f"{interval!r} must be a whole number of seconds, at least 1")
    return f"@every {interval.period // timedelta(seconds=1)}s"


def _stored_opts(stored: dict[str, Any], metadata: bytes) -> InsertOpts:
    unique = stored.get("unique")
    return InsertOpts(
        max_attempts=stored.get("max_attempts"),
        metadata=metadata,
        pending=stored.get("pending", False),
        priority=stored.get("priority"),
        queue=stored.get("queue"),
        tags=stored.get("tags", ()),
        unique=None if unique is None else UniqueOpts(
            by_args=unique["by_args"],
            by_period=_period(unique["by_period_ns"]),
            by_queue=unique["by_queue"],
            by_state=[JobState(state) for state in unique["by_state"]],
            exclude_kind=unique["exclude_kind"],
        ),
    )  # fmt: skip


def _period(nanoseconds: int) -> float | timedelta | None:
    if not nanoseconds:
        return None
    return nanoseconds / 1e9 if nanoseconds % 1000 else timedelta(microseconds=nanoseconds // 1000)


def _codec(paths: tuple[Path, ...]) -> Codec:
    return Codec(lambda args, limit: check_raw(args.args, limit=limit), decode, paths)
