"""Cron expressions against River's own fixture, and what it does not say."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import river_fast as river
from river_fast.cron_schedule import CronSchedule, EverySchedule, cron, duration_ns
from river_fast.errors import ConfigError

VALUES = json.loads((Path(__file__).parent / "data" / "maintenance_values.json").read_text("utf-8"))
CASES: list[dict[str, Any]] = VALUES["cron_cases"] + VALUES["cron_named_zone_cases"]
INVALID: list[str] = VALUES["cron_invalid"]


def following(text: str, current: datetime, count: int) -> list[datetime]:
    schedule = cron(text)
    times: list[datetime] = []
    while len(times) < count and (at := schedule.next(current)) is not None:
        times.append(at)
        current = at
    return times


def test_the_fixture_is_whole() -> None:
    assert (len(VALUES["cron_cases"]), len(VALUES["cron_named_zone_cases"]), len(INVALID)) == (36, 9, 21)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_fixture_fires_as_rivers(case: dict[str, Any]) -> None:
    expected = [datetime.fromisoformat(at) for at in case["next"]]
    found = following(case["expression"], datetime.fromisoformat(case["from"]), 5)
    assert found == expected
    assert [at.utcoffset() for at in found] == [at.utcoffset() for at in expected], "in the zone it was asked in"


@pytest.mark.parametrize("text", INVALID)
def test_fixture_is_refused_as_rivers(text: str) -> None:
    with pytest.raises(ConfigError, match="cron expression"):
        cron(text)


NOT_CRON = {
    "ten thousand characters": "* " * 5_000,
    "a long list": ",".join(["1"] * 600) + " * * * *",
    "no string": 5,
    "None": None,
    "every 0s": "@every 0s",
    "every less than nothing": "@every -1h",
    "every with a space": "@every  1h",
    "longer than Go's durations": "@every 3000000h",
    "digits of other scripts": "\u0663 * * * *",
    "way out of the zones' folder": "TZ=../../etc/passwd * * * * *",
    "absolute path": "TZ=/etc/passwd * * * * *",
    "zones' folder": "TZ=America * * * * *",
    "NUL in the zone": "TZ=a\0b * * * * *",
    "zone alone": "TZ=UTC",
    "long zone": "TZ=" + "a" * 900 + " * * * * *",
    "descriptor behind a space": " @hourly",
    "descriptor in capitals": "@Hourly",
    "number beyond all": "9" * 400 + " * * * *",
}


@pytest.mark.parametrize("text", NOT_CRON.values(), ids=NOT_CRON)
def test_nonsense_is_refused_by_name(text: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        cron(text)
    assert len(str(caught.value)) < 400


@given(st.text(alphabet="0123456789*/-,?@ TZ=UCRONLmonevry.hs\t\x00é", max_size=40))
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    try:
        schedule = cron(text)
    except ConfigError:
        return
    current = datetime(2026, 2, 27, 23, 59, 59, 999_999, tzinfo=UTC)
    at = schedule.next(current)
    assert at is None or at > current


# What never fires is known as such, and asks for no walk through years.


@pytest.mark.parametrize(
    "text", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", ", * * * *", "* * , * *", "* * * , *", "* * * * ,"]
)
def test_what_never_fires_is_known(text: str) -> None:
    schedule = cron(text)
    assert isinstance(schedule, CronSchedule)
    assert schedule.never_fires
    assert schedule.next(datetime(2026, 1, 1, tzinfo=UTC)) is None
    with pytest.raises(ConfigError, match="never fires"):
        river.PeriodicJob(schedule, lambda: None)


@pytest.mark.parametrize("text", ["0 0 29 2 *", "0 0 30 2 1", "0 0 31 * *", "0 0 30 * 2"])
def test_what_fires_seldom_fires(text: str) -> None:
    assert following(text, datetime(2026, 1, 1, tzinfo=UTC), 2)


def test_a_leap_day_beyond_five_years_is_not_looked_for() -> None:
    assert cron("0 0 29 2 *").next(datetime(2096, 3, 1, tzinfo=UTC)) is None
    assert cron("0 0 29 2 *").next(datetime(2099, 3, 1, tzinfo=UTC)) == datetime(2104, 2, 29, tzinfo=UTC)


def test_the_end_of_time_is_survived() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    for text in ("* * * * *", "@yearly", "@every 1h", "TZ=Asia/Tokyo * * * * *"):
        assert cron(text).next(last) is None


# Zones and clock changes.


def test_without_a_zone_it_is_the_zone_of_the_time_asked() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    assert cron("0 9 * * *").next(datetime(2026, 1, 1, 12, tzinfo=zone)) == datetime(2026, 1, 2, 9, tzinfo=zone)
    for same in ("TZ=Local 0 9 * * *", "CRON_TZ=Local 0 9 * * *"):
        assert cron(same).next(datetime(2026, 1, 1, 12, tzinfo=zone)) == datetime(2026, 1, 2, 9, tzinfo=zone)
    assert cron("TZ= 0 9 * * *").zone == UTC


@pytest.mark.parametrize(
    ("text", "since", "expected"),
    [
        # Lord Howe's clock went back by half an hour, at 02:00
        ("TZ=Australia/Lord_Howe */30 1 * * *", "2026-04-04T13:00", ["04-04T14:00", "04-04T14:30", "04-04T15:00"]),
        # ... and forward at 02:00 to 02:30
        ("TZ=Australia/Lord_Howe 0,15,45 2 * * *", "2026-10-03T15:00", ["10-03T15:45", "10-04T15:00", "10-04T15:15"]),
        # Havana's midnight comes twice
        ("TZ=America/Havana 0 0 1 11 *", "2026-10-31T12:00", ["11-01T04:00", "11-01T05:00"]),
        # Asuncion's first midnight of October 2023 was none: neither is the run, but the month's others are
        ("TZ=America/Asuncion 0 */12 1,2 10 *", "2023-09-30T12:00", ["10-01T15:00", "10-02T03:00", "10-02T15:00"]),
    ],
)  # fmt: skip
def test_wall_clocks_that_were_changed(text: str, since: str, expected: list[str]) -> None:
    found = following(text, datetime.fromisoformat(since + "Z"), len(expected))
    assert [at.strftime("%m-%dT%H:%M") for at in found] == expected


def test_a_day_that_never_was_is_passed_over() -> None:
    """Apia went from the 29th of December 2011 to the 31st."""
    found = following("TZ=Pacific/Apia 0 12 30 12 *", datetime(2011, 12, 1, tzinfo=UTC), 1)
    assert found == [datetime(2012, 12, 29, 22, tzinfo=UTC)]


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/Asuncion", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Beirut"]
)
@pytest.mark.parametrize("text", ["*/10 * * * *", "5 0 * * *", "30 2 * * sun", "0 0 1 * *", "15 23 28-31 */2 6"])
def test_it_fires_at_each_matching_minute_and_no_other(zone: str, text: str) -> None:
    """Against the definition itself, minute by minute around the changes of two years."""
    schedule = cron(f"TZ={zone} {text}")
    assert isinstance(schedule, CronSchedule)
    tz = ZoneInfo(zone)
    for month in (3, 4, 9, 10, 11):
        for day in (1, 24):
            begin = datetime(2023, month, day, tzinfo=UTC)
            moments = [begin + timedelta(minutes=n) for n in range(8 * 1440)]
            fires = [at for at in moments if matches(schedule, at.astimezone(tz))]
            found, current = [], begin - timedelta(seconds=1)
            while (at := schedule.next(current)) is not None and at <= moments[-1]:
                found.append(at)
                current = at
            assert found == fires, (month, day)


def matches(schedule: CronSchedule, local: datetime) -> bool:
    return (
        local.minute in schedule.minutes
        and local.hour in schedule.hours
        and local.month in schedule.months
        and schedule._day_matches(local)
    )


# Durations.


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1h30m", 5400), ("1.5h", 5400), ("0.5s", 0.5), (".5s", 0.5), ("5.s", 5), ("1m1ms", 60.001), ("-2s", -2),
     ("+2s", 2), ("0", 0), ("1us", 1e-6), ("1µs", 1e-6), ("1μs", 1e-6), ("1ns", 1e-9), ("", None), ("5", None),
     (".s", None), ("1d", None), ("1h ", None), ("s", None), ("1h-2m", None), ("9223372037s", None)],
)  # fmt: skip
def test_durations_are_gos(text: str, expected: float | None) -> None:
    found = duration_ns(text)
    assert found == (None if expected is None else round(expected * 1e9))


@pytest.mark.parametrize("schedule", [cron("* * * * *"), cron("@every 1m"), river.PeriodicInterval(60)], ids=repr)
def test_a_time_without_a_zone_is_no_moment(schedule: Any) -> None:
    with pytest.raises(ValueError, match="without a zone"):
        schedule.next(datetime(2026, 1, 1))


def test_every_counts_from_the_second_asked_and_is_a_second_at_least() -> None:
    current = datetime(2026, 1, 1, 0, 0, 0, 900_000, tzinfo=UTC)
    for text, period in (("@every 1ns", 1), ("@every 2999ms", 2), ("TZ=Europe/Berlin @every 1m", 60)):
        schedule = cron(text)
        assert isinstance(schedule, EverySchedule)
        assert schedule.next(current) == current.replace(microsecond=0) + timedelta(seconds=period)
    assert repr(cron("@every 1m")) == "cron('@every 1m')"
