"""Bad input at every insert: a typed error that names the place, no row written, the connection usable afterwards.

The numbers are those of the project's corpus of bad inputs; one test an entry point, one case a piece of input.
"""

from __future__ import annotations

import asyncio
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from river_fast.config import Config
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import EncodeError, RiverError, ValidationError
from river_fast.insert_opts import InsertManyParams, InsertOpts, UniqueOpts
from river_fast.inserter import Inserter
from river_fast.job_args import RawArgs
from tests.fix_bad_input import ALL, ARGS, GOOD, METADATA, QUEUE, TAGS, UNIQUE, Bad
from tests.fix_inserter import EmailArgs, driver, inserter

__all__ = ["driver", "inserter"]

Call = Callable[[Inserter, psycopg.Connection[Any], Any, Any], Any]


def _insert(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    return inserter.insert(args, opts)


def _insert_many(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    return inserter.insert_many([GOOD, InsertManyParams(args, opts), GOOD])


def _insert_many_fast(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    return inserter.insert_many_fast([GOOD, InsertManyParams(args, opts), GOOD])


def _insert_tx(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    with conn.transaction():
        return inserter.insert_tx(conn, args, opts)


def _insert_many_tx(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    with conn.transaction():
        return inserter.insert_many_tx(conn, [GOOD, InsertManyParams(args, opts), GOOD])


def _insert_many_fast_tx(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    with conn.transaction():
        return inserter.insert_many_fast_tx(conn, [GOOD, InsertManyParams(args, opts), GOOD])


def _insert_async(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    async def run() -> Any:
        try:
            return await inserter.insert_async(args, opts)
        finally:
            await inserter._driver.close_async()

    return asyncio.run(run())


SINGLE = [_insert, _insert_tx, _insert_async]
ENTRY_POINTS = [*SINGLE, _insert_many, _insert_many_fast, _insert_many_tx, _insert_many_fast_tx]


@pytest.fixture(scope="module")
def bad_schema(dsn: str) -> Iterator[str]:
    """One schema for the whole file: nothing may ever be written to it."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f'CREATE SCHEMA "{name}"')
        from river_fast.migrate import Migrator

        driver = PsycopgDriver(dsn, name)
        Migrator(driver).migrate_up()
        driver.close()
        yield name
        conn.execute(f'DROP SCHEMA "{name}" CASCADE')


@pytest.fixture(scope="module")
def bad_conn(dsn: str, bad_schema: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True, options=f"-c search_path={bad_schema}") as conn:
        yield conn


@pytest.fixture(scope="module")
def bad_inserter(dsn: str, bad_schema: str) -> Iterator[Inserter]:
    driver = PsycopgDriver(dsn, bad_schema)
    yield Inserter(driver, Config().checked())
    driver.close()


def _check(call: Call, bad: Bad, inserter: Inserter, conn: psycopg.Connection[Any]) -> None:
    before = conn.execute("SELECT count(*) FROM river_job").fetchone()
    with pytest.raises(ValidationError) as caught:
        call(inserter, conn, bad.make(), bad.opts)
    error = caught.value
    assert error.field == bad.field
    assert len(str(error)) < 500
    if call not in SINGLE and bad.field != "kind":
        assert error.index == 1
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert conn.execute("SELECT count(*) FROM river_job").fetchone() == before


def _parametrised(entry_point: Call) -> Any:
    @pytest.mark.parametrize("bad", ALL, ids=lambda bad: f"{bad.row}:{bad.field}:{bad.what}")
    def test(bad: Bad, bad_inserter: Inserter, bad_conn: psycopg.Connection[Any]) -> None:
        _check(entry_point, bad, bad_inserter, bad_conn)

    return test


test_bad_input_of_insert = _parametrised(_insert)
test_bad_input_of_insert_many = _parametrised(_insert_many)
test_bad_input_of_insert_many_fast = _parametrised(_insert_many_fast)
test_bad_input_of_insert_tx = _parametrised(_insert_tx)
test_bad_input_of_insert_many_tx = _parametrised(_insert_many_tx)
test_bad_input_of_insert_many_fast_tx = _parametrised(_insert_many_fast_tx)


@pytest.mark.parametrize("bad", [*ARGS[:4], QUEUE[0], TAGS[0], METADATA[0], UNIQUE[0]], ids=lambda bad: bad.what)
def test_bad_input_of_insert_async(bad: Bad, dsn: str, bad_schema: str, bad_conn: psycopg.Connection[Any]) -> None:
    _check(_insert_async, bad, Inserter(PsycopgDriver(dsn, bad_schema), Config().checked()), bad_conn)


# --- what looks bad and is not


def test_odd_input_that_is_fine_is_stored_verbatim(inserter: Inserter, conn: psycopg.Connection[Any]) -> None:
    """Rows 6, 9, 15, 21, 30, 37, 38, 42, 44, 45, 47."""
    warsaw = zoneinfo.ZoneInfo("Europe/Warsaw")
    times = [
        datetime.max.replace(tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=15, minutes=59))),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-16))),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=warsaw),
        datetime(2026, 3, 29, 2, 30, fold=1, tzinfo=warsaw),
    ]
    for at in times:
        stored = inserter.insert(GOOD, InsertOpts(scheduled_at=at)).job.scheduled_at
        assert stored == at.astimezone(UTC)
    texts = ["'; drop table river_job;--", "%s %(args)s %", "$1 :x {} ?", "\\", "\u2028", "😀"]
    assert [result.job.args.to for result in inserter.insert_many([EmailArgs(text) for text in texts])] == texts
    inserter.insert_many_fast([EmailArgs(text) for text in texts])
    assert inserter.insert(EmailArgs(2**64)).job.args.to == 2**64
    assert inserter.insert(RawArgs("raw", b'{"a":1e400,"b":1,"b":2}')).job.args == {"a": 10**400, "b": 2}
    job = inserter.insert(GOOD, InsertOpts(queue="a|b", priority=0, max_attempts=0)).job
    assert (job.queue, job.priority, job.max_attempts) == ("a|b", 1, 25)
    assert inserter.insert(GOOD, InsertOpts(unique=UniqueOpts(by_state=[]))).job.id  # row 53: the default states


def test_bad_queue_name_is_refused_at_once(bad_inserter: Inserter) -> None:
    """Row 29: no time lost in a pattern that looks back."""
    import time

    for name in ("a" * 64 + "!", "a" * 63 + "!", "a-" * 31 + "!"):
        started = time.thread_time()
        with pytest.raises(ValidationError):
            bad_inserter.insert(GOOD, InsertOpts(queue=name))
        assert time.thread_time() - started < 1, "of processor time; looking back takes hours"


def test_tags_of_other_writers_are_read_as_they_are(inserter: Inserter, conn: psycopg.Connection[Any]) -> None:
    """Row 34: what our own rules refuse must survive in rows that others wrote."""
    inserter.insert(GOOD, InsertOpts(unique=UniqueOpts(by_args=True)))
    tags = ["a,b", 'c"d', "e\\f", "{g}", "NULL", "", "\\.", "\t\n"]
    conn.execute("UPDATE river_job SET tags = %s", [tags])
    assert inserter.insert(GOOD, InsertOpts(unique=UniqueOpts(by_args=True))).job.tags == tags


def test_every_error_is_ours() -> None:
    assert issubclass(ValidationError, RiverError)
    assert issubclass(EncodeError, ValidationError)
