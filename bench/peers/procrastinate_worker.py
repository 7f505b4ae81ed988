"""procrastinate as a contestant of bench/decide.py: psycopg with its C part, async jobs, a connection for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import procrastinate
import procrastinate.types
import protocol

OPTIONS = protocol.parse(__doc__.splitlines()[0], ("migrate", "work", "insert", "latency"))
NAME = "bench_noop"


def make_app(connections: int) -> procrastinate.App:
    connector = procrastinate.PsycopgConnector(
        conninfo=OPTIONS.database_url,
        kwargs={"options": f"-c search_path={OPTIONS.schema}"},
        min_size=connections,
        max_size=connections,
    )
    return procrastinate.App(connector=connector)


async def migrate() -> None:
    async with make_app(1).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def start(app: procrastinate.App) -> Callable[[], Awaitable[None]]:
    running = asyncio.create_task(
        app.run_worker_async(concurrency=OPTIONS.max_workers, install_signal_handlers=False, listen_notify=True)
    )

    async def stop() -> None:
        running.cancel()  # its documented way to stop a worker that an application runs
        await asyncio.gather(running, return_exceptions=True)

    return stop


async def work() -> None:
    tally = protocol.Tally(OPTIONS.sleep_ms)
    async with make_app(OPTIONS.connections).open_async() as app:

        @app.task(name=NAME)
        async def noop(num: int) -> None:
            await tally.work()

        await protocol.work_until_told(tally, lambda: start(app))


async def insert() -> None:
    async with make_app(OPTIONS.connections).open_async() as app:

        @app.task(name=NAME)
        async def noop(num: int) -> None:
            pass

        async def one_batch(first: int) -> Any:
            if OPTIONS.way == "single":
                return await noop.defer_async(num=first)
            batch: list[procrastinate.types.JSONDict] = [{"num": first + num} for num in range(OPTIONS.batch)]
            return await noop.batch_defer_async(*batch)

        await protocol.insert_all(OPTIONS, one_batch)


async def latency() -> None:
    timed = protocol.Timed(OPTIONS)
    async with make_app(OPTIONS.connections).open_async() as app:

        @app.task(name=NAME)
        async def noop(num: int) -> None:
            timed.enter(num)

        stop = await start(app)
        await timed.run(lambda num: noop.defer_async(num=num))
        await stop()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run({"migrate": migrate, "work": work, "insert": insert, "latency": latency}[OPTIONS.verb]())
