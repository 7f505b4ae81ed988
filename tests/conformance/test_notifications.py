"""What is told to other clients, byte for byte as River tells it, and when."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually
from tests.fix_rows import heard_until_now


class Heard:
    """What came on one channel since the last look."""

    def __init__(self, conn: psycopg.Connection, channel: str) -> None:
        self._conn = conn
        conn.execute(f'LISTEN "{channel}"')

    def now(self) -> list[str]:
        return heard_until_now(self._conn)


@pytest.fixture
def listen(url: str, own_schema: str) -> Iterator[object]:
    conns = []

    def make(topic: str) -> Heard:
        conns.append(psycopg.connect(url, autocommit=True))
        return Heard(conns[-1], f"{own_schema}.river_{topic}")

    yield make
    for conn in conns:
        conn.close()


def test_messages_are_rivers_bytes(adapter: AdapterProcess, database: psycopg.Connection, listen: object) -> None:
    insert, control, leadership = (listen(topic) for topic in ("insert", "control", "leadership"))  # type: ignore[operator]
    database.execute("INSERT INTO river_queue (name, updated_at) VALUES ('q', now())")
    job = adapter.call("insert", opts={"queue": "a|b"})
    adapter.call("insert", opts={"queue": "later", "scheduled_at": "2040-01-01T00:00:00Z"})
    assert insert.now() == ['{"queue": "a|b"}']
    adapter.call("cancel", id=job["id"])
    adapter.call("cancel", id=job["id"])
    adapter.call("queue_pause", name="q")
    adapter.call("queue_resume", name="*")
    adapter.call("queue_update", name="q")
    adapter.call("queue_update", name="q", metadata={"z": [1, 2], "a": "<b> & c"})
    assert control.now() == [
        f'{{"action" : "cancel", "job_id" : {job["id"]}, "queue" : "a|b"}}',
        '{"action":"pause","queue":"q"}',
        '{"action":"resume","queue":"*"}',
        r'{"action":"metadata_changed","metadata":{"z":[1,2],"a":"\u003cb\u003e \u0026 c"},"queue":"q"}',
    ]
    adapter.call("request_resign")
    adapter.call("start", client_id="leads")
    eventually(lambda: adapter.call("leader")["leader_id"] == "leads")
    adapter.call("stop")
    assert leadership.now() == [
        '{"action":"request_resign","leader_id":""}',
        '{"leader_id" : "leads", "action" : "resigned"}',
    ]


def test_nothing_is_told_before_the_commit_nor_after_a_rollback(
    adapter: AdapterProcess, database: psycopg.Connection, listen: object
) -> None:
    insert, control, leadership = (listen(topic) for topic in ("insert", "control", "leadership"))  # type: ignore[operator]
    database.execute("INSERT INTO river_queue (name, updated_at) VALUES ('q', now())")
    waiting = adapter.call("insert", opts={"pending": True})
    for end in ("tx_rollback", "tx_commit"):
        adapter.call("tx_begin", handle="t")
        adapter.call("tx_insert", handle="t", job={"opts": {"queue": "one"}})
        adapter.call("tx_insert_many", handle="t", jobs=[{"opts": {"queue": "two"}}] * 2)
        adapter.call("tx_cancel", handle="t", id=waiting["id"])
        adapter.call("tx_queue_pause", handle="t", name="q")
        adapter.call("request_resign", handle="t")
        assert insert.now() == control.now() == leadership.now() == []
        adapter.call(end, handle="t")
        if end == "tx_rollback":
            assert insert.now() == control.now() == leadership.now() == []
    assert insert.now() == ['{"queue": "one"}', '{"queue": "two"}']
    assert len(control.now()) == 2
    assert leadership.now() == ['{"action":"request_resign","leader_id":""}']


def test_garbage_on_a_channel_is_ignored(
    adapter: AdapterProcess, database: psycopg.Connection, own_schema: str
) -> None:
    adapter.call("start", client_id="c", fetch_poll_interval_ms=60_000)
    eventually(lambda: adapter.call("listener_count")["count"] == 1)
    for topic in ("insert", "control", "leadership"):
        for text in ("", "not json", "[1]", '{"action": "conformance_marker"}', '{"queue": 7}', "{" * 7000):
            database.execute("SELECT pg_notify(%s, %s)", [f"{own_schema}.river_{topic}", text])
    job = adapter.call("insert")
    assert adapter.call("wait", id=job["id"])["state"] == "completed"
    eventually(lambda: adapter.call("runtime_stats")["events"] == ["job_completed"])


def test_raw_insert_wakes_nobody_and_polling_finds_it(adapter: AdapterProcess, listen: object) -> None:
    insert = listen("insert")  # type: ignore[operator]
    adapter.call("start", client_id="c", fetch_poll_interval_ms=50)
    job = adapter.call("raw_insert_no_notify")
    assert adapter.call("wait", id=job["id"])["state"] == "completed"
    assert insert.now() == []


def test_poll_only_client_has_no_listener(adapter: AdapterProcess) -> None:
    adapter.call("start", client_id="c", poll_only=True)
    job = adapter.call("insert")
    assert adapter.call("wait", id=job["id"])["state"] == "completed"
    assert adapter.call("listener_count") == {"count": 0}
