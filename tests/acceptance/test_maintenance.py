"""A whole client that leads does all of the maintenance, one that may not lead none; a stop waits for none of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.maintenance.intervals import MaintenanceIntervals
from river_fast.maintenance.reindexer import artifacts_of
from tests.fix_client import Args, eventually, workers_of
from tests.fix_rows import column, insert

INDEX = "river_job_kind"
OFTEN = MaintenanceIntervals(
    elector=0.1, job_cleaner=0.05, job_rescuer=0.05, job_scheduler=0.05, queue_cleaner=0.05, reindexer=0.05
)


def plant(conn: psycopg.Connection) -> dict[str, int]:
    """One row for each service."""
    conn.execute("INSERT INTO river_queue (name, updated_at) VALUES ('idle', now() - interval '25 hours')")
    old = datetime.now(UTC) - timedelta(days=2)
    return {
        "ended": insert(conn, "completed", finalized_at=old),
        "stuck": insert(conn, "running", kind="test_job", attempted_at=old),
        "due": insert(conn, "scheduled", kind="test_job", scheduled_at=old),
        "index": filenode(conn),
    }


def filenode(conn: psycopg.Connection) -> int:
    row = conn.execute("SELECT pg_relation_filenode(%s)", (INDEX,)).fetchone()
    assert row is not None
    return int(row[0])


def done(conn: psycopg.Connection, rows: dict[str, int]) -> bool:
    ids = [id for (id,) in conn.execute("SELECT id FROM river_job WHERE state = 'completed'").fetchall()]
    idle = conn.execute("SELECT FROM river_queue WHERE name = 'idle'").fetchone()
    return sorted(ids) == [rows["stuck"], rows["due"]] and idle is None and filenode(conn) != rows["index"]


class AtOnce:
    """The retry policy of a test that does not wait."""

    def next_retry(self, job: river.Job[Any]) -> datetime:
        return datetime.now(UTC)


SETTINGS: dict[str, Any] = {"test_only": True, "retry_policy": AtOnce(), "reindexer_index_names": [INDEX]}


def test_a_client_that_leads_does_it_all(make_client: Callable[..., river.Client], conn: psycopg.Connection) -> None:
    rows = plant(conn)
    client = make_client(workers_of(lambda job: None), **SETTINGS)
    client._intervals = OFTEN
    client.start()
    eventually(lambda: done(conn, rows), 30, "all that was planted to be dealt with")
    assert client.stop(20).graceful
    assert column(conn, rows["stuck"], "metadata") == {"river:rescue_count": 1}


async def test_a_client_on_an_event_loop_does_it_too(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    rows = plant(conn)
    queues = {"default": river.QueueConfig(max_workers=5)}
    config = river.Config(schema=schema, queues=queues, workers=workers_of(lambda job: None), **SETTINGS)
    client = river.AsyncClient(dsn, config)
    client._client._intervals = OFTEN
    async with client:
        eventually(lambda: done(conn, rows), 30, "all that was planted to be dealt with")


def test_a_client_that_may_not_lead_does_none_of_it(
    make_client: Callable[..., river.Client], conn: psycopg.Connection
) -> None:
    rows = plant(conn)
    client = make_client(workers_of(lambda job: None), leader_election_disabled=True, **SETTINGS)
    client._intervals = OFTEN
    client.start()
    client.wait(client.insert(Args()).job, 20)
    assert client.stop(20).graceful
    assert [column(conn, rows[name], "state::text") for name in ("ended", "stuck", "due")] == [
        "completed", "running", "scheduled",
    ]  # fmt: skip
    assert filenode(conn) == rows["index"]
    assert conn.execute("SELECT FROM river_leader").fetchone() is None


def test_a_stop_in_the_middle_of_a_build_is_orderly_and_what_was_built_goes(
    make_client: Callable[..., river.Client], conn: psycopg.Connection, dsn: str, schema: str, slow_disk: None
) -> None:
    """The build waits for a transaction that does not end: so does the dropping of what there is of it."""
    client = make_client(workers_of(lambda job: None), **SETTINGS)
    client._intervals = OFTEN

    def names() -> list[str]:
        return [name for (name,) in conn.execute("SELECT indexname FROM pg_indexes WHERE schemaname = %s", (schema,))]

    with psycopg.connect(dsn, options=f"-c search_path={schema}") as old:
        old.execute("INSERT INTO river_job (kind, args) VALUES ('test_job', '{}')")
        client.start()
        eventually(lambda: artifacts_of(INDEX, dict.fromkeys(names())), 30, "half of an index")
        report = client.stop(3)
        assert report.graceful
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("river_fast.")]
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "it only waited for the transaction"
    assert not artifacts_of(INDEX, dict.fromkeys(names()))


# A retry that would break uniqueness, on every face.


@pytest.fixture
def beside_its_twin(conn: psycopg.Connection) -> int:
    """A discarded job whose key an available one has by now."""
    unique = {"unique_key": b"k" * 32, "unique_states": "11110101"}
    job_id = insert(conn, "discarded", **unique)
    insert(conn, "available", **unique)
    return job_id


def test_retry_beside_its_twin_is_a_unique_conflict(
    make_client: Callable[..., river.Client], conn: psycopg.Connection, dsn: str, schema: str, beside_its_twin: int
) -> None:
    client = make_client()
    with pytest.raises(river.UniqueConflictError):
        client.job_retry(beside_its_twin)
    with psycopg.connect(dsn) as own, pytest.raises(river.UniqueConflictError):
        client.job_retry_tx(own, beside_its_twin)
    assert column(conn, beside_its_twin, "state::text") == "discarded"


async def test_retry_beside_its_twin_is_a_unique_conflict_on_a_loop(
    conn: psycopg.Connection, dsn: str, schema: str, beside_its_twin: int
) -> None:
    client = river.AsyncClient(dsn, river.Config(schema=schema))
    try:
        with pytest.raises(river.UniqueConflictError):
            await client.job_retry(beside_its_twin)
        async with await psycopg.AsyncConnection.connect(dsn) as own:
            with pytest.raises(river.UniqueConflictError):
                await client.job_retry_tx(own, beside_its_twin)
            await own.rollback()
    finally:
        await client.stop()
    assert column(conn, beside_its_twin, "state::text") == "discarded"
