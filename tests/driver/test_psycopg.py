"""The psycopg driver: rows as they lie, parameters as they are, connections of the pool and of callers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest

import river_fast as river
from river_fast import pg_binary
from river_fast.driver import ConnectionsClosedError, Statement
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.driver.psycopg_executor import ResultRow
from river_fast.driver.psycopg_session import parse_conninfo
from river_fast.errors import ClientStoppedError, ConfigError, DatabaseError
from tests.fix_client import Args, eventually, workers_of
from tests.fix_proxy import Proxy
from tests.fix_tls import TlsFront


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


def _look_around(*, lazy: bool) -> Statement[list[Any]]:
    return Statement("driver_look_around", {}, lambda rows, count: rows, lazy)


@pytest.mark.parametrize("lazy", [False, True])
def test_rows_are_the_bytes_the_server_sent(driver: PsycopgDriver, schema: str, lazy: bool) -> None:
    with driver.autocommit() as executor:
        (row,) = executor.run(_look_around(lazy=lazy))
    assert isinstance(row, ResultRow if lazy else tuple)
    assert (len(row), len(list(row)), row[4], row[-4]) == (8, 8, b"\x01", b"\x01")
    assert row[2:4] == [row[2], row[3]] if lazy else (row[2], row[3])
    assert int.from_bytes(row[2], "big") == driver.open().server_version
    with pytest.raises(IndexError):
        row[8]


def test_binary_parameters_arrive_as_their_type(
    driver: PsycopgDriver, conn: psycopg.Connection[Any], schema: str
) -> None:
    params = {"channel": f"{schema}.river_insert", "payloads": pg_binary.texts(["ü", "", "x" * 5000])}
    conn.execute(f'LISTEN "{schema}.river_insert"')
    with driver.transaction() as executor:
        executor.run(Statement("notify_many", params))
        executor.run(Statement("notify_many", {**params, "payloads": pg_binary.texts([])}))
    conn.execute("SELECT 1")
    assert [notify.payload for notify in conn.notifies(timeout=5, stop_after=3)] == ["ü", "", "x" * 5000]


def test_transaction_is_rolled_back_on_an_error_and_its_connection_used_again(
    driver: PsycopgDriver, conn: psycopg.Connection[Any]
) -> None:
    pids = []

    def fail() -> None:
        with driver.transaction() as executor:
            pids.append(executor._conn.info.backend_pid)
            executor._conn.execute(f"""INSERT INTO "{driver.schema}".river_queue (name) VALUES ('q')""")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert conn.execute("SELECT count(*) FROM river_queue").fetchone() == (0,)
    with driver.autocommit() as executor:
        assert executor._conn.info.backend_pid == pids[0]


def test_clock_offset_is_the_servers_clock_less_ours(driver: PsycopgDriver) -> None:
    assert abs(driver.open().clock_offset) < 1  # the same machine


def test_clock_offset_is_seen_when_our_clock_is_wrong(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr("river_fast.driver.psycopg_contact.time.time", lambda: real() - 3600)
    driver = PsycopgDriver(dsn, "public")
    try:
        assert abs(driver.open().clock_offset - 3600) < 5
    finally:
        driver.close()


def test_closed_driver_may_be_opened_again(driver: PsycopgDriver) -> None:
    for _ in range(3):
        driver.open()
        driver.close()
        driver.close()
    with driver.autocommit() as executor:
        assert executor.run(_look_around(lazy=False))


def test_call_that_waits_for_a_connection_at_the_close_is_told_that_the_client_was_stopped(
    dsn: str, schema: str
) -> None:
    driver = PsycopgDriver(dsn, schema, pool_size=1)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            with driver.autocommit() as executor:
                executor.run(_look_around(lazy=False))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    with driver.autocommit() as executor:
        thread.start()
        pool = driver._pool
        assert pool is not None
        eventually(lambda: pool.get_stats().get("requests_waiting"), what="a call that waits for the connection")
        driver.close()
        assert executor.run(_look_around(lazy=False)), "what runs already goes on"
    thread.join(20)
    assert [type(error) for error in raised] == [ConnectionsClosedError]
    assert isinstance(raised[0], ClientStoppedError)
    with driver.autocommit() as executor:
        assert executor.run(_look_around(lazy=False)), "and may be asked again"
    driver.close()


def test_callers_pool_that_is_closed_is_named(dsn: str, schema: str) -> None:
    pool = psycopg_pool.ConnectionPool(dsn, min_size=0, max_size=1, open=False)
    driver = PsycopgDriver.from_pool(pool, schema)
    with pytest.raises(DatabaseError, match="from_pool is closed") as caught, driver.autocommit():
        pass
    assert not isinstance(caught.value, ClientStoppedError)
    driver.close()


def test_each_event_loop_has_a_pool_of_its_own(driver: PsycopgDriver) -> None:
    async def run() -> None:
        async with driver.async_transaction() as executor:
            assert await executor.run(_look_around(lazy=False))
        await driver.close_async()

    for _ in range(3):
        asyncio.run(run())


def test_callers_pool_is_used_as_it_is_and_left_open(dsn: str, schema: str, conn: psycopg.Connection[Any]) -> None:
    insert = f"""INSERT INTO "{schema}".river_queue (name) VALUES ('q')"""
    with psycopg_pool.ConnectionPool(dsn, kwargs={"application_name": "theirs"}, min_size=1, max_size=1) as pool:
        driver = PsycopgDriver.from_pool(pool, schema)
        with driver.autocommit() as executor:
            assert executor._conn.autocommit
            pid = executor._conn.info.backend_pid
            assert executor.run(_look_around(lazy=False))
        with driver.transaction() as executor:
            executor._conn.execute(insert)
        driver.close()
        with pool.connection() as theirs:
            assert (theirs.info.backend_pid, theirs.autocommit) == (pid, False)
        assert parse_conninfo(driver.conninfo("fetcher"))["application_name"] == "theirs"
    assert conn.execute("SELECT count(*) FROM river_queue").fetchone() == (1,)
    with pytest.raises(ConfigError, match="ConnectionPool"):
        PsycopgDriver.from_pool(conn)


def test_callers_async_pool_serves_its_loop(dsn: str, schema: str) -> None:
    async def run() -> None:
        async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=1) as pool:
            driver = PsycopgDriver.from_pool(pool, schema)
            async with driver.async_transaction() as executor:
                pid = executor._conn.info.backend_pid
            async with driver.async_autocommit() as executor:
                assert executor._conn.info.backend_pid == pid
                assert await executor.run(_look_around(lazy=False))
            await driver.close_async()
            async with pool.connection() as theirs:
                assert (theirs.info.backend_pid, theirs.autocommit) == (pid, False)

    asyncio.run(run())


def test_unreachable_server_is_a_database_error_without_the_password() -> None:
    driver = PsycopgDriver("host=127.0.0.1 port=1 password=s3cr3t connect_timeout=2")
    with pytest.raises(DatabaseError) as caught:
        driver.open()
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_require_tls_refuses_what_would_go_without(mode: str) -> None:
    with pytest.raises(ConfigError, match="require_tls"):
        PsycopgDriver(f"host=db sslmode={mode} password=s3cr3t", require_tls=True)


def test_require_tls_is_told_to_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    for given, mode in (("host=db", "require"), ("host=db sslmode=verify-full", "verify-full"), ("host=/run", None)):
        conninfo = PsycopgDriver(given, require_tls=True).conninfo("pool")
        assert parse_conninfo(conninfo).get("sslmode") == mode
    monkeypatch.setenv("PGSSLMODE", "disable")
    with pytest.raises(ConfigError, match="disable"):
        PsycopgDriver("host=db", require_tls=True)


@pytest.fixture
def plain(dsn: str) -> Iterator[str]:
    """A way to the server over TCP and without TLS."""
    proxy = Proxy(dsn)
    yield proxy.conninfo
    proxy.cut()
    proxy.close()


def test_require_tls_refuses_a_callers_pool_whose_string_allows_none(plain: str) -> None:
    pool = psycopg_pool.ConnectionPool(plain, kwargs={"sslmode": "disable"}, min_size=0, max_size=1, open=False)
    with pytest.raises(ConfigError, match="disable"):
        river.Client.from_pool(pool, river.Config(require_tls=True))


def test_require_tls_refuses_connections_of_a_callers_pool_that_have_none(plain: str, schema: str) -> None:
    with psycopg_pool.ConnectionPool(plain, min_size=0, max_size=1) as pool:
        client = river.Client.from_pool(pool, river.Config(schema=schema, require_tls=True))
        with pytest.raises(DatabaseError):  # libpq refuses to make the client's own
            client.insert(Args())
        client.stop()
        driver = PsycopgDriver.from_pool(pool, schema, river.Config(require_tls=True))
        driver._params["sslmode"] = "prefer"  # as if the server had had TLS for the client's own
        with pytest.raises(ConfigError, match=r"require_tls.*sslmode=require"), driver.autocommit():
            pass
        driver.close()

    async def run() -> None:
        async with psycopg_pool.AsyncConnectionPool(plain, min_size=0, max_size=1, open=False) as pool:
            driver = PsycopgDriver.from_pool(pool, schema, river.Config(require_tls=True))
            driver._params["sslmode"] = "prefer"
            with pytest.raises(ConfigError, match=r"require_tls.*sslmode=require"):
                async with driver.async_autocommit():
                    pass
            await driver.close_async()

    asyncio.run(run())


def test_require_tls_takes_a_callers_pool_that_has_it(dsn: str, schema: str) -> None:
    with TlsFront(dsn) as front, psycopg_pool.ConnectionPool(front.conninfo, min_size=0, max_size=2) as pool:
        client = river.Client.from_pool(
            pool,
            river.Config(
                schema=schema,
                require_tls=True,
                workers=workers_of(lambda job: None),
                queues={"default": river.QueueConfig(max_workers=2)},
            ),
        )
        with client:
            assert client.wait(client.insert(Args()).job, 20).state == "completed"


def test_pool_size_beside_a_callers_pool_is_refused(dsn: str) -> None:
    with psycopg_pool.ConnectionPool(dsn, min_size=0, max_size=7) as pool:
        with pytest.raises(ConfigError, match=r"pool_size=3.*max_size"):
            river.Client.from_pool(pool, river.Config(pool_size=3))
        with pytest.raises(ConfigError, match=r"pool_size=4.*max_size"):
            river.AsyncClient.from_pool(pool, river.Config(pool_size=4))
        client = river.Client.from_pool(pool)
        assert client.schema == "public"
        client.stop()
        assert pool.max_size == 7


def test_connection_strings_with_odd_passwords_are_read_whole() -> None:
    assert parse_conninfo("postgres://u:p%40%3A%2F%25%20'@h/d")["password"] == "p@:/% '"
    assert parse_conninfo(r"password='a b\'c@:/%' host=h")["password"] == "a b'c@:/%"
    assert parse_conninfo("host=a,b port=1,2")["port"] == "1,2"
    assert parse_conninfo("") == {}
