"""Inserts that hooks or middleware have a part in. River: insert middleware, HookInsertBegin.

Any thread or event loop. With middleware a call is one transaction, opened when the innermost is reached and committed
when the outermost has returned: whatever any of them raises, nothing was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from river_fast.driver import AsyncExecutor, Driver, Executor, Statement
from river_fast.errors import ConfigError, DatabaseError, InsertOutcomeUnknownError
from river_fast.insert_opts import JobInsertResult
from river_fast.insert_params import InsertBatch
from river_fast.insert_plan import InsertPlan
from river_fast.insert_roles import InsertRoles
from river_fast.insert_statements import insert_error

if TYPE_CHECKING:
    from river_fast.plugin import Extensions

T = TypeVar("T")
Within = Callable[[Executor], AbstractContextManager[None]]
LOOP_LOOK = 1.0  # how often a thread that waits for the event loop looks whether it still turns


@dataclass(frozen=True, slots=True)
class Inserted:
    """What came of a call: of a COPY no results, only the count."""

    results: list[JobInsertResult]
    count: int

    def first(self) -> JobInsertResult:
        """Of a call for one job."""
        if not self.results:
            raise ConfigError("insert middleware handed back no result for the job: it must return what inner returned")
        return self.results[0]


class _Call:
    """One call under way: its plans, and the error of one that failed, which nobody can undo."""

    def __init__(self, schema: str, make: Callable[[InsertBatch], InsertPlan], fast: bool) -> None:
        self._schema = schema
        self.make = make
        self._fast = fast
        self.plans: list[InsertPlan] = []
        self._failed: BaseException | None = None

    def send(self, executor: Executor, batch: InsertBatch) -> list[JobInsertResult]:
        plan = self.make(batch)
        with self._failing():
            return self.sent(plan, plan.run_on(executor, self._schema))

    async def send_async(self, executor: AsyncExecutor, batch: InsertBatch) -> list[JobInsertResult]:
        plan = self.make(batch)
        with self._failing():
            return self.sent(plan, await plan.run_on_async(executor, self._schema))

    def sent(self, plan: InsertPlan, replies: list[Any]) -> list[JobInsertResult]:
        self.plans.append(plan)
        return [] if self._fast else plan.results(replies)

    @contextlib.contextmanager
    def _failing(self) -> Any:
        try:
            yield
        except BaseException as error:
            self._failed = error
            raise

    def inserted(self, results: Any) -> Inserted:
        """Before the commit: raises what makes it wrong."""
        if self._failed is not None:  # swallowed; its transaction is lost, whatever was put in its place
            raise self._failed
        if not isinstance(results, list | tuple) or not all(isinstance(each, JobInsertResult) for each in results):
            raise ConfigError(f"insert middleware must return the list that inner returned, got {results!r:.80}")
        return Inserted(list(results), sum(len(plan.batch) for plan in self.plans))


class InsertChain:
    """`make(batch, fast)` gives what is sent; `send` sends it by itself; `acknowledged(plan)` is called after a commit
    of our own; `current` makes this client the one that hooks and middleware find in their context."""

    def __init__(
        self,
        driver: Driver,
        installed: Extensions,
        limit: int,
        *,
        answer_timeout: float,
        make: Callable[[InsertBatch, bool], InsertPlan],
        send: Callable[[InsertPlan], list[Any]],
        send_async: Callable[[InsertPlan], Awaitable[list[Any]]],
        acknowledged: Callable[[InsertPlan], None],
        current: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._driver = driver
        self._installed = installed
        self._limit = limit
        self._answer_timeout = answer_timeout
        self._make = make
        self._send = send
        self._send_async = send_async
        self._acknowledged = acknowledged
        self._current = current
        self.loop: asyncio.AbstractEventLoop | None = None  # of an `AsyncClient` that was started

    # On a connection of the pool. `then`: statements of the same transaction, after the insert. `within`: what is
    # entered with its executor while it lasts.

    def insert(
        self,
        batch: InsertBatch,
        *,
        fast: bool = False,
        then: Sequence[Statement[Any]] = (),
        within: Within | None = None,
    ) -> Inserted:
        roles = self._roles(batch)
        if roles.awaited is not None:
            return self._through_loop(roles.awaited, partial(self.insert_async, batch, fast=fast, then=then))
        call = self._call(fast)
        if not (roles.wrap or then):
            return self._alone(roles, batch, call)
        try:
            with ExitStack() as stack:
                executors: list[Executor] = []

                def executor() -> Executor:
                    if not executors:
                        executors.append(stack.enter_context(self._driver.transaction(self._answer_timeout)))
                        if within is not None:
                            stack.enter_context(within(executors[0]))
                    return executors[0]

                with self._current():
                    results = roles.run(batch, lambda made: call.send(executor(), made))
                inserted = call.inserted(results)
                for statement in then:
                    executor().run(statement)
        except DatabaseError as error:
            self._raise(error)
        self._committed(call)
        return inserted

    async def insert_async(
        self, batch: InsertBatch, *, fast: bool = False, then: Sequence[Statement[Any]] = ()
    ) -> Inserted:
        roles = self._roles(batch)
        if roles.calling is not None:
            return await on_thread(partial(self.insert, batch, fast=fast, then=then))
        call = self._call(fast)
        if not (roles.wrap or then):
            return await self._alone_async(roles, batch, call)
        try:
            async with AsyncExitStack() as stack:
                executors: list[AsyncExecutor] = []

                async def executor() -> AsyncExecutor:
                    if not executors:
                        opened = self._driver.async_transaction(self._answer_timeout)
                        executors.append(await stack.enter_async_context(opened))
                    return executors[0]

                async def send(made: InsertBatch) -> list[JobInsertResult]:
                    return await call.send_async(await executor(), made)

                with self._current():
                    results = await roles.run_async(batch, send)
                inserted = call.inserted(results)
                for statement in then:
                    await (await executor()).run(statement)
        except DatabaseError as error:
            self._raise(error)
        self._committed(call)
        return inserted

    def _alone(self, roles: InsertRoles, batch: InsertBatch, call: _Call) -> Inserted:
        """Hooks only: they are through before anything is sent, and what one statement does needs no transaction."""

        def send(made: InsertBatch) -> list[JobInsertResult]:
            plan = call.make(made)
            return call.sent(plan, self._send(plan))

        with self._current():
            return call.inserted(roles.run(batch, send))

    async def _alone_async(self, roles: InsertRoles, batch: InsertBatch, call: _Call) -> Inserted:
        async def send(made: InsertBatch) -> list[JobInsertResult]:
            plan = call.make(made)
            return call.sent(plan, await self._send_async(plan))

        with self._current():
            return call.inserted(await roles.run_async(batch, send))

    # In the caller's transaction.

    def insert_on(self, executor: Executor, batch: InsertBatch, *, fast: bool = False) -> Inserted:
        roles = self._roles(batch)
        if roles.awaited is not None:
            _refuse(roles.awaited, "an `async def`", "a connection that is not async", "a `def`")
        call = self._call(fast)
        with self._current():
            return call.inserted(roles.run(batch, lambda made: call.send(executor, made)))

    async def insert_on_async(self, executor: AsyncExecutor, batch: InsertBatch, *, fast: bool = False) -> Inserted:
        roles = self._roles(batch)
        if roles.calling is not None:
            _refuse(roles.calling, "a `def` that calls inner", "an async connection", "an `async def`")
        call = self._call(fast)
        with self._current():
            return call.inserted(await roles.run_async(batch, lambda made: call.send_async(executor, made)))

    def _roles(self, batch: InsertBatch) -> InsertRoles:
        return InsertRoles(self._installed, batch, self._limit)

    def _call(self, fast: bool) -> _Call:
        return _Call(self._driver.schema, lambda batch: self._make(batch, fast), fast)

    def _committed(self, call: _Call) -> None:
        for plan in call.plans:
            self._acknowledged(plan)

    def _raise(self, error: DatabaseError) -> NoReturn:
        """Of the transaction's own statements and its commit; what an insert met has its type already."""
        typed = insert_error(error, self._driver.schema, own_commit=False)
        if typed is error:
            raise error
        raise typed from error

    def _through_loop(self, name: str, insert: Callable[[], Awaitable[Inserted]]) -> Inserted:
        """From a job's or a service's thread, where what is installed must be awaited."""
        loop = self.loop
        if loop is None or not loop.is_running() or loop is _running_loop():
            _refuse(name, "an `async def`", "a thread of a client without a running event loop", "a `def`")
        future = asyncio.run_coroutine_threadsafe(_awaited(insert), loop)
        while True:
            try:
                return future.result(LOOP_LOOK)
            except TimeoutError:
                if future.done():  # by now, or what timed out was in there
                    return future.result()
                if not loop.is_running():
                    future.cancel()
                    raise InsertOutcomeUnknownError(
                        "the event loop was stopped while it inserted: it may or may not have been committed; look"
                        " before you insert again, or give the jobs unique options"
                    ) from None


async def _awaited(insert: Callable[[], Awaitable[Inserted]]) -> Inserted:
    return await insert()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _refuse(name: str, form: str, where: str, remedy: str) -> NoReturn:
    raise ConfigError(
        f"{name} is {form} and cannot run around an insert on {where}: write it as {remedy}, or middleware as a"
        " generator with one yield, which serves every insert; nothing was inserted"
    )


async def on_thread(function: Callable[[], T]) -> T:
    """What blocks, on a thread of its own: the default executor's may all wait for this event loop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def tell(result: Any, error: BaseException | None) -> None:
        if not done.done():  # the caller may have been cancelled
            done.set_result(result) if error is None else done.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(function)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # a loop that was closed waits for nothing
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="river_fast.insert", daemon=True).start()
    return await done
