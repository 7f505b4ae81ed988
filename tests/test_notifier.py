"""The notifier, against PostgreSQL and through a proxy that fails as networks do."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from river_fast.control import CONTROL_TOPIC, LEADERSHIP_TOPIC
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import DatabaseError
from river_fast.notifier import Notifier
from tests.fix_client import eventually
from tests.fix_proxy import Proxy
from tests.stress import hammer

PAUSE = '{"action": "pause", "queue": "q1"}'


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    proxy = Proxy(dsn)
    yield proxy
    proxy.close()


@pytest.fixture
def driver(proxy: Proxy, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(proxy.conninfo, schema)
    yield driver
    driver.close()


@pytest.fixture
def notifier(driver: PsycopgDriver, caplog: pytest.LogCaptureFixture) -> Iterator[Notifier]:
    caplog.set_level(logging.DEBUG, logger="river_fast.notifier")
    notifier = Notifier(driver)
    notifier.lost.activate()
    yield notifier
    assert notifier.stop(20)


class Heard:
    """A subscriber whose calls can be waited for."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, payload: Any = None) -> None:
        self._calls.put(payload)

    def next(self, timeout: float = 20.0) -> Any:
        return self._calls.get(timeout=timeout)

    def empty(self) -> bool:
        return self._calls.empty()


def tell(conn: psycopg.Connection, schema: str, topic: str, payload: str) -> None:
    conn.execute("SELECT pg_notify(%s, %s)", [f"{schema}.{topic}", payload])


def backend_of(conn: psycopg.Connection, schema: str) -> int | None:
    row = conn.execute(
        "SELECT max(pid) FROM pg_stat_activity WHERE application_name = 'river_fast/notifier' AND query LIKE %s",
        [f"%{schema}%"],
    ).fetchone()
    assert row is not None
    return row[0]


def test_what_is_told_after_start_is_heard(notifier: Notifier, conn: psycopg.Connection, schema: str) -> None:
    control, leadership = Heard(), Heard()
    notifier.subscribe(CONTROL_TOPIC, control)
    notifier.subscribe(LEADERSHIP_TOPIC, leadership)
    notifier.start()
    tell(conn, schema, "river_control", PAUSE)
    tell(conn, schema, "river_leadership", '{"action": "resigned", "leader_id": "x"}')
    assert control.next() == {"action": "pause", "queue": "q1"}
    assert leadership.next() == {"action": "resigned", "leader_id": "x"}
    assert control.empty()
    assert leadership.empty()


def test_a_schema_of_mixed_case_is_heard(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        notifier, heard = Notifier(PsycopgDriver(dsn, "MixedCase_1")), Heard()
        notifier.subscribe(CONTROL_TOPIC, heard)
        notifier.start()
        try:
            tell(conn, "MixedCase_1", "river_control", PAUSE)
            assert heard.next()["action"] == "pause"
        finally:
            notifier.stop(10)
            notifier._driver.close()


@pytest.mark.parametrize(
    "garbage",
    ["", "x", "[1]", "null", '"pause"', "[" * 7000, "{" + " " * 7900, '{"action": "explode", "queue": "q1"}', "1e999"],
)
def test_garbage_is_counted_and_ignored(
    notifier: Notifier, conn: psycopg.Connection, schema: str, garbage: str
) -> None:
    heard = Heard()
    notifier.subscribe(CONTROL_TOPIC, heard)
    notifier.start()
    tell(conn, schema, "river_control", garbage)
    tell(conn, schema, "river_control", PAUSE)
    assert heard.next() == {"action": "pause", "queue": "q1"}
    assert notifier.stats() == {"notifications": 2, "garbage": 1, "reconnects": 0}


def test_a_subscriber_that_raises_is_logged_and_the_others_hear(
    notifier: Notifier, conn: psycopg.Connection, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    def broken(payload: dict[str, Any]) -> None:
        raise ValueError("broken subscriber")

    notifier.subscribe(CONTROL_TOPIC, broken)
    notifier.subscribe(CONTROL_TOPIC, heard)
    notifier.start()
    for _ in range(2):
        tell(conn, schema, "river_control", PAUSE)
        assert heard.next()
    assert "broken subscriber" in caplog.text


def test_unsubscribing_ends_the_calls_and_may_be_done_twice(
    notifier: Notifier, conn: psycopg.Connection, schema: str
) -> None:
    first, second = Heard(), Heard()
    unsubscribe = notifier.subscribe(CONTROL_TOPIC, first)
    notifier.subscribe(CONTROL_TOPIC, first)
    notifier.subscribe(CONTROL_TOPIC, second)
    notifier.start()
    unsubscribe()
    unsubscribe()
    tell(conn, schema, "river_control", PAUSE)
    assert second.next()
    assert first.next()
    assert first.empty()


def test_an_unknown_topic_cannot_be_subscribed_to(notifier: Notifier) -> None:
    with pytest.raises(ValueError, match="river_control"):
        notifier.subscribe("river_insert", Heard())


def test_start_raises_where_nobody_listens_and_may_be_tried_again(
    notifier: Notifier, driver: PsycopgDriver, proxy: Proxy, conn: psycopg.Connection, schema: str
) -> None:
    driver.open()
    proxy.refusing = True
    with pytest.raises(DatabaseError):
        notifier.start()
    assert notifier.stop(1)
    proxy.refusing = False
    heard = Heard()
    notifier.subscribe(CONTROL_TOPIC, heard)
    notifier.start()
    tell(conn, schema, "river_control", PAUSE)
    assert heard.next()


def test_a_terminated_connection_is_made_again_and_consumers_are_told(
    notifier: Notifier, conn: psycopg.Connection, schema: str
) -> None:
    heard, reconnected = Heard(), Heard()
    notifier.subscribe(CONTROL_TOPIC, heard)
    notifier.on_reconnect(reconnected)
    notifier.start()
    assert reconnected.empty()
    conn.execute("SELECT pg_terminate_backend(%s)", [backend_of(conn, schema)])
    notifier.lost.wait()
    reconnected.next()
    tell(conn, schema, "river_control", PAUSE)
    assert heard.next()
    assert notifier.stats()["reconnects"] == 1


def test_the_last_statement_of_the_connection_is_a_listen(notifier: Notifier, conn: psycopg.Connection) -> None:
    """Whoever looks at pg_stat_activity sees what the connection is for, pings or not."""
    notifier._ping_after = 0.01
    notifier.start()
    listening = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'river_fast/notifier' AND query LIKE %s"
    for _ in range(20):
        found = conn.execute(listening, [f'LISTEN "{notifier._driver.schema}.river_%'])
        assert found.fetchone() == (1,)


def test_a_connection_that_is_open_but_dead_is_found_out_by_a_ping_with_a_deadline(
    notifier: Notifier, proxy: Proxy, conn: psycopg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("river_fast.notifier.PING_TIMEOUT", 0.2)
    notifier._ping_after = 0.1
    heard, reconnected = Heard(), Heard()
    notifier.subscribe(CONTROL_TOPIC, heard)
    notifier.on_reconnect(reconnected)
    notifier.start()
    proxy.frozen = True
    assert "timed out" in notifier.lost.wait()
    monkeypatch.setattr("river_fast.notifier.PING_TIMEOUT", 20.0)  # a busy machine's next answers may take their time
    proxy.frozen = False
    reconnected.next()
    tell(conn, schema, "river_control", PAUSE)
    assert heard.next()


def test_an_idle_connection_that_answers_pings_is_kept(notifier: Notifier, proxy: Proxy) -> None:
    notifier._ping_after = 0.01
    notifier.start()
    accepted = proxy.accepted
    threading.Event().wait(0.5)
    assert proxy.accepted == accepted
    assert notifier.stats()["reconnects"] == 0


def test_tries_grow_apart_and_begin_anew_after_a_success(
    notifier: Notifier, proxy: Proxy, conn: psycopg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("river_fast.notifier.BACKOFF", (0.01, 0.02, 0.04, 0.08))
    notifier._ping_after = 0.01
    heard, reconnected = Heard(), Heard()
    notifier.subscribe(CONTROL_TOPIC, heard)
    notifier.on_reconnect(reconnected)
    waits: list[float] = []
    notifier.start()
    original = notifier._stopping.wait
    monkeypatch.setattr(notifier._stopping, "wait", lambda timeout=None: waits.append(timeout) or original(timeout))
    proxy.refusing = True
    proxy.cut()
    for _ in range(6):
        notifier.lost.wait()
    proxy.refusing = False
    reconnected.next()
    failures = len(waits)
    for _ in range(2):  # the second is heard after the first has proven the connection
        tell(conn, schema, "river_control", PAUSE)
        heard.next()
    proxy.cut()
    eventually(lambda: len(waits) > failures)
    expected = [0.01, 0.02, 0.04, 0.08, 0.08, 0.08]
    assert all(base * 0.9 <= wait <= base * 1.1 for base, wait in zip(expected, waits, strict=False)), waits
    assert 0.009 <= waits[failures] <= 0.011, waits
    assert len(set(waits)) == len(waits), "without jitter a fleet comes back as one"


@pytest.mark.parametrize("trouble", ["idle", "frozen", "refusing", "connecting"])
def test_stop_interrupts_whatever_the_notifier_waits_for(notifier: Notifier, proxy: Proxy, trouble: str) -> None:
    notifier.start()
    if trouble == "frozen":
        notifier._ping_after = 0.0
        proxy.frozen = True
        notifier._wake()  # it is in its ping now, or soon
    elif trouble == "refusing":
        proxy.refusing = True
        proxy.cut()
        notifier.lost.wait()
    elif trouble == "connecting":
        accepted = proxy.accepted
        proxy.cut()
        notifier.lost.wait()
        proxy.frozen = True
        while proxy.accepted == accepted:  # half a second: the first try
            threading.Event().wait(0.01)
    began = time.monotonic()
    assert notifier.stop(10)
    assert time.monotonic() - began < 4.0, "of a ping's 5 s, a connection's 10 s"


def test_a_stopped_notifier_leaves_no_connection_and_can_be_started_again(
    notifier: Notifier, conn: psycopg.Connection, schema: str
) -> None:
    heard = Heard()
    notifier.subscribe(CONTROL_TOPIC, heard)
    for _ in range(2):
        notifier.start()
        tell(conn, schema, "river_control", PAUSE)
        assert heard.next()
        assert notifier.stop(10)
    eventually(lambda: backend_of(conn, schema) is None, what="the end of the connection")


def test_notifier_stands_starts_and_stops_from_many_threads(dsn: str, schema: str) -> None:
    driver = PsycopgDriver(dsn, schema)
    try:
        hammer(lambda: Notifier(driver))
    finally:
        driver.close()
