"""Inserts of unique jobs: the row that exists is given back, rivals are waited for, a key is stored once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import UniqueConflictError
from river_fast.insert_opts import InsertManyParams, InsertOpts, JobInsertResult, UniqueOpts
from river_fast.inserter import OVERTAKEN_MOST, Inserter
from river_fast.job_args import RawArgs
from tests.fix_inserter import COPYING, LATER, RETURNING, UNIQUE, EmailArgs, Insert, count, driver, inserter, rows_of

__all__ = ["count", "driver", "inserter"]


@pytest.mark.parametrize("insert", RETURNING)
def test_results_come_in_the_order_given_duplicates_included(
    inserter: Inserter, conn: psycopg.Connection[Any], insert: Insert
) -> None:
    older = inserter.insert(EmailArgs("older"), UNIQUE).job
    params = [
        EmailArgs("0"), InsertManyParams(EmailArgs("u"), UNIQUE), RawArgs("raw", {"n": 2}),
        InsertManyParams(EmailArgs("older"), UNIQUE), InsertManyParams(EmailArgs("u"), UNIQUE), EmailArgs("5"),
        InsertManyParams(EmailArgs("v"), UNIQUE), InsertManyParams(EmailArgs("older"), UNIQUE),
    ]  # fmt: skip
    results = insert(inserter, conn, params)
    assert [result.unique_skipped_as_duplicate for result in results] == [False] * 3 + [True] * 2 + [False] * 2 + [True]
    ids = [result.job.id for result in results]
    assert ids[3] == ids[7] == older.id
    assert ids[1] == ids[4]
    fresh = [ids[0], ids[1], ids[2], ids[5], ids[6]]
    assert fresh == sorted(fresh)
    assert [result.job.args for result in results[:3]] == [EmailArgs("0"), EmailArgs("u"), {"n": 2}]
    assert len(rows_of(conn)) == 6


@pytest.mark.parametrize("insert", RETURNING)
@pytest.mark.parametrize("state", ["available", "completed", "pending", "retryable", "running", "scheduled"])
def test_existing_row_keeps_every_value(
    inserter: Inserter, conn: psycopg.Connection[Any], insert: Insert, state: str
) -> None:
    opts = InsertOpts(unique=UniqueOpts(by_queue=True, exclude_kind=True), metadata={"a": 1}, tags=["one"])
    inserter.insert(EmailArgs("first"), opts)
    finalized = datetime.now(UTC) if state == "completed" else None
    conn.execute("UPDATE river_job SET state = %s, finalized_at = %s, attempt = 3", [state, finalized])
    (before,) = rows_of(conn)
    changed = InsertOpts(
        unique=opts.unique, metadata={"b": 2}, tags=["two"], priority=4, scheduled_at=LATER, max_attempts=1
    )
    (result,) = insert(inserter, conn, [InsertManyParams(RawArgs("another_kind", {"b": 1}), changed)])
    (after,) = rows_of(conn)
    assert after == before
    assert result.unique_skipped_as_duplicate
    assert (result.job.id, result.job.kind, result.job.state) == (before["id"], "email", state)


@pytest.mark.parametrize("state", ["cancelled", "discarded"])
def test_final_states_outside_the_mask_free_the_key(
    inserter: Inserter, conn: psycopg.Connection[Any], state: str
) -> None:
    inserter.insert(EmailArgs("a"), UNIQUE)
    conn.execute("UPDATE river_job SET state = %s, finalized_at = now()", [state])
    assert not inserter.insert(EmailArgs("a"), UNIQUE).unique_skipped_as_duplicate


@pytest.mark.parametrize("insert", COPYING)
def test_copy_of_a_duplicate_inserts_none(
    inserter: Inserter, conn: psycopg.Connection[Any], insert: Insert, count: Callable[[], int]
) -> None:
    inserter.insert(EmailArgs("a"), UNIQUE)
    with pytest.raises(UniqueConflictError):
        insert(inserter, conn, [EmailArgs("b"), InsertManyParams(EmailArgs("a"), UNIQUE)])
    with pytest.raises(UniqueConflictError, match=r"params\[1\] has the unique key of params\[0\]"):
        insert(inserter, conn, [InsertManyParams(EmailArgs("c"), UNIQUE)] * 2)
    assert count() == 1
    insert(inserter, conn, [EmailArgs("b"), InsertManyParams(EmailArgs("c"), UNIQUE)])
    assert count() == 3


def test_insert_waits_for_a_rivals_commit_and_takes_its_row(
    inserter: Inserter, conn: psycopg.Connection[Any], dsn: str
) -> None:
    with psycopg.connect(dsn) as rival:
        theirs = inserter.insert_tx(rival, EmailArgs("a"), UNIQUE).job.id
        results: list[JobInsertResult] = []
        thread = threading.Thread(target=lambda: results.append(inserter.insert(EmailArgs("a"), UNIQUE)))
        thread.start()
        _wait_until_somebody_waits(conn)
        rival.commit()
        thread.join(30)
    assert [(result.job.id, result.unique_skipped_as_duplicate) for result in results] == [(theirs, True)]


def test_insert_takes_the_place_of_a_rival_that_rolled_back(
    inserter: Inserter, conn: psycopg.Connection[Any], dsn: str
) -> None:
    with psycopg.connect(dsn) as rival:
        theirs = inserter.insert_tx(rival, EmailArgs("a"), UNIQUE).job.id
        results: list[JobInsertResult] = []
        thread = threading.Thread(target=lambda: results.append(inserter.insert(EmailArgs("a"), UNIQUE)))
        thread.start()
        _wait_until_somebody_waits(conn)
        rival.rollback()
        thread.join(30)
    assert not results[0].unique_skipped_as_duplicate
    assert results[0].job.id != theirs


def _wait_until_somebody_waits(conn: psycopg.Connection[Any]) -> None:
    deadline = threading.Event()
    for _ in range(3000):
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE %s",
            [f"%{conn.info.dsn.split('search_path=')[1].split()[0].strip(chr(39))}%"],
        ).fetchone()
        if row is not None and row[0]:
            return
        deadline.wait(0.01)
    raise TimeoutError("nobody waited for a lock")


def test_eight_inserters_of_the_same_keys_store_each_once(inserter: Inserter, conn: psycopg.Connection[Any]) -> None:
    """Opposite orders in one statement each would deadlock if rows went in as they come."""
    created: list[int] = []
    errors: list[BaseException] = []
    keys = [InsertManyParams(EmailArgs(str(number)), UNIQUE) for number in range(50)]

    def insert(number: int) -> None:
        try:
            for turn in range(10):
                params = keys if (number + turn) % 2 else keys[::-1]
                results = inserter.insert_many(params)
                created.extend(result.job.id for result in results if not result.unique_skipped_as_duplicate)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=insert, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(created) == len(set(created)) == 50
    assert len(rows_of(conn)) == 50


@pytest.fixture
def overtaken(conn: psycopg.Connection[Any]) -> Callable[[int], None]:
    """`overtaken(times)`: so many of the next inserts meet a violation that ON CONFLICT did not see, as when the index
    of the keys is just being rebuilt. No two sessions could be made to meet in that moment each time."""
    conn.execute("CREATE SEQUENCE overtakings")
    conn.execute(
        "CREATE FUNCTION overtake() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval(TG_TABLE_SCHEMA || '.overtakings') <= TG_ARGV[0]::int"
        " THEN RAISE unique_violation; END IF; RETURN NEW; END $$"
    )

    def times(most: int) -> None:
        conn.execute("DROP TRIGGER IF EXISTS overtaken ON river_job")
        conn.execute("ALTER SEQUENCE overtakings RESTART")
        conn.execute(
            f"CREATE TRIGGER overtaken BEFORE INSERT ON river_job FOR EACH STATEMENT EXECUTE FUNCTION overtake({most})"
        )

    return times


def test_an_insert_that_was_overtaken_is_made_once_more(
    inserter: Inserter, conn: psycopg.Connection[Any], overtaken: Callable[[int], None]
) -> None:
    overtaken(OVERTAKEN_MOST)
    assert not inserter.insert(EmailArgs("a"), UNIQUE).unique_skipped_as_duplicate
    overtaken(OVERTAKEN_MOST)
    results = inserter.insert_many([InsertManyParams(EmailArgs(to), UNIQUE) for to in "abb"])
    assert [result.unique_skipped_as_duplicate for result in results] == [True, False, True]
    overtaken(1000)
    with pytest.raises(UniqueConflictError):
        inserter.insert(EmailArgs("c"), UNIQUE)
    overtaken(1)
    with pytest.raises(UniqueConflictError):
        inserter.insert_many_fast([EmailArgs("c")])
    assert len(rows_of(conn)) == 2


async def test_an_insert_that_was_overtaken_is_made_once_more_on_a_loop(
    inserter: Inserter, driver: PsycopgDriver, conn: psycopg.Connection[Any], overtaken: Callable[[int], None]
) -> None:
    try:
        overtaken(OVERTAKEN_MOST)
        assert not (await inserter.insert_async(EmailArgs("a"), UNIQUE)).unique_skipped_as_duplicate
        overtaken(OVERTAKEN_MOST)
        (result,) = await inserter.insert_many_async([InsertManyParams(EmailArgs("a"), UNIQUE)])
        assert result.unique_skipped_as_duplicate
        overtaken(1000)
        with pytest.raises(UniqueConflictError):
            await inserter.insert_async(EmailArgs("c"), UNIQUE)
    finally:
        await driver.close_async()
    assert len(rows_of(conn)) == 1


def test_period_of_a_unique_job_follows_its_schedule(inserter: Inserter) -> None:
    def duplicate(at: datetime | None) -> bool:
        opts = InsertOpts(unique=UniqueOpts(by_period=timedelta(hours=1)), scheduled_at=at)
        return inserter.insert(EmailArgs("a"), opts).unique_skipped_as_duplicate

    hour = datetime(2031, 1, 1, 5, tzinfo=UTC)
    assert [duplicate(hour), duplicate(hour + timedelta(minutes=59)), duplicate(hour + timedelta(hours=1))] == [
        False, True, False,
    ]  # fmt: skip
    assert [duplicate(None), duplicate(datetime.now(UTC))] == [False, True]
