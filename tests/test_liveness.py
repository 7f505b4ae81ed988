"""Freeing of what this client itself left running, against PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.liveness import Claim, Liveness
from tests.fix_liveness import GENERATED, GIVEN, World, driver, listening, make_world, quick, world
from tests.fix_rows import column, heard, insert
from tests.stress import hammer

__all__ = ["driver", "listening", "make_world", "quick", "world"]


def test_a_row_whose_fetch_reply_was_lost_goes_back_as_if_never_fetched(
    world: World, listening: psycopg.Connection
) -> None:
    job_id = world.claim(attempt=3, scheduled_at="2020-01-01T00:00:00Z", metadata='{"a": 1}')
    world.wait_state(job_id, "available")
    row = world.conn.execute(
        "SELECT attempt, attempted_by, scheduled_at, finalized_at, errors, metadata FROM river_job"
    ).fetchone()
    assert row == (2, ["a"], datetime(2020, 1, 1, tzinfo=UTC), None, None, {"a": 1})
    assert heard(listening) == ("river_insert", {"queue": "q1"})
    assert world.freed.get(timeout=20) == ["q1"]
    world.wait_stats(reclaimed=1, rescued=0)


def test_a_row_that_somebody_holds_is_left(world: World) -> None:
    held, stranded = world.claim(), world.claim()
    world.held = {world.run_of(held)}
    world.wait_state(stranded, "available")
    world.look(3)
    assert column(world.conn, held, "state") == "running"


def test_a_row_held_at_the_second_look_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("river_fast.liveness.SECOND_LOOK_AFTER", 60.0)
    job_id = world.claim()
    world.liveness.check_soon()
    while world.liveness.looked.wait() == 0:
        pass
    assert next(iter(world.liveness._suspects)).id == job_id
    world.held = {world.run_of(job_id)}
    monkeypatch.setattr("river_fast.liveness.SECOND_LOOK_AFTER", 0.05)
    world.liveness.check_soon()
    world.look(3)
    assert column(world.conn, job_id, "state") == "running"
    assert world.liveness._suspects == {}


def test_young_claims_are_asked_for_only_after_an_alarm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("river_fast.liveness.SETTLED_AFTER", 3600.0)
    world.liveness._alarmed_at = -3600.0
    job_id = world.claim()
    world.liveness.lock_taken()
    world.look(3)
    assert world.liveness._suspects == {}
    world.liveness.lock_lost()
    world.liveness.lock_taken()
    world.wait_state(job_id, "available")


def test_a_look_asked_for_during_a_look_is_one_more(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECOND_LOOK_AFTER", "LOOK_INTERVAL"):
        monkeypatch.setattr(f"river_fast.liveness.{name}", 60.0)
    world = make_world()
    looks: list[None] = []
    read = world.liveness._running

    def running() -> list[Claim]:
        claims = read()
        looks.append(None)
        if len(looks) == 1:  # the rows of this look have been read already
            world.claim()
            world.liveness.check_soon()
        return claims

    monkeypatch.setattr(world.liveness, "_running", running)
    world.liveness.start()
    world.liveness.lock_taken()
    while world.liveness.looked.wait() == 0:
        pass


def test_nothing_is_freed_while_the_holders_cannot_tell(world: World) -> None:
    world.held = None
    job_id = world.claim()
    threading.Event().wait(0.5)  # ten times what freeing takes here
    assert column(world.conn, job_id, "state") == "running"
    world.held = set()
    world.wait_state(job_id, "available")


@pytest.mark.parametrize(
    "attempted_by",
    [None, [], ["other"], [GIVEN, "other"], ["go_2026_01_01T00_00_00_000000"], [[GIVEN], [GIVEN]]],
)
def test_rows_of_others_are_never_touched(world: World, attempted_by: Any) -> None:
    theirs, stranded = world.claim(attempted_by=attempted_by), world.claim()
    before = column(world.conn, theirs, "xmin::text")
    world.wait_state(stranded, "available")
    world.look(3)
    assert column(world.conn, theirs, "xmin::text") == before


@pytest.mark.parametrize("state", ["available", "completed", "scheduled"])
def test_rows_that_do_not_run_are_never_touched(world: World, state: str) -> None:
    job_id = insert(world.conn, state, attempt=1, attempted_by=[GIVEN], attempted_at="2020-01-01T00:00:00Z")
    before = column(world.conn, job_id, "xmin::text")
    stranded = world.claim()
    world.wait_state(stranded, "available")
    assert column(world.conn, job_id, "xmin::text") == before


def test_a_row_claimed_anew_between_two_looks_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original = world.liveness._write

    def overtaken(statement: Any) -> Any:
        world.conn.execute("UPDATE river_job SET attempted_at = clock_timestamp()")
        return original(statement)

    monkeypatch.setattr(world.liveness, "_write", overtaken)
    job_id = world.claim()
    world.liveness.check_soon()
    world.look(4)
    assert column(world.conn, job_id, "state") == "running"
    assert world.freed.empty()


def test_a_requested_cancel_is_granted_to_a_stranded_row(world: World) -> None:
    job_id = world.claim(attempt=2, metadata='{"cancel_attempted_at": "2026-01-01T00:00:00Z"}')
    world.wait_state(job_id, "cancelled")
    row = world.conn.execute("SELECT attempt, attempted_by, errors, finalized_at IS NOT NULL FROM river_job").fetchone()
    assert row == (2, ["a", GIVEN], None, True)


def test_rows_of_the_same_id_before_it_took_its_lock_are_rescued_as_river_does(
    world: World, listening: psycopg.Connection
) -> None:
    job_id = world.claim(
        attempt=2, before="1 h", scheduled_at="2020-01-01T00:00:00Z", errors=['{"attempt": 1}'],
        metadata='{"a": 1, "river:rescue_count": 4}',
    )
    world.wait_state(job_id, "available")
    row = world.conn.execute(
        "SELECT attempt, attempted_by, scheduled_at, finalized_at, errors[2], metadata, cardinality(errors)"
        " FROM river_job"
    ).fetchone()
    assert row is not None
    assert row[:4] == (2, ["a", GIVEN], datetime(2020, 1, 1, tzinfo=UTC), None)
    assert {**row[4], "at": ""} == {"at": "", "attempt": 2, "error": "Stuck job rescued by JobRescuer", "trace": ""}
    assert datetime.fromisoformat(row[4]["at"]).tzinfo is not None
    assert row[5:] == ({"a": 1, "river:rescue_count": 5}, 2)
    assert heard(listening) == ("river_insert", {"queue": "q1"})
    world.wait_stats(reclaimed=0, rescued=1)


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({"attempt": 3, "max_attempts": 3}, "discarded"),
        ({"attempt": 4, "max_attempts": 3}, "discarded"),
        ({"attempt": 3, "max_attempts": 3, "metadata": '{"cancel_attempted_at": null}'}, "cancelled"),
        ({"metadata": '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}'}, "cancelled"),
    ],
)
def test_a_rescue_may_be_final(world: World, columns: dict[str, Any], state: str) -> None:
    job_id = world.claim(before="1 h", **columns)
    world.wait_state(job_id, state)
    assert column(world.conn, job_id, "finalized_at IS NOT NULL")
    assert column(world.conn, job_id, "cardinality(errors)") == 1


@pytest.mark.parametrize(
    "metadata", ["[1]", "null", '"x"', '{"river:rescue_count": "many"}', '{"river:rescue_count": null}']
)
def test_a_rescue_stands_metadata_that_is_not_as_it_should_be(world: World, metadata: str) -> None:
    job_id = world.claim(before="1 h", metadata=metadata)
    world.wait_state(job_id, "available")
    assert column(world.conn, job_id, "metadata") == {"river:rescue_count": 1}


@pytest.mark.parametrize(
    "attempted_at", ["infinity", "-infinity", "290000-01-01T00:00:00Z", "1990-01-01T00:00:00Z", None]
)
def test_a_row_with_a_time_no_fetch_writes_does_not_keep_others(world: World, attempted_at: str | None) -> None:
    strange, stranded = world.claim(attempted_at=attempted_at), world.claim()
    world.wait_state(stranded, "available")
    assert column(world.conn, strange, "state") == "running"


def test_a_row_locked_by_somebody_waits_alone(world: World, dsn: str, schema: str) -> None:
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as theirs:
        locked = world.claim()
        theirs.execute("SELECT FROM river_job WHERE id = %s FOR UPDATE", [locked])
        stranded = world.claim()
        world.wait_state(stranded, "available")
        assert column(world.conn, locked, "state") == "running"
    world.wait_state(locked, "available")


def test_a_row_the_database_refuses_is_left_to_the_rescuer_and_keeps_no_other(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    only_available = {"unique_key": b"k" * 32, "unique_states": "00000001"}
    insert(world.conn, "available", **only_available)
    refused = world.claim(**only_available)
    others = [world.claim() for _ in range(5)]
    for job_id in others:
        world.wait_state(job_id, "available")
    world.look(3)
    assert column(world.conn, refused, "state") == "running"
    assert caplog.text.count(f"job {refused} is stranded") == 1


def test_thousands_are_freed_in_batches(world: World) -> None:
    world.conn.execute(
        "INSERT INTO river_job (args, kind, state, attempt, attempted_at, attempted_by)"
        " SELECT '{}', 'k1', 'running', 1, clock_timestamp(), ARRAY[%s] FROM generate_series(1, 2500)", [GIVEN],
    )
    deadline = time.monotonic() + 60
    while world.liveness.stats()["reclaimed"] < 2500:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    row = world.conn.execute("SELECT count(*) FROM river_job WHERE state = 'available' AND attempt = 0").fetchone()
    assert row == (2500,)


@pytest.mark.parametrize("late", [0.0, 2.5])
def test_what_a_lost_connection_stranded_is_free_soon(
    make_world: Callable[[str], World], late: float
) -> None:
    """In real seconds; `late`: the server commits the claim that long after the client lost its connection."""
    world = make_world(GENERATED)
    world.liveness.start()
    world.liveness.lock_taken()
    world.look(0)
    began = time.monotonic()
    world.liveness.lock_lost()
    threading.Event().wait(late)
    job_id = world.claim()
    world.wait_state(job_id, "available")  # within five seconds, on a quiet machine
    assert time.monotonic() - began - late >= 1.0, "stranded is what nobody held for a second"


def test_the_service_goes_on_after_the_database_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    job_id = world.claim()
    world.conn.execute("ALTER TABLE river_job RENAME TO gone")
    world.liveness.check_soon()
    while "cannot look for stranded jobs" not in caplog.text:
        threading.Event().wait(0.01)
    world.conn.execute("ALTER TABLE gone RENAME TO river_job")
    world.wait_state(job_id, "available")


def test_liveness_stands_starts_and_stops_from_many_threads(driver: PsycopgDriver, schema: str) -> None:
    def make() -> Liveness:
        liveness = Liveness(driver, GENERATED, set)
        liveness.lock_taken()
        return liveness

    hammer(make)
