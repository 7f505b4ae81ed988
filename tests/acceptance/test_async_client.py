"""The face for event loops: the same services, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args, workers_of


@pytest.fixture
async def make_async_client(dsn: str, schema: str) -> AsyncIterator[Any]:
    made: list[river.AsyncClient] = []

    def make(workers: river.Workers | None = None, max_workers: int = 10, **config: Any) -> river.AsyncClient:
        if workers is not None:
            config["queues"] = {"default": river.QueueConfig(max_workers=max_workers)}
        made.append(river.AsyncClient(dsn, river.Config(schema=schema, workers=workers, **config)))
        return made[-1]

    yield make
    for client in made:
        await client.stop_and_cancel(2)


async def test_async_jobs_run_on_the_callers_loop_and_sync_jobs_do_not_block_it(make_async_client: Any) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    workers = river.Workers()

    @workers.work(Args)
    async def work(job: river.Job[Args]) -> None:
        loops.append(asyncio.get_running_loop())

    @workers.work("blocking")
    def block(job: river.Job[Any]) -> None:
        released.wait(20)

    import threading

    released = threading.Event()
    client = make_async_client(workers)
    async with client:
        blocking = (await client.insert(river.RawArgs("blocking", {}))).job
        result = await client.insert(Args(1))
        assert (await client.wait(result.job, 20)).state == "completed"
        assert loops == [asyncio.get_running_loop()]
        released.set()
        assert (await client.wait(blocking, 20)).state == "completed"
    assert (await client.stop()).graceful


async def test_every_insert_form(make_async_client: Any, dsn: str, schema: str) -> None:
    client = make_async_client()
    assert (await client.insert(Args(1))).job.state == "available"
    results = await client.insert_many([Args(2), river.InsertManyParams(Args(3), river.InsertOpts(priority=2))])
    assert [result.job.args for result in results] == [Args(2), Args(3)]
    assert await client.insert_many_fast([Args(4), Args(5)]) == 2
    async with await psycopg.AsyncConnection.connect(dsn) as own:
        kept = await client.insert_tx(own, Args(6))
        await client.insert_many_tx(own, [Args(7)])
        assert await client.insert_many_fast_tx(own, [Args(8)]) == 1
        await own.commit()
        lost = await client.insert_tx(own, Args(9))
        await own.rollback()
    assert (await client.job_get(kept.job.id)).args == {"n": 6}
    with pytest.raises(river.NotFoundError):
        await client.job_get(lost.job.id)


async def test_events_are_iterated_asynchronously(make_async_client: Any) -> None:
    client = make_async_client(workers_of(lambda job: None))
    events = client.subscribe("job_completed")
    await client.start()
    inserted = {(await client.insert(Args(n))).job.id for n in range(3)}
    seen = set()
    async for event in events:
        seen.add(event.job.id)
        if seen == inserted:
            break
    events.close()


async def test_cancelling_the_task_that_started_the_client_does_not_cut_the_completer_off(
    make_async_client: Any, conn: psycopg.Connection
) -> None:
    """River 0.7 gave the completer the caller's context; cancelling it lost outcomes (#400)."""
    started = asyncio.Event()

    async def work(job: river.Job[Args]) -> None:
        started.set()
        await asyncio.sleep(0.2)

    client = make_async_client(workers_of(work))
    job = (await client.insert(Args(1))).job

    async def main() -> None:
        async with client:
            await asyncio.sleep(60)

    task = asyncio.create_task(main())
    await asyncio.wait_for(started.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await client.stop()).graceful
    assert conn.execute("SELECT state::text FROM river_job WHERE id = %s", [job.id]).fetchone() == ("completed",)


async def test_stop_from_an_async_job_on_the_callers_loop(make_async_client: Any) -> None:
    reports: list[river.StopReport] = []

    async def work(job: river.Job[Args]) -> None:
        reports.append(await client.stop(5))

    client = make_async_client(workers_of(work))
    await client.insert(Args(1))
    await client.start()
    assert await client.wait_stopped(20)
    assert not reports[0].finished
    assert (await client.stop()).graceful


async def test_wait_times_out_naming_the_state(make_async_client: Any) -> None:
    client = make_async_client()
    job = (await client.insert(Args(1))).job
    with pytest.raises(TimeoutError, match="available"):
        await client.wait(job, 0.1)
