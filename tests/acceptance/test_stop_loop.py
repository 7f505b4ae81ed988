"""The stop and event loops: closed, blocked or left by a Task, and jobs that swallow their cancel."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import LATE, Args, eventually, workers_of


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_async_job_is_cancelled_once_and_its_finally_left_in_peace(make_client: Any, hard: bool) -> None:
    inside, cleaned = threading.Event(), threading.Event()

    async def work(job: river.Job[Args]) -> None:
        inside.set()
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.3)
            cleaned.set()

    client = make_client(workers_of(work), soft_stop_timeout=None if hard else 0.1)
    job = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    report = client.stop_and_cancel(20) if hard else client.stop(20)
    assert report.graceful, report
    assert cleaned.is_set()
    row = client.job_get(job.id)
    assert (row.state, row.attempt, row.errors) == ("available", 0, [])


def test_async_job_that_swallows_its_cancel_is_stuck_then_abandoned_and_costs_no_worker_thread(
    make_client: Any, slow_disk: None
) -> None:
    inside = threading.Event()
    workers = river.Workers()

    @workers.work(Args, timeout=0.05)
    async def stubborn(job: river.Job[Args]) -> None:
        inside.set()
        for _ in range(600):
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    @workers.work("sync_kind")
    def work(job: river.Job[Any]) -> None:
        pass

    client = make_client(workers, max_workers=1, job_stuck_threshold=0.05)
    stuck = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    other = client.insert(river.RawArgs("sync_kind", {})).job
    assert client.wait(other, 20).state == "completed"
    fetcher = client._services.producer.fetcher

    def all_told() -> bool:
        alive = [t for t in threading.enumerate() if t.name.startswith("river_fast.worker")]
        return fetcher.queue_stats(0)["threads"] == len(alive)

    eventually(all_told, what="the fetcher knowing of every worker thread")
    began = time.monotonic()
    report = client.stop(0.3)
    assert time.monotonic() - began <= LATE
    assert report.abandoned == (stuck.id,)
    row = client.job_get(stuck.id)
    assert (row.state, row.attempt) == ("available", 0)


def test_task_of_a_jobs_own_that_exits_does_not_end_the_event_loop(make_client: Any, caplog: Any) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def work(job: river.Job[Args]) -> None:
        if job.args.n == 1:
            task = asyncio.create_task(leave())
            try:
                await task
            except SystemExit:
                raise ValueError("it left") from None

    client = make_client(workers_of(work))
    with client.subscribe("job_failed") as events:
        client.insert(Args(1))
        client.start()
        assert events.get(20).job.errors[0].error == "it left"
    assert client.wait(client.insert(Args(2)).job, 20).state == "completed"
    assert client.stop(20).graceful


def test_callers_loop_that_is_closed_under_its_jobs_does_not_hold_up_the_stop(
    dsn: str, schema: str, conn: psycopg.Connection
) -> None:
    config = river.Config(
        schema=schema, workers=river.Workers(), queues={"default": river.QueueConfig(max_workers=3)}
    )
    inside = threading.Event()

    @config.workers.work(Args)
    async def work(job: river.Job[Args]) -> None:
        inside.set()
        await asyncio.sleep(60)

    client = river.AsyncClient(dsn, config)

    async def main() -> None:
        await client.insert_many([Args(n) for n in range(10)])
        await client.start()
        while not inside.is_set():
            await asyncio.sleep(0.001)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    client.request_stop()  # without a limit: it would wait for ever for jobs that can never end
    assert not client._client.wait_stopped(0.05)
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    assert client._client.wait_stopped(20)
    report = client._client.stop_report()
    assert 1 <= len(report.abandoned) <= 3
    assert conn.execute("SELECT DISTINCT state::text, attempt FROM river_job").fetchall() == [("available", 0)]


def test_callers_loop_that_is_blocked_does_not_hold_up_a_stop_from_another_thread(
    dsn: str, schema: str, conn: psycopg.Connection, slow_disk: None
) -> None:
    inside = threading.Event()
    release = threading.Event()

    async def work(job: river.Job[Args]) -> None:
        inside.set()
        await asyncio.sleep(60)

    async def main() -> None:
        client = river.AsyncClient(
            dsn,
            river.Config(schema=schema, workers=workers_of(work), queues={"default": river.QueueConfig(max_workers=3)}),
        )
        clients.append(client)
        await client.insert(Args(1))
        await client.start()
        while not inside.is_set():
            await asyncio.sleep(0.001)
        blocked.set()
        release.wait(30)

    clients: list[river.AsyncClient] = []
    blocked = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert blocked.wait(20)
    try:
        began = time.monotonic()
        report = clients[0]._client.stop(0.3)
        assert time.monotonic() - began <= LATE
        assert report.finished
        assert len(report.abandoned) == 1
        assert conn.execute("SELECT state::text, attempt FROM river_job").fetchall() == [("available", 0)]
    finally:
        release.set()
        thread.join(20)
    assert conn.execute("SELECT state::text, attempt FROM river_job").fetchall() == [("available", 0)]


def test_tasks_cancelled_before_their_first_step_give_their_jobs_back(make_client: Any) -> None:
    """`for task in asyncio.all_tasks(): task.cancel()`, as shutdown recipes have it, while jobs were just taken."""
    seen: list[int] = []

    async def work(job: river.Job[Args]) -> None:
        seen.append(job.args.n)
        if job.args.n == 0:
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()

    client = make_client(workers_of(work), max_workers=50)
    ids = [result.job.id for result in client.insert_many([Args(n) for n in range(50)])]
    client.start()
    for job_id in ids:
        row = client.wait(job_id, 30)
        assert (row.state, row.attempt, row.errors) == ("completed", 1, [])
    assert client.stop(20).graceful
