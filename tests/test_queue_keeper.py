"""The keeper of `river_queue` rows, against PostgreSQL."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

from river_fast.control import CONTROL_TOPIC, ControlAction, ControlMessage, parse_control
from river_fast.driver import Statement
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import DatabaseError
from river_fast.notifier import Notifier
from river_fast.queue_admin import QueueAdmin
from river_fast.queue_keeper import QueueKeeper, QueueRow
from tests.stress import hammer


class Changes:
    """What the keeper passed on; waits for it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[str, bool, Mapping[str, Any]]] = queue.SimpleQueue()

    def __call__(self, name: str, paused: bool, metadata: Mapping[str, Any]) -> None:
        self._queue.put((name, paused, metadata))

    def next(self, timeout: float = 20.0) -> tuple[str, bool, Mapping[str, Any]]:
        return self._queue.get(timeout=timeout)

    def empty(self) -> bool:
        return self._queue.empty()


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def keeper(driver: PsycopgDriver, changes: Changes) -> Iterator[QueueKeeper]:
    keeper = QueueKeeper(driver, changes)
    keeper.touched.activate()
    keeper.reread.activate()
    yield keeper
    assert keeper.stop(20)


@pytest.fixture
def polling(driver: PsycopgDriver, changes: Changes) -> Iterator[QueueKeeper]:
    keeper = QueueKeeper(driver, changes, poll_only=True)
    keeper.reread.activate()
    yield keeper
    assert keeper.stop(20)


@pytest.fixture
def no_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is then read by a reread alone, and not taken for newer than a message that changed no row."""
    monkeypatch.setattr("river_fast.queue_keeper.FIRST_TOUCH_WITHIN", 1e9)


def age(conn: psycopg.Connection, name: str) -> float:
    query = "SELECT extract(epoch FROM now() - updated_at) FROM river_queue WHERE name = %s"
    row = conn.execute(query, [name]).fetchone()
    assert row is not None
    return float(row[0])


def test_register_makes_the_row_and_tells_its_state(keeper: QueueKeeper, conn: psycopg.Connection) -> None:
    assert keeper.register("q1") == QueueRow(False, {})
    conn.execute("UPDATE river_queue SET paused_at = now(), metadata = '{\"a\": 1}'")
    conn.execute("UPDATE river_queue SET updated_at = now() - interval '1 h'")
    assert keeper.register("q1") == QueueRow(True, {"a": 1})
    assert age(conn, "q1") < 60


def test_register_raises_where_the_database_refuses_and_keeps_nothing(
    keeper: QueueKeeper, conn: psycopg.Connection
) -> None:
    conn.execute("ALTER TABLE river_queue RENAME TO gone")
    with pytest.raises(DatabaseError):
        keeper.register("q1")
    conn.execute("ALTER TABLE gone RENAME TO river_queue")
    keeper._touch()
    assert keeper.touched.wait() == []


@pytest.mark.usefixtures("no_touch")
def test_a_change_while_the_queue_is_taken_up_is_passed_on_after_it(keeper: QueueKeeper, changes: Changes) -> None:
    keeper.start()

    def adopt(row: QueueRow) -> None:
        assert not row.paused
        keeper.handle(ControlMessage(ControlAction.PAUSE, "q1"))
        threading.Event().wait(0.1)  # the keeper's thread is awake
        assert changes.empty()

    assert keeper.register("q1", adopt) == QueueRow(False, {})
    assert changes.next() == ("q1", True, {})


def test_a_queue_that_cannot_be_taken_up_is_kept_no_more_than_before(keeper: QueueKeeper) -> None:
    def refuse(row: QueueRow) -> None:
        raise ValueError(f"cannot take up {row}")

    with pytest.raises(ValueError, match="cannot take up"):
        keeper.register("q1", refuse)
    assert keeper._names() == []
    keeper.register("q1")
    with pytest.raises(ValueError, match="cannot take up"):
        keeper.register("q1", refuse)
    assert keeper._names() == ["q1"]


def test_rows_are_touched_while_they_are_registered(keeper: QueueKeeper, conn: psycopg.Connection) -> None:
    keeper.register("q1")
    keeper.register("q2")
    keeper.unregister("q2")
    conn.execute("UPDATE river_queue SET updated_at = now() - interval '1 h'")
    keeper.start()
    assert keeper.touched.wait() == ["q1"]
    assert age(conn, "q1") < 60
    assert age(conn, "q2") > 3000


def test_a_row_deleted_while_worked_is_made_again(polling: QueueKeeper, conn: psycopg.Connection) -> None:
    polling.register("q1")
    conn.execute("DELETE FROM river_queue")
    polling.start()
    polling.check_soon()
    polling.reread.wait()
    assert age(conn, "q1") < 60


@pytest.mark.usefixtures("no_touch")
def test_control_messages_are_passed_on_in_order_each_change_once(keeper: QueueKeeper, changes: Changes) -> None:
    keeper.register("q1")
    keeper.start()
    keeper.handle(ControlMessage(ControlAction.PAUSE, "other"))
    keeper.handle(ControlMessage(ControlAction.RESUME, "q1"))
    keeper.handle(ControlMessage(ControlAction.PAUSE, "q1"))
    assert changes.next() == ("q1", True, {})
    keeper.handle(ControlMessage(ControlAction.METADATA_CHANGED, "q1", metadata={"a": [1]}))
    assert changes.next() == ("q1", True, {"a": [1]})
    keeper.handle(ControlMessage(ControlAction.RESUME, "*"))
    assert changes.next() == ("q1", False, {"a": [1]})
    assert changes.empty()


@pytest.mark.usefixtures("no_touch")
def test_a_client_that_polls_sees_changes_in_the_row(
    polling: QueueKeeper, changes: Changes, conn: psycopg.Connection
) -> None:
    polling._reread_interval = 0.05
    polling.register("q1")
    polling.start()
    conn.execute("UPDATE river_queue SET paused_at = now()")
    assert changes.next() == ("q1", True, {})
    conn.execute("UPDATE river_queue SET paused_at = NULL, metadata = '{\"a\": 1}'")
    assert changes.next() == ("q1", False, {"a": 1})


@pytest.mark.usefixtures("no_touch")
def test_a_change_of_which_no_message_came_is_found_all_the_same(
    driver: PsycopgDriver, changes: Changes, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a client that hears messages, as River's: once a minute."""
    monkeypatch.setattr("river_fast.queue_keeper.REREAD_INTERVAL", 0.05)
    keeper = QueueKeeper(driver, changes)
    keeper.register("q1")
    keeper.start()
    try:
        conn.execute("UPDATE river_queue SET paused_at = now()")
        assert changes.next() == ("q1", True, {})
    finally:
        assert keeper.stop(20)


@pytest.mark.usefixtures("no_touch")
def test_a_client_that_polls_sees_a_change_soon(
    polling: QueueKeeper, changes: Changes, conn: psycopg.Connection
) -> None:
    polling.register("q1")
    polling.start()
    conn.execute("UPDATE river_queue SET paused_at = now()")
    assert changes.next() == ("q1", True, {})


@pytest.mark.usefixtures("no_touch")
def test_a_resume_lost_while_reconnecting_is_found_by_the_reread(
    dsn: str, driver: PsycopgDriver, schema: str, keeper: QueueKeeper, changes: Changes, conn: psycopg.Connection
) -> None:
    """River's hazard 16: paused by a message, resumed by one that nobody heard."""
    admin, notifier = QueueAdmin(driver), Notifier(driver)

    def control(payload: dict[str, Any]) -> None:
        message = parse_control(payload)
        assert message is not None
        keeper.handle(message)

    notifier.subscribe(CONTROL_TOPIC, control)
    notifier.on_reconnect(keeper.check_soon)
    keeper.register("q1")
    keeper.start()
    notifier.start()
    try:
        admin.queue_pause("q1")
        assert changes.next() == ("q1", True, {})
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'river_fast/notifier' AND query LIKE %s",
            [f"%{schema}%"],
        )
        admin.queue_resume("q1")
        assert changes.next() == ("q1", False, {})
    finally:
        assert notifier.stop(10)


@pytest.mark.usefixtures("no_touch")
def test_a_row_read_before_a_message_came_does_not_undo_it(
    driver: PsycopgDriver, keeper: QueueKeeper, changes: Changes, conn: psycopg.Connection
) -> None:
    keeper.register("q1")
    conn.execute("UPDATE river_queue SET paused_at = now()")
    old = driver.autocommit

    class Late:
        """An executor whose answer arrives after the message that overtook it."""

        def __init__(self, executor: Any) -> None:
            self._executor = executor

        def run(self, statement: Statement[Any]) -> Any:
            rows = self._executor.run(statement)
            if statement.name == "queue_get_many" and not overtaken.is_set():
                overtaken.set()
                conn.execute("UPDATE river_queue SET paused_at = NULL")
                keeper.handle(ControlMessage(ControlAction.RESUME, "q1"))
            return rows

    overtaken = threading.Event()

    class Through:
        def __init__(self) -> None:
            self._context = old()

        def __enter__(self) -> Late:
            return Late(self._context.__enter__())

        def __exit__(self, *exc: Any) -> Any:
            return self._context.__exit__(*exc)

    driver.autocommit = Through  # type: ignore[method-assign,assignment]
    keeper.check_soon()
    keeper.start()
    keeper.reread.wait()
    assert overtaken.is_set()
    keeper.reread.wait()  # the row is read once more, because what was read may have been old
    assert changes.empty()


@pytest.mark.usefixtures("no_touch")
def test_the_keeper_goes_on_after_the_database_refused(
    keeper: QueueKeeper, changes: Changes, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("river_fast.queue_keeper.RETRY_INTERVAL", 0.01)
    keeper.register("q1")
    conn.execute("UPDATE river_queue SET paused_at = now(); ALTER TABLE river_queue RENAME TO gone")
    keeper.check_soon()
    keeper.start()
    while "cannot keep the rows" not in caplog.text:
        threading.Event().wait(0.01)
    conn.execute("ALTER TABLE gone RENAME TO river_queue")
    assert changes.next() == ("q1", True, {})


@pytest.mark.usefixtures("no_touch")
def test_a_listener_of_changes_that_raises_is_logged_and_hears_on(driver: PsycopgDriver, caplog: Any) -> None:
    heard: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def broken(name: str, paused: bool, metadata: Mapping[str, Any]) -> None:
        heard.put(paused)
        raise ValueError("broken listener")

    keeper = QueueKeeper(driver, broken)
    keeper.register("q1")
    keeper.start()
    try:
        keeper.handle(ControlMessage(ControlAction.PAUSE, "q1"))
        assert heard.get(timeout=10) is True
        keeper.handle(ControlMessage(ControlAction.RESUME, "q1"))
        assert heard.get(timeout=10) is False
    finally:
        assert keeper.stop(20)
    assert "broken listener" in caplog.text


def test_clients_that_touch_the_same_queues_at_once_do_not_deadlock(driver: PsycopgDriver, changes: Changes) -> None:
    names = [f"q{number}" for number in range(200)]
    failures: list[BaseException] = []

    def touch(order: list[str]) -> None:
        keeper = QueueKeeper(driver, changes)
        try:
            for _ in range(10):
                keeper._update(order, "queue_create_or_set_updated_at")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=touch, args=(order,)) for order in (names, names[::-1], names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


def test_queue_keeper_stands_starts_and_stops_from_many_threads(driver: PsycopgDriver, changes: Changes) -> None:
    def make() -> QueueKeeper:
        keeper = QueueKeeper(driver, changes, poll_only=True)
        keeper.register("q1")
        return keeper

    hammer(make)
