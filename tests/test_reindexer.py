"""The reindexer: indexes are rebuilt when they should be, and of what a build left nothing stays that is ours."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.config import DEFAULT_REINDEXER_INDEX_NAMES
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance import reindexer as reindexer_module
from river_fast.maintenance.reindexer import Midnight, Reindexer, artifacts_of
from tests.fix_maintenance import driver, set_up
from tests.fix_pgbouncer import CLEAN, PROGRAM, PgBouncer
from tests.fix_scheduler import wait_for
from tests.stress import hammer

__all__ = ["driver"]

ARGS, KIND = "river_job_args_index", "river_job_kind"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def make(driver: PsycopgDriver, *, now: Callable[[], datetime] | None = None, **config: Any) -> Reindexer:
    config.setdefault("reindexer_index_names", [ARGS, KIND])
    clock = {} if now is None else {"clock": now}
    reindexer = Reindexer(driver, river.Config(**config).checked(), **clock)
    set_up(reindexer)
    for signal in (reindexer.built, reindexer.skipped, reindexer.gave_up):
        signal.activate()
    return reindexer


@pytest.fixture
def at_once(driver: PsycopgDriver) -> Iterator[Callable[..., Reindexer]]:
    """`at_once(**config)`: a reindexer whose time has come, once."""
    made: list[Reindexer] = []

    def one(other: PsycopgDriver | None = None, **config: Any) -> Reindexer:
        made.append(make(other or driver, reindexer_schedule=Once(), **config))
        return made[-1]

    yield one
    for reindexer in made:
        assert reindexer.stop(20)


class Once:
    """Now, and never again."""

    def __init__(self) -> None:
        self.times = [datetime.now(UTC)]

    def next(self, after: datetime, /) -> datetime | None:
        return self.times.pop() if self.times else None

    def again(self) -> None:
        self.times.append(datetime.now(UTC))


def files(conn: psycopg.Connection) -> dict[str, int]:
    """Where each index of the schema is stored: anew after each build."""
    rows = conn.execute(
        "SELECT relname, relfilenode FROM pg_class"
        " WHERE relnamespace = current_schema()::regnamespace AND relkind = 'i'"
    )
    return dict(rows.fetchall())


def run_again(reindexer: Reindexer) -> int:
    reindexer._schedule = Once()
    reindexer.start()
    try:
        return reindexer.passed.wait()
    finally:
        assert reindexer.stop(20)


@contextlib.contextmanager
def old_transaction(dsn: str, schema: str) -> Iterator[psycopg.Connection]:
    """Writes to the table, and does not end: every build waits for it."""
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as conn:
        conn.execute("INSERT INTO river_job (kind, args) VALUES ('k', '{}')")
        yield conn


def wait_until_it_builds(conn: psycopg.Connection, old: psycopg.Connection) -> int:
    blocked = "SELECT pid FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
    return int(wait_for(lambda: conn.execute(blocked, (old.info.backend_pid,)).fetchone(), "the build to wait")[0])


# Rebuilding.


def test_the_named_indexes_are_rebuilt_and_no_others(
    conn: psycopg.Connection, at_once: Callable[..., Reindexer]
) -> None:
    before = files(conn)
    reindexer = at_once()
    assert run_again(reindexer) == 2
    after = files(conn)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {ARGS, KIND}


def test_all_of_rivers_indexes_can_be_rebuilt_while_jobs_wait(
    conn: psycopg.Connection, at_once: Callable[..., Reindexer]
) -> None:
    conn.execute("INSERT INTO river_job (kind, args) SELECT 'k', '{}' FROM generate_series(1, 1000)")
    before = files(conn)
    assert run_again(at_once(reindexer_index_names=None)) == 7
    after = files(conn)
    assert {name for name in after if after[name] != before[name]} == set(DEFAULT_REINDEXER_INDEX_NAMES)


def test_indexes_that_are_not_there_are_passed_over(
    conn: psycopg.Connection, at_once: Callable[..., Reindexer]
) -> None:
    conn.execute(f"DROP INDEX {ARGS}")
    reindexer = at_once(reindexer_index_names=[ARGS, 'no "such" index', KIND])
    assert run_again(reindexer) == 1
    assert reindexer.built.wait() == KIND
    assert [reindexer.skipped.wait() for _ in range(2)] == [ARGS, 'no "such" index']


@pytest.mark.parametrize("suffix", ["_ccnew", "_ccnew1", "_ccold", "_ccold12"])
def test_an_index_with_remains_of_another_build_is_left_as_it_is(
    conn: psycopg.Connection, at_once: Callable[..., Reindexer], suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    conn.execute(f"CREATE INDEX {ARGS}{suffix} ON river_job (kind)")
    before = files(conn)
    with caplog.at_level(logging.WARNING):
        assert run_again(at_once()) == 1
    assert f"{ARGS}{suffix}" in caplog.text
    after = files(conn)
    assert {name for name in after if after[name] != before[name]} == {KIND}
    assert after.keys() == before.keys(), "nothing is dropped that is not ours"


def test_artifacts_are_known_by_their_name_as_postgresql_shortens_it(conn: psycopg.Connection) -> None:
    names = dict.fromkeys(["a_ccnew", "a_ccold3", "ab_ccnew", "a_ccnewer", "a", "a_cc", "x_a_ccnew"])
    assert artifacts_of("a", names) == {"a_ccnew", "a_ccold3"}
    long = "i" + "ü" * 31  # 63 bytes
    conn.execute(f'CREATE INDEX "{long}" ON river_job (kind)')
    made = conn.execute("SELECT left(%s, 29) || '_ccnew'", (long,)).fetchone()
    assert made is not None
    assert artifacts_of(long, {made[0]: True}) == {made[0]}
    assert len(made[0].encode()) == 63


def test_a_build_has_a_session_of_its_own_without_limits(
    dsn: str, conn: psycopg.Connection, schema: str, at_once: Callable[..., Reindexer]
) -> None:
    """A client that is killed does not leave half an index behind, and none of the pool's connections is kept busy."""
    driver = PsycopgDriver(dsn, schema, pool_size=1)
    seen: list[Any] = []
    reindexer = at_once(driver, reindexer_index_names=[KIND])
    whole = reindexer._rebuild

    def rebuild(executor: Any, name: str) -> bool:
        query = "SELECT current_setting('statement_timeout'), current_setting('client_connection_check_interval', true)"
        seen.append(executor._conn.execute(query).fetchone())
        with driver.autocommit() as other:
            seen.append(other._conn.execute(query).fetchone()[0])
        return whole(executor, name)

    reindexer._rebuild = rebuild  # type: ignore[method-assign]
    try:
        assert run_again(reindexer) == 1
    finally:
        driver.close()
    assert seen[0] in (("0", "0"), ("0", None))
    assert seen[1] == "10s"


# Builds that do not end.


def test_a_build_that_takes_too_long_is_given_up_and_leaves_nothing(
    dsn: str, conn: psycopg.Connection, schema: str, at_once: Callable[..., Reindexer]
) -> None:
    """River leaves its half, and never builds that index again until somebody drops it."""
    before = files(conn)
    reindexer = at_once(reindexer_index_names=[ARGS], reindexer_timeout=0.2)
    with old_transaction(dsn, schema):
        reindexer.start()
        assert reindexer.gave_up.wait() == ARGS
        assert artifacts_of(ARGS, files(conn)), "half of an index"
    assert reindexer.passed.wait() == 0
    assert files(conn) == before
    assert reindexer.stop(20)
    assert run_again(reindexer) == 1


def test_a_stop_in_the_middle_of_a_build_leaves_nothing(
    dsn: str, conn: psycopg.Connection, schema: str, at_once: Callable[..., Reindexer]
) -> None:
    before = files(conn)
    reindexer = at_once(reindexer_timeout=river.NEVER)
    with old_transaction(dsn, schema) as old:
        reindexer.start()
        wait_until_it_builds(conn, old)
        wait_for(lambda: artifacts_of(ARGS, files(conn)), "half of an index")
        reindexer.request_stop()
        assert reindexer.gave_up.wait() == ARGS
        reindexer.interrupt()  # as the queue maintainer does to one that takes long: the clearing away goes on
    assert reindexer.wait_stopped(20)
    assert files(conn) == before


def test_what_could_not_be_dropped_is_dropped_before_the_next_build(
    dsn: str, conn: psycopg.Connection, schema: str, at_once: Callable[..., Reindexer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reindexer_module, "DROP_TIMEOUT", 0.1)
    before = files(conn)
    reindexer = at_once(reindexer_index_names=[ARGS], reindexer_timeout=0.2)
    with old_transaction(dsn, schema):
        reindexer.start()
        assert reindexer.passed.wait() == 0
        assert reindexer.stop(20)
        assert artifacts_of(ARGS, files(conn))
    monkeypatch.undo()
    assert run_again(reindexer) == 1
    assert files(conn).keys() == before.keys()
    assert reindexer._unfinished == set()


def test_a_connection_lost_in_a_build_is_survived_and_cleared_away_after(
    dsn: str, conn: psycopg.Connection, schema: str, at_once: Callable[..., Reindexer]
) -> None:
    before = files(conn)
    reindexer = at_once(reindexer_timeout=river.NEVER)
    with old_transaction(dsn, schema) as old:
        reindexer.start()
        pid = wait_until_it_builds(conn, old)
        wait_for(lambda: artifacts_of(ARGS, files(conn)), "half of an index")
        conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
        assert reindexer.gave_up.wait() == ARGS
        assert reindexer.failed.wait()
    assert artifacts_of(ARGS, files(conn))
    assert reindexer.stop(20)
    assert run_again(reindexer) == 2
    assert files(conn).keys() == before.keys()


def test_nothing_is_built_in_a_term_that_is_over(conn: psycopg.Connection, at_once: Callable[..., Reindexer]) -> None:
    before = files(conn)
    reindexer = at_once()
    leads = iter([True, True])
    reindexer.lead(lambda: next(leads, False), stagger=False)
    assert run_again(reindexer) == 1, "it is asked before each index"
    after = files(conn)
    assert {name for name in after if after[name] != before[name]} == {ARGS}


@pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine: apt-get install pgbouncer")
def test_behind_a_pooler_in_transaction_mode_it_builds_and_leaves_the_sessions_clean(
    dsn: str, conn: psycopg.Connection, schema: str, at_once: Callable[..., Reindexer]
) -> None:
    with PgBouncer(dsn, "transaction", 3) as pgbouncer:
        driver = PsycopgDriver(pgbouncer.dsn, schema)
        try:
            before = files(conn)
            assert run_again(at_once(driver)) == 2
            after = files(conn)
            assert {name for name in after if after[name] != before[name]} == {ARGS, KIND}
            with old_transaction(dsn, schema):
                reindexer = at_once(driver, reindexer_index_names=[ARGS], reindexer_timeout=0.2)
                reindexer.start()
                assert reindexer.gave_up.wait() == ARGS
            assert reindexer.passed.wait() == 0
            assert files(conn).keys() == before.keys()
        finally:
            driver.close()
        assert [session for session in pgbouncer.sessions(1) if session != CLEAN] == []


# When.


def test_by_default_it_is_midnight_utc() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert Midnight().next(NOON) == datetime(2026, 1, 3, tzinfo=UTC)
    assert Midnight().next(datetime(2026, 1, 2, tzinfo=UTC)) == datetime(2026, 1, 3, tzinfo=UTC)
    assert Midnight().next(datetime(2026, 1, 2, 8, tzinfo=tokyo)) == datetime(2026, 1, 2, tzinfo=UTC)


def test_it_waits_for_its_time_though_the_clock_is_set(
    conn: psycopg.Connection, driver: PsycopgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reindexer_module, "CLOCK_LOOK", 0.01)
    now, looks = [NOON], threading.Semaphore(0)

    def clock() -> datetime:
        looks.release()
        return now[0]

    reindexer = make(driver, now=clock)
    reindexer.start()
    for hours in (-3, 11.9):
        now[0] = NOON + timedelta(hours=hours)
        for _ in range(20):
            assert looks.acquire(timeout=20)
    assert reindexer.built._values is not None
    assert reindexer.built._values.empty()
    now[0] = NOON + timedelta(hours=12, seconds=1)
    assert reindexer.passed.wait() == 2
    assert reindexer.stop(20)


@pytest.mark.parametrize(
    "config", [{"reindexer_schedule": river.NEVER}, {"reindexer_index_names": []}, {"reindexer_schedule": Once()}],
    ids=["never", "no names", "no more runs"],
)  # fmt: skip
def test_without_a_next_run_it_only_waits_for_its_end(driver: PsycopgDriver, config: dict[str, Any]) -> None:
    if isinstance(config.get("reindexer_schedule"), Once):
        config["reindexer_schedule"].times.clear()
    reindexer = make(driver, **config)
    assert reindexer._names == () or reindexer._next_run() is None
    reindexer.start()
    assert reindexer.stop(20)


class Broken:
    """Answers what no schedule may answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def next(self, after: datetime, /) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [datetime(2020, 1, 1), "soon", 3, ValueError("no idea"), SystemExit()], ids=repr)
def test_a_schedule_that_answers_nonsense_is_no_schedule(
    driver: PsycopgDriver, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert make(driver, reindexer_schedule=Broken(answer))._next_run() is None
    assert "reindexer_schedule" in caplog.text


def test_an_interval_stands_for_the_schedule(conn: psycopg.Connection, driver: PsycopgDriver) -> None:
    reindexer = Reindexer(driver, river.Config(reindexer_index_names=[KIND]).checked(), interval=0.01)
    set_up(reindexer)
    reindexer.start()
    assert [reindexer.passed.wait() for _ in range(2)] == [1, 1]
    assert reindexer.stop(20)


def test_start_and_stop_from_many_threads(driver: PsycopgDriver) -> None:
    hammer(lambda: make(driver))
