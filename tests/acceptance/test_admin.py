"""Every admin verb through both clients, alone and in the caller's transaction: on a server, behind PgBouncer, and on
what says that it is YugabyteDB.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import river_fast as river
from river_fast.async_client_admin import AsyncClientAdmin
from river_fast.client_admin import ClientAdmin
from tests.fix_client import Args, workers_of
from tests.fix_pgbouncer import PROGRAM, PgBouncer
from tests.fix_proxy import Proxy
from tests.fix_rows import column, insert
from tests.fix_yugabyte import VERSION, hear_nothing, lacking

KINDS = ["k1", "k2"]


@pytest.fixture(params=["server", "pgbouncer", "yugabyte"])
def url(request: pytest.FixtureRequest, dsn: str, schema: str, conn: psycopg.Connection) -> Iterator[str]:
    conn.execute("INSERT INTO river_queue (name) VALUES ('q1'), ('q2')")
    if request.param == "server":
        yield dsn
    elif request.param == "pgbouncer":
        if PROGRAM is None:
            pytest.skip("no pgbouncer on this machine: apt-get install pgbouncer")
        with PgBouncer(dsn, "transaction", 2) as bouncer:
            yield bouncer.dsn
    else:
        hear_nothing(conn, schema)
        conn.execute(VERSION)
        proxy = Proxy(make_conninfo(dsn, options=f"-c search_path={schema},pg_catalog"))
        proxy.asked = []
        yield proxy.conninfo
        assert lacking(proxy) == set()
        assert list(conn.notifies(timeout=0.1)) == [], "what it cannot tell it does not try to tell"
        proxy.cut()
        proxy.close()


def jobs(conn: psycopg.Connection) -> tuple[int, int, int]:
    waits = insert(conn, kind="k1", metadata='{"a": 1}')
    return waits, insert(conn, "running", kind="k2"), insert(conn, "completed", kind="k3")


def test_every_verb_of_the_sync_client(url: str, schema: str, conn: psycopg.Connection, dsn: str) -> None:
    waits, runs, done = jobs(conn)
    client = river.Client(url, river.Config(schema=schema))
    try:
        assert client.job_get(waits).kind == "k1"
        page = client.job_list(kinds=KINDS, order_by="time", limit=1)
        assert [job.id for job in page.jobs] == [waits]
        rest = client.job_list(kinds=KINDS, order_by="time", after=str(page.last_cursor))
        assert [job.id for job in rest.jobs] == [runs]
        assert client.job_update(waits, output=5, metadata={"b": 2}).metadata == {"a": 1, "b": 2, "output": 5}
        assert client.job_cancel(waits).state == "cancelled"
        assert client.job_cancel(runs).state == "running"
        assert client.job_retry(waits).state == "available"
        assert [job.id for job in client.job_delete_many(ids=[done, runs])] == [done]
        assert client.job_delete(waits).id == waits
        assert [queue.name for queue in client.queue_list()] == ["q1", "q2"]
        assert client.queue_update("q1", {"a": 1}).metadata == {"a": 1}
        client.queue_pause("*")
        client.queue_resume("q2")
        assert [client.queue_get(name).paused for name in ("q1", "q2")] == [True, False]
        client.notify.request_resign()
        with psycopg.connect(dsn) as theirs:
            kept = insert(conn, kind="k1")
            assert [job.id for job in client.job_list_tx(theirs, kinds=["k1"]).jobs] == [kept]
            assert client.job_update_tx(theirs, kept, output=1).output == 1
            assert client.job_cancel_tx(theirs, kept).state == "cancelled"
            assert client.job_retry_tx(theirs, kept).state == "available"
            assert [job.id for job in client.job_delete_many_tx(theirs, ids=[kept])] == [kept]
            with pytest.raises(river.NotFoundError):
                client.job_delete_tx(theirs, kept)
            with pytest.raises(river.NotFoundError):
                client.job_get_tx(theirs, kept)
            client.queue_pause_tx(theirs, "q2")
            client.queue_update_tx(theirs, "q2", {"b": 1})
            assert client.queue_get_tx(theirs, "q2").paused
            client.queue_resume_tx(theirs, "q2")
            assert len(client.queue_list_tx(theirs, limit=1)) == 1
            client.notify.request_resign_tx(theirs)
            theirs.rollback()
        assert column(conn, kept, "state || metadata::text") == "available{}"
    finally:
        client.stop()


async def test_every_verb_of_the_async_client(url: str, schema: str, conn: psycopg.Connection, dsn: str) -> None:
    waits, runs, done = jobs(conn)
    client = river.AsyncClient(url, river.Config(schema=schema))
    try:
        assert (await client.job_get(waits)).kind == "k1"
        page = await client.job_list(kinds=KINDS, order_by="time", limit=1)
        rest = await client.job_list(kinds=KINDS, order_by="time", after=page.last_cursor)
        assert [job.id for job in (*page.jobs, *rest.jobs)] == [waits, runs]
        assert (await client.job_update(waits, output=5)).output == 5
        assert (await client.job_cancel(waits)).state == "cancelled"
        assert (await client.job_cancel(runs)).state == "running"
        assert (await client.job_retry(waits)).state == "available"
        assert [job.id for job in await client.job_delete_many(ids=[done, runs])] == [done]
        assert (await client.job_delete(waits)).id == waits
        assert [queue.name for queue in await client.queue_list()] == ["q1", "q2"]
        assert (await client.queue_update("q1", {"a": 1})).metadata == {"a": 1}
        await client.queue_pause("*")
        await client.queue_resume("q2")
        assert [(await client.queue_get(name)).paused for name in ("q1", "q2")] == [True, False]
        await client.notify.request_resign()
        async with await psycopg.AsyncConnection.connect(dsn) as theirs:
            kept = insert(conn, kind="k1")
            assert [job.id for job in (await client.job_list_tx(theirs, kinds=["k1"])).jobs] == [kept]
            assert (await client.job_update_tx(theirs, kept, output=1)).output == 1
            assert (await client.job_cancel_tx(theirs, kept)).state == "cancelled"
            assert (await client.job_retry_tx(theirs, kept)).state == "available"
            assert [job.id for job in await client.job_delete_many_tx(theirs, ids=[kept])] == [kept]
            with pytest.raises(river.NotFoundError):
                await client.job_delete_tx(theirs, kept)
            with pytest.raises(river.NotFoundError):
                await client.job_get_tx(theirs, kept)
            await client.queue_pause_tx(theirs, "q2")
            await client.queue_update_tx(theirs, "q2", {"b": 1})
            assert (await client.queue_get_tx(theirs, "q2")).paused
            await client.queue_resume_tx(theirs, "q2")
            assert len(await client.queue_list_tx(theirs, limit=1)) == 1
            await client.notify.request_resign_tx(theirs)
            await theirs.rollback()
        assert column(conn, kept, "state || metadata::text") == "available{}"
    finally:
        await client.stop()


def test_both_clients_have_the_same_verbs_with_the_same_options() -> None:
    def verbs(face: type) -> dict[str, list[str]]:
        found = {name: value for name, value in vars(face).items() if not name.startswith("_") and callable(value)}
        return {name: list(inspect.signature(verb).parameters) for name, verb in found.items()}

    assert verbs(ClientAdmin) == verbs(AsyncClientAdmin)
    assert {name for name in verbs(ClientAdmin) if not name.endswith("_tx")} == {
        "job_get", "job_list", "job_update", "job_cancel", "job_retry", "job_delete", "job_delete_many",
        "queue_get", "queue_list", "queue_update", "queue_pause", "queue_resume",
    }  # fmt: skip
    assert all(f"{name}_tx" in verbs(ClientAdmin) for name in verbs(ClientAdmin) if not name.endswith("_tx"))


async def test_an_async_client_refuses_a_sync_connection_before_it_is_used(
    dsn: str, schema: str, conn: psycopg.Connection
) -> None:
    job_id = insert(conn)
    client = river.AsyncClient(dsn, river.Config(schema=schema))
    with psycopg.connect(dsn) as theirs:
        wrong: Any = theirs
        for verb in (client.job_cancel_tx(wrong, job_id), client.job_delete_many_tx(wrong, unsafe_all=True)):
            with pytest.raises(river.ConfigError, match="AsyncConnection"):
                await verb
        assert theirs.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    await client.stop()


def test_a_running_job_updates_itself_by_what_it_has_recorded(make_client: Any, conn: psycopg.Connection) -> None:
    seen: list[Any] = []

    def work(job: river.Job[Args]) -> None:
        client = river.client_from_context()
        seen.append(client.job_update(job).output)
        job.record_output({"done": 1})
        seen.append(client.job_update(job).output)
        seen.append(client.job_update(job, output="mine").output)
        seen.append(client.job_update(job, metadata={"other": 1}).output)

    client = make_client(workers_of(work))
    client.start()
    job = client.insert(Args()).job
    assert client.wait(job, 20).output == {"done": 1}  # what it ended with
    assert seen == [None, {"done": 1}, "mine", "mine"]


def test_a_forked_child_is_refused(dsn: str, schema: str) -> None:
    client = river.Client(dsn, river.Config(schema=schema))
    client._pid = os.getpid() + 1
    for verb in (client.job_list, lambda: client.job_delete_many(unsafe_all=True), client.notify.request_resign,
                 lambda: client.queues.remove("q"), lambda: client.queue_update("q1")):  # fmt: skip
        with pytest.raises(river.ForkedClientError):
            verb()
