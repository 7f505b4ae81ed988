"""The insert verbs on a real PostgreSQL: what is stored, with which options, in whose transaction."""

from __future__ import annotations

import asyncio
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
from river_fast.insert_opts import InsertManyParams, InsertOpts, UniqueOpts
from river_fast.insert_statements import ROWS_PER_STATEMENT
from river_fast.inserter import Inserter
from river_fast.job import JobState
from river_fast.job_args import JobArgs, RawArgs
from tests.fix_inserter import ALL, LATER, RETURNING, UNIQUE, EmailArgs, Insert, count, driver, inserter, rows_of

__all__ = ["count", "driver", "inserter"]

EVERYTHING = InsertOpts(
    max_attempts=7,
    metadata={"a": [1, 2.5, None], "ü": "<&>"},
    priority=3,
    queue="other_queue",
    scheduled_at=LATER,
    tags=["one", "NULL", "two-words"],
    unique=UniqueOpts(by_args=True, by_queue=True),
)


@pytest.mark.parametrize("insert", ALL)
def test_defaults_are_rivers(inserter: Inserter, conn: psycopg.Connection[Any], insert: Insert) -> None:
    insert(inserter, conn, [EmailArgs("a")])
    (row,) = rows_of(conn)
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
    (row,) = rows_of(conn)
    assert row["args"] == {"to": "ü\u2028<", "body": "x" * 5000}
    assert (row["max_attempts"], row["priority"], row["queue"]) == (7, 3, "other_queue")
    assert (row["state"], row["scheduled_at"], row["tags"]) == ("scheduled", LATER, ["one", "NULL", "two-words"])
    assert row["metadata"] == {"a": [1, 2.5, None], "ü": "<&>"}
    assert row["states"] == "11110101"


@pytest.mark.parametrize("insert", RETURNING)
def test_returned_job_is_the_row_as_stored(inserter: Inserter, conn: psycopg.Connection[Any], insert: Insert) -> None:
    (result,) = insert(inserter, conn, [InsertManyParams(EmailArgs("a", {"z": 1, "y": 1.50}), EVERYTHING)])
    (row,) = rows_of(conn)
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
