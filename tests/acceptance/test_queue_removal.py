"""Queues removed from a running client: what runs is waited for, what has not started goes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args, eventually, workers_of

ONE = river.QueueConfig(max_workers=1)


class Held:
    """A job that says when it has begun, and ends when it is let."""

    def __init__(self) -> None:
        self.begun, self.let = threading.Event(), threading.Event()

    def __call__(self, job: river.Job[Args]) -> None:
        self.begun.set()
        assert self.let.wait(60)


@pytest.fixture
def held() -> Any:
    held = Held()
    yield held
    held.let.set()


def states(conn: psycopg.Connection) -> dict[str, int]:
    return dict(conn.execute("SELECT state::text, count(*) FROM river_job GROUP BY 1").fetchall())


def test_remove_waits_for_what_runs_and_gives_back_the_rest(
    make_client: Callable[..., river.Client], conn: psycopg.Connection, held: Held
) -> None:
    client = make_client(workers_of(held), max_workers=1)
    client.insert_many([Args(n) for n in range(5)])
    client.start()
    assert held.begun.wait(20)
    removing = threading.Thread(target=client.queues.remove, args=("default",))
    removing.start()
    with pytest.raises(TimeoutError, match="call remove again"):
        client.queues.remove("default", timeout=0.05)
    with pytest.raises(river.QueueAlreadyAddedError):
        client.queues.add("default", ONE)
    assert removing.is_alive()
    held.let.set()
    removing.join(30)
    assert not removing.is_alive()
    with pytest.raises(river.QueueNotFoundError):
        client.queues.remove("default")
    eventually(lambda: states(conn) == {"completed": 1, "available": 4}, what=f"{states(conn)}")
    assert conn.execute("SELECT count(*) FROM river_queue WHERE name = 'default'").fetchone() == (1,)


def test_a_queue_is_reconfigured_by_removing_and_adding_it(make_client: Callable[..., river.Client]) -> None:
    together = threading.Barrier(3)
    client = make_client(workers_of(lambda job: together.wait(30) and None), max_workers=1)
    client.start()
    for workers in (2, 3):
        client.queues.remove("default")
        client.queues.add("default", river.QueueConfig(max_workers=workers))
    jobs = [result.job for result in client.insert_many([Args(n) for n in range(3)])]
    assert [client.wait(job, 30).state for job in jobs] == ["completed"] * 3


def test_remove_from_a_job_of_the_queue_does_not_wait_for_itself(make_client: Callable[..., river.Client]) -> None:
    client = make_client(workers_of(lambda job: river.client_from_context().queues.remove("default")))
    client.start()
    assert client.wait(client.insert(Args(1)).job, 30).state == "completed"
    with pytest.raises(river.QueueNotFoundError):
        client.queues.remove("default")


def test_a_stop_ends_the_wait_of_a_removal(make_client: Callable[..., river.Client], held: Held) -> None:
    client = make_client(workers_of(held))
    client.insert(Args(1))
    client.start()
    assert held.begun.wait(20)
    removing = threading.Thread(target=client.queues.remove, args=("default",))
    removing.start()
    client.request_stop()
    removing.join(30)
    assert not removing.is_alive()
    held.let.set()
    assert client.stop(20).graceful


def test_a_queue_is_removed_before_the_start(make_client: Callable[..., river.Client]) -> None:
    client = make_client(workers_of(lambda job: None))
    client.queues.add("other", ONE)
    client.queues.remove("default")
    client.start()
    with pytest.raises(TimeoutError):
        client.wait(client.insert(Args(1)).job, 0.3)
    other = client.insert(Args(1), river.InsertOpts(queue="other")).job
    assert client.wait(other, 20).state == "completed"


async def test_an_async_client_awaits_its_jobs(dsn: str, schema: str) -> None:
    begun, let = asyncio.Event(), asyncio.Event()
    workers = river.Workers()

    @workers.work(Args)
    async def work(job: river.Job[Args]) -> None:
        begun.set()
        await let.wait()

    config = river.Config(schema=schema, workers=workers, queues={"default": ONE})
    async with river.AsyncClient(dsn, config) as client:
        job = (await client.insert(Args(1))).job
        await asyncio.wait_for(begun.wait(), 20)
        with pytest.raises(TimeoutError):
            await client.queues.remove("default", timeout=0.05)
        removing = asyncio.ensure_future(client.queues.remove("default"))
        let.set()
        await asyncio.wait_for(removing, 30)
        assert (await client.wait(job, 20)).state == "completed"
        await client.queues.add("default", ONE)
        assert (await client.wait((await client.insert(Args(2))).job, 20)).state == "completed"


class SlowToAdd:
    """A fetcher whose `add_queue` returns when the queue's jobs have been fetched, and a moment after."""

    def __init__(self, fetcher: Any, conn: psycopg.Connection, thread: threading.Thread) -> None:
        self._fetcher, self._conn, self._thread = fetcher, conn, thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fetcher, name)

    def add_queue(self, *arguments: Any) -> Any:
        index = self._fetcher.add_queue(*arguments)
        eventually(lambda: states(self._conn) == {"running": 1}, what="the queue's job to be fetched")
        self._thread.join(0.3)  # only a thread that has failed ends
        return index


def test_jobs_that_come_before_a_queue_is_added_wholly_are_worked(
    make_client: Callable[..., river.Client], conn: psycopg.Connection
) -> None:
    """The fetcher needs no GIL: it may be faster than whoever has just added the queue."""
    client = make_client(workers_of(lambda job: None))
    client.insert(Args(), river.InsertOpts(queue="another"))
    client.start()
    assert client._services is not None
    producer = client._services.producer
    assert producer._thread is not None
    producer._fetcher = SlowToAdd(producer._fetcher, conn, producer._thread)
    try:
        client.queues.add("another", ONE)
    finally:
        producer._fetcher = producer._fetcher._fetcher
    assert producer._thread is not None
    assert producer._thread.is_alive()
    eventually(lambda: states(conn) == {"completed": 1}, what=f"{states(conn)}")
