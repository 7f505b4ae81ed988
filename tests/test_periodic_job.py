"""Periodic jobs as values: their schedules, their ids, and what a constructor may give."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import river_fast as river
from river_fast.periodic_job import periodic_opts

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Args(river.JobArgs, kind="periodic_args"):
    n: int = 0


def job(**options: Any) -> river.PeriodicJob:
    return river.PeriodicJob(**{"schedule": river.PeriodicInterval(60), "constructor": Args, **options})


@pytest.mark.parametrize("period", [60, 60.0, timedelta(minutes=1)])
def test_an_interval_follows_the_time_it_is_asked_about(period: Any) -> None:
    assert river.PeriodicInterval(period).next(NOW) == NOW + timedelta(minutes=1)


@pytest.mark.parametrize("period", [0, -1, 0.05, float("nan"), float("inf"), 1e10, True, "60", None, timedelta(0)])
def test_an_interval_that_cannot_be_is_refused(period: Any) -> None:
    with pytest.raises(river.ConfigError, match="periodic interval"):
        river.PeriodicInterval(period)


def test_schedules_that_end() -> None:
    assert river.NeverSchedule().next(NOW) is None
    assert river.PeriodicInterval(1e9).next(datetime.max.replace(tzinfo=UTC)) is None
    assert river.ScheduleFunc(lambda current: current + timedelta(days=1)).next(NOW) == NOW + timedelta(days=1)
    with pytest.raises(river.ConfigError):
        river.ScheduleFunc("0 9 * * *")  # type: ignore[arg-type]


def test_a_schedule_is_whatever_has_next_and_a_string_is_cron() -> None:
    class Own:
        def next(self, current: datetime) -> datetime:
            return current + timedelta(seconds=1)

    assert isinstance(Own(), river.PeriodicSchedule)
    assert job(schedule=Own()).schedule.next(NOW) == NOW + timedelta(seconds=1)
    assert job(schedule="0 9 * * *").schedule.next(NOW) == NOW.replace(hour=9, minute=0, second=0)


@pytest.mark.parametrize("schedule", [None, 60, river.NeverSchedule, object(), "* * * *", "0 0 30 2 *"])
def test_what_is_no_schedule_is_refused(schedule: Any) -> None:
    with pytest.raises(river.ConfigError):
        job(schedule=schedule)


@pytest.mark.parametrize("id", ["a", "", "x" * 128, "with space", "a,b", "-a", "\u00e9a", 5, "a\n", "ab\0"])
def test_an_id_that_breaks_rivers_rule_is_refused(id: Any) -> None:
    with pytest.raises(river.ConfigError, match="periodic job id"):
        job(id=id)


def test_ids_that_river_takes_are_taken() -> None:
    for id in ("ab", "x" * 127, "a:b/c.d[e]<f>+g-h_i", "a\u00b7b"):
        assert job(id=id).id == id


async def coroutine() -> None:
    """No constructor."""


@pytest.mark.parametrize("constructor", [None, 5, coroutine])
def test_a_constructor_must_be_a_plain_function(constructor: Any) -> None:
    with pytest.raises(river.ConfigError, match="constructor"):
        job(constructor=constructor)
    with pytest.raises(river.ConfigError, match="run_on_start"):
        job(run_on_start=1)


def test_a_constructor_gives_args_a_pair_params_or_none() -> None:
    opts = river.InsertOpts(queue="other")
    for made in ((Args(1), opts), river.InsertManyParams(Args(1), opts)):
        assert job(constructor=lambda made=made: made).construct() == river.InsertManyParams(Args(1), opts)
    assert job(constructor=lambda: Args(2)).construct() == river.InsertManyParams(Args(2), None)
    for nothing in (None, (None, opts), (None, None)):
        assert job(constructor=lambda nothing=nothing: nothing).construct() is None


def test_a_constructor_that_gives_something_else_is_told() -> None:
    with pytest.raises(river.ValidationError, match="coroutine"):
        job(constructor=lambda: coroutine()).construct()
    with pytest.raises(river.ValidationError, match="InsertOpts"):
        job(constructor=lambda: (Args(), {"queue": "other"})).construct()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, {"periodic": True, "river:periodic_job_id": "an-id"}),
        ({"a": 1}, {"a": 1, "periodic": True, "river:periodic_job_id": "an-id"}),
        (b"{}", b'{"periodic": true, "river:periodic_job_id": "an-id"}'),
        (b' { } \n', b'{ "periodic": true, "river:periodic_job_id": "an-id"}'),
        (b'{"a":1.000} ', b'{"a":1.000,"periodic": true, "river:periodic_job_id": "an-id"}'),
        (b"[1]", b"[1]"),
    ],
)
def test_what_tells_a_periodic_job_joins_the_metadata(metadata: Any, expected: Any) -> None:
    opts = river.InsertOpts(metadata=metadata, priority=2)
    found = periodic_opts(opts, "an-id")
    assert found.metadata == expected
    assert found.priority == 2
    assert periodic_opts(None, None).metadata == {"periodic": True}
