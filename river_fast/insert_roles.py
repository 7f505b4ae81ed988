"""The hooks and middleware of one insert call, run in River's order around what sends it.

On the thread or the Task that inserts; used once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

from river_fast.errors import ConfigError
from river_fast.insert_params import InsertBatch
from river_fast.job_insert_params import JobInsertParams, batch_of, checked_params, params_of
from river_fast.plugin import NONE, Extensions, Role

Inner = Callable[[Any], Any]


class InsertRoles:
    """Middleware: the client's, then each kind's once, in the order of appearance. Hooks: for each job the client's,
    then its kind's. `awaited`: the name of one that is an `async def`; `calling`: of one that is a `def` with inner;
    `wrap`: whether there is middleware at all."""

    def __init__(self, installed: Extensions, batch: InsertBatch, limit: int) -> None:
        self._limit = limit
        self._begin = installed.insert_begin
        own = {id(info.extensions): info.extensions for info in batch.infos if info.extensions is not None}
        self._middleware = installed.insert_many + tuple(role for each in own.values() for role in each.insert_many)
        self.wrap = bool(self._middleware)
        roles = (*self._middleware, *self._begin, *(role for each in own.values() for role in each.insert_begin))
        self.awaited = next((role.name for role in roles if role.form == "async def"), None)
        self.calling = next((role.name for role in self._middleware if role.form == "def"), None)
        if self.awaited is not None and self.calling is not None:
            raise ConfigError(
                f"{self.awaited} is an `async def`, {self.calling} a `def` that calls inner: no insert can run both;"
                " write middleware as generators with one yield, which serve every insert; nothing was inserted"
            )

    def run(self, batch: InsertBatch, send: Callable[[InsertBatch], Any]) -> Any:
        """What the outermost returned, or raised."""

        def innermost(params: Any) -> Any:
            jobs = checked_params(params)
            for job, role in self._begins(jobs):
                role.function(job)
            made = batch_of(jobs, self._limit)
            return send(made) if len(made) else []

        inner: Inner = innermost
        for role in reversed(self._middleware):
            inner = _around(role, inner)
        return inner(params_of(batch))

    async def run_async(self, batch: InsertBatch, send: Callable[[InsertBatch], Awaitable[Any]]) -> Any:
        """The same on an event loop."""

        async def innermost(params: Any) -> Any:
            jobs = checked_params(params)
            for job, role in self._begins(jobs):
                begun = role.function(job)
                if role.form == "async def":
                    await begun
            made = batch_of(jobs, self._limit)
            return (await send(made)) if len(made) else []

        inner: Inner = innermost
        for role in reversed(self._middleware):
            inner = _async_around(role, inner)
        return await inner(params_of(batch))

    def _begins(self, jobs: Sequence[JobInsertParams]) -> Iterator[tuple[JobInsertParams, Role]]:
        for job in jobs:
            for role in (*self._begin, *(job.extensions or NONE).insert_begin):
                yield job, role


def _around(role: Role, inner: Inner) -> Inner:
    if role.form != "generator":
        return lambda params: role.function(params, inner)

    def around(params: Any) -> Any:
        generator = role.function(params)
        handed = _entered(role, generator, params)
        try:
            results = inner(handed)
        except BaseException as error:
            return _left(role, generator, partial(generator.throw, error), None)
        return _left(role, generator, partial(generator.send, results), results)

    return around


def _async_around(role: Role, inner: Inner) -> Inner:
    if role.form != "generator":
        return lambda params: role.function(params, inner)

    async def around(params: Any) -> Any:
        generator = role.function(params)
        handed = _entered(role, generator, params)
        try:
            results = await inner(handed)
        except BaseException as error:
            return _left(role, generator, partial(generator.throw, error), None)
        return _left(role, generator, partial(generator.send, results), results)

    return around


def _entered(role: Role, generator: Generator[Any, Any, Any], params: Any) -> Any:
    """To its yield: what it hands on, the params it was given where it yields nothing."""
    try:
        handed = next(generator)
    except StopIteration:
        raise ConfigError(f"{role.name} ended before its yield, where the jobs are inserted") from None
    return params if handed is None else handed


def _left(role: Role, generator: Generator[Any, Any, Any], go_on: Callable[[], Any], results: Any) -> Any:
    """To its end: what it returns, else the results as they were."""
    try:
        go_on()
    except StopIteration as stop:
        return results if stop.value is None else stop.value
    generator.close()
    raise ConfigError(f"{role.name} yielded twice; it is an insert middleware, and yields once")
