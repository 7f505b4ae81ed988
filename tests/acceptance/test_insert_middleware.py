"""What insert middleware may make of a call, what undoes it, and the inserts of our own services."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver import Statement
from tests.acceptance.test_insert_hooks import Other, Trace, stored, tracing
from tests.fix_client import Args


def test_middleware_hands_on_what_it_likes(make_client: Any, conn: psycopg.Connection) -> None:
    """Fewer jobs, none, other results; but what is no list of jobs, or of results, undoes it all."""

    def using(function: Any) -> Any:
        return make_client(plugins=[river.Plugin(insert_many=function)])

    drops = using(lambda params, inner: inner([each for each in params if each.kind != "other_job"]))
    assert [each.job.kind for each in drops.insert_many([Other(), Args(), Other()])] == ["test_job"]
    assert drops.insert_many([Other()]) == []
    assert drops.insert_many_fast([Other(), Args()]) == 1
    with pytest.raises(river.ConfigError, match="handed back no result for the job"):
        drops.insert(Other())
    before = stored(conn)
    for function, message in (
        (lambda params, inner: inner(params) and None, "must return the list that inner returned, got None"),
        (lambda params, inner: [inner(params)], "must return the list that inner returned"),
        (lambda params, inner: inner([Args()]), "must hand on the list of JobInsertParams"),
        (lambda params, inner: inner(7), "must hand on the list of JobInsertParams"),
    ):
        with pytest.raises(river.ConfigError, match=message):
            using(function).insert_many([Args()])

    def without(params: Any) -> Iterator[None]:
        return
        yield

    def twice(params: Any) -> Iterator[None]:
        yield
        yield

    for function, message in ((without, "ended before its yield"), (twice, "yielded twice")):
        with pytest.raises(river.ConfigError, match=message):
            using(function).insert(Args())
    assert stored(conn) == before


def test_an_error_of_the_insert_cannot_be_swallowed(make_client: Any, conn: psycopg.Connection) -> None:
    """Its transaction is lost: whoever is told that the jobs are there would be told wrong."""
    opts = river.InsertOpts(unique=river.UniqueOpts(by_args=True))

    def swallows(params: Any, inner: Any) -> Any:
        results = inner(params[:1])
        try:
            inner(params[1:])
        except river.UniqueConflictError:
            pass
        return results

    make_client().insert(Args(2), opts)
    client = make_client(plugins=[river.Plugin(insert_many=swallows)])
    with pytest.raises(river.UniqueConflictError):
        client.insert_many_fast([river.InsertManyParams(Args(n), opts) for n in (1, 2)])
    assert stored(conn) == 1


def test_inserts_of_our_own_go_through_them_too(make_client: Any, conn: psycopg.Connection) -> None:
    trace: Trace = []
    client = make_client(plugins=[tracing(trace)])
    now = datetime.now(UTC)
    params = [
        river.InsertManyParams(Args(1), river.InsertOpts(metadata={"periodic": True, "river:periodic_job_id": "p"})),
        river.InsertManyParams(Args(2), river.InsertOpts(scheduled_at=now - timedelta(minutes=1))),
        river.InsertManyParams(Args(3), river.InsertOpts(scheduled_at=now + timedelta(hours=1))),
    ]
    jobs = [each.job for each in client._inserter.insert_internal(params, [Statement("job_get_by_id", {"id": 1})])]
    assert [job.state for job in jobs] == ["available", "available", "scheduled"]
    assert jobs[0].metadata == {"periodic": True, "river:periodic_job_id": "p"}
    assert jobs[1].scheduled_at == now - timedelta(minutes=1)
    assert trace[0] == "middleware:insert_before"
    assert trace[-1] == "middleware:insert_after 3"

    class FencedError(Exception):
        pass

    def refuse(rows: Any, count: int) -> None:
        raise FencedError

    for each in (client, make_client()):
        with pytest.raises(FencedError):
            each._inserter.insert_internal(params[:1], [Statement("job_get_by_id", {"id": 1}, refuse)])
    assert stored(conn) == 3


async def test_a_cancelled_insert_leaves_nothing(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    """Cancelled between inner and the end: the transaction is rolled back, and the client goes on."""
    inside = asyncio.Event()
    forever: list[bool] = [True]

    async def waits(params: Any, inner: Any) -> Any:
        results = await inner(params)
        inside.set()
        if forever:
            await asyncio.Event().wait()
        return results

    client = river.AsyncClient(dsn, river.Config(schema=schema, plugins=[river.Plugin(insert_many=waits)]))
    inserting = asyncio.create_task(client.insert(Args()))
    await asyncio.wait_for(inside.wait(), 20)
    inserting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await inserting
    assert stored(conn) == 0
    forever.clear()
    assert (await client.insert(Args())).job.id
    assert stored(conn) == 1
    with pytest.raises(river.RiverError):
        river.client_from_context()
    await client.stop(10)


def test_many_threads_insert_through_middleware_at_once(make_client: Any, conn: psycopg.Connection) -> None:
    """More than the pool has connections: each waits for one, none for another's middleware."""
    trace: Trace = []
    client = make_client(plugins=[tracing(trace)])
    errors: list[BaseException] = []

    def insert() -> None:
        try:
            for n in range(10):
                assert client.insert(Args(n)).job.args == Args(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=insert) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert stored(conn) == 120
    assert len(trace) == 3 * 120


def test_a_forked_child_is_refused_before_any_middleware(make_client: Any) -> None:
    trace: Trace = []
    client = make_client(plugins=[tracing(trace)])
    client.insert(Args())
    trace.clear()
    client._pid += 1  # as a child would find it
    with pytest.raises(river.ForkedClientError):
        client.insert(Args())
    client._pid -= 1
    assert trace == []


def test_an_insert_from_a_thread_does_not_outwait_its_loop(make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that what is installed must be awaited on is stopped in the middle: what became of it nobody knows."""
    monkeypatch.setattr("river_fast.insert_chain.LOOP_LOOK", 0.01)
    began = threading.Event()

    async def waits(params: river.JobInsertParams) -> None:
        began.set()
        await asyncio.Event().wait()

    client = make_client(hooks=[river.Plugin(insert_begin=waits)])
    loop = asyncio.new_event_loop()
    turning = threading.Thread(target=loop.run_forever)
    turning.start()
    client._inserter.use_loop(loop)
    stopping = threading.Thread(target=lambda: began.wait(20) and loop.call_soon_threadsafe(loop.stop))
    stopping.start()
    with pytest.raises(river.InsertOutcomeUnknownError, match="the event loop was stopped"):
        client.insert(Args())
    stopping.join(20)
    turning.join(20)
    with pytest.raises(river.ConfigError, match="without a running event loop"):
        client.insert(Args())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_an_insert_that_ends_while_its_thread_looks_up_is_no_timeout(
    make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking all the time, the thread is nearly always between two looks when the loop has done it."""
    monkeypatch.setattr("river_fast.insert_chain.LOOP_LOOK", 0)

    async def begin(params: river.JobInsertParams) -> None: ...

    client = make_client(hooks=[river.Plugin(insert_begin=begin)])
    loop = asyncio.new_event_loop()
    turning = threading.Thread(target=loop.run_forever)
    turning.start()
    client._inserter.use_loop(loop)
    try:
        for _ in range(100):
            client.insert(Args())
    finally:
        asyncio.run_coroutine_threadsafe(client._driver.close_async(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        turning.join(20)
        loop.close()
