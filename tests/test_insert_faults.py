"""Inserts whose connection fails under them: what is known is said, what is not known is said too."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import river_fast.inserter as inserter_module
from river_fast.config import Config
from river_fast.driver import ConnectionLostError
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import DatabaseError, InsertOutcomeUnknownError
from river_fast.insert_opts import InsertManyParams, InsertOpts, UniqueOpts
from river_fast.insert_statements import ROWS_PER_STATEMENT
from river_fast.inserter import Inserter
from river_fast.plugin import Plugin
from tests.fix_client import eventually
from tests.fix_inserter import EmailArgs, count
from tests.fix_proxy import Proxy

__all__ = ["count"]

ONE = EmailArgs("a")
TWO_STATEMENTS = [ONE] * (ROWS_PER_STATEMENT + 1)


@pytest.fixture
def proxy(dsn: str, schema: str) -> Iterator[Proxy]:
    """Cut before the schema is dropped: a session that is frozen in mid-transaction holds locks on it."""
    proxy = Proxy(dsn)
    yield proxy
    proxy.close()


@pytest.fixture
def inserter(proxy: Proxy, schema: str) -> Iterator[Inserter]:
    driver = PsycopgDriver(proxy.conninfo, schema)
    yield Inserter(driver, Config().checked())
    driver.close()


def _async(call: Callable[[Inserter], Any]) -> Callable[[Inserter], Any]:
    """On a loop of its own, with a connection that is there already: what is cut is the insert."""

    def run(inserter: Inserter) -> Any:
        async def main() -> Any:
            try:
                return await call(inserter)
            finally:
                await inserter._driver.close_async()

        return asyncio.run(main())

    return run


def _through(inserter: Inserter) -> Inserter:
    """The same with middleware around each insert."""

    def insert_many(params: Any) -> Iterator[None]:
        yield

    return Inserter(inserter._driver, Config(plugins=[Plugin(insert_many=insert_many)]).checked())


INSERTS = [
    pytest.param(lambda inserter: inserter.insert(ONE), 1, id="insert"),
    pytest.param(lambda inserter: inserter.insert_many([ONE] * 3), 3, id="insert_many"),
    pytest.param(lambda inserter: inserter.insert_many_fast([ONE] * 3), 3, id="insert_many_fast"),
    pytest.param(lambda inserter: inserter.insert_many(TWO_STATEMENTS), len(TWO_STATEMENTS), id="two_statements"),
    pytest.param(lambda inserter: _through(inserter).insert(ONE), 1, id="middleware"),
    pytest.param(_async(lambda inserter: _through(inserter).insert_async(ONE)), 1, id="async_middleware"),
]


@contextlib.contextmanager
def _answers_lost_once_committed(
    proxy: Proxy, conn: psycopg.Connection[Any], rows: int, count: Callable[[], int]
) -> Iterator[None]:
    """Cuts the proxy when the rows are there to be seen; whatever the server says of its commit is lost."""
    gate = zlib.crc32(conn.execute("SELECT current_schema()").fetchone()[0].encode())  # type: ignore[index]
    conn.execute("SELECT pg_advisory_lock(%s)", [gate])
    conn.execute(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN PERFORM pg_advisory_xact_lock({gate}); RETURN NULL; END'"
    )
    conn.execute(
        "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON river_job DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.id % 10000 = 1) EXECUTE FUNCTION hold()"
    )
    done = threading.Event()

    def cut() -> None:
        """The trigger runs inside the commit: from then on the answer is swallowed."""
        while not done.is_set():
            waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
            if conn.execute(waiting, [gate]).fetchone() is not None:
                proxy.swallowing = True
                conn.execute("SELECT pg_advisory_unlock(%s)", [gate])
                break
            time.sleep(0.005)
        while not done.is_set() and count() < rows:
            time.sleep(0.005)
        proxy.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)


@pytest.mark.parametrize(("insert", "rows"), INSERTS)
def test_answer_lost_after_the_commit_is_an_unknown_outcome(
    inserter: Inserter,
    proxy: Proxy,
    conn: psycopg.Connection[Any],
    count: Callable[[], int],
    insert: Callable[[Inserter], Any],
    rows: int,
) -> None:
    inserter._driver.open()
    with _answers_lost_once_committed(proxy, conn, rows, count), pytest.raises(InsertOutcomeUnknownError):
        insert(inserter)
    assert count() == rows  # never sent a second time
    conn.execute("DROP TRIGGER hold ON river_job")
    proxy.swallowing = False
    assert inserter.insert(ONE).job.id


def test_unknown_outcome_is_safe_to_retry_with_unique_options(
    inserter: Inserter, proxy: Proxy, conn: psycopg.Connection[Any], count: Callable[[], int]
) -> None:
    params = [InsertManyParams(EmailArgs(str(n)), InsertOpts(unique=UniqueOpts(by_args=True))) for n in range(3)]
    with _answers_lost_once_committed(proxy, conn, 3, count), pytest.raises(InsertOutcomeUnknownError):
        inserter.insert_many(params)
    conn.execute("DROP TRIGGER hold ON river_job")
    proxy.swallowing = False
    assert all(result.unique_skipped_as_duplicate for result in inserter.insert_many(params))
    assert count() == 3


@pytest.mark.parametrize("insert", [each.values[0] for each in INSERTS[2:]], ids=[each.id for each in INSERTS[2:]])
def test_connection_lost_before_the_commit_is_no_unknown_outcome(
    inserter: Inserter, proxy: Proxy, conn: psycopg.Connection[Any], count: Callable[[], int],
    insert: Callable[[Inserter], Any],
) -> None:  # fmt: skip
    """A lock holds the insert up inside its transaction; its session ends there."""
    inserter._driver.open()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            insert(inserter)
        except BaseException as error:
            errors.append(error)

    with conn.transaction():
        conn.execute("LOCK TABLE river_job IN SHARE MODE")
        thread = threading.Thread(target=run)
        thread.start()
        pid = _waiting(conn)
        conn.execute("SELECT pg_terminate_backend(%s)", [pid])
        thread.join(30)
    assert isinstance(errors[0], ConnectionLostError)
    assert "connection was lost" in str(errors[0])
    assert count() == 0
    insert(inserter)


def test_lost_caller_connection_is_a_database_error(
    inserter: Inserter, proxy: Proxy, conn: psycopg.Connection[Any], count: Callable[[], int]
) -> None:
    """Only the caller's own commit could have kept anything."""
    with contextlib.suppress(psycopg.Error), psycopg.connect(proxy.conninfo) as caller:
        inserter.insert_tx(caller, ONE)
        proxy.cut()
        with pytest.raises(ConnectionLostError):
            inserter.insert_tx(caller, ONE)
    assert count() == 0


def test_connection_that_died_in_the_pool_is_replaced_unseen(
    inserter: Inserter, conn: psycopg.Connection[Any], count: Callable[[], int]
) -> None:
    for number in range(1, 6):
        inserter.insert(ONE)
        assert count() == number
        conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'river_fast/pool'"
            " AND datname = current_database() AND pid = %s",
            [_pool_pid(inserter)],
        )


def test_silent_server_is_given_up(
    inserter: Inserter, proxy: Proxy, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        monkeypatch.setattr(inserter_module, "ANSWER_TIMEOUT_S", 30)
        inserter.insert(ONE)
        proxy.swallowing = True
        monkeypatch.setattr(inserter_module, "ANSWER_TIMEOUT_S", 0.5)
        with pytest.raises(InsertOutcomeUnknownError):
            inserter.insert(ONE)
        proxy.swallowing = False
    eventually(lambda: count() == 4)  # unknown to us, but the server had them all


def test_silent_server_is_given_up_by_an_event_loop(
    inserter: Inserter, proxy: Proxy, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await inserter.insert_async(ONE)
        proxy.swallowing = True
        with monkeypatch.context() as impatient:
            impatient.setattr(inserter_module, "ANSWER_TIMEOUT_S", 0.5)
            with pytest.raises(InsertOutcomeUnknownError):
                await inserter.insert_async(ONE)
        proxy.swallowing = False
        await inserter.insert_async(ONE)
        await inserter._driver.close_async()

    asyncio.run(run())
    eventually(lambda: count() == 3)


def test_no_server_is_a_database_error_and_nothing_is_sent(inserter: Inserter, proxy: Proxy) -> None:
    proxy.refusing = True
    with pytest.raises(DatabaseError) as caught:
        inserter.insert(ONE)
    assert not isinstance(caught.value, ConnectionLostError)


def _pool_pid(inserter: Inserter) -> int:
    with inserter._driver.autocommit() as executor:
        return executor._conn.info.backend_pid  # type: ignore[attr-defined,no-any-return]


def _waiting(conn: psycopg.Connection[Any]) -> int:
    """The session that waits for a lock of this connection's."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        row = conn.execute(
            "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'river_job'::regclass"
        ).fetchone()
        if row is not None:
            return int(row[0])
        time.sleep(0.005)
    raise TimeoutError("nobody waits")
