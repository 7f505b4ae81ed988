"""Verbs on queues, against PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from river_fast.control import ControlAction, ControlMessage
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import NotFoundError, ValidationError
from river_fast.queue_admin import QueueAdmin
from tests.fix_rows import heard

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def admin(driver: PsycopgDriver) -> QueueAdmin:
    return QueueAdmin(driver)


@pytest.fixture
def listening(dsn: str, schema: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f'LISTEN "{schema}.river_control"')
        yield conn


def make(conn: psycopg.Connection, name: str, paused_at: datetime | None = None, metadata: str = "{}") -> None:
    conn.execute(
        "INSERT INTO river_queue (name, paused_at, metadata, updated_at) VALUES (%s, %s, %s, %s)",
        [name, paused_at, metadata, LONG_AGO],
    )


def test_queue_get_returns_the_row(admin: QueueAdmin, conn: psycopg.Connection) -> None:
    make(conn, "q1", metadata='{"a": 1}')
    queue = admin.queue_get("q1")
    assert (queue.name, queue.metadata, queue.paused_at, queue.updated_at) == ("q1", {"a": 1}, None, LONG_AGO)
    assert not queue.paused


@pytest.mark.parametrize("metadata", ["[]", "null", "1", '"x"'])
def test_queue_metadata_that_is_no_object_reads_as_empty(
    admin: QueueAdmin, conn: psycopg.Connection, metadata: str
) -> None:
    make(conn, "q1", metadata=metadata)
    assert admin.queue_get("q1").metadata == {}


def test_queue_list_is_ordered_by_name_and_limited(admin: QueueAdmin, conn: psycopg.Connection) -> None:
    for name in ("q3", "q1", "q2"):
        make(conn, name)
    assert [queue.name for queue in admin.queue_list()] == ["q1", "q2", "q3"]
    assert [queue.name for queue in admin.queue_list(2)] == ["q1", "q2"]


@pytest.mark.parametrize("limit", [0, -1, 10_001, "5", 1.0, True, None])
def test_queue_list_refuses_a_limit_out_of_bounds(admin: QueueAdmin, limit: Any) -> None:
    with pytest.raises(ValidationError):
        admin.queue_list(limit)


def test_pause_and_resume_change_the_row_and_tell_the_control_topic(
    admin: QueueAdmin, conn: psycopg.Connection, listening: psycopg.Connection
) -> None:
    make(conn, "q1")
    make(conn, "q2")
    admin.queue_pause("q1")
    assert admin.queue_get("q1").paused
    assert admin.queue_get("q1").updated_at > LONG_AGO
    assert not admin.queue_get("q2").paused
    assert heard(listening) == ("river_control", {"action": "pause", "queue": "q1"})
    admin.queue_resume("q1")
    assert not admin.queue_get("q1").paused
    assert heard(listening) == ("river_control", {"action": "resume", "queue": "q1"})


def test_pausing_twice_keeps_the_first_time_and_tells_again(
    admin: QueueAdmin, conn: psycopg.Connection, listening: psycopg.Connection
) -> None:
    make(conn, "q1", paused_at=LONG_AGO)
    admin.queue_pause("q1")
    assert (admin.queue_get("q1").paused_at, admin.queue_get("q1").updated_at) == (LONG_AGO, LONG_AGO)
    assert heard(listening) is not None


def test_a_star_means_every_queue_even_none(
    admin: QueueAdmin, conn: psycopg.Connection, listening: psycopg.Connection
) -> None:
    admin.queue_pause("*")
    assert heard(listening) == ("river_control", {"action": "pause", "queue": "*"})
    make(conn, "q1")
    make(conn, "q2")
    admin.queue_pause("*")
    assert [queue.paused for queue in admin.queue_list()] == [True, True]
    admin.queue_resume("*")
    assert [queue.paused for queue in admin.queue_list()] == [False, False]


@pytest.mark.parametrize("verb", ["queue_get", "queue_pause", "queue_resume"])
def test_a_queue_without_a_row_is_not_found_and_nobody_is_told(
    admin: QueueAdmin, listening: psycopg.Connection, verb: str
) -> None:
    with pytest.raises(NotFoundError):
        getattr(admin, verb)("unknown")
    assert heard(listening, 0.2) is None


VERBS = ["queue_get", "queue_update", "queue_pause", "queue_resume"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["", "A", "a'; NOTIFY x", "default\n", "a" * 200, "a\0b", "\ud800", "**", "żółć"])
def test_a_name_that_no_client_works_is_one_without_a_row(admin: QueueAdmin, verb: str, name: str) -> None:
    with pytest.raises(NotFoundError):
        getattr(admin, verb)(name)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["A b", "a|b", "żółć", "'; NOTIFY x"])
def test_a_row_of_any_name_is_found(admin: QueueAdmin, conn: psycopg.Connection, verb: str, name: str) -> None:
    make(conn, name)
    getattr(admin, verb)(name)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", [None, 1, b"default", ["default"]])
def test_a_name_that_is_no_text_is_refused(admin: QueueAdmin, verb: str, name: Any) -> None:
    with pytest.raises(ValidationError):
        getattr(admin, verb)(name)


@pytest.mark.parametrize("verb", ["queue_get", "queue_update"])
def test_a_star_is_no_queue_by_itself(admin: QueueAdmin, conn: psycopg.Connection, verb: str) -> None:
    make(conn, "q1")
    with pytest.raises(NotFoundError):
        getattr(admin, verb)("*")


def test_update_replaces_the_metadata_and_tells_rivers_bytes(
    admin: QueueAdmin, conn: psycopg.Connection, listening: psycopg.Connection
) -> None:
    make(conn, "q1", metadata='{"old": 1}')
    queue = admin.queue_update("q1", b'{"z" : 1.500 , "a<": "\xc3\xa9&\xe2\x80\xa8", "n": [ 1 , 2 ]}')
    assert queue.metadata == {"z": 1.5, "a<": "é&\u2028", "n": [1, 2]}
    assert queue.updated_at > LONG_AGO
    told = next(listening.notifies(timeout=20, stop_after=1)).payload
    assert told == (
        '{"action":"metadata_changed","metadata":{"z":1.500,"a\\u003c":"é\\u0026\\u2028","n":[1,2]},"queue":"q1"}'
    )
    assert admin.queue_update("q1", {}).metadata == {}
    assert heard(listening) == ("river_control", {"action": "metadata_changed", "metadata": {}, "queue": "q1"})


def test_update_without_metadata_leaves_it_and_tells_nobody(
    admin: QueueAdmin, conn: psycopg.Connection, listening: psycopg.Connection
) -> None:
    make(conn, "q1", metadata='{"n": 12345678901234567890.5}')
    queue = admin.queue_update("q1")
    assert queue.updated_at > LONG_AGO
    row = conn.execute("SELECT metadata::text FROM river_queue").fetchone()
    assert row == ('{"n": 12345678901234567890.5}',)
    assert heard(listening, 0.2) is None


@pytest.mark.parametrize("metadata", [b"[1]", "{}", 5, [1], b"{", {"a": float("inf")}, {"a": "x" * 8000}])
def test_update_refuses_metadata_that_cannot_be_stored_and_told(
    admin: QueueAdmin, conn: psycopg.Connection, metadata: Any
) -> None:
    make(conn, "q1", metadata='{"a": 1}')
    with pytest.raises(ValidationError) as caught:
        admin.queue_update("q1", metadata)
    assert caught.value.field == "metadata"
    assert admin.queue_get("q1").metadata == {"a": 1}


def test_as_much_metadata_as_a_notification_holds_is_stored_and_told(
    admin: QueueAdmin, conn: psycopg.Connection, listening: psycopg.Connection
) -> None:
    make(conn, "q1")
    room = 7999 - len('{"action":"metadata_changed","metadata":{"a":""},"queue":"q1"}')
    admin.queue_update("q1", {"a": "x" * room})
    assert len(next(listening.notifies(timeout=20, stop_after=1)).payload) == 7999
    with pytest.raises(ValidationError):
        admin.queue_update("q1", {"a": "x" * (room + 1)})


def test_pause_on_a_callers_transaction_is_told_at_its_commit(
    admin: QueueAdmin, conn: psycopg.Connection, listening: psycopg.Connection, dsn: str
) -> None:
    make(conn, "q1")
    with psycopg.connect(dsn) as theirs:
        admin.queue_pause_tx(theirs, "q1")
        assert admin.queue_get_tx(theirs, "q1").paused
        assert heard(listening, 0.2) is None
        assert not admin.queue_get("q1").paused
    assert heard(listening) == ("river_control", {"action": "pause", "queue": "q1"})


def test_queue_verbs_run_on_an_async_callers_transaction(admin: QueueAdmin, conn: psycopg.Connection, dsn: str) -> None:
    make(conn, "q1")

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as theirs:
            await admin.queue_pause_tx(theirs, "q1")
            assert [queue.paused for queue in await admin.queue_list_tx(theirs)] == [True]
            await admin.queue_resume_tx(theirs, "q1")
            assert (await admin.queue_update_tx(theirs, "q1", {"a": 1})).metadata == {"a": 1}
            assert not (await admin.queue_get_tx(theirs, "q1")).paused

    asyncio.run(work())


def test_pause_pokes_the_own_client_but_not_from_a_callers_transaction(
    driver: PsycopgDriver, conn: psycopg.Connection, dsn: str
) -> None:
    poked: list[ControlMessage] = []
    admin = QueueAdmin(driver, poke=poked.append)
    make(conn, "q1")
    with psycopg.connect(dsn) as theirs:
        admin.queue_pause_tx(theirs, "q1")
        theirs.rollback()
    with pytest.raises(NotFoundError):
        admin.queue_pause("unknown")
    assert poked == []
    admin.queue_pause("q1")
    admin.queue_resume("*")
    admin.queue_update("q1")
    admin.queue_update("q1", {"a": 1})
    assert poked == [
        ControlMessage(ControlAction.PAUSE, "q1"),
        ControlMessage(ControlAction.RESUME, "*"),
        ControlMessage(ControlAction.METADATA_CHANGED, "q1", metadata={"a": 1}),
    ]
