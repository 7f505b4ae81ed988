"""The insert verbs on a real PostgreSQL: what is stored, what is told, what duplicates give."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from river_fast.config import Config
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import UniqueConflictError, UnknownJobKindError, ValidationError
from river_fast.insert_opts import InsertManyParams, InsertOpts, JobInsertResult, UniqueOpts
from river_fast.insert_statements import ROWS_PER_STATEMENT
from river_fast.inserter import Inserter
from river_fast.job import JobState
from river_fast.job_args import JobArgs, RawArgs
from tests.fix_inserter import EmailArgs, count, driver, inserter

__all__ = ["count", "driver", "inserter"]

UNIQUE = InsertOpts(unique=UniqueOpts(by_args=True))
LATER = datetime(2031, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
EVERYTHING = InsertOpts(
    max_attempts=7,
    metadata={"a": [1, 2.5, None], "ü": "<&>"},
    priority=3,
    queue="other_queue",
    scheduled_at=LATER,
    tags=["one", "NULL", "two-words"],
    unique=UniqueOpts(by_args=True, by_queue=True),
)

Insert = Callable[[Inserter, psycopg.Connection[Any], list[Any]], list[JobInsertResult]]


def _one_by_one(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    given = [param if isinstance(param, InsertManyParams) else InsertManyParams(param) for param in params]
    return [inserter.insert(param.args, param.opts) for param in given]


def _many(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    return inserter.insert_many(params)


def _one_by_one_tx(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    given = [param if isinstance(param, InsertManyParams) else InsertManyParams(param) for param in params]
    with conn.transaction():
        return [inserter.insert_tx(conn, param.args, param.opts) for param in given]


def _many_tx(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    with conn.transaction():
        return inserter.insert_many_tx(conn, params)


def _fast(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    assert inserter.insert_many_fast(params) == len(params)
    return []


def _fast_tx(inserter: Inserter, conn: psycopg.Connection[Any], params: list[Any]) -> list[JobInsertResult]:
    with conn.transaction():
        assert inserter.insert_many_fast_tx(conn, params) == len(params)
    return []


RETURNING = [_one_by_one, _many, _one_by_one_tx, _many_tx]
ALL = [*RETURNING, _fast, _fast_tx]


def _rows(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute(
            "SELECT *, args::text AS args_text, encode(unique_key, 'hex') AS key, unique_states::text AS states,"
            " scheduled_at = created_at AS due_at_once FROM river_job ORDER BY id"
        ).fetchall()


@pytest.mark.parametrize("insert", ALL)
def test_defaults_are_rivers(inserter: Inserter, conn: psycopg.Connection[Any], insert: Insert) -> None:
    insert(inserter, conn, [EmailArgs("a")])
    (row,) = _rows(conn)
    assert row["due_at_once"]  # both are the server's now()
    assert {key: row[key] for key in ("state", "attempt", "max_attempts", "priority", "queue", "kind", "metadata")} == {
        "state": "available", "attempt": 0, "max_attempts": 25, "priority": 1, "queue": "default", "kind": "email",
        "metadata": {},
    }  # fmt: skip
    assert (row["tags"], row["args"], row["unique_key"], row["states"]) == ([], {"to": "a", "body": ""}, None, None)
    assert (row["attempted_at"], row["attempted_by"], row["errors"], row["finalized_at"]) == (None, None, None, None)


@pytest.mark.parametrize("insert", ALL)
def test_every_option_is_stored(inserter: Inserter, conn: psycopg.Connection[Any], insert: Insert) -> None:
    insert(inserter, conn, [InsertManyParams(EmailArgs("ü\u2028<", "x" * 5000), EVERYTHING)])
    (row,) = _rows(conn)
    assert row["args"] == {"to": "ü\u2028<", "body": "x" * 5000}
    assert (row["max_attempts"], row["priority"], row["queue"]) == (7, 3, "other_queue")
    assert (row["state"], row["scheduled_at"], row["tags"]) == ("scheduled", LATER, ["one", "NULL", "two-words"])
    assert row["metadata"] == {"a": [1, 2.5, None], "ü": "<&>"}
    assert row["states"] == "11110101"


@pytest.mark.parametrize("insert", RETURNING)
def test_returned_job_is_the_row_as_stored(inserter: Inserter, conn: psycopg.Connection[Any], insert: Insert) -> None:
    (result,) = insert(inserter, conn, [InsertManyParams(EmailArgs("a", {"z": 1, "y": 1.50}), EVERYTHING)])
    (row,) = _rows(conn)
    job = result.job
    assert not result.unique_skipped_as_duplicate
    assert (job.id, job.kind, job.queue, job.state) == (row["id"], "email", "other_queue", JobState.SCHEDULED)
    assert (job.priority, job.max_attempts, job.attempt, job.tags) == (3, 7, 0, row["tags"])
    assert (job.created_at, job.scheduled_at, job.metadata) == (row["created_at"], LATER, row["metadata"])
    assert job.encoded_args.decode() == row["args_text"]
    assert job.args == EmailArgs("a", {"z": 1, "y": 1.50})
    assert (job.attempted_at, job.attempted_by, job.errors, job.finalized_at) == (None, [], [], None)
    with pytest.raises(RuntimeError, match="not running"):
        job.record_output(1)


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
    assert len(_rows(conn)) == 6


@pytest.mark.parametrize("insert", RETURNING)
@pytest.mark.parametrize("state", ["available", "completed", "pending", "retryable", "running", "scheduled"])
def test_existing_row_keeps_every_value(
    inserter: Inserter, conn: psycopg.Connection[Any], insert: Insert, state: str
) -> None:
    opts = InsertOpts(unique=UniqueOpts(by_queue=True, exclude_kind=True), metadata={"a": 1}, tags=["one"])
    inserter.insert(EmailArgs("first"), opts)
    finalized = datetime.now(UTC) if state == "completed" else None
    conn.execute("UPDATE river_job SET state = %s, finalized_at = %s, attempt = 3", [state, finalized])
    (before,) = _rows(conn)
    changed = InsertOpts(
        unique=opts.unique, metadata={"b": 2}, tags=["two"], priority=4, scheduled_at=LATER, max_attempts=1
    )
    (result,) = insert(inserter, conn, [InsertManyParams(RawArgs("another_kind", {"b": 1}), changed)])
    (after,) = _rows(conn)
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


@pytest.mark.parametrize("insert", [_fast, _fast_tx])
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
        thread.join(10)
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
        thread.join(10)
    assert not results[0].unique_skipped_as_duplicate
    assert results[0].job.id != theirs


def _wait_until_somebody_waits(conn: psycopg.Connection[Any]) -> None:
    deadline = threading.Event()
    for _ in range(1000):
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
    assert len(_rows(conn)) == 50


def test_many_more_than_one_statement_takes_are_one_transaction(
    inserter: Inserter, conn: psycopg.Connection[Any], count: Callable[[], int]
) -> None:
    jobs = [RawArgs("raw", {"n": number}) for number in range(ROWS_PER_STATEMENT + 3)]
    results = inserter.insert_many(jobs)
    step = ROWS_PER_STATEMENT // 2
    assert [result.job.args["n"] for result in results[::step]] == list(range(0, len(jobs), step))
    assert conn.execute("SELECT count(DISTINCT xmin::text), count(*) FROM river_job").fetchone() == (1, len(jobs))
    with pytest.raises(ValidationError, match=rf"params\[{len(jobs)}\]\.args"):
        inserter.insert_many([*jobs, 3])
    with pytest.raises(ValidationError, match=rf"params\[{len(jobs)}\]\.args"):
        inserter.insert_many_fast([*jobs, 3])
    assert count() == len(jobs)


def test_pending_wins_over_scheduled_and_the_past_is_scheduled_still(
    inserter: Inserter, conn: psycopg.Connection[Any]
) -> None:
    past = datetime.now(UTC) - timedelta(days=40_000)
    for opts, state in (
        (InsertOpts(pending=True), "pending"),
        (InsertOpts(pending=True, scheduled_at=LATER), "pending"),
        (InsertOpts(scheduled_at=past), "scheduled"),
    ):
        assert inserter.insert(EmailArgs("a"), opts).job.state == state


def test_call_options_go_before_the_types_and_the_types_before_the_clients(driver: PsycopgDriver) -> None:
    @dataclass
    class WithOpts(
        JobArgs,
        kind="with_opts",
        insert_opts=InsertOpts(
            priority=2, queue="of_type", tags=["type"], max_attempts=9, unique=UniqueOpts(by_args=True),
            metadata={"type": 1}, pending=True, scheduled_at=LATER,
        ),
    ):  # fmt: skip
        n: int

    inserter = Inserter(driver, Config(max_attempts=11).checked())
    of_type = inserter.insert(WithOpts(1)).job
    assert (of_type.priority, of_type.queue, of_type.tags, of_type.max_attempts) == (2, "of_type", ["type"], 9)
    assert (of_type.metadata, of_type.state, of_type.scheduled_at) == ({}, "scheduled", LATER)
    assert inserter.insert(WithOpts(1)).unique_skipped_as_duplicate
    call = InsertOpts(priority=4, queue="of_call", tags=[], max_attempts=3, unique=UniqueOpts(by_queue=True))
    of_call = inserter.insert(WithOpts(1), call).job
    assert (of_call.priority, of_call.queue, of_call.tags, of_call.max_attempts) == (4, "of_call", [], 3)
    assert inserter.insert(WithOpts(2), call).unique_skipped_as_duplicate  # replaced, not merged
    assert inserter.insert(WithOpts(1), InsertOpts(unique=UniqueOpts())).unique_skipped_as_duplicate  # empty: inherited
    assert inserter.insert(EmailArgs("a")).job.max_attempts == 11


def test_options_may_depend_on_the_args(inserter: Inserter) -> None:
    @dataclass
    class Sized(JobArgs, kind="sized", insert_opts=lambda args: InsertOpts(priority=args.n)):
        n: int

    results = inserter.insert_many([Sized(3), Sized(2), Sized(4)])
    assert [result.job.priority for result in results] == [3, 2, 4]


def test_unregistered_kinds_are_refused_unless_told_otherwise(driver: PsycopgDriver, count: Callable[[], int]) -> None:
    known = {"email"}
    inserter = Inserter(driver, Config().checked(), known_kinds=lambda: known)
    inserter.insert(EmailArgs("a"))
    for insert in (inserter.insert_many, inserter.insert_many_fast):
        with pytest.raises(UnknownJobKindError, match="other"):
            insert([EmailArgs("a"), RawArgs("other", {})])
    with pytest.raises(UnknownJobKindError):
        inserter.insert(RawArgs("other", {}))
    assert count() == 1
    careless = Inserter(driver, Config(skip_unknown_job_check=True).checked(), known_kinds=lambda: known)
    careless.insert(RawArgs("other", {}))
    known.add("other")
    inserter.insert(RawArgs("other", {}))
    assert count() == 3


def test_period_of_a_unique_job_follows_its_schedule(inserter: Inserter) -> None:
    def duplicate(at: datetime | None) -> bool:
        opts = InsertOpts(unique=UniqueOpts(by_period=timedelta(hours=1)), scheduled_at=at)
        return inserter.insert(EmailArgs("a"), opts).unique_skipped_as_duplicate

    hour = datetime(2031, 1, 1, 5, tzinfo=UTC)
    assert [duplicate(hour), duplicate(hour + timedelta(minutes=59)), duplicate(hour + timedelta(hours=1))] == [
        False, True, False,
    ]  # fmt: skip
    assert [duplicate(None), duplicate(datetime.now(UTC))] == [False, True]


# --- the caller's transaction


def test_rolled_back_transaction_leaves_nothing(
    inserter: Inserter, dsn: str, schema: str, count: Callable[[], int]
) -> None:
    with psycopg.connect(dsn) as caller:
        inserter.insert_tx(caller, EmailArgs("a"))
        inserter.insert_many_tx(caller, [EmailArgs("a")] * 3)
        inserter.insert_many_fast_tx(caller, [EmailArgs("a")] * 3)
        row = caller.execute(f'SELECT count(*) FROM "{schema}".river_job').fetchone()
        assert row is not None
        assert row[0] == 7
        caller.rollback()
    assert count() == 0


def test_async_connections_take_the_same_calls(inserter: Inserter, dsn: str, count: Callable[[], int]) -> None:
    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as caller:
            assert (await inserter.insert_tx(caller, EmailArgs("a"), UNIQUE)).job.args == EmailArgs("a")
            results = await inserter.insert_many_tx(caller, [EmailArgs("b"), InsertManyParams(EmailArgs("a"), UNIQUE)])
            assert [result.unique_skipped_as_duplicate for result in results] == [False, True]
            assert await inserter.insert_many_fast_tx(caller, [EmailArgs("c")] * 2) == 2
        assert (await inserter.insert_async(EmailArgs("a"), UNIQUE)).unique_skipped_as_duplicate
        assert len(await inserter.insert_many_async([EmailArgs("d")] * 3)) == 3
        assert await inserter.insert_many_fast_async([EmailArgs("e")] * 4) == 4
        with pytest.raises(UniqueConflictError):
            await inserter.insert_many_fast_async([InsertManyParams(EmailArgs("a"), UNIQUE)])
        many = ROWS_PER_STATEMENT + 1
        assert len(await inserter.insert_many_async([EmailArgs("f")] * many)) == many
        await inserter._driver.close_async()

    asyncio.run(run())
    assert count() == 12 + ROWS_PER_STATEMENT


# --- notifications


def _listen(dsn: str, schema: str) -> psycopg.Connection[Any]:
    listener = psycopg.connect(dsn, autocommit=True)
    listener.execute(f'LISTEN "{schema}.river_insert"')
    return listener


def _heard(listener: psycopg.Connection[Any]) -> list[str]:
    """Everything said before now: a notification of our own comes last."""
    channel = listener.execute("SELECT pg_listening_channels()").fetchone()
    assert channel is not None
    listener.execute("SELECT pg_notify(%s, 'end')", [channel[0]])
    heard = []
    for notify in listener.notifies(timeout=10):
        if notify.payload == "end":
            return heard
        heard.append(notify.payload)
    raise TimeoutError("no end")


@pytest.mark.parametrize("insert", ALL)
def test_each_queue_with_available_jobs_is_notified(
    inserter: Inserter, conn: psycopg.Connection[Any], dsn: str, schema: str, insert: Insert
) -> None:
    params = [
        InsertManyParams(EmailArgs("a"), InsertOpts(queue="one")),
        InsertManyParams(EmailArgs("b"), InsertOpts(queue="two|x")),
        InsertManyParams(EmailArgs("c"), InsertOpts(queue="pending", pending=True)),
        InsertManyParams(EmailArgs("d"), InsertOpts(queue="later", scheduled_at=LATER)),
    ]
    with _listen(dsn, schema) as listener:
        insert(inserter, conn, params)
        assert sorted(_heard(listener)) == ['{"queue": "one"}', '{"queue": "two|x"}']


def test_batches_always_notify_and_singles_only_outside_the_window(
    driver: PsycopgDriver, dsn: str, schema: str
) -> None:
    inserter = Inserter(driver, Config(fetch_cooldown=0.5).checked())
    with _listen(dsn, schema) as listener:
        inserter.insert_many([EmailArgs("a")] * 3)
        assert len(_heard(listener)) == 1
        inserter.insert(EmailArgs("a"))  # within the window of the batch
        assert len(_heard(listener)) == 0
        inserter.insert(EmailArgs("a"), InsertOpts(queue="another"))
        assert len(_heard(listener)) == 1
        inserter.insert_many([EmailArgs("a")])
        inserter.insert_many_fast([EmailArgs("a")])
        with psycopg.connect(dsn) as caller:
            inserter.insert_tx(caller, EmailArgs("a"))
        assert len(_heard(listener)) == 3


def test_rolled_back_notification_uses_nothing_up(driver: PsycopgDriver, dsn: str, schema: str) -> None:
    inserter = Inserter(driver, Config(fetch_cooldown=60, fetch_poll_interval=60).checked())
    with _listen(dsn, schema) as listener:
        with psycopg.connect(dsn) as caller:
            inserter.insert_tx(caller, EmailArgs("a"))
            caller.rollback()
        with pytest.raises(UniqueConflictError):
            inserter.insert_many_fast([InsertManyParams(EmailArgs("a"), UNIQUE)] * 2)
        assert _heard(listener) == []
        inserter.insert(EmailArgs("a"))
        assert _heard(listener) == ['{"queue": "default"}']


def test_server_without_notifications_is_never_asked_for_them(driver: PsycopgDriver, dsn: str, schema: str) -> None:
    from dataclasses import replace

    driver._capabilities = replace(driver.open(), listen=False)
    poked: list[str] = []
    inserter = Inserter(driver, Config().checked(), poke=poked.extend)
    with _listen(dsn, schema) as listener:
        inserter.insert(EmailArgs("a"))
        inserter.insert_many([InsertManyParams(EmailArgs("a"), InsertOpts(queue=name)) for name in ("one", "two")])
        inserter.insert_many_fast([EmailArgs("a")])
        assert _heard(listener) == []
    assert poked == ["default", "one", "two", "default"]


def test_single_insert_is_one_round_trip(inserter: Inserter, driver: PsycopgDriver, tmp_path: Path) -> None:
    """Insert, notification and commit in one, whether prepared or not."""
    with driver.autocommit() as executor:
        pgconn = executor._conn.pgconn
    for queue in map(str, range(100, 110)):
        with (tmp_path / "trace").open("w+b") as trace:
            pgconn.trace(trace.fileno())
            inserter.insert(EmailArgs("a"), InsertOpts(queue=queue))
            pgconn.untrace()
            trace.seek(0)
            lines = [line.split(b"\t") for line in trace.read().splitlines()]
        sent = [line[3] for line in lines if len(line) > 3 and line[1] == b"F"]
        round_trips = sent.count(b"Sync") + sent.count(b"Query")
        assert round_trips == 1 or (b"Parse" in sent and b"Bind" not in sent[: sent.index(b"Sync")]), sent
