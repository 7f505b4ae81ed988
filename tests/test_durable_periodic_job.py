"""Durable periodic jobs as values: what is stored of them, and which runs are due."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest

import river_fast as river
from river_fast.cron_schedule import cron
from river_fast.durable_periodic_job import (
    checked_catch_up,
    checked_id,
    definition_of,
    missed_times,
    schedule_of,
    schedule_text,
)
from river_fast.inserter import Inserter

NOW = datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "zone", "expected"),
    [
        ("0 9 * * *", None, ("0 9 * * *", None)),
        ("0 9 * * *", "Europe/Berlin", ("0 9 * * *", "Europe/Berlin")),
        (cron("TZ=Europe/Berlin 0 9 * * *"), None, ("TZ=Europe/Berlin 0 9 * * *", None)),
        (cron("@every 90s"), None, ("@every 90s", None)),
        (river.PeriodicInterval(3600), None, ("@every 3600s", None)),
        (90, None, ("@every 90s", None)),
        (timedelta(days=7), None, ("@every 604800s", None)),
    ],
)
def test_schedules_are_kept_as_text(schedule: Any, zone: str | None, expected: Any) -> None:
    text = schedule_text(schedule, zone)
    assert text == expected
    assert schedule_of(*text).next(NOW) is not None


@pytest.mark.parametrize(
    ("schedule", "zone"),
    [
        ("* * * *", None), ("0 0 30 2 *", None), ("", None), (None, None), (True, None), (0, None), (0.5, None),
        (1.5, None), (river.NeverSchedule(), None), (river.ScheduleFunc(lambda at: at), None), ("x" * 10_000, None),
        ("0 9 * * *", "Nowhere/Else"), ("0 9 * * *", ""), ("0 9 * * *", 5), ("0 9 * * *", "UTC 1 2 3"),
        ("TZ=UTC 0 9 * * *", "UTC"), (float("nan"), None),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(schedule: Any, zone: Any) -> None:
    with pytest.raises(river.ValidationError) as caught:
        schedule_text(schedule, zone)
    assert caught.value.field in ("schedule", "zone")


@pytest.mark.parametrize("bad", [0, -1, 1001, True, "1", None, 1.0])
def test_how_much_is_made_up_for_is_checked(bad: Any) -> None:
    with pytest.raises(river.ValidationError, match="catch_up"):
        checked_catch_up(bad)
    assert checked_catch_up(1000) == 1000
    with pytest.raises(river.ValidationError, match="id"):
        checked_id(bad)


# Which runs are due.


@pytest.mark.parametrize("text", ["@every 97s", "* * * * *", "0 */5 * * *", "TZ=Europe/Berlin 30 2 * * *", "0 0 1 * *"])
@pytest.mark.parametrize("most", [1, 3, 1000])
@pytest.mark.parametrize("late", [timedelta(0), timedelta(minutes=3), timedelta(days=20)])
def test_the_newest_missed_runs_are_found_without_going_through_all(text: str, most: int, late: timedelta) -> None:
    schedule = cron(text)
    first = at = schedule.next(NOW)
    assert first is not None
    everything = []
    while at is not None and at <= first + late:
        everything.append(at)
        at = schedule.next(at)
    assert missed_times(schedule, first, first + late, most) == everything[-most:]


def test_a_second_for_two_years_is_no_storm() -> None:
    first = NOW.replace(microsecond=0)
    now = first + timedelta(days=730)
    assert missed_times(cron("@every 1s"), first, now, 2) == [now - timedelta(seconds=1), now]


# What is inserted.


@dataclass
class Report(river.JobArgs, kind="durable_report"):
    account: Annotated[str, river.unique]
    body: str = ""
    share: float = 1.5


def definition(args: Any, opts: river.InsertOpts | None = None, **config: Any) -> dict[str, Any]:
    builder = Inserter(None, river.Config(**config))  # type: ignore[arg-type]
    return definition_of(builder.checked(args, opts))


def test_a_time_of_its_own_is_refused() -> None:
    with pytest.raises(river.ValidationError, match="scheduled_at"):
        definition(Report("a"), river.InsertOpts(scheduled_at=NOW))


def test_rivers_own_metadata_is_refused() -> None:
    with pytest.raises(river.ValidationError, match="reserved"):
        definition(Report("a"), river.InsertOpts(metadata={"river:x": 1}))
