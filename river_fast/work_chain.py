"""One function a kind: middleware around hooks around the worker's own. River: the job executor's onion.

Made when a client starts; the functions run where the job runs, on its thread or as its Task, in its context. Nothing
installed: the worker's own function, untouched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from river_fast.errors import ConfigError, DecodeError
from river_fast.job import Job
from river_fast.plugin import NONE, Extensions, Role, middleware_roles
from river_fast.worker import WorkUnit

Work = Callable[[Job[Any]], Any]
AsyncWork = Callable[[Job[Any]], Awaitable[Any]]


def work_chain(unit: WorkUnit, installed: Extensions) -> Work:
    """What works a job of this kind, in River's order (river.md 7.2): the worker's middleware, the client's, the args
    type's; the client's `work_begin` hooks, the args type's; the work; `work_end` hooks in the same order.

    Raises `ConfigError` where one of them cannot run around this worker.
    """
    installed = installed + (unit.extensions or NONE)
    middleware = (*unit.middleware, *installed.work)
    _check(unit, (*middleware, *installed.work_begin, *installed.work_end))
    hooked = bool(installed.work_begin or installed.work_end)
    work = unit.work
    if unit.is_async:
        if hooked:
            work = _async_hooked(work, installed.work_begin, installed.work_end)
        work = _async_wrapped(work, middleware)
        return work if unit.middleware_of is None else _async_chosen(work, unit, unit.middleware_of)
    if hooked:
        work = _hooked(work, installed.work_begin, installed.work_end)
    work = _wrapped(work, middleware)
    return work if unit.middleware_of is None else _chosen(work, unit, unit.middleware_of)


def _check(unit: WorkUnit, roles: Sequence[Role]) -> None:
    """A hook written with `def` runs anywhere; what is awaited needs a Task, what waits for the work needs a thread."""
    for role in roles:
        if role.form == "async def" and not unit.is_async:
            remedy = "a generator with one yield" if role.role == "work" else "a `def`"
            raise ConfigError(
                f"{role.name} is an `async def`, and the worker of kind {unit.kind!r} is not: nothing can be awaited on"
                f" the thread of its jobs; write it as {remedy}, which serves both kinds of worker"
            )
        if role.form == "def" and role.role == "work" and unit.is_async:
            raise ConfigError(
                f"{role.name} is a `def` that calls inner, and the worker of kind {unit.kind!r} is an `async def`: it"
                " would block the event loop; write it as an `async def`, or as a generator with one yield, which"
                " serves both kinds of worker"
            )


# Around jobs that run on threads.


def _wrapped(work: Work, middleware: Sequence[Role]) -> Work:
    for role in reversed(middleware):
        work = _around(work, role)
    return work


def _around(work: Work, role: Role) -> Work:
    function = role.function
    if role.form != "generator":
        return lambda job: function(job, partial(work, job))
    entered = contextmanager(function)

    def around(job: Job[Any]) -> Any:
        with entered(job):
            return work(job)

    return around


def _chosen(work: Work, unit: WorkUnit, middleware_of: Callable[[Job[Any]], Any]) -> Work:
    def chosen(job: Job[Any]) -> Any:
        return _wrapped(work, _own(unit, middleware_of, job))(job)

    return chosen


def _hooked(work: Work, begins: Sequence[Role], ends: Sequence[Role]) -> Work:
    def hooked(job: Job[Any]) -> None:
        error: BaseException | None = None
        for begin in begins:
            begin.function(job)
        try:
            work(job)
        except BaseException as raised:  # whatever it is, the hooks are told
            error = raised
        if not _is_undecoded(job, error):
            for end in ends:
                try:
                    error = _answered(end, error, end.function(job, error))
                except BaseException as raised:
                    error = raised
        try:
            if error is not None:
                raise error
        finally:
            error = None  # its traceback holds this frame

    return hooked


# The same around those that are Tasks.


def _async_wrapped(work: AsyncWork, middleware: Sequence[Role]) -> AsyncWork:
    for role in reversed(middleware):
        work = _async_around(work, role)
    return work


def _async_around(work: AsyncWork, role: Role) -> AsyncWork:
    function = role.function
    if role.form != "generator":
        return lambda job: function(job, partial(work, job))
    entered = contextmanager(function)

    async def around(job: Job[Any]) -> Any:
        with entered(job):
            return await work(job)

    return around


def _async_chosen(work: AsyncWork, unit: WorkUnit, middleware_of: Callable[[Job[Any]], Any]) -> AsyncWork:
    async def chosen(job: Job[Any]) -> Any:
        return await _async_wrapped(work, _own(unit, middleware_of, job))(job)

    return chosen


def _async_hooked(work: AsyncWork, begins: Sequence[Role], ends: Sequence[Role]) -> AsyncWork:
    async def hooked(job: Job[Any]) -> None:
        error: BaseException | None = None
        for begin in begins:
            begun = begin.function(job)
            if begin.form == "async def":
                await begun
        try:
            await work(job)
        except BaseException as raised:
            error = _told_apart(job, raised)
        if not _is_undecoded(job, error):
            for end in ends:
                try:
                    answer = end.function(job, error)
                    error = _answered(end, error, (await answer) if end.form == "async def" else answer)
                except BaseException as raised:
                    error = raised
        try:
            if error is not None:
                raise error
        finally:
            error = None  # its traceback holds this frame

    return hooked


def _told_apart(job: Job[Any], error: BaseException) -> BaseException:
    """asyncio says of every cancel the same; hooks are told why."""
    run = job._run
    if isinstance(error, asyncio.CancelledError) and run is not None and run.cancel_cause is not None:
        return run.cancel_error().with_traceback(error.__traceback__)
    return error


# Both.


def _own(unit: WorkUnit, middleware_of: Callable[[Job[Any]], Any], job: Job[Any]) -> tuple[Role, ...]:
    roles = middleware_roles(f"worker of {unit.kind!r}", middleware_of(job))
    _check(unit, roles)
    return roles


def _is_undecoded(job: Job[Any], error: BaseException | None) -> bool:
    """The job's args did not fit its type: it was not worked, and no hook hears of an end."""
    return isinstance(error, DecodeError) and not job._args_read


def _answered(end: Role, error: BaseException | None, answer: Any) -> BaseException | None:
    """The error after a hook: as with `__exit__`, but an exception may be returned too."""
    if answer is None or answer is False:
        return error
    if answer is True:
        return None
    if isinstance(answer, BaseException):
        return answer
    return ConfigError(f"{end.name} must return None, a bool or an exception, got {answer!r:.80}")
