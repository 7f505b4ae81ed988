"""What one insert call sends, in order, and what its replies mean.

Any thread; used once. The inserter makes it (`insert_statements.py` has the parts), a sync or async executor runs it.
"""

from __future__ import annotations

from typing import Any

from river_fast import pg_binary
from river_fast.driver import AsyncExecutor, Executor, Statement
from river_fast.errors import DatabaseError
from river_fast.insert_opts import JobInsertResult
from river_fast.insert_params import InsertBatch
from river_fast.insert_statements import CopyIn, insert_error
from river_fast.job import Job
from river_fast.job_row import BinaryRow


class InsertPlan:
    """`steps` of which one alone needs no transaction of its own; `notified`: the queues they tell of jobs."""

    __slots__ = ("batch", "notified", "steps")

    def __init__(self, batch: InsertBatch, steps: list[Statement[Any] | CopyIn], notified: list[str]) -> None:
        self.batch = batch
        self.steps = steps
        self.notified = notified

    def copies(self) -> bool:
        """Whether it goes by COPY, which knows no duplicates."""
        return any(isinstance(step, CopyIn) for step in self.steps)

    def run(self, executor: Executor) -> list[Any]:
        """Each step's reply."""
        return [
            executor.copy_binary(step.name, pg_binary.copy_stream(step.chunks))
            if isinstance(step, CopyIn)
            else _run(executor, step)
            for step in self.steps
        ]

    async def run_async(self, executor: AsyncExecutor) -> list[Any]:
        """The same on an event loop."""
        return [
            await executor.copy_binary(step.name, pg_binary.copy_stream(step.chunks))
            if isinstance(step, CopyIn)
            else await _run_async(executor, step)
            for step in self.steps
        ]

    def run_on(self, executor: Executor, schema: str) -> list[Any]:
        """In a transaction that commits later; the server's refusals as typed errors."""
        try:
            return self.run(executor)
        except DatabaseError as error:
            raise insert_error(error, schema, own_commit=False) from error

    async def run_on_async(self, executor: AsyncExecutor, schema: str) -> list[Any]:
        """The same on an event loop."""
        try:
            return await self.run_async(executor)
        except DatabaseError as error:
            raise insert_error(error, schema, own_commit=False) from error

    def results(self, replies: list[Any]) -> list[JobInsertResult]:
        """Of array inserts: the rows, in the order of the jobs given."""
        batch = self.batch
        rows: list[tuple[BinaryRow, bool]] = [row for reply in replies for row in reply]
        if not batch.unique:
            if len(rows) != len(batch):
                raise DatabaseError(f"{len(rows)} of {len(batch)} jobs were inserted: does a trigger leave out others?")
            return list(map(JobInsertResult, map(Job, [row for row, _ in rows], batch.infos)))
        results: list[JobInsertResult] = []
        position = 0
        for row, duplicate in rows:
            while position in batch.duplicate_of:
                _repeat(results, batch, position)
                position += 1
            results.append(JobInsertResult(Job(row, batch.infos[position]), duplicate))
            position += 1
        for rest in range(position, len(batch)):
            _repeat(results, batch, rest)
        return results


def _run(executor: Executor, step: Statement[Any]) -> Any:
    reply = executor.run(step)
    return executor.run(step.otherwise) if step.otherwise is not None and not reply else reply


async def _run_async(executor: AsyncExecutor, step: Statement[Any]) -> Any:
    reply = await executor.run(step)
    return await executor.run(step.otherwise) if step.otherwise is not None and not reply else reply


def _repeat(results: list[JobInsertResult], batch: InsertBatch, position: int) -> None:
    """A job whose key an earlier one of the call has: that one's row, and the flag."""
    first = results[batch.duplicate_of[position]].job
    results.append(JobInsertResult(Job(first._row, batch.infos[position]), True))
