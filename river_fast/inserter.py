"""The insert verbs: one, many, and many by COPY, on a pooled connection or in the caller's transaction. River: Insert*.

Any thread or event loop; owns the notify limiter. What is sent is built once (`_Plan`); a sync and an async runner
send it.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, overload
from weakref import WeakKeyDictionary

from river_fast import pg_binary
from river_fast.config import DEFAULT_FETCH_COOLDOWN, Config, Duration
from river_fast.driver import (
    AsyncExecutor,
    Capabilities,
    Driver,
    Executor,
    RawRow,
    Statement,
)
from river_fast.errors import DatabaseError, UniqueConflictError
from river_fast.insert_combiner import AsyncInsertCombiner, InsertCombiner
from river_fast.insert_opts import InsertOpts, JobInsertResult
from river_fast.insert_params import InsertBatch, InsertBuilder
from river_fast.insert_statements import CopyIn, copies, insert_error, notify_params, statements
from river_fast.job import Job
from river_fast.job_row import StoredRow
from river_fast.notify_limiter import NotifyLimiter

if TYPE_CHECKING:
    from river_fast.driver.psycopg import CallerAsyncConnection, CallerConnection

GROUP_LOCK_TIMEOUT: Final = "100ms"  # how long a group of unique jobs waits for a rival's commit; then each by itself
ANSWER_TIMEOUT_S: Final = 15.0  # the server's own limit is 10; whoever is silent for longer will not answer


class _Plan:
    """What one call sends, in order; one step alone needs no transaction of its own."""

    __slots__ = ("batch", "notified", "steps")

    def __init__(self, batch: InsertBatch, steps: list[Statement[Any] | CopyIn], notified: list[str]) -> None:
        self.batch = batch
        self.steps = steps
        self.notified = notified


class Inserter:
    """Inserts for one client.

    `known_kinds` gives the kinds that may be inserted (None: any). `poke` is told the queues that got available jobs,
    after the commit, where the server has no notifications.
    """

    def __init__(
        self,
        driver: Driver,
        config: Config,
        *,
        known_kinds: Callable[[], Collection[str] | None] = lambda: None,
        poke: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
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
        return self._combiners[bool(batch.unique)].insert(batch)

    def insert_many(self, params: Iterable[Any]) -> list[JobInsertResult]:
        """Insert args or `InsertManyParams`, all or none; results in the order given. River: InsertMany."""
        capabilities = self._opened(self._driver.open())
        plan = self._many(self._builder.many(params), capabilities)
        return self._results(plan, self._send(plan))

    def insert_many_fast(self, params: Iterable[Any]) -> int:
        """The same by COPY: the number inserted; a duplicate of a unique job raises `UniqueConflictError` and none is
        inserted. River: InsertManyFast."""
        capabilities = self._opened(self._driver.open())
        plan = self._fast(self._builder.many(params), capabilities)
        self._send(plan)
        return len(plan.batch)

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
        plan = self._many(batch, self._opened(self._driver.open()))
        return self._results(plan, _run_on(executor, plan, self._driver.schema))[0]

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
        plan = self._many(batch, self._opened(self._driver.open()))
        return self._results(plan, _run_on(executor, plan, self._driver.schema))

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
        plan = self._fast(batch, self._opened(self._driver.open()))
        _run_on(executor, plan, self._driver.schema)
        return len(batch)

    # --- the same for event loops

    async def insert_async(self, args: Any, opts: InsertOpts | None = None) -> JobInsertResult:
        self._opened(await self._driver.open_async())
        batch = self._builder.one(args, opts)
        return await self._async_combiner(bool(batch.unique)).insert(batch)

    async def insert_many_async(self, params: Iterable[Any]) -> list[JobInsertResult]:
        capabilities = self._opened(await self._driver.open_async())
        plan = self._many(self._builder.many(params), capabilities)
        return self._results(plan, await self._send_async(plan))

    async def insert_many_fast_async(self, params: Iterable[Any]) -> int:
        capabilities = self._opened(await self._driver.open_async())
        plan = self._fast(self._builder.many(params), capabilities)
        await self._send_async(plan)
        return len(plan.batch)

    async def insert_tx_async(self, conn: Any, args: Any, opts: InsertOpts | None = None) -> JobInsertResult:
        batch = self._builder.one(args, opts)
        plan = self._many(batch, self._opened(await self._driver.open_async()))
        executor = self._driver.on_async(conn)
        return self._results(plan, await _run_on_async(executor, plan, self._driver.schema))[0]

    async def insert_many_tx_async(self, conn: Any, params: Iterable[Any]) -> list[JobInsertResult]:
        batch = self._builder.many(params)
        plan = self._many(batch, self._opened(await self._driver.open_async()))
        executor = self._driver.on_async(conn)
        return self._results(plan, await _run_on_async(executor, plan, self._driver.schema))

    async def insert_many_fast_tx_async(self, conn: Any, params: Iterable[Any]) -> int:
        batch = self._builder.many(params)
        plan = self._fast(batch, self._opened(await self._driver.open_async()))
        executor = self._driver.on_async(conn)
        await _run_on_async(executor, plan, self._driver.schema)
        return len(batch)

    # --- what is sent

    def _group(self, batches: Sequence[InsertBatch], lock_timeout: str | None) -> _Plan:
        """Jobs of several callers, one each. The limiter counts them all; each queue is told once."""
        queues = {queue: None for batch in batches for queue in batch.queues() if self._limiter.wants(queue)}
        return self._arrays(InsertBatch.joined(batches), list(queues), self._notify, lock_timeout)

    def _many(self, batch: InsertBatch, capabilities: Capabilities) -> _Plan:
        return self._arrays(batch, batch.queues(), capabilities.notify)

    def _arrays(self, batch: InsertBatch, queues: list[str], notify: bool, lock_timeout: str | None = None) -> _Plan:
        steps = statements(batch, queues if notify else (), self._driver.schema, lock_timeout)
        return _Plan(batch, [*steps], queues)

    def _fast(self, batch: InsertBatch, capabilities: Capabilities) -> _Plan:
        if batch.duplicate_of:
            position, first = next(iter(batch.duplicate_of.items()))
            raise UniqueConflictError(
                f"params[{position}] has the unique key of params[{first}]; insert_many tells duplicates, COPY cannot"
            )
        queues = batch.queues()
        steps: list[Statement[Any] | CopyIn] = [*copies(batch)]
        if queues and capabilities.notify:
            steps.append(Statement("notify_many", notify_params(self._driver.schema, tuple(queues))))
        return _Plan(batch, steps, queues)

    # --- how it is sent

    def _send_group(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        plan = self._group(batches, GROUP_LOCK_TIMEOUT)
        return self._results(plan, self._send(plan))

    def _send_alone(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        plan = self._group(batches, None)
        return self._results(plan, self._send(plan))

    async def _send_group_async(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        plan = self._group(batches, GROUP_LOCK_TIMEOUT)
        return self._results(plan, await self._send_async(plan))

    async def _send_alone_async(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        plan = self._group(batches, None)
        return self._results(plan, await self._send_async(plan))

    def _async_combiner(self, unique: bool) -> AsyncInsertCombiner:
        """The running event loop's."""
        loop = asyncio.get_running_loop()
        combiners = self._async_combiners.get(loop)
        if combiners is None:
            made = {key: AsyncInsertCombiner(self._send_group_async, self._send_alone_async) for key in (False, True)}
            combiners = self._async_combiners.setdefault(loop, made)
        return combiners[unique]

    def _send(self, plan: _Plan) -> list[Any]:
        try:
            if len(plan.steps) == 1:
                with self._driver.autocommit(ANSWER_TIMEOUT_S) as executor:
                    replies = _run(executor, plan)
            else:
                with self._driver.transaction(ANSWER_TIMEOUT_S) as executor:
                    replies = _run(executor, plan)
        except DatabaseError as error:
            raise insert_error(error, self._driver.schema, own_commit=len(plan.steps) == 1) from error
        self._acknowledged(plan)
        return replies

    async def _send_async(self, plan: _Plan) -> list[Any]:
        try:
            if len(plan.steps) == 1:
                async with self._driver.async_autocommit(ANSWER_TIMEOUT_S) as executor:
                    replies = await _run_async(executor, plan)
            else:
                async with self._driver.async_transaction(ANSWER_TIMEOUT_S) as executor:
                    replies = await _run_async(executor, plan)
        except DatabaseError as error:
            raise insert_error(error, self._driver.schema, own_commit=len(plan.steps) == 1) from error
        self._acknowledged(plan)
        return replies

    def _acknowledged(self, plan: _Plan) -> None:
        """The commit returned: only now was anything said to anybody."""
        for queue in plan.notified:
            self._limiter.acknowledged(queue)
        if self._poke is not None and plan.notified and not self._listen:
            self._poke(plan.notified)

    def _results(self, plan: _Plan, replies: list[Any]) -> list[JobInsertResult]:
        batch = plan.batch
        rows: list[tuple[RawRow, bool]] = [row for reply in replies for row in reply]
        if not batch.unique:
            if len(rows) != len(batch):
                raise DatabaseError(f"{len(rows)} of {len(batch)} jobs were inserted: does a trigger leave out others?")
            return list(map(JobInsertResult, map(Job, [StoredRow(row) for row, _ in rows], batch.infos)))
        results: list[JobInsertResult] = []
        position = 0
        for row, duplicate in rows:
            while position in batch.duplicate_of:
                _repeat(results, batch, position)
                position += 1
            results.append(JobInsertResult(Job(StoredRow(row), batch.infos[position]), duplicate))
            position += 1
        for rest in range(position, len(batch)):
            _repeat(results, batch, rest)
        return results

    def _opened(self, capabilities: Capabilities) -> Capabilities:
        self._clock_offset = timedelta(seconds=capabilities.clock_offset)
        self._listen, self._notify = capabilities.listen, capabilities.notify
        return capabilities

    def _now(self) -> datetime:
        """The server's clock, as corrected at connect: for unique periods alone, everything else asks the server."""
        return datetime.now(UTC) + self._clock_offset


def _repeat(results: list[JobInsertResult], batch: InsertBatch, position: int) -> None:
    """A job whose key an earlier one of the call has: that one's row, and the flag."""
    first = results[batch.duplicate_of[position]].job
    results.append(JobInsertResult(Job(first._row, batch.infos[position]), True))


def _run(executor: Executor, plan: _Plan) -> list[Any]:
    return [
        executor.copy_binary(step.name, pg_binary.copy_stream(step.chunks))
        if isinstance(step, CopyIn)
        else executor.run(step)
        for step in plan.steps
    ]


async def _run_async(executor: AsyncExecutor, plan: _Plan) -> list[Any]:
    return [
        await executor.copy_binary(step.name, pg_binary.copy_stream(step.chunks))
        if isinstance(step, CopyIn)
        else await executor.run(step)
        for step in plan.steps
    ]


def _run_on(executor: Executor, plan: _Plan, schema: str) -> list[Any]:
    try:
        return _run(executor, plan)
    except DatabaseError as error:
        raise insert_error(error, schema, own_commit=False) from error


async def _run_on_async(executor: AsyncExecutor, plan: _Plan, schema: str) -> list[Any]:
    try:
        return await _run_async(executor, plan)
    except DatabaseError as error:
        raise insert_error(error, schema, own_commit=False) from error


def _seconds(value: Duration) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
