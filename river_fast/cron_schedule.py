"""Cron expressions and when they fire next, as Go's robfig/cron `ParseStandard` has it, which River's users know.

Pure; any thread. No library for Python agrees with it (7 is no Sunday, `5/15` runs to the field's end, `@every`, a
wall time that comes twice fires twice), so this is our own. Two things are otherwise, on purpose: `@every 0s` is
refused, and a run that robfig's walk loses, where the midnight it looks for does not exist, is kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from river_fast.errors import ConfigError

TEXT_MAX: Final = 1000  # characters: every value of every field spelt out is less
YEARS_AHEAD: Final = 5  # a date that does not come by then never comes: robfig's
LAST_YEAR: Final = 9990  # nothing is looked for behind it
SECOND: Final = timedelta(seconds=1)
MINUTE: Final = timedelta(minutes=1)

_DAYS_MOST: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_SPACE: Final = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")  # as Go's
_NUMBER: Final = re.compile(r"\+?[0-9]+\Z", re.ASCII)
_DURATION_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|h|m|s)", re.ASCII)
_UNIT_NS: Final = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_LONGEST_NS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five: its bounds, and names for its values, the first of which is the lower bound's."""

    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _WEEKDAYS),
)

DESCRIPTORS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True, repr=False)
class EverySchedule:
    """`@every <duration>`: whole seconds, counted from the second in which the time given lies."""

    text: str
    period: timedelta

    def next(self, current: datetime) -> datetime | None:
        """`period` after the whole second of `current` (aware), in its zone; None beyond the year 9999."""
        return moved(current.replace(microsecond=0), self.period)

    def __repr__(self) -> str:
        return f"cron({self.text!r})"


@dataclass(frozen=True, slots=True, repr=False)
class CronSchedule:
    """Five fields, as sets of the values at which they match. Made by `cron`; zone None: that of the time asked."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool  # one of the two fields for days is a wildcard: then both must match, else either
    zone: tzinfo | None = None

    @property
    def never_fires(self) -> bool:
        """Whether no date there can be is meant, as the 30th of February."""
        if not (self.minutes and self.hours and self.months):
            return True
        if not self.any_day and self.weekdays:
            return False
        dates = any(day <= _DAYS_MOST[month - 1] for month in self.months for day in self.days)
        return not dates or (self.any_day and not self.weekdays)

    def next(self, current: datetime) -> datetime | None:
        """The first time after `current` (aware) whose wall clock matches, in `current`'s own zone.

        Where clocks go forward, times skipped do not fire; where they go back, times that come twice fire twice. None
        if there is none within five years.
        """
        check_aware(current)
        if self.never_fires or current.year > LAST_YEAR - YEARS_AHEAD:
            return None
        wall = _Wall(current, self.zone or current.tzinfo)
        last_year = (wall.local + SECOND).year + YEARS_AHEAD
        wall.forward(MINUTE - timedelta(seconds=wall.local.second, microseconds=wall.local.microsecond))
        while wall.local.year <= last_year:
            at = wall.local
            if at.month not in self.months:
                wall.to_next_month()
            elif not self._day_matches(at):
                wall.to_next_day()
            elif at.hour not in self.hours:
                wall.forward(timedelta(minutes=60 - at.minute))
            elif at.minute not in self.minutes:
                wall.forward(MINUTE)
            else:
                return wall.moment.astimezone(current.tzinfo)
        return None

    def __repr__(self) -> str:
        return f"cron({self.text!r})"

    def _day_matches(self, at: datetime) -> bool:
        day, weekday = at.day in self.days, at.isoweekday() % 7 in self.weekdays
        return (day and weekday) if self.any_day else (day or weekday)


class _Wall:
    """A moment and the wall clock at it. It never moves past a change of the clock without having looked there."""

    __slots__ = ("local", "moment", "zone")

    def __init__(self, moment: datetime, zone: tzinfo | None) -> None:
        self.zone = zone
        self._set(moment.astimezone(UTC))

    def _set(self, moment: datetime) -> None:
        self.moment = moment
        self.local = moment.astimezone(self.zone)

    def forward(self, step: timedelta) -> None:
        """`step`, or if the clock is changed meanwhile only a minute, or to the end of it."""
        offset = self.local.utcoffset()
        there = (self.moment + step).astimezone(self.zone)
        if there.utcoffset() != offset:
            step = min(step, MINUTE)
        self._set(self.moment + step)

    def to_next_day(self) -> None:
        at = self.local
        self._jump(timedelta(hours=24 - at.hour, minutes=-at.minute), timedelta(minutes=60 - at.minute))

    def to_next_month(self) -> None:
        at = self.local
        first = (at.replace(day=1) + timedelta(days=32)).replace(day=1)
        days = (first.date() - at.date()).days
        self._jump(
            timedelta(days=days, hours=-at.hour, minutes=-at.minute),
            timedelta(hours=24 - at.hour, minutes=-at.minute),
            timedelta(minutes=60 - at.minute),
        )

    def _jump(self, *steps: timedelta) -> None:
        """The longest of them over which the clock is not changed; the last one goes by the minute if need be."""
        offset = self.local.utcoffset()
        for step in steps[:-1]:
            if (self.moment + step).astimezone(self.zone).utcoffset() == offset:
                return self._set(self.moment + step)
        return self.forward(steps[-1])


def cron(text: str) -> CronSchedule | EverySchedule:
    """A schedule from a cron expression; `ConfigError` for what is none. River: cron.ParseStandard.

    Five fields (minute, hour, day of month, month, day of week), with `*`, `?`, lists, ranges, steps, and English names
    of months and days; or `@yearly`, `@monthly`, `@weekly`, `@daily`, `@hourly`, `@every 1h30m`. Sunday is 0, and 7 is
    not. If both day fields are restricted, either suffices. `CRON_TZ=Europe/Berlin ` (or `TZ=`) before it names the
    zone; without one it is the zone of the time it is asked about, which for periodic jobs is UTC.
    """
    if not isinstance(text, str):
        raise ConfigError(f"a cron expression must be a string, got {type(text).__name__}")
    if len(text) > TEXT_MAX:
        raise ConfigError(f"a cron expression of {len(text)} characters is too long; at most {TEXT_MAX}")
    spec, zone = text, None
    if text.startswith(("TZ=", "CRON_TZ=")):
        name, _, spec = text.partition("=")[2].partition(" ")
        zone = zone_named(name, text)
        spec = spec.strip()
    if spec.startswith("@every "):
        return EverySchedule(text, _every(spec[len("@every ") :], text))
    if spec.startswith("@") and spec not in DESCRIPTORS:
        known = ", ".join(DESCRIPTORS)
        raise _wrong(text, f"there is no {spec[:20]!r}; there are {known}, and @every with a duration, as @every 1h30m")
    fields = [field for field in _SPACE.split(DESCRIPTORS.get(spec, spec)) if field]
    if len(fields) != 5:
        raise _wrong(text, f"it has {len(fields)} fields, not 5 (minute, hour, day of month, month, day of week)")
    parsed = [_values(part, field, text) for part, field in zip(fields, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = [values for values, _ in parsed]
    return CronSchedule(text, minutes, hours, days, months, weekdays, parsed[2][1] or parsed[4][1], zone)


def zone_named(name: str, text: str) -> tzinfo | None:
    """The zone of an IANA name; None for Go's `Local`, which is the zone of the time asked about."""
    if name in ("", "UTC"):
        return UTC
    if name == "Local":
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a folder, a file that is no zone, a way out of the database
        raise _wrong(
            text, f"time zone {name[:60]!r} is unknown; names are IANA's, as Europe/Berlin"
            " (where the system has no zones: pip install tzdata)"
        ) from None  # fmt: skip


def _values(part: str, field: _Field, text: str) -> tuple[frozenset[int], bool]:
    """The values of one field, and whether it is a wildcard."""
    values: set[int] = set()
    wildcard = False
    for item in part.split(","):
        if item:
            some, star = _range(item, field, text)
            values.update(some)
            wildcard = wildcard or star
    return frozenset(values), wildcard


def _range(item: str, field: _Field, text: str) -> tuple[range, bool]:
    span, *steps = item.split("/")
    low, *more = span.split("-")
    wildcard = low in ("*", "?")
    if wildcard:
        first, last = field.lowest, field.highest
    else:
        if len(more) > 1:
            raise _wrong(text, f"{item!r} has more than one '-'")
        first = _value(low, field, text)
        last = _value(more[0], field, text) if more else first
    if len(steps) > 1:
        raise _wrong(text, f"{item!r} has more than one '/'")
    step = 1
    if steps:
        step = _number(steps[0], field, text)
        last = last if more else field.highest
        wildcard = wildcard and step == 1
    if not field.lowest <= first <= last <= field.highest:
        raise _wrong(text, f"{item!r} is not a range within {field.lowest} to {field.highest} ({field.name})")
    if step == 0:
        raise _wrong(text, f"the step of {item!r} must be 1 or more")
    return range(first, last + 1, step), wildcard


def _value(word: str, field: _Field, text: str) -> int:
    if word.lower() in field.names:
        return field.lowest + field.names.index(word.lower())
    return _number(word, field, text)


def _number(word: str, field: _Field, text: str) -> int:
    if not _NUMBER.match(word) or int(word) > _LONGEST_NS:
        raise _wrong(text, f"{word[:20]!r} is no number ({field.name})")
    return int(word)


def _every(duration: str, text: str) -> timedelta:
    """Sub-second parts cut, at least a second. More than nothing: `@every 0s` is a mistake, though robfig takes it."""
    nanoseconds = duration_ns(duration)
    if nanoseconds is None or nanoseconds <= 0:
        raise _wrong(text, f"{duration[:40]!r} is no duration above zero, as 90s, 1h30m or 1.5h")
    return timedelta(seconds=max(nanoseconds // 10**9, 1))


def duration_ns(text: str) -> int | None:
    """Nanoseconds of a duration in Go's notation; None for what is none, or longer than 292 years."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, position = 0, 0
    while position < len(rest):
        part = _DURATION_PART.match(rest, position)
        if part is None or not (part[1] or part[2]):
            return None
        unit = _UNIT_NS[part[3]]
        fraction = part[2] or ""
        total += int(part[1] or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        position = part.end()
    return sign * total if position > 0 and total <= _LONGEST_NS else None


def moved(current: datetime, step: timedelta) -> datetime | None:
    """So much later by the clock of the world, in the same zone; None beyond the year 9999."""
    check_aware(current)
    try:
        return (current.astimezone(UTC) + step).astimezone(current.tzinfo)
    except OverflowError:
        return None


def check_aware(current: datetime) -> None:
    """`ValueError` for a time without a zone: which moment it is would depend on the machine."""
    if current.utcoffset() is None:
        raise ValueError(f"a schedule is asked about an aware datetime, got {current.isoformat()} without a zone")


def _wrong(text: str, why: str) -> ConfigError:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return ConfigError(f"cron expression {shown!r}: {why}")
