"""The insert verbs: one, many, and many by COPY, on a pooled connection or in the caller's transaction. River: Insert*.

Any thread or event loop; owns the notify limiter. What is sent is built once (`InsertPlan`); a sync and an async runner
send it.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, overload
from weakref import WeakKeyDictionary

from river_fast.config import DEFAULT_FETCH_COOLDOWN, Config, Duration
from river_fast.driver import Capabilities, Driver, Statement
from river_fast.errors import DatabaseError, UniqueConflictError
from river_fast.insert_chain import InsertChain, Within
from river_fast.insert_combiner import AsyncInsertCombiner, InsertCombiner
from river_fast.insert_opts import InsertManyParams, InsertOpts, JobInsertResult
from river_fast.insert_params import InsertBatch, InsertBuilder
from river_fast.insert_plan import InsertPlan
from river_fast.insert_statements import CopyIn, copies, insert_error, notify_params, statements
from river_fast.notify_limiter import NotifyLimiter

if TYPE_CHECKING:
    from river_fast.driver.psycopg import CallerAsyncConnection, CallerConnection

GROUP_LOCK_TIMEOUT: Final = "100ms"  # how long a group of unique jobs waits for a rival's commit; then each by itself
ANSWER_TIMEOUT_S: Final = 15.0  # the server's own limit is 10; whoever is silent for longer will not answer
OVERTAKEN_MOST: Final = 3  # inserts made anew; a rival that has committed is seen by the next one


class Inserter:
    """Inserts for one client.

    `known_kinds` gives the kinds that may be inserted (None: any). `poke` is told the queues that got available jobs,
    after the commit, where the server has no notifications. `current`: inside, `client_from_context` finds the client.
    """

    def __init__(
        self,
        driver: Driver,
        config: Config,
        *,
        known_kinds: Callable[[], Collection[str] | None] = lambda: None,
        poke: Callable[[Sequence[str]], None] | None = None,
        current: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        installed = config.extensions()
        self._driver = driver
        self._poke = poke
        cooldown = _seconds(config.fetch_cooldown)
        self._limiter = NotifyLimiter(cooldown, widens=cooldown == DEFAULT_FETCH_COOLDOWN)
        self._clock_offset = timedelta(0)
        self._listen = self._notify = True  # as last seen: who has committed must not fail at a server that is gone
        self._builder = InsertBuilder(
            max_attempts=config.max_attempts,
            max_args_bytes=config.max_args_bytes,
            known_kinds=(lambda: None) if config.skip_unknown_job_check else known_kinds,
            now=self._now,
            extended=installed.around_inserts,
        )
        self._chain = InsertChain(
            driver,
            installed,
            self._builder.limit,
            answer_timeout=ANSWER_TIMEOUT_S,
            make=lambda batch, fast: self._fast(batch) if fast else self._many(batch),
            send=self._send,
            send_async=self._send_async,
            acknowledged=self._acknowledged,
            current=current,
        )
        # Unique jobs go apart: a rival's lock may hold them up.
        self._combiners = {
            False: InsertCombiner(self._send_group, self._send_alone),
            True: InsertCombiner(self._send_group, self._send_alone),
        }
        self._async_combiners: WeakKeyDictionary[AbstractEventLoop, dict[bool, AsyncInsertCombiner]]
        self._async_combiners = WeakKeyDictionary()

    # --- on a connection of the pool

    def insert(self, args: Any, opts: InsertOpts | None = None) -> JobInsertResult:
        """Insert one job. River: Insert."""
        self._opened(self._driver.open())
        batch = self._builder.one(args, opts)
        if batch.values is not None:
            return self._chain.insert(batch).first()
        return self._combiners[bool(batch.unique)].insert(batch)

    def insert_many(self, params: Iterable[Any]) -> list[JobInsertResult]:
        """Insert args or `InsertManyParams`, all or none; results in the order given. River: InsertMany."""
        self._opened(self._driver.open())
        batch = self._builder.many(params)
        if batch.values is not None:
            return self._chain.insert(batch).results
        plan = self._many(batch)
        return plan.results(self._send(plan))

    def insert_many_fast(self, params: Iterable[Any]) -> int:
        """The same by COPY: the number inserted; a duplicate of a unique job raises `UniqueConflictError` and none is
        inserted. River: InsertManyFast."""
        self._opened(self._driver.open())
        batch = self._builder.many(params)
        if batch.values is not None:
            return self._chain.insert(batch, fast=True).count
        self._send(self._fast(batch))
        return len(batch)

    # --- for services of our own

    def checked(self, args: Any, opts: InsertOpts | None = None) -> InsertBatch:
        """What `insert` would send, its options resolved; nothing is sent."""
        return self._builder.one(args, opts)

    def insert_internal(
        self, params: Iterable[InsertManyParams], then: Sequence[Statement[Any]] = (), within: Within | None = None
    ) -> list[JobInsertResult]:
        """`insert_many` for jobs that River itself makes: metadata may have River's own keys, and a job that was due is
        `available`. `then`: statements of the same transaction; what they raise undoes the insert. `within`: entered
        with the transaction's executor while it lasts, so that somebody else may cancel it."""
        self._opened(self._driver.open())
        return self._chain.insert(self._builder.many(params, internal=True), then=then, within=within).results

    async def insert_internal_async(
        self, params: Iterable[InsertManyParams], then: Sequence[Statement[Any]] = ()
    ) -> list[JobInsertResult]:
        self._opened(await self._driver.open_async())
        return (await self._chain.insert_async(self._builder.many(params, internal=True), then=then)).results

    def insert_internal_tx(self, conn: Any, params: Iterable[InsertManyParams]) -> Any:
        """The same in the caller's transaction; awaitable for an async connection."""
        batch = self._builder.many(params, internal=True)
        if self._driver.is_async(conn):
            return self._many_on_async(conn, batch)
        executor = self._driver.on(conn)
        self._opened(self._driver.open())
        return self._chain.insert_on(executor, batch).results

    async def _many_on_async(self, conn: Any, batch: InsertBatch) -> list[JobInsertResult]:
        self._opened(await self._driver.open_async())
        return (await self._chain.insert_on_async(self._driver.on_async(conn), batch)).results

    def use_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """The event loop on which what must be awaited around an insert from a thread is; None: there is none."""
        self._chain.loop = loop

    # --- in the caller's transaction

    @overload
    def insert_tx(self, conn: CallerConnection, args: Any, opts: InsertOpts | None = None) -> JobInsertResult: ...
    @overload
    def insert_tx(
        self, conn: CallerAsyncConnection, args: Any, opts: InsertOpts | None = None
    ) -> Awaitable[JobInsertResult]: ...
    def insert_tx(self, conn: Any, args: Any, opts: InsertOpts | None = None) -> Any:
        """`insert` in the caller's transaction on `conn`; awaitable for an async connection. River: InsertTx."""
        if self._driver.is_async(conn):
            return self.insert_tx_async(conn, args, opts)
        batch = self._builder.one(args, opts)
        executor = self._driver.on(conn)
        self._opened(self._driver.open())
        if batch.values is not None:
            return self._chain.insert_on(executor, batch).first()
        plan = self._many(batch)
        return plan.results(plan.run_on(executor, self._driver.schema))[0]

    @overload
    def insert_many_tx(self, conn: CallerConnection, params: Iterable[Any]) -> list[JobInsertResult]: ...
    @overload
    def insert_many_tx(
        self, conn: CallerAsyncConnection, params: Iterable[Any]
    ) -> Awaitable[list[JobInsertResult]]: ...
    def insert_many_tx(self, conn: Any, params: Iterable[Any]) -> Any:
        """`insert_many` in the caller's transaction; awaitable for an async connection. River: InsertManyTx."""
        if self._driver.is_async(conn):
            return self.insert_many_tx_async(conn, params)
        batch = self._builder.many(params)
        executor = self._driver.on(conn)
        self._opened(self._driver.open())
        if batch.values is not None:
            return self._chain.insert_on(executor, batch).results
        plan = self._many(batch)
        return plan.results(plan.run_on(executor, self._driver.schema))

    @overload
    def insert_many_fast_tx(self, conn: CallerConnection, params: Iterable[Any]) -> int: ...
    @overload
    def insert_many_fast_tx(self, conn: CallerAsyncConnection, params: Iterable[Any]) -> Awaitable[int]: ...
    def insert_many_fast_tx(self, conn: Any, params: Iterable[Any]) -> Any:
        """`insert_many_fast` in the caller's transaction; awaitable for an async connection. A conflict leaves the
        transaction failed. River: InsertManyFastTx."""
        if self._driver.is_async(conn):
            return self.insert_many_fast_tx_async(conn, params)
        batch = self._builder.many(params)
        executor = self._driver.on(conn)
        self._opened(self._driver.open())
        if batch.values is not None:
            return self._chain.insert_on(executor, batch, fast=True).count
        self._fast(batch).run_on(executor, self._driver.schema)
        return len(batch)

    # --- the same for event loops

    async def insert_async(self, args: Any, opts: InsertOpts | None = None) -> JobInsertResult:
        self._opened(await self._driver.open_async())
        batch = self._builder.one(args, opts)
        if batch.values is not None:
            return (await self._chain.insert_async(batch)).first()
        return await self._async_combiner(bool(batch.unique)).insert(batch)

    async def insert_many_async(self, params: Iterable[Any]) -> list[JobInsertResult]:
        self._opened(await self._driver.open_async())
        batch = self._builder.many(params)
        if batch.values is not None:
            return (await self._chain.insert_async(batch)).results
        plan = self._many(batch)
        return plan.results(await self._send_async(plan))

    async def insert_many_fast_async(self, params: Iterable[Any]) -> int:
        self._opened(await self._driver.open_async())
        batch = self._builder.many(params)
        if batch.values is not None:
            return (await self._chain.insert_async(batch, fast=True)).count
        await self._send_async(self._fast(batch))
        return len(batch)

    async def insert_tx_async(self, conn: Any, args: Any, opts: InsertOpts | None = None) -> JobInsertResult:
        batch = self._builder.one(args, opts)
        self._opened(await self._driver.open_async())
        executor = self._driver.on_async(conn)
        if batch.values is not None:
            return (await self._chain.insert_on_async(executor, batch)).first()
        plan = self._many(batch)
        return plan.results(await plan.run_on_async(executor, self._driver.schema))[0]

    async def insert_many_tx_async(self, conn: Any, params: Iterable[Any]) -> list[JobInsertResult]:
        batch = self._builder.many(params)
        self._opened(await self._driver.open_async())
        executor = self._driver.on_async(conn)
        if batch.values is not None:
            return (await self._chain.insert_on_async(executor, batch)).results
        plan = self._many(batch)
        return plan.results(await plan.run_on_async(executor, self._driver.schema))

    async def insert_many_fast_tx_async(self, conn: Any, params: Iterable[Any]) -> int:
        batch = self._builder.many(params)
        self._opened(await self._driver.open_async())
        executor = self._driver.on_async(conn)
        if batch.values is not None:
            return (await self._chain.insert_on_async(executor, batch, fast=True)).count
        await self._fast(batch).run_on_async(executor, self._driver.schema)
        return len(batch)

    # --- what is sent

    def _group(self, batches: Sequence[InsertBatch], lock_timeout: str | None) -> InsertPlan:
        """Jobs of several callers, one each. The limiter counts them all; each queue is told once."""
        queues = {queue: None for batch in batches for queue in batch.queues() if self._limiter.wants(queue)}
        return self._arrays(InsertBatch.joined(batches), list(queues), lock_timeout)

    def _many(self, batch: InsertBatch) -> InsertPlan:
        return self._arrays(batch, batch.queues())

    def _arrays(self, batch: InsertBatch, queues: list[str], lock_timeout: str | None = None) -> InsertPlan:
        steps = statements(batch, queues if self._notify else (), self._driver.schema, lock_timeout)
        return InsertPlan(batch, [*steps], queues)

    def _fast(self, batch: InsertBatch) -> InsertPlan:
        if batch.duplicate_of:
            position, first = next(iter(batch.duplicate_of.items()))
            raise UniqueConflictError(
                f"params[{position}] has the unique key of params[{first}]; insert_many tells duplicates, COPY cannot"
            )
        queues = batch.queues()
        steps: list[Statement[Any] | CopyIn] = [*copies(batch)]
        if queues and self._notify:
            steps.append(Statement("notify_many", notify_params(self._driver.schema, tuple(queues))))
        return InsertPlan(batch, steps, queues)

    # --- how it is sent

    def _send_group(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        plan = self._group(batches, GROUP_LOCK_TIMEOUT)
        return plan.results(self._send(plan))

    def _send_alone(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        plan = self._group(batches, None)
        return plan.results(self._send(plan))

    async def _send_group_async(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        plan = self._group(batches, GROUP_LOCK_TIMEOUT)
        return plan.results(await self._send_async(plan))

    async def _send_alone_async(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        plan = self._group(batches, None)
        return plan.results(await self._send_async(plan))

    def _async_combiner(self, unique: bool) -> AsyncInsertCombiner:
        """The running event loop's."""
        loop = asyncio.get_running_loop()
        combiners = self._async_combiners.get(loop)
        if combiners is None:
            made = {key: AsyncInsertCombiner(self._send_group_async, self._send_alone_async) for key in (False, True)}
            combiners = self._async_combiners.setdefault(loop, made)
        return combiners[unique]

    def _send(self, plan: InsertPlan) -> list[Any]:
        """Once more where ON CONFLICT was overtaken: while its index is rebuilt, of two who insert one key at once one
        meets the other in the index that is not yet, or no longer, looked into first."""
        for _ in range(OVERTAKEN_MOST):
            try:
                return self._send_once(plan)
            except UniqueConflictError:
                if plan.copies():
                    raise
        return self._send_once(plan)

    async def _send_async(self, plan: InsertPlan) -> list[Any]:
        for _ in range(OVERTAKEN_MOST):
            try:
                return await self._send_once_async(plan)
            except UniqueConflictError:
                if plan.copies():
                    raise
        return await self._send_once_async(plan)

    def _send_once(self, plan: InsertPlan) -> list[Any]:
        try:
            if len(plan.steps) == 1:
                with self._driver.autocommit(ANSWER_TIMEOUT_S) as executor:
                    replies = plan.run(executor)
            else:
                with self._driver.transaction(ANSWER_TIMEOUT_S) as executor:
                    replies = plan.run(executor)
        except DatabaseError as error:
            raise insert_error(error, self._driver.schema, own_commit=len(plan.steps) == 1) from error
        self._acknowledged(plan)
        return replies

    async def _send_once_async(self, plan: InsertPlan) -> list[Any]:
        try:
            if len(plan.steps) == 1:
                async with self._driver.async_autocommit(ANSWER_TIMEOUT_S) as executor:
                    replies = await plan.run_async(executor)
            else:
                async with self._driver.async_transaction(ANSWER_TIMEOUT_S) as executor:
                    replies = await plan.run_async(executor)
        except DatabaseError as error:
            raise insert_error(error, self._driver.schema, own_commit=len(plan.steps) == 1) from error
        self._acknowledged(plan)
        return replies

    def _acknowledged(self, plan: InsertPlan) -> None:
        """The commit returned: only now was anything said to anybody."""
        for queue in plan.notified:
            self._limiter.acknowledged(queue)
        if self._poke is not None and plan.notified and not self._listen:
            self._poke(plan.notified)

    def _opened(self, capabilities: Capabilities) -> None:
        self._clock_offset = timedelta(seconds=capabilities.clock_offset)
        self._listen, self._notify = capabilities.listen, capabilities.notify

    def _now(self) -> datetime:
        """The server's clock, as corrected at connect: for unique periods alone, everything else asks the server."""
        return datetime.now(UTC) + self._clock_offset


def _seconds(value: Duration) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
