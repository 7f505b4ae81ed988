"""pgqueuer as a contestant of bench/decide.py: with asyncpg, uvloop and large batches, as its documentation advises.

Its durability is `balanced`: jobs are logged, the table of what was done with them is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import protocol
import uvloop

OPTIONS = protocol.parse(__doc__.splitlines()[0], ("migrate", "work", "insert", "latency"))
os.environ["PGQUEUER_SCHEMA"] = OPTIONS.schema  # read at the first use of its settings
os.environ["PGQUEUER_CHANNEL"] = f"ch_{OPTIONS.schema}"
os.environ["PGQUEUER_DURABILITY"] = "balanced"

import asyncpg  # noqa: E402
from pgqueuer import PgQueuer  # noqa: E402
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver  # noqa: E402
from pgqueuer.models import Job  # noqa: E402
from pgqueuer.queries import Queries  # noqa: E402

ENTRYPOINT = "bench_noop"
# (queue managers, jobs of one fetch): each manager has a connection of its own
SETTINGS = {"": (1, 1000), "own bench": (5, 10)}


class NotingQueries(Queries):
    """Notes when the first fetch was asked for: a job is entered only after it."""

    first = 0.0

    async def dequeue(self, *args: Any, **options: Any) -> list[Job]:
        NotingQueries.first = NotingQueries.first or time.time()
        return await super().dequeue(*args, **options)


async def migrate() -> None:
    connection = await asyncpg.connect(OPTIONS.database_url)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def start(work: Callable[[Job], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Working managers; returns what stops them."""
    managers, batch = SETTINGS[OPTIONS.settings]
    connections, queuers = [], []
    for _ in range(managers):
        connections.append(await asyncpg.connect(OPTIONS.database_url))
        driver = AsyncpgDriver(connections[-1])
        queuers.append(PgQueuer(driver, queries=NotingQueries(driver)))
        queuers[-1].entrypoint(ENTRYPOINT)(work)
    # not PgQueuer.run: that also starts a scheduler, which nobody here needs
    running = [asyncio.create_task(queuer.qm.run(batch_size=batch)) for queuer in queuers]

    async def stop() -> None:
        for queuer in queuers:
            queuer.shutdown.set()
        await asyncio.gather(*running)
        for connection in connections:
            await connection.close()

    return stop


async def work() -> None:
    tally = protocol.Tally(OPTIONS.sleep_ms)

    async def noop(job: Job) -> None:
        await tally.work()

    await protocol.work_until_told(tally, lambda: start(noop), lambda: NotingQueries.first)


def batch(first: int, count: int) -> tuple[list[str], list[bytes | None], list[int]]:
    return [ENTRYPOINT] * count, [json.dumps({"num": first + num}).encode() for num in range(count)], [0] * count


async def insert() -> None:
    """One caller has a connection of its own; several share a pool, which resets a connection after each use."""
    count = OPTIONS.connections
    async with contextlib.AsyncExitStack() as stack:
        if OPTIONS.callers == 1:
            connection = await asyncpg.connect(OPTIONS.database_url)
            stack.push_async_callback(connection.close)
            queries = Queries(AsyncpgDriver(connection))
        else:
            pool = await stack.enter_async_context(
                asyncpg.create_pool(OPTIONS.database_url, min_size=count, max_size=count)
            )
            queries = Queries(AsyncpgPoolDriver(pool))

        async def one_batch(first: int) -> Any:
            return await queries.enqueue(*batch(first, OPTIONS.batch))

        await protocol.insert_all(OPTIONS, one_batch)


async def latency() -> None:
    timed = protocol.Timed(OPTIONS)

    async def noop(job: Job) -> None:
        timed.enter(json.loads(job.payload or b"")["num"])

    connection = await asyncpg.connect(OPTIONS.database_url)
    queries = Queries(AsyncpgDriver(connection))
    stop = await start(noop)
    await timed.run(lambda num: queries.enqueue(ENTRYPOINT, json.dumps({"num": num}).encode()))
    await stop()
    await connection.close()


if __name__ == "__main__":
    uvloop.run({"migrate": migrate, "work": work, "insert": insert, "latency": latency}[OPTIONS.verb]())
