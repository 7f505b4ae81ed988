"""What hooks are told and what not: jobs nobody can work, cancelled ones; and that they keep nothing alive."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import river_fast as river
from tests.acceptance.test_work_hooks import Trace, traced
from tests.fix_client import Args, workers_of
from tests.fix_outcomes import BOTH, work_one, worker_for


@BOTH
def test_unknown_kinds_and_undecodable_args_pass_hooks_by(make_client: Any, is_async: bool) -> None:
    """As River: a job that nobody can work is no job to them; one whose args do not fit has no end."""
    trace: Trace = []
    client = make_client(
        worker_for(lambda job: trace.append(str(job.args)), is_async),
        plugins=[traced(trace, "plugin")],
        skip_unknown_job_check=True,
    )
    once = river.InsertOpts(max_attempts=1)
    with client.subscribe() as events:
        unknown = client.insert(river.RawArgs("nobody_knows", {}), once).job
        wrong = client.insert(river.RawArgs("test_job", {"n": "seven"}), once).job
        client.start()
        ended = {event.job.id: event.job for _ in range(2) if (event := events.get(20)) is not None and event.job}
    assert "not registered" in ended[unknown.id].errors[0].error
    assert ended[wrong.id].state == "discarded"
    assert trace == ["plugin:before", "plugin:begin", "plugin:after"]


@BOTH
@pytest.mark.parametrize("cause", ["remote", "timeout", "stop"])
def test_end_hooks_are_told_why_a_job_was_cancelled(make_client: Any, is_async: bool, cause: str) -> None:
    told: list[BaseException | None] = []
    running = threading.Event()

    def end(job: river.Job[Any], error: BaseException | None) -> None:
        told.append(error)

    workers = river.Workers()
    if is_async:

        @workers.work(Args, timeout=0.2 if cause == "timeout" else None)
        async def awork(job: river.Job[Args]) -> None:
            running.set()
            await asyncio.sleep(60)
    else:

        @workers.work(Args, timeout=0.2 if cause == "timeout" else None)
        def work(job: river.Job[Args]) -> None:
            running.set()
            assert job.wait_cancelled(60)
            job.raise_if_cancelled()

    client = make_client(workers, hooks=[river.Plugin(work_end=end)])
    client.start()
    job = client.insert(Args(), river.InsertOpts(max_attempts=1)).job
    assert running.wait(20)
    if cause == "remote":
        client.job_cancel(job.id)
    if cause != "stop":
        client.wait(job, 20)
    client.stop_and_cancel(10)
    expected = {
        "remote": (river.JobCancelledRemotelyError, "cancelled"),
        "timeout": (river.JobTimeoutError, "discarded"),
        "stop": (river.JobInterruptedError, "available"),
    }[cause]
    assert isinstance(told[0], expected[0])
    assert client.job_get(job.id).state == expected[1]


def test_a_failed_job_leaves_no_cycle_behind(make_client: Any) -> None:
    """What a job held is freed when its error was written, not at the next garbage collection."""
    class Held:
        pass

    held: list[weakref.ref[Held]] = []

    def fail(job: river.Job[Any]) -> None:
        mine = Held()
        held.append(weakref.ref(mine))
        raise ValueError

    client = make_client(workers_of(fail), plugins=[traced([], "plugin")])
    gc.disable()
    try:
        assert work_one(client).state == "available"
        deadline = time.monotonic() + 20
        while held[0]() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held[0]() is None
    finally:
        gc.enable()


def test_periodic_jobs_and_their_start_are_seen(make_client: Any) -> None:
    """All that a client calls, in the order that River's own contract writes down."""
    trace: Trace = []

    def insert_many(params: list[river.JobInsertParams]) -> Iterator[None]:
        trace.append("middleware:insert_before")
        yield
        trace.append("middleware:insert_after")

    def work(job: river.Job[Any]) -> Iterator[None]:
        trace.append("middleware:work_before")
        yield
        trace.append("middleware:work_after")

    plugin = river.Plugin(
        insert_begin=lambda params: trace.append("hook:insert_begin"),
        insert_many=insert_many,
        work_begin=lambda job: trace.append("hook:work_begin"),
        work_end=lambda job, error: trace.append("hook:work_end"),
        work=work,
        periodic_jobs_start=lambda params: trace.append("hook:periodic_start"),
    )
    client = make_client(
        workers_of(lambda job: None),
        plugins=[plugin],
        periodic_jobs=[river.PeriodicJob(river.PeriodicInterval(3600), Args, id="at_start", run_on_start=True)],
        test_only=True,
    )
    with client.subscribe("job_completed") as done:
        client.start()
        assert done.get(20).job.metadata["river:periodic_job_id"] == "at_start"
    client.stop(10)
    assert trace == [
        "hook:periodic_start",
        "middleware:insert_before", "hook:insert_begin", "middleware:insert_after",
        "middleware:work_before", "hook:work_begin", "hook:work_end", "middleware:work_after",
    ]  # fmt: skip


async def test_periodic_jobs_of_an_async_client_are_inserted_through_its_loop(dsn: str, schema: str) -> None:
    seen: list[Any] = []

    class Awaited:
        async def insert_many(self, params: list[river.JobInsertParams], inner: Any) -> Any:
            await asyncio.sleep(0)
            seen.append([each.metadata["river:periodic_job_id"] for each in params])
            return await inner(params)

        async def work(self, job: river.Job[Any], inner: Any) -> None:
            seen.append(river.client_from_context())
            await inner()

    workers = river.Workers()

    @workers.work(Args)
    async def work(job: river.Job[Args]) -> None: ...

    config = river.Config(
        schema=schema,
        workers=workers,
        queues={"default": river.QueueConfig(max_workers=2)},
        middleware=[Awaited()],
        periodic_jobs=[river.PeriodicJob(river.PeriodicInterval(3600), Args, id="at_start", run_on_start=True)],
        test_only=True,
    )
    client = river.AsyncClient(dsn, config)
    with client.subscribe("job_completed") as done:
        async with client:
            event = await asyncio.wait_for(anext(aiter(done)), 20)
    assert event.job is not None
    assert seen == [["at_start"], client._client]
