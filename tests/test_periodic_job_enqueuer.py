"""The enqueuer of periodic jobs: each run once, at its nominal time, whatever happens to one of them."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import InsertOutcomeUnknownError, RiverError
from river_fast.maintenance import periodic_job_enqueuer as enqueuer_module
from river_fast.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from river_fast.maintenance.periodic_runs import MISSED_MOST
from river_fast.periodic_job_bundle import PeriodicJobBundle
from river_fast.startstop import Phase
from river_fast.unique import unique_key, unique_rule
from tests.fix_periodic import NOON, Ping, Rig, driver, every, minutes, rig
from tests.fix_rows import heard_until_now
from tests.fix_scheduler import wait_for
from tests.stress import hammer

__all__ = ["driver", "rig"]

# When.


def test_a_run_is_inserted_when_it_is_due_available_and_at_its_nominal_time(
    rig: Rig, dsn: str, schema: str, conn: psycopg.Connection[Any]
) -> None:
    rig.bundle.add_many([every(60, "a", id="an-id"), every(90, "b")])
    rig.begin()
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(f'LISTEN "{schema}.river_insert"')
        assert rig.at(NOON) == pytest.approx(60, abs=1)
        assert rig.jobs() == []
        rig.at(NOON + minutes(0.999))
        assert rig.jobs() == [], "not a moment before"
        rig.at(NOON + minutes(1) + timedelta(milliseconds=300))
        assert rig.jobs() == [("a", NOON + minutes(1), "available")]
        assert [json.loads(told) for told in heard_until_now(listener)] == [{"queue": "default"}]
    rig.at(NOON + minutes(2))
    assert rig.names() == ["a", "b", "a"] or sorted(rig.names()) == ["a", "a", "b"]
    metadata = conn.execute("SELECT args ->> 'name', metadata FROM river_job ORDER BY id").fetchall()
    for name, stored in metadata:
        assert stored == ({"periodic": True, "river:periodic_job_id": "an-id"} if name == "a" else {"periodic": True})


def test_runs_keep_their_phase_and_missed_ones_are_made_up(rig: Rig) -> None:
    rig.bundle.add_many([every(60)])
    rig.begin()
    rig.at(NOON)
    rig.at(NOON + minutes(1.4))
    rig.at(NOON + minutes(4.5))
    assert [at for _, at, _ in rig.jobs()] == [NOON + minutes(n) for n in (1, 2, 3, 4)]
    rig.at(NOON + minutes(4.9))
    assert len(rig.jobs()) == 4


def test_no_storm_of_missed_runs(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.bundle.add_many([every(1)])
    rig.begin()
    rig.at(NOON)
    rig.at(NOON + timedelta(hours=1))
    found = [at for _, at, _ in rig.jobs()]
    assert found == [NOON + timedelta(hours=1, seconds=-n) for n in reversed(range(MISSED_MOST))], "the newest"
    assert "missed 3600 runs" in caplog.text
    rig.at(NOON + timedelta(hours=1, seconds=1))
    assert len(rig.jobs()) == MISSED_MOST + 1


def test_cron_is_in_utc_unless_it_names_a_zone(rig: Rig) -> None:
    rig.bundle.add_many(
        [
            river.PeriodicJob("0 13 * * *", lambda: Ping("utc")),
            river.PeriodicJob("CRON_TZ=America/New_York 0 9 * * *", lambda: Ping("new york")),
        ]
    )
    rig.begin()
    rig.at(NOON)
    for hour in range(1, 24):
        rig.at(NOON + timedelta(hours=hour))
    assert rig.jobs() == [
        ("utc", NOON + timedelta(hours=1), "available"),
        ("new york", NOON + timedelta(hours=2), "available"),
    ]


def test_a_long_interval_is_waited_for_in_short_looks(rig: Rig) -> None:
    rig.bundle.add_many([every(30 * 86400), river.PeriodicJob(river.NeverSchedule(), lambda: Ping("never"))])
    rig.begin()
    assert rig.at(NOON) == enqueuer_module.LOOK_AFTER
    rig.at(NOON + timedelta(days=30))
    assert rig.jobs() == [("a", NOON + timedelta(days=30), "available")]


@pytest.mark.parametrize("step", [timedelta(hours=3), timedelta(days=-400), timedelta(days=365)])
def test_a_clock_that_was_set_begins_the_schedules_anew(
    rig: Rig, step: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    rig.bundle.add_many([every(1)])
    rig.begin()
    rig.at(NOON)
    rig.now = NOON + step
    rig.enqueuer._pass_once()
    assert rig.jobs() == []
    assert "clock was set" in caplog.text
    rig.at(NOON + step + timedelta(seconds=1))
    assert rig.jobs() == [("a", NOON + step + timedelta(seconds=1), "available")]


# Run on start.


def test_run_on_start_is_inserted_once_in_a_term(rig: Rig) -> None:
    rig.bundle.add_many([every(3600, "start", run_on_start=True), every(3600, "later")])
    rig.begin()
    rig.at(NOON)
    rig.at(NOON + minutes(1))
    assert rig.jobs() == [("start", NOON, "available")]
    rig.enqueuer._start()  # as when another service of the leader would not start
    rig.at(NOON + minutes(2))
    assert rig.names() == ["start"]
    rig.begin()
    rig.at(NOON + minutes(3))
    assert rig.names() == ["start", "start"]


def test_run_on_start_of_jobs_added_later(rig: Rig) -> None:
    rig.begin()
    rig.at(NOON)
    (handle,) = rig.bundle.add_many([every(60, "new", run_on_start=True)])
    rig.at(NOON + minutes(1))
    assert rig.jobs() == [("new", NOON + minutes(1), "available")]
    rig.at(NOON + minutes(2))
    assert rig.names() == ["new", "new"]
    rig.bundle.remove_where(lambda each, job: each == handle)
    rig.at(NOON + minutes(9))
    assert rig.names() == ["new", "new"]


def test_run_on_start_goes_in_the_order_of_the_jobs(rig: Rig) -> None:
    """A later one that is there tells that an earlier, unique one was tried."""
    unique = river.InsertOpts(unique=river.UniqueOpts(by_args=True, by_queue=True))
    rig.bundle.add_many([every(3600, "unique", run_on_start=True, opts=unique), every(3600, "mark", run_on_start=True)])
    for turn in range(2):
        rig.begin()
        rig.at(NOON + minutes(turn))
    assert rig.names() == ["unique", "mark", "mark"]


# Unique.


def test_a_unique_period_is_that_of_the_nominal_time(rig: Rig, conn: psycopg.Connection[Any]) -> None:
    """River's key is of the enqueuer's clock, which may be in the next period already (or the one before)."""
    opts = river.UniqueOpts(by_period=3600)
    rig.bundle.add_many([every(1800, "u", opts=river.InsertOpts(unique=opts))])
    rig.begin()
    rig.at(NOON - minutes(40))
    rig.at(NOON + minutes(25))  # late: those of 11:50 and 12:20, an hour each
    rows = conn.execute("SELECT scheduled_at, unique_key FROM river_job ORDER BY id").fetchall()
    assert [at for at, _ in rows] == [NOON - minutes(10), NOON + minutes(20)]
    for at, key in rows:
        rule = unique_rule(opts)
        assert bytes(key) == unique_key(rule, kind="periodic_ping", queue="default", args=b"{}", at=at)
    rig.at(NOON + minutes(51))
    assert len(rig.jobs()) == 2, "12:50 is in the hour of 12:20"


def test_run_on_start_in_the_same_period_is_the_same_job(rig: Rig) -> None:
    opts = river.InsertOpts(unique=river.UniqueOpts(by_period=86400))
    rig.bundle.add_many([every(3600, "daily", run_on_start=True, opts=opts)])
    for turn in range(5):
        rig.begin()
        rig.at(NOON + minutes(turn))
        rig.at(NOON + minutes(turn + 61))
    assert rig.names() == ["daily"]


# Leaders.


def test_nothing_is_inserted_in_a_term_that_is_over(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.bundle.add_many([every(60)])
    rig.begin()
    rig.at(NOON)
    mine = rig.term
    rig.elect("another")
    rig.term = mine
    assert rig.at(NOON + minutes(1)) == enqueuer_module.RETRY_AFTER
    assert rig.jobs() == []
    rig.enqueuer.lead(lambda: False, stagger=False)
    rig.at(NOON + minutes(2))
    assert rig.jobs() == []


def test_a_leader_frozen_in_the_middle_of_its_insert_inserts_nothing(rig: Rig) -> None:
    rig.bundle.add_many([every(60)])
    rig.begin()
    rig.at(NOON)
    whole = rig.insert

    def thawed(*asked: Any) -> Any:
        rig.conn.execute("UPDATE river_leader SET leader_id = 'another', elected_at = clock_timestamp()")
        return whole(*asked)

    rig.insert = thawed
    rig.at(NOON + minutes(1))
    assert rig.jobs() == []


def test_whoever_takes_over_waits_for_the_insert_that_is_under_way(
    rig: Rig, dsn: str, schema: str, driver: PsycopgDriver
) -> None:
    """So its first look at the clock is later, and no time comes twice."""
    rig.begin()
    refused = []
    assert rig.term is not None
    held = {"leader_id": rig.term.leader_id, "elected_at": rig.term.elected_at}
    with driver.transaction() as executor:
        executor.run(river_statement("leader_hold", held))
        with psycopg.connect(dsn, autocommit=True, options=f"-c search_path={schema}") as rival:
            rival.execute("SET lock_timeout = '50ms'")
            for change in ("UPDATE river_leader SET leader_id = 'x'", "DELETE FROM river_leader"):
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    rival.execute(change)
                refused.append(change)
    assert len(refused) == 2


def river_statement(name: str, params: dict[str, Any]) -> Any:
    from river_fast.driver import Statement

    return Statement(name, params)


def test_a_new_leader_begins_with_the_next_run(rig: Rig) -> None:
    """Two leaders in turn, at all moments around a run: it comes once, or falls between them, never twice."""
    rig.bundle.add_many([river.PeriodicJob("* * * * *", lambda: Ping("a"))])
    for second in (58, 59, 60, 61):
        rig.conn.execute("DELETE FROM river_job")
        rig.begin()
        rig.at(NOON)
        rig.at(NOON + timedelta(seconds=second))
        rig.begin()
        rig.at(NOON + timedelta(seconds=second))
        rig.at(NOON + timedelta(seconds=62))
        assert len(rig.jobs()) == 1, second


# The database.


def test_an_insert_that_failed_as_a_whole_is_made_up_for(rig: Rig, conn: psycopg.Connection[Any]) -> None:
    rig.bundle.add_many([every(60)])
    rig.begin()
    rig.at(NOON)
    conn.execute("ALTER TABLE river_job RENAME TO away")
    for _ in range(3):
        assert rig.at(NOON + minutes(1)) == enqueuer_module.RETRY_AFTER
    conn.execute("ALTER TABLE away RENAME TO river_job")
    rig.at(NOON + minutes(1.2))
    assert rig.jobs() == [("a", NOON + minutes(1), "available")]


def test_a_lost_reply_does_not_make_a_run_come_twice(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.bundle.add_many([every(60)])
    rig.begin()
    rig.at(NOON)
    whole = rig.insert

    def cut(*asked: Any) -> Any:
        whole(*asked)
        raise InsertOutcomeUnknownError("the reply was cut")

    rig.insert = cut
    rig.at(NOON + minutes(1))
    rig.insert = whole
    rig.at(NOON + minutes(1.5))
    rig.at(NOON + minutes(2))
    assert [at for _, at, _ in rig.jobs()] == [NOON + minutes(1), NOON + minutes(2)]
    assert "may or may not" in caplog.text


def test_without_a_server_it_tries_again(dsn: str, schema: str) -> None:
    driver = PsycopgDriver(dsn, schema)
    driver.open()
    driver.close()
    driver = PsycopgDriver("host=127.0.0.1 port=1 connect_timeout=1", schema)
    enqueuer = PeriodicJobEnqueuer(driver, PeriodicJobBundle(), lambda *asked: [], lambda: None)
    enqueuer.failed.activate()
    assert enqueuer._pass_once() == enqueuer_module.RETRY_AFTER
    enqueuer.failed.wait()


# Hooks.


def test_start_hooks_are_called_once_in_a_term(rig: Rig) -> None:
    told: list[Any] = []
    rig.enqueuer = rig.made(start_hooks=told.append)
    rig.begin()
    rig.enqueuer._start()
    assert [params.durable_jobs for params in told] == [()]
    rig.begin()
    assert len(told) == 2


def test_a_start_hook_that_raises_keeps_the_service_from_starting(rig: Rig) -> None:
    def hook(params: Any) -> None:
        raise ValueError("not today")

    rig.enqueuer = rig.made(start_hooks=hook)
    rig.elect()
    with pytest.raises(RiverError, match="not today"):
        rig.enqueuer.start()
    assert rig.enqueuer.phase is Phase.NEW


# The service.


def test_it_runs_by_the_servers_clock_and_hears_of_new_jobs(rig: Rig) -> None:
    rig.elect()
    rig.enqueuer.start()
    assert rig.enqueuer.waiting.wait() == enqueuer_module.LOOK_AFTER
    rig.bundle.add_many([every(0.2, "soon")])
    first = [result.job.scheduled_at for _ in range(3) for result in rig.enqueuer.inserted.wait()]
    assert {later - sooner for sooner, later in pairwise(first)} == {timedelta(seconds=0.2)}
    assert rig.enqueuer.stop(20)
    assert len(rig.jobs()) >= 3


def test_a_stop_cancels_an_insert_that_waits(rig: Rig, dsn: str, schema: str) -> None:
    rig.elect()
    rig.bundle.add_many([every(3600, run_on_start=True)])
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as blocker:
        blocker.execute("LOCK TABLE river_job")
        rig.enqueuer.start()
        blocked = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        with psycopg.connect(dsn, autocommit=True) as looker:
            wait_for(lambda: looker.execute(blocked, (blocker.info.backend_pid,)).fetchone(), "the insert to wait")
            assert rig.enqueuer.stop(20), "without the cancel it would wait for the lock"
            assert looker.execute(blocked, (blocker.info.backend_pid,)).fetchone() is None
    assert rig.jobs() == []


def test_start_and_stop_from_many_threads(rig: Rig) -> None:
    rig.elect()
    rig.bundle.add_many([every(3600)])
    hammer(lambda: rig.enqueuer)
