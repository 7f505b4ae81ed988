"""Where `river_fast.testing` may be asked: every place of each test of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.testing import WorkResult, work_job

PLACES = ["client", "async client", "transaction", "async transaction", "autocommit"]
EVERYWHERE = pytest.mark.parametrize("where", PLACES)


@dataclass
class Other(river.JobArgs, kind="other_job"):
    text: str = ""


@pytest.fixture
def ask(where: str, make_client: Any, dsn: str, schema: str) -> Callable[..., Any]:
    """`ask(helper, *args)`: the helper called on that place; async ones are awaited."""
    options = f"-c search_path={schema}"

    def call(helper: Callable[..., Any], *args: Any, **more: Any) -> Any:
        if where == "client":
            return helper(make_client(), *args, **more)
        if where in ("transaction", "autocommit"):
            with psycopg.connect(dsn, options=options, autocommit=where == "autocommit") as conn:
                return helper(conn, *args, **more)

        async def awaited() -> Any:
            if where == "async client":
                async with river.AsyncClient(dsn, river.Config(schema=schema)) as client:
                    return await helper(client, *args, **more)
            async with await psycopg.AsyncConnection.connect(dsn, options=options) as conn:
                return await helper(conn, *args, **more)

        return asyncio.run(awaited())

    return call


@pytest.fixture
def work_on(where: str, make_client: Any, dsn: str, schema: str, conn: psycopg.Connection) -> Callable[..., Any]:
    """`work_on(workers, *args, **config)`: `work_job` with a client of that sort; a transaction is committed."""
    options = f"-c search_path={schema}"

    def call(workers: river.Workers, *args: Any, more: dict[str, Any] | None = None, **config: Any) -> WorkResult:
        more = more or {}
        if where in ("client", "autocommit"):
            return work_job(make_client(workers, **config), *args, **more)
        if where == "transaction":
            with psycopg.connect(dsn, options=options) as own:
                result = work_job(make_client(workers, **config), *args, conn=own, **more)
                assert conn.execute("SELECT count(*) FROM river_job").fetchone() == (0,), "not before the commit"
                return result

        async def awaited() -> WorkResult:
            config["queues"] = {"default": river.QueueConfig(1)}
            client = river.AsyncClient(dsn, river.Config(schema=schema, workers=workers, **config))
            try:
                if where == "async client":
                    return await work_job(client, *args, **more)
                async with await psycopg.AsyncConnection.connect(dsn, options=options) as own:
                    return await work_job(client, *args, conn=own, **more)
            finally:
                await client.stop(5)

        return asyncio.run(awaited())

    return call
