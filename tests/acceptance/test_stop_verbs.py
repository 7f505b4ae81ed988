"""Verbs on other threads and tasks while the client is stopped: done, or a typed error that says which."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args, eventually, workers_of

ROUNDS = 5


class Inserter:
    """Inserts in a loop until told to end; keeps the id of each insert that returned, and every error."""

    def __init__(self, client: river.Client) -> None:
        self.client = client
        self.ids: list[int] = []
        self.errors: list[river.RiverError] = []
        self.others: list[BaseException] = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, name="inserter")

    def _run(self) -> None:
        while not self.ending.is_set():
            try:
                self.ids.append(self.client.insert(Args(len(self.ids))).job.id)
                self.client.job_get(self.ids[-1])
            except river.RiverError as error:
                self.errors.append(error)
            except BaseException as error:
                self.others.append(error)


def rows(conn: psycopg.Connection) -> set[int]:
    return {row[0] for row in conn.execute("SELECT id FROM river_job")}


def check(inserters: list[Inserter], conn: psycopg.Connection) -> None:
    wrong = [error for inserter in inserters for error in inserter.others]
    unknown = 0
    for inserter in inserters:
        for error in inserter.errors:
            unknown += isinstance(error, river.InsertOutcomeUnknownError)
            if not isinstance(error, river.ClientStoppedError | river.InsertOutcomeUnknownError):
                wrong.append(error)
    assert wrong == []
    returned = [job_id for inserter in inserters for job_id in inserter.ids]
    stored = rows(conn)
    assert len(returned) == len(set(returned))
    assert set(returned) <= stored, "an insert returned, and its row does not exist"
    assert len(stored) <= len(returned) + unknown, "an insert raised that nothing was sent, and its row exists"


@pytest.mark.timeout(180)
def test_inserts_while_the_client_stops_return_or_say_that_it_was_stopped(
    make_client: Any, conn: psycopg.Connection
) -> None:
    client = make_client(workers_of(lambda job: None), pool_size=1)  # so that some wait for the connection at the stop
    inserters = [Inserter(client) for _ in range(4)]
    for inserter in inserters:
        inserter.thread.start()
    try:
        for _ in range(ROUNDS):
            client.start()
            before = [len(inserter.ids) for inserter in inserters]
            eventually(lambda before=before: all(
                len(inserter.ids) > count + 2 for inserter, count in zip(inserters, before, strict=True)
            ))
            assert client.stop(10).graceful
    finally:
        for inserter in inserters:
            inserter.ending.set()
        for inserter in inserters:
            inserter.thread.join(30)
    assert not any(inserter.thread.is_alive() for inserter in inserters)
    check(inserters, conn)


def test_async_inserts_while_the_client_stops_return_or_say_that_it_was_stopped(
    dsn: str, schema: str, conn: psycopg.Connection
) -> None:
    ids: list[int] = []
    unknown: list[river.RiverError] = []

    async def main() -> None:
        queues = {"default": river.QueueConfig(max_workers=5)}
        workers = workers_of(lambda job: None)
        client = river.AsyncClient(dsn, river.Config(schema=schema, workers=workers, queues=queues, pool_size=1))
        ending = asyncio.Event()

        async def insert() -> None:
            while not ending.is_set():
                try:
                    ids.append((await client.insert(Args())).job.id)
                except river.ClientStoppedError:
                    await asyncio.sleep(0)
                except river.InsertOutcomeUnknownError as error:
                    unknown.append(error)

        inserting = [asyncio.create_task(insert()) for _ in range(8)]
        for _ in range(ROUNDS):
            await client.start()
            before = len(ids)
            while len(ids) < before + 50 and not any(done.done() for done in inserting):
                await asyncio.sleep(0.001)
            assert (await client.stop(10)).graceful
        ending.set()
        await asyncio.gather(*inserting)  # raises what an insert raised but the two
        await client.stop()  # an insert after the last stop connected anew

    asyncio.run(asyncio.wait_for(main(), 120))
    stored = rows(conn)
    assert set(ids) <= stored
    assert len(stored) <= len(ids) + len(unknown)
