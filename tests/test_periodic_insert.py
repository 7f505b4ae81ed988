"""Inserting periodic jobs together, and apart: what one of them is does not stop the others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import DatabaseError, MigrationError
from river_fast.inserter import Inserter
from river_fast.maintenance.periodic_insert import insert_apart
from tests.fix_periodic import NOON, Ping, Rig, driver, every, minutes, rig

__all__ = ["driver", "rig"]


def test_all_go_together_and_each_by_itself_where_one_is_at_fault() -> None:
    sent: list[list[int]] = []
    lost: list[int] = []

    def send(items: Any) -> None:
        sent.append(list(items))
        if 2 in items:
            raise ValueError("two")

    insert_apart([1, 3], send, lambda item, error: lost.append(item))
    assert (sent, lost) == ([[1, 3]], [])
    insert_apart([1, 2, 3], send, lambda item, error: lost.append(item))
    assert (sent[1:], lost) == ([[1, 2, 3], [1], [2], [3]], [2])


@pytest.mark.parametrize("error", [DatabaseError("gone"), DatabaseError("no right", "42501"), MigrationError("old")])
def test_what_is_wrong_with_all_is_raised_at_once(error: Exception) -> None:
    sent: list[int] = []

    def send(items: Any) -> None:
        sent.append(len(items))
        raise error

    with pytest.raises(type(error)):
        insert_apart([1, 2, 3], send, lambda item, error: None)
    assert sent == [3]


# What the constructor gives.


def test_a_constructor_may_skip_a_run_and_is_asked_for_each(rig: Rig) -> None:
    made = iter([Ping("1"), None, (Ping("3"), river.InsertOpts(queue="other", priority=3)), None])
    rig.bundle.add_many([river.PeriodicJob(river.PeriodicInterval(60), lambda: next(made))])
    rig.begin()
    rig.at(NOON)
    rig.at(NOON + minutes(4))
    assert rig.jobs() == [("1", NOON + minutes(1), "available"), ("3", NOON + minutes(3), "available")]


def test_a_constructor_may_give_a_time_and_metadata_of_its_own(rig: Rig, conn: psycopg.Connection[Any]) -> None:
    far = NOON.replace(year=2126)
    opts = river.InsertOpts(scheduled_at=far, metadata=b'{"n": 1.50}', tags=["own"])
    rig.bundle.add_many([every(60, "own", id="an-id", opts=opts)])
    rig.begin()
    rig.at(NOON)
    rig.at(NOON + minutes(1))
    assert rig.jobs() == [("own", far, "scheduled")]
    row = conn.execute("SELECT metadata::text, tags FROM river_job").fetchone()
    assert row == ('{"n": 1.50, "periodic": true, "river:periodic_job_id": "an-id"}', ["own"])


def raising() -> None:
    raise ValueError("the constructor's own")


def exiting() -> None:
    raise SystemExit("the constructor's way out")


async def asynchronous(params: river.JobInsertParams) -> None: ...


@dataclass
class Hooked(river.JobArgs, kind="periodic_hooked", hooks=[river.Plugin(insert_begin=asynchronous)]):
    """Its own hook cannot run on a thread."""


BAD = {
    "raises": (raising, "the constructor's own"),
    "exits": (exiting, "the constructor's way out"),
    "a hook that cannot run": (Hooked, "asynchronous is an `async def`"),
    "no args": (lambda: 5, "no kind"),
    "args that are no JSON": (lambda: river.RawArgs("periodic_raw", {"n": float("nan")}), "nan"),
    "bad options": (lambda: (Ping(), river.InsertOpts(priority=9)), "priority"),
    "text that PostgreSQL refuses": (lambda: river.RawArgs("periodic_raw", b'{"n": "\\u0000"}'), "NUL"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_that_cannot_be_inserted_does_not_stop_the_others(
    rig: Rig, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    constructor, told = BAD[name]
    rig.bundle.add_many([every(60, "a"), river.PeriodicJob(river.PeriodicInterval(60), constructor), every(60, "c")])
    rig.begin()
    rig.at(NOON)
    rig.at(NOON + minutes(1))
    assert rig.names() == ["a", "c"]
    assert told in caplog.text
    rig.at(NOON + minutes(1.5))
    assert rig.names() == ["a", "c"], "it is given up, not tried for ever"
    rig.at(NOON + minutes(2))
    assert rig.names() == ["a", "c"] * 2


def test_what_only_the_server_refuses_does_not_stop_the_others(
    rig: Rig, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    conn.execute("ALTER TABLE river_job ADD CONSTRAINT no_b CHECK (args ->> 'name' <> 'b')")
    rig.bundle.add_many([every(60, "a"), every(60, "b"), every(60, "c")])
    rig.begin()
    rig.at(NOON)
    rig.at(NOON + minutes(1))
    assert rig.names() == ["a", "c"]
    assert "no_b" in caplog.text


def test_a_kind_without_a_worker_is_told(driver: PsycopgDriver, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.insert = Inserter(driver, river.Config(), known_kinds=lambda: {"other"}).insert_internal
    rig.bundle.add_many([every(60)])
    rig.begin()
    rig.at(NOON)
    rig.at(NOON + minutes(1))
    assert rig.names() == []
    assert "periodic_ping" in caplog.text


def test_a_schedule_that_fails_stops_its_own_job_alone(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def failing(current: datetime) -> datetime:
        raise SystemExit("the schedule's own")

    wrong: list[Any] = [failing, lambda at: at, lambda at: at.replace(tzinfo=None), lambda at: "soon"]
    rig.bundle.add_many([river.PeriodicJob(river.ScheduleFunc(each), Ping) for each in wrong])
    rig.bundle.add_many([every(60)])
    rig.begin()
    rig.at(NOON)
    rig.at(NOON + minutes(1))
    assert rig.names() == ["a"]
    assert caplog.text.count("does not run again in this term") == 4
