"""The stop in bad company: servers that hang, loops that are closed or blocked, jobs that do not listen."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.client_services import ClientServices
from river_fast.job_executor import FULL
from tests.fix_client import Args, eventually, workers_of
from tests.fix_proxy import Proxy


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    made = Proxy(dsn)
    yield made
    made.frozen = made.refusing = False
    made.cut()
    made.close()


def client_on(proxy: Proxy, schema: str, workers: river.Workers, max_workers: int = 20, **config: Any) -> river.Client:
    queues = {"default": river.QueueConfig(max_workers=max_workers)}
    return river.Client(proxy.conninfo, river.Config(schema=schema, workers=workers, queues=queues, **config))


@pytest.mark.parametrize("fault", ["frozen", "refusing"])
@pytest.mark.parametrize("timeout", [0, 1])
@pytest.mark.parametrize("completer", ["batch", "inline"])
def test_stop_without_a_server_returns_in_time_and_tells_every_outcome(
    proxy: Proxy, schema: str, fault: str, timeout: float, completer: str
) -> None:
    """Scenario F08."""
    count, inside, gate = 20, threading.Semaphore(0), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.release()
        assert gate.wait(30)

    client = client_on(proxy, schema, workers_of(work), completer=completer)
    ids = {result.job.id for result in client.insert_many([Args(n) for n in range(count)])}
    client.start()
    for _ in range(count):
        assert inside.acquire(timeout=20)
    if fault == "frozen":
        proxy.frozen = True
    else:
        proxy.refusing = True
        proxy.cut()
    gate.set()
    eventually(lambda: not client._services.awaited(), 10)
    began = time.monotonic()
    report = client.stop(timeout)
    took = time.monotonic() - began
    assert took <= timeout + 1.0
    assert report.finished, took
    assert not report.graceful
    assert {outcome.job_id for outcome in report.unrecorded} == ids
    assert {outcome.outcome for outcome in report.unrecorded} == {"completed"}
    assert report.abandoned == ()


def test_stop_that_finds_no_room_for_what_it_abandons_returns_in_time_and_says_so(
    make_client: Any, monkeypatch: Any
) -> None:
    inside, gate = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.set()
        gate.wait(30)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    monkeypatch.setattr(client._services.completer, "try_push", lambda claim, outcome: FULL)
    try:
        began = time.monotonic()
        report = client.stop(0.2)
        assert time.monotonic() - began <= 1.2
    finally:
        gate.set()
    assert report.finished
    assert report.abandoned == (job.id,)
    assert [(outcome.job_id, outcome.outcome) for outcome in report.unrecorded] == [(job.id, "interrupted")]


@pytest.mark.parametrize("step", ["stop_fetching", "awaited", "abandon", "close_completer", "close_services"])
def test_step_of_the_stop_that_fails_does_not_keep_the_others_from_their_work(
    make_client: Any, monkeypatch: Any, caplog: Any, step: str
) -> None:
    before = set(threading.enumerate())
    client = make_client(workers_of(lambda job: None))
    client.start()
    job = client.wait(client.insert(Args(1)).job, 20)
    services = client._services
    whole = getattr(services, step)

    def fail(*args: Any) -> Any:
        whole(*args)
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(services, step, fail)
    report = client.stop(5)
    assert report.finished
    assert not report.graceful
    assert "a step of the stop failed" in caplog.text
    assert client.job_get(job.id).state == "completed"
    eventually(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("river_fast.")], 5)


def test_stop_without_limit_is_hurried_by_a_later_one(make_client: Any) -> None:
    inside, gate = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.set()
        gate.wait(30)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    reports: list[river.StopReport] = []
    patient = threading.Thread(target=lambda: reports.append(client.stop()))
    patient.start()
    try:
        began = time.monotonic()
        report = client.stop(0.3)
        assert time.monotonic() - began <= 1.3
        patient.join(5)
        assert reports == [report]
        assert report.abandoned == (job.id,)
    finally:
        gate.set()


def test_stop_that_waits_for_the_completer_is_hurried_by_a_later_one(proxy: Proxy, schema: str) -> None:
    inside, gate = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.set()
        gate.wait(30)

    client = client_on(proxy, schema, workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    proxy.refusing = True
    proxy.cut()
    closing = threading.Event()
    whole = client._services.close_completer
    client._services.close_completer = lambda *args: (closing.set(), whole(*args))[1]  # type: ignore[method-assign]
    gate.set()
    client.request_stop()
    assert closing.wait(20)
    began = time.monotonic()
    report = client.stop(0.2)
    assert time.monotonic() - began <= 1.2
    assert report.finished
    assert [outcome.job_id for outcome in report.unrecorded] == [job.id]


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
    report = client.stop_and_cancel(5) if hard else client.stop(5)
    assert report.graceful, report
    assert cleaned.is_set()
    row = client.job_get(job.id)
    assert (row.state, row.attempt, row.errors) == ("available", 0, [])


def test_async_job_that_swallows_its_cancel_is_stuck_then_abandoned_and_costs_no_worker_thread(
    make_client: Any,
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
    threads = client._services.producer.fetcher.queue_stats(0)["threads"]
    alive = [t for t in threading.enumerate() if t.name.startswith("river_fast.worker")]
    assert threads == len(alive)
    began = time.monotonic()
    report = client.stop(0.3)
    assert time.monotonic() - began <= 1.3
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
    assert client.stop(5).graceful


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
    assert client._client.wait_stopped(5)
    report = client._client.stop_report()
    assert 1 <= len(report.abandoned) <= 3
    assert conn.execute("SELECT DISTINCT state::text, attempt FROM river_job").fetchall() == [("available", 0)]


def test_callers_loop_that_is_blocked_does_not_hold_up_a_stop_from_another_thread(
    dsn: str, schema: str, conn: psycopg.Connection
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
        assert time.monotonic() - began <= 1.3
        assert report.finished
        assert len(report.abandoned) == 1
        assert conn.execute("SELECT state::text, attempt FROM river_job").fetchall() == [("available", 0)]
    finally:
        release.set()
        thread.join(20)
    assert conn.execute("SELECT state::text, attempt FROM river_job").fetchall() == [("available", 0)]


def test_job_that_ends_at_the_very_moment_it_is_abandoned_is_recorded_once(
    make_client: Any, conn: psycopg.Connection, monkeypatch: Any, caplog: Any
) -> None:
    """Both outcomes are pushed; one is recorded, and the other is nobody's loss."""
    inside, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.set()
        gate.wait(30)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    services: ClientServices = client._services
    executor = services.producer._executor
    whole = executor._push_completed

    def push_completed(claim: int) -> int:
        pushed = whole(claim)
        ended.set()
        return pushed

    executor._push_completed = push_completed  # type: ignore[assignment]
    give_up = services.completer.give_up

    def first_the_job(row: Any, outcome: Any) -> int:
        gate.set()
        ended.wait(0.2)
        return give_up(row, outcome)

    monkeypatch.setattr(services.completer, "give_up", first_the_job)
    report = client.stop(0)
    assert report.finished
    assert report.unrecorded == ()
    row = client.job_get(job.id)
    assert (row.state, row.attempt) in {("completed", 1), ("available", 0)}
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


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
    assert client.stop(5).graceful


def test_waiting_threads_are_told_each_and_outlive_a_restart(make_client: Any) -> None:
    gate = threading.Event()

    def work(job: river.Job[Args]) -> None:
        if not gate.is_set():
            job.wait_cancelled(30)
            job.raise_if_cancelled()

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    states: list[Any] = []

    def wait() -> None:
        try:
            states.append(client.wait(job, 30).state)
        except BaseException as error:
            states.append(error)

    waiting = [threading.Thread(target=wait) for _ in range(10)]
    for thread in waiting:
        thread.start()
    for _ in range(5):
        assert client.stop_and_cancel(5).graceful
        client.start()
    events = client.subscribe("job_completed")
    gate.set()
    client.stop_and_cancel(5)
    client.start()
    for thread in waiting:
        thread.join(30)
    assert states == ["completed"] * 10
    assert len(list(events)) <= 1  # it ended with the run in which it was made, whatever that saw
    assert client.stop(5).graceful
