"""Durable periodic jobs as a leader runs them: each nominal time once, whoever leads, and missed ones made up for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any

import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.driver.psycopg_session import sql_text
from river_fast.errors import InsertOutcomeUnknownError
from river_fast.maintenance import durable_periodic_runs as runs_module
from river_fast.maintenance import periodic_job_enqueuer as enqueuer_module
from river_fast.migrate import EVERYTHING, FAST, Migrator
from river_fast.unique import unique_key, unique_rule
from tests.fix_periodic import NOON, Ping, Rig, driver, durable, every, fast, minutes

__all__ = ["driver", "durable", "fast"]


@pytest.fixture
def jobs(durable: Rig, dsn: str, schema: str) -> Iterator[Any]:
    """Of an insert-only client; `durable` leads."""
    client = river.Client(dsn, river.Config(schema=schema))
    durable.begin()
    yield client.durable_periodic_jobs
    client.stop()


def due(rig: Rig, at: datetime, id: str = "some") -> None:
    """Its next run is at that time."""
    rig.conn.execute("UPDATE river_fast_periodic_job SET next_run_at = %s WHERE id = %s", (at, id))


def test_it_runs_at_its_nominal_times(durable: Rig, jobs: Any) -> None:
    jobs.define("some", "@every 1m", Ping("a"), river.InsertOpts(metadata={"own": 1}))
    due(durable, NOON)
    assert durable.at(NOON - minutes(1)) == enqueuer_module.DURABLE_LOOK_AFTER
    assert durable.jobs() == []
    durable.at(NOON + timedelta(milliseconds=400))
    durable.at(NOON + minutes(0.5))
    assert durable.jobs() == [("a", NOON, "available")]
    stored = jobs.get("some")
    assert (stored.last_run_at, stored.next_run_at) == (NOON, NOON + minutes(1))
    durable.at(NOON + minutes(1))
    assert [at for _, at, _ in durable.jobs()] == [NOON, NOON + minutes(1)]
    (metadata,) = durable.conn.execute("SELECT DISTINCT metadata FROM river_job").fetchall()
    assert metadata[0] == {"own": 1, "periodic": True, "river:periodic_job_id": "some"}


@pytest.mark.parametrize(("catch_up", "expected"), [(1, [5]), (3, [3, 4, 5]), (1000, [0, 1, 2, 3, 4, 5])])
def test_after_a_time_without_a_leader_the_newest_runs_are_made_up_for(
    durable: Rig, jobs: Any, catch_up: int, expected: list[int]
) -> None:
    jobs.define("every", "@every 1m", Ping("every"), catch_up=catch_up)
    jobs.define("cron", "* * * * *", Ping("cron"), catch_up=catch_up)
    for id in ("every", "cron"):
        due(durable, NOON, id)
    durable.at(NOON + minutes(5.5))
    for name in ("every", "cron"):
        assert [at for each, at, _ in durable.jobs() if each == name] == [NOON + minutes(n) for n in expected]
        assert jobs.get(name).next_run_at == NOON + minutes(6)


def test_years_without_a_leader_are_no_storm(durable: Rig, jobs: Any) -> None:
    jobs.define("some", "@every 1s", Ping("a"))
    jobs.define("other", "* * * * *", Ping("b"))
    for id in ("some", "other"):
        due(durable, NOON - timedelta(days=800), id)
    durable.at(NOON + timedelta(seconds=30.5))
    assert sorted(durable.jobs()) == [
        ("a", NOON + timedelta(seconds=30), "available"),
        ("b", NOON, "available"),
    ]


def test_what_was_due_while_paused_is_not_made_up_for(durable: Rig, jobs: Any) -> None:
    jobs.define("some", "@every 1m", Ping("a"), catch_up=10)
    due(durable, NOON)
    jobs.pause("some")
    durable.at(NOON + minutes(3))
    assert durable.jobs() == []
    durable.conn.execute(
        "UPDATE river_fast_periodic_job SET paused_at = NULL, resumed_at = %s, updated_at = clock_timestamp()",
        (NOON + minutes(3.2),),
    )
    durable.at(NOON + minutes(3.5))
    assert durable.jobs() == []
    assert jobs.get("some").next_run_at == NOON + minutes(4)
    durable.at(NOON + minutes(4))
    assert [at for _, at, _ in durable.jobs()] == [NOON + minutes(4)]


def test_resume_counts_from_now_on(durable: Rig, jobs: Any) -> None:
    jobs.define("some", "@every 1m", Ping("a"))
    due(durable, NOON)
    jobs.pause("some")
    assert jobs.resume("some").resumed_at > NOON
    durable.at(NOON + minutes(1))
    assert durable.jobs() == []


def test_many_at_once_go_in_batches(durable: Rig, jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "TOGETHER", 3)
    for number in range(10):
        jobs.define(f"id-{number}", "@hourly", Ping(str(number)))
        due(durable, NOON, f"id-{number}")
    durable.bundle.add_many([every(60, "own")])
    durable.at(NOON)
    assert sorted(durable.names()) == [str(number) for number in range(10)]
    durable.at(NOON + minutes(1))
    assert len(durable.jobs()) == 11


# Exactly once.


def test_two_leaders_at_once_run_each_time_once(durable: Rig, jobs: Any) -> None:
    for number in range(20):
        jobs.define(f"id-{number}", "@every 1m", Ping(str(number)))
        due(durable, NOON, f"id-{number}")
    other = durable.made()
    other._start()
    for turn in range(5):
        durable.now = NOON + minutes(turn)
        gate = threading.Barrier(2)

        def lead(enqueuer: Any, gate: threading.Barrier = gate, now: datetime = durable.now) -> None:
            gate.wait(20)
            while durable.conn is None or enqueuer._pass_once() == enqueuer_module.RETRY_AFTER:
                pass

        for enqueuer in (durable.enqueuer, other):
            if enqueuer._clock is not None:
                enqueuer._clock = (durable.now, enqueuer._clock[1])
        threads = [threading.Thread(target=lead, args=(enqueuer,)) for enqueuer in (durable.enqueuer, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    found = durable.conn.execute(
        "SELECT args ->> 'name', scheduled_at, count(*) FROM river_job GROUP BY 1, 2"
    ).fetchall()
    assert len(found) == 100
    assert {count for _, _, count in found} == {1}


def test_a_lost_reply_is_looked_at_anew(durable: Rig, jobs: Any) -> None:
    jobs.define("some", "@every 1m", Ping("a"))
    due(durable, NOON)
    whole = durable.insert

    def cut_after(*asked: Any) -> Any:
        whole(*asked)
        raise InsertOutcomeUnknownError("after the commit")

    def cut_before(*asked: Any) -> Any:
        raise InsertOutcomeUnknownError("before the commit")

    for number, cut in enumerate((cut_after, cut_before)):
        durable.insert = cut
        durable.at(NOON + minutes(number))
        durable.insert = whole
        durable.at(NOON + minutes(number + 0.5))
    assert [at for _, at, _ in durable.jobs()] == [NOON, NOON + minutes(1)]


def test_a_job_changed_in_the_middle_runs_as_it_is_now(durable: Rig, jobs: Any) -> None:
    jobs.define("some", "@every 1m", Ping("old"))
    due(durable, NOON)
    whole = durable.insert

    def late(*asked: Any) -> Any:
        jobs.define("some", "@every 1m", Ping("new"))
        return whole(*asked)

    durable.insert = late
    assert durable.at(NOON) == enqueuer_module.RETRY_AFTER
    assert durable.jobs() == []
    durable.insert = whole
    durable.at(NOON)
    assert durable.jobs() == [("new", NOON, "available")]


def test_a_job_paused_or_deleted_in_the_middle_does_not_run(durable: Rig, jobs: Any) -> None:
    whole = durable.insert
    for verb in ("pause", "delete"):
        jobs.define("some", "@every 1m", Ping("a"))
        jobs.resume("some")
        durable.conn.execute("UPDATE river_fast_periodic_job SET resumed_at = NULL")
        due(durable, NOON)

        def late(*asked: Any, verb: str = verb) -> Any:
            getattr(jobs, verb)("some")
            return whole(*asked)

        durable.insert = late
        durable.at(NOON)
        durable.insert = whole
        durable.at(NOON)
        assert durable.jobs() == [], verb


# What is wrong with one of them.


def test_one_that_cannot_run_holds_up_no_other_and_says_why(durable: Rig, jobs: Any) -> None:
    for id, name in (("aa", "a"), ("bb", "b"), ("cc", "c")):
        jobs.define(id, "@every 1m", Ping(name))
        due(durable, NOON, id)
    durable.conn.execute("ALTER TABLE river_job ADD CONSTRAINT no_b CHECK (args ->> 'name' <> 'b')")
    durable.at(NOON)
    assert durable.names() == ["a", "c"]
    assert "no_b" in jobs.get("bb").last_error
    assert jobs.get("bb").next_run_at == NOON, "it is due still"
    durable.at(NOON + minutes(1))
    assert durable.names() == ["a", "c"] * 2
    durable.conn.execute("ALTER TABLE river_job DROP CONSTRAINT no_b")
    durable.enqueuer._durable._failed.clear()  # as after a minute
    durable.at(NOON + minutes(1.5))
    assert durable.names() == ["a", "c", "a", "c", "b"]
    assert jobs.get("bb").last_error is None


def test_a_schedule_that_this_machine_cannot_read_is_told(durable: Rig, jobs: Any) -> None:
    for id in ("aa", "bb"):
        jobs.define(id, "@every 1m", Ping(id))
        due(durable, NOON, id)
    durable.conn.execute("UPDATE river_fast_periodic_job SET zone = 'Mars/Olympus' WHERE id = 'aa'")
    durable.at(NOON)
    assert durable.names() == ["bb"]
    assert "Mars/Olympus" in jobs.get("aa").last_error


def test_a_kind_that_the_leader_has_no_worker_for_is_inserted(
    durable: Rig, jobs: Any, driver: PsycopgDriver
) -> None:
    from river_fast.inserter import Inserter

    durable.insert = Inserter(driver, river.Config(), known_kinds=lambda: {"other"}).insert_internal
    jobs.define("some", "@every 1m", Ping("a"))
    due(durable, NOON)
    durable.at(NOON)
    assert durable.names() == ["a"]


# Unique.




def test_unique_runs_have_the_key_of_the_args_that_were_defined(durable: Rig, jobs: Any) -> None:
    """By the members that the type marks, though the leader has never seen the type."""
    from dataclasses import dataclass

    @dataclass
    class Marked(river.JobArgs, kind="durable_marked"):
        name: Annotated[str, river.unique]
        body: str = ""

    opts = river.UniqueOpts(by_args=True, by_period=3600, by_queue=True)
    jobs.define("some", "@every 1m", Marked("ü<", "body"), river.InsertOpts(unique=opts))
    due(durable, NOON)
    for turn in range(3):
        durable.at(NOON + minutes(turn))
    (row,) = durable.conn.execute("SELECT unique_key, unique_states::int FROM river_job").fetchall()
    wanted = unique_key(
        unique_rule(opts), kind="durable_marked", queue="default", args='{"name":"ü<"}'.encode(), at=NOON
    )
    assert (bytes(row[0]), row[1]) == (wanted, 245)
    assert jobs.get("some").next_run_at == NOON + minutes(3)


# The line.


def test_the_line_may_come_and_go_while_a_client_leads(durable: Rig, jobs: Any, driver: PsycopgDriver) -> None:
    durable.bundle.add_many([every(60, "own")])
    durable.at(NOON)
    assert durable.enqueuer._durable.present
    Migrator(driver, FAST).migrate_down(target_version=EVERYTHING)
    durable.at(NOON + minutes(1))
    assert not durable.enqueuer._durable.present
    Migrator(driver, FAST).migrate_up()
    jobs.define("some", "@every 1m", Ping("a"))
    due(durable, NOON + minutes(2))
    durable.at(NOON + minutes(2))
    assert durable.names() == ["own", "own", "a"]


def test_start_hooks_see_the_durable_jobs(durable: Rig, jobs: Any) -> None:
    told: list[Any] = []
    jobs.define("some", "@every 1m", Ping("a"))
    durable.enqueuer = durable.made(start_hooks=told.append)
    durable.begin()
    assert [job.id for job in told[0].durable_jobs] == ["some"]


def test_those_due_are_found_by_index_among_many(durable: Rig, jobs: Any, schema: str) -> None:
    """A schedule for each of a service's users is looked at every 5 s."""
    durable.conn.execute(
        "INSERT INTO river_fast_periodic_job (id, schedule, kind, args, next_run_at)"
        " SELECT 'id-' || n, '@daily', 'k', '{}', now() + n * interval '1 s' FROM generate_series(1, 20000) AS n"
    )
    params = {"now": NOON, "except_ids": [], "limit": 100}
    for analysed in (False, True):
        if analysed:
            durable.conn.execute("ANALYZE river_fast_periodic_job")
        for name in ("look", "due"):
            query = "EXPLAIN (FORMAT JSON) " + sql_text(f"durable_periodic_job_{name}", schema)
            plan = durable.conn.execute(query, params).fetchone()
            assert plan is not None
            assert "Seq Scan" not in json.dumps(plan[0]), f"{name}, analysed: {analysed}: {plan[0]}"


@pytest.mark.parametrize("opts", ["[]", '{"unique": 7}', '{"tags": 3}'])
def test_a_row_that_somebody_spoilt_does_not_stop_the_others(durable: Rig, jobs: Any, opts: str) -> None:
    for id in ("one", "two"):
        jobs.define(id, "@every 1m", Ping(id))
        due(durable, NOON, id)
    durable.conn.execute("UPDATE river_fast_periodic_job SET opts = %s WHERE id = 'one'", (opts,))
    durable.at(NOON)
    assert durable.names() == ["two"]
    row = durable.conn.execute("SELECT last_error FROM river_fast_periodic_job WHERE id = 'one'").fetchone()
    assert row is not None
    assert row[0]
    assert [job.id for job in jobs.list()] == ["one", "two"]


@pytest.mark.parametrize("at", ["-infinity", "0001-01-01", "4000-01-01 BC"])
def test_a_run_that_was_due_in_the_far_past_does_not_stop_the_others(durable: Rig, jobs: Any, at: str) -> None:
    for id, schedule in (("one", "0 0 29 2 *"), ("two", "@every 1m"), ("three", "@every 1m")):
        jobs.define(id, schedule, Ping(id), catch_up=1000 if id == "one" else 3)
        durable.conn.execute("UPDATE river_fast_periodic_job SET next_run_at = %s WHERE id = %s", (at, id))
    due(durable, NOON, "three")
    durable.at(NOON)
    assert durable.names().count("three") == 1
    assert durable.names().count("two") == 3
