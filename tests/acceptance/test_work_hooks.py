"""Hooks and middleware around work, through the whole client, for jobs on threads and jobs on event loops."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

import river_fast as river
from tests.fix_client import Args, workers_of
from tests.fix_outcomes import BOTH, work_one, worker_for

Trace = list[str]


def traced(trace: Trace, tag: str) -> river.Plugin:
    """A plugin of every role around work, in the forms that serve both kinds of worker."""

    def begin(job: river.Job[Any]) -> None:
        trace.append(f"{tag}:begin")

    def end(job: river.Job[Any], error: BaseException | None) -> None:
        trace.append(f"{tag}:end {type(error).__name__}" if error else f"{tag}:end")

    def work(job: river.Job[Any]) -> Iterator[None]:
        trace.append(f"{tag}:before")
        try:
            yield
        finally:
            trace.append(f"{tag}:after")

    return river.Plugin(work_begin=begin, work_end=end, work=work)


@BOTH
def test_everything_is_called_in_rivers_order(make_client: Any, is_async: bool) -> None:
    trace: Trace = []

    @dataclass
    class Traced(river.JobArgs, kind="traced", plugins=[traced(trace, "args")], hooks=[traced(trace, "args_hook")]):
        n: int = 0

    workers = river.Workers()
    if is_async:

        @workers.work(Traced, middleware=[traced(trace, "worker")])
        async def awork(job: river.Job[Traced]) -> None:
            trace.append("work")
    else:

        @workers.work(Traced, middleware=[traced(trace, "worker")])
        def work(job: river.Job[Traced]) -> None:
            trace.append("work")

    client = make_client(
        workers,
        hooks=[traced(trace, "hook")],
        middleware=[traced(trace, "middleware")],
        plugins=[traced(trace, "plugin")],
    )
    with client:
        assert client.wait(client.insert(Traced()).job, 20).state == "completed"
    assert trace == [
        "worker:before", "plugin:before", "middleware:before", "args:before",
        "plugin:begin", "hook:begin", "args:begin", "args_hook:begin",
        "work",
        "plugin:end", "hook:end", "args:end", "args_hook:end",
        "args:after", "middleware:after", "plugin:after", "worker:after",
    ]  # fmt: skip


def test_middleware_that_calls_inner(make_client: Any) -> None:
    """`def` around jobs on threads, `async def` around jobs on the loop."""
    seen: list[str] = []

    class Sync:
        def work(self, job: river.Job[Any], inner: Callable[[], Any]) -> None:
            seen.append("before")
            inner()
            seen.append("after")

    client = make_client(worker_for(lambda job: seen.append("work"), False), middleware=[Sync()])
    assert work_one(client).state == "completed"
    client.stop()

    class Async:
        async def work(self, job: river.Job[Any], inner: Callable[[], Any]) -> None:
            seen.append("before")
            await asyncio.sleep(0)
            await inner()
            seen.append("after")

    client = make_client(worker_for(lambda job: seen.append("work"), True), middleware=[Async()])
    assert work_one(client).state == "completed"
    assert seen == ["before", "work", "after"] * 2


def test_middleware_may_work_the_job_again_or_not_at_all(make_client: Any) -> None:
    tries: list[int] = []

    def twice(job: river.Job[Any], inner: Callable[[], Any]) -> None:
        try:
            inner()
        except ValueError:
            inner()

    def fail_once(job: river.Job[Args]) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError

    client = make_client(workers_of(fail_once), plugins=[river.Plugin(work=twice)])
    assert work_one(client).state == "completed"
    client.stop()
    assert len(tries) == 2

    def never(job: river.Job[Any], inner: Callable[[], Any]) -> None:
        pass

    assert work_one(make_client(workers_of(fail_once), plugins=[river.Plugin(work=never)])).state == "completed"
    assert len(tries) == 2


@BOTH
@pytest.mark.parametrize("role", ["work_begin", "work_end", "work"])
@pytest.mark.parametrize(
    ("error", "state"),
    [
        (river.JobCancelError("unwanted"), "cancelled"),
        (river.JobSnoozeError(3600), "scheduled"),
        (ValueError("broken"), "available"),
        (SystemExit(3), "available"),
    ],
)
def test_what_they_raise_is_the_jobs_outcome(
    make_client: Any, is_async: bool, role: str, error: BaseException, state: str
) -> None:
    ran: list[int] = []

    def hook(*_: Any) -> None:
        raise error

    def middleware(job: river.Job[Any]) -> Iterator[None]:
        raise error
        yield

    client = make_client(
        worker_for(lambda job: ran.append(1), is_async),
        plugins=[river.Plugin(**{role: middleware if role == "work" else hook})],  # type: ignore[arg-type]
    )
    job = work_one(client)
    assert job.state == state
    assert ran == ([1] if role == "work_end" else []), "what begins may keep a job from being worked"
    if state != "scheduled":
        assert len(job.errors) == 1


@BOTH
@pytest.mark.parametrize(
    ("answer", "state", "text"),
    [
        (None, "available", "as it was"),
        (False, "available", "as it was"),
        (True, "completed", None),
        (KeyError("another"), "available", "'another'"),
        (river.JobCancelError("enough"), "cancelled", "JobCancelError: enough"),
        ("yes", "available", "must return None, a bool or an exception, got 'yes'"),
    ],
)
def test_work_end_keeps_drops_or_replaces_the_error(
    make_client: Any, is_async: bool, answer: Any, state: str, text: str | None
) -> None:
    told: list[BaseException | None] = []

    def end(job: river.Job[Any], error: BaseException | None) -> Any:
        told.append(error)
        return answer

    def fail(job: river.Job[Any]) -> None:
        raise ValueError("as it was")

    job = work_one(make_client(worker_for(fail, is_async), plugins=[river.Plugin(work_end=end)]))
    assert job.state == state
    assert isinstance(told[0], ValueError)
    if text is None:
        assert job.errors == []
    else:
        assert text in job.errors[0].error


@BOTH
def test_each_end_hook_is_told_what_the_one_before_it_left(make_client: Any, is_async: bool) -> None:
    told: list[str] = []

    def raises(job: river.Job[Any], error: BaseException | None) -> Any:
        told.append(repr(error))
        raise KeyError("new")

    def drops(job: river.Job[Any], error: BaseException | None) -> Any:
        told.append(repr(error))
        return True

    def looks(job: river.Job[Any], error: BaseException | None) -> Any:
        told.append(repr(error))

    hooks = [river.Plugin(work_end=each) for each in (raises, drops, looks)]
    job = work_one(make_client(worker_for(lambda job: None, is_async), hooks=hooks))
    assert job.state == "completed"
    assert told == ["None", "KeyError('new')", "None"]


def test_async_hooks_are_awaited(make_client: Any) -> None:
    trace: Trace = []

    class Hooks:
        async def work_begin(self, job: river.Job[Any]) -> None:
            await asyncio.sleep(0)
            trace.append("begin")

        async def work_end(self, job: river.Job[Any], error: BaseException | None) -> bool:
            await asyncio.sleep(0)
            trace.append(repr(error))
            return True

    def fail(job: river.Job[Any]) -> None:
        raise ValueError("dropped")

    assert work_one(make_client(worker_for(fail, True), hooks=[Hooks()])).state == "completed"
    assert trace == ["begin", "ValueError('dropped')"]


async def awaited(*_: Any) -> None: ...


def calls(job: river.Job[Any], inner: Callable[[], Any]) -> None: ...


@pytest.mark.parametrize(
    ("is_async", "plugin", "message"),
    [
        (False, river.Plugin(work_begin=awaited), "an `async def`, and the worker of kind 'test_job' is not"),
        (False, river.Plugin(work_end=awaited), "write it as a `def`"),
        (False, river.Plugin(work=awaited), "write it as a generator with one yield"),
        (True, river.Plugin(work=calls), "it would block the event loop"),
    ],
)
def test_what_cannot_run_around_a_worker_keeps_the_client_from_starting(
    make_client: Any, is_async: bool, plugin: river.Plugin, message: str
) -> None:
    client = make_client(worker_for(lambda job: None, is_async), plugins=[plugin])
    with pytest.raises(river.ConfigError, match=message):
        client.start()
    with pytest.raises(river.ClientStoppedError):
        client.stats()


@BOTH
def test_worker_class_chooses_middleware_by_job(make_client: Any, is_async: bool) -> None:
    trace: Trace = []

    class Chooses(river.Worker[Args]):
        def middleware(self, job: river.Job[Args]) -> Sequence[Any]:
            return [traced(trace, "own")] if job.args.n else []

    class Sync(Chooses):
        def work(self, job: river.Job[Args]) -> None:
            trace.append(f"work {job.args.n}")

    class Async(Chooses):
        async def work(self, job: river.Job[Args]) -> None:
            trace.append(f"work {job.args.n}")

    workers = river.Workers()
    workers.add(Async() if is_async else Sync())
    client = make_client(workers, middleware=[traced(trace, "client")])
    with client:
        for n in (0, 1):
            assert client.wait(client.insert(Args(n)).job, 20).state == "completed"
    assert trace == [
        "client:before", "work 0", "client:after",
        "own:before", "client:before", "work 1", "client:after", "own:after",
    ]  # fmt: skip


@BOTH
def test_context_and_client_are_the_jobs(make_client: Any, is_async: bool) -> None:
    """What middleware puts into the context the job finds, and `client_from_context` serves them all."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    found: list[Any] = []

    def begin(job: river.Job[Any]) -> None:
        found.append(river.client_from_context())

    def middleware(job: river.Job[Any]) -> Iterator[None]:
        found.append(river.client_from_context())
        variable.set("from middleware")
        yield

    def work(job: river.Job[Any]) -> None:
        found.append(river.client_from_context())
        found.append(variable.get())

    client = make_client(worker_for(work, is_async), plugins=[river.Plugin(work_begin=begin, work=middleware)])
    assert work_one(client).state == "completed"
    assert found == [client, client, client, "from middleware"]
    with pytest.raises(river.RiverError, match="outside a job"):
        river.client_from_context()
