"""The error handler, the handler of stuck jobs, and the metric hook, through the whole client."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import Any

import pytest

import river_fast as river
from tests.fix_client import Args, eventually, workers_of
from tests.fix_outcomes import BOTH, work_one, worker_for


class Handler:
    """Counts, and answers as told."""

    def __init__(self, answer: Any = None) -> None:
        self.told: list[tuple[int, str, Any]] = []
        self.answer = answer

    def handle_error(self, job: river.Job[Any], error: BaseException) -> Any:
        self.told.append((job.id, repr(error), river.client_from_context()))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def fail(job: river.Job[Any]) -> None:
    raise ValueError("broken")


@BOTH
@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (None, "available"),
        (river.ErrorHandlerResult(), "available"),
        (river.ErrorHandlerResult(set_cancelled=True), "cancelled"),
        (KeyError("the handler's own"), "available"),
        (SystemExit(1), "available"),
        ("cancel it", "available"),
    ],
)
def test_error_handler_is_told_and_may_cancel(make_client: Any, is_async: bool, answer: Any, state: str) -> None:
    handler = Handler(answer)
    client = make_client(worker_for(fail, is_async), error_handler=handler)
    job = work_one(client)
    assert job.state == state
    assert handler.told[0] == (job.id, "ValueError('broken')", client)
    assert [error.error for error in job.errors] == ["broken"], "the job's error, whatever the handler does"
    assert "fail" in job.errors[0].trace


@BOTH
def test_error_handler_may_be_a_function_and_stage_metadata(make_client: Any, is_async: bool) -> None:
    def handle(job: river.Job[Any], error: BaseException) -> river.ErrorHandlerResult:
        job.set_metadata("why", str(error))
        return river.ErrorHandlerResult(set_cancelled=True)

    job = work_one(make_client(worker_for(fail, is_async), error_handler=handle))
    assert (job.state, job.metadata["why"]) == ("cancelled", "broken")


@BOTH
@pytest.mark.parametrize(
    "error", [river.JobCancelError("unwanted"), river.JobSnoozeError(3600), None], ids=["cancel", "snooze", "none"]
)
def test_error_handler_hears_nothing_of_what_is_no_failure(make_client: Any, is_async: bool, error: Any) -> None:
    handler = Handler()

    def work(job: river.Job[Any]) -> None:
        if error is not None:
            raise error

    work_one(make_client(worker_for(work, is_async), error_handler=handler))
    assert handler.told == []


@BOTH
def test_error_handler_hears_nothing_of_a_cancel_or_an_interruption(make_client: Any, is_async: bool) -> None:
    handler = Handler()
    running = threading.Event()

    def wait(job: river.Job[Any]) -> None:
        running.set()
        assert job.wait_cancelled(60)
        job.raise_if_cancelled()

    client = make_client(workers_of(wait), error_handler=handler)
    client.start()
    job = client.insert(Args()).job
    assert running.wait(20)
    client.job_cancel(job.id)
    assert client.wait(job, 20).state == "cancelled"
    running.clear()
    job = client.insert(Args()).job
    assert running.wait(20)
    client.stop_and_cancel(10)
    assert client.job_get(job.id).state == "available"
    assert handler.told == []


def test_error_handler_is_told_of_jobs_that_nobody_can_work(make_client: Any) -> None:
    handler = Handler(river.ErrorHandlerResult(set_cancelled=True))
    client = make_client(workers_of(lambda job: job.args), error_handler=handler, skip_unknown_job_check=True)
    with client.subscribe() as events:
        unknown = client.insert(river.RawArgs("nobody_knows", {})).job
        wrong = client.insert(river.RawArgs("test_job", {"n": "seven"})).job
        client.start()
        states = {event.job.id: event.job.state for _ in range(2) if (event := events.get(20)).job}
    assert states == {unknown.id: "cancelled", wrong.id: "cancelled"}
    assert sorted(told[0] for told in handler.told) == [unknown.id, wrong.id]


@BOTH
@pytest.mark.parametrize("add", [True, False, None, "wrong", KeyError("no")])
def test_stuck_handler_decides_about_the_slot(
    make_client: Any, is_async: bool, add: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[river.JobStuckHandlerParams] = []
    answered, release = threading.Event(), threading.Event()
    other = threading.Event()

    def handle(params: river.JobStuckHandlerParams) -> Any:
        told.append(params)
        try:
            if isinstance(add, BaseException):
                raise add
            return river.JobStuckHandlerResult(add_worker_slot=add) if isinstance(add, bool) else add
        finally:
            answered.set()

    workers = river.Workers()
    if is_async:

        @workers.work(Args, timeout=0.05)
        async def astuck(job: river.Job[Args]) -> None:
            if job.args.n:
                other.set()
                return
            while not release.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass
    else:

        @workers.work(Args, timeout=0.05)
        def stuck(job: river.Job[Args]) -> None:
            if job.args.n:
                other.set()
            else:
                release.wait(60)

    client = make_client(workers, 1, job_stuck_threshold=0.05, job_stuck_handler=handle)
    client.start()
    job = client.insert(Args(0)).job
    assert answered.wait(20)
    assert told == [river.JobStuckHandlerParams(job.id, "test_job", "default", 1)]
    next_job = client.insert(Args(1)).job
    if add is False:
        assert not other.is_set()
    else:
        assert other.wait(20), "its slot serves others while it is stuck"
    release.set()
    assert client.wait(job, 20).state == "completed"
    assert client.wait(next_job, 20).state == "completed"
    caplog.set_level(logging.WARNING, "river_fast")
    assert client.stop(10).graceful
    assert len(told) == 1


def test_total_of_stuck_jobs_counts_them_all(make_client: Any) -> None:
    told: list[int] = []
    release = threading.Event()

    def handle(params: river.JobStuckHandlerParams) -> None:
        told.append(params.total_stuck_jobs)

    client = make_client(
        workers_of(lambda job: release.wait(60), timeout=0.05), 3, job_stuck_threshold=0.0, job_stuck_handler=handle
    )
    client.start()
    client.insert_many([Args(n) for n in range(3)])
    eventually(lambda: len(told) == 3)
    release.set()
    assert max(told) == 3


def test_stuck_handler_that_waits_holds_nothing_up(make_client: Any) -> None:
    """It is asked on a thread of its own; a job that ends first keeps its slot and gives it back once."""
    asked, answer, release = threading.Event(), threading.Event(), threading.Event()

    def handle(params: river.JobStuckHandlerParams) -> None:
        asked.set()
        assert answer.wait(60)

    def stuck(job: river.Job[Args]) -> None:
        if job.args.n == 0:
            release.wait(60)

    client = make_client(workers_of(stuck, timeout=0.05), 1, job_stuck_threshold=0.05, job_stuck_handler=handle)
    client.start()
    job = client.insert(Args(0)).job
    assert asked.wait(20)
    release.set()
    assert client.wait(job, 20).state == "completed"
    answer.set()
    for result in client.insert_many([Args(n) for n in range(1, 20)]):
        assert client.wait(result.job, 20).state == "completed"
    assert client.stats()["fetched"] == 20
    assert client.stop(10).graceful


def test_metric_hooks_are_told_of_every_fetch(make_client: Any, caplog: pytest.LogCaptureFixture) -> None:
    told: list[river.Metric] = []

    class Raises:
        def metric_emit(self, metric: river.Metric) -> None:
            raise KeyError("no metrics today")

    client = make_client(
        workers_of(lambda job: None), hooks=[Raises(), river.Plugin(metric_emit=told.append)], fetch_poll_interval=30
    )
    with client.subscribe("job_completed") as events:
        client.insert_many([Args(n) for n in range(25)])
        client.start()
        for _ in range(25):
            events.get(20)
    assert client.stop(10).graceful
    stats_names = {metric.name for metric in told}
    assert stats_names == {"job_get_available_duration", "job_get_available_count"}
    assert {metric.queue for metric in told} == {"default"}
    assert sum(metric.value for metric in told if metric.name == "job_get_available_count") == 25
    durations = [metric.value for metric in told if metric.name == "job_get_available_duration"]
    assert len(durations) * 2 == len(told)
    assert all(0 < each < 10 for each in durations)
    assert "Raises.metric_emit raised" in caplog.text


async def test_async_client_tells_its_handlers_too(dsn: str, schema: str) -> None:
    workers = river.Workers()

    @workers.work(Args)
    async def work(job: river.Job[Args]) -> None:
        raise ValueError("broken")

    handler = Handler(river.ErrorHandlerResult(set_cancelled=True))
    config = river.Config(
        schema=schema, workers=workers, queues={"default": river.QueueConfig(max_workers=2)}, error_handler=handler
    )
    async with river.AsyncClient(dsn, config) as client:
        job = await client.wait((await client.insert(Args())).job, 20)
        assert job.state == "cancelled"
        assert handler.told == [(job.id, "ValueError('broken')", client._client)]


def test_kinds_a_client_does_not_know_are_refused_on_insert(make_client: Any) -> None:
    """River 6.1: with a bundle of workers, if only an empty one, other kinds are refused; aliases are known."""

    @river.job_args("new_name", aliases=["old_name"])
    @dataclass
    class Renamed:
        pass

    workers = river.Workers()
    workers.work(Renamed)(lambda job: None)
    client = make_client(workers)
    old = client.insert(river.RawArgs("old_name", {})).job
    assert old.kind == "old_name"
    with pytest.raises(river.UnknownJobKindError, match="not_known"):
        client.insert(river.RawArgs("not_known", {}))
    with pytest.raises(river.UnknownJobKindError):
        client.insert_many([Renamed(), river.RawArgs("not_known", {})])
    with pytest.raises(river.UnknownJobKindError):
        make_client(river.Workers(), queues={}).insert(Args())
    assert make_client(workers, skip_unknown_job_check=True).insert(Args()).job.id
    assert make_client().insert(Args()).job.id, "a client without workers inserts anything"
    with client:
        assert client.wait(old, 20).state == "completed"
        assert client.wait(client.insert(Renamed()).job, 20).state == "completed"
