"""One job worked at once, as a client would: middleware, hooks, timeout, outcome. River: rivertest.Worker.

The caller's thread, or event loop for an `AsyncClient`; what must wait for the other kind runs on a thread of its own.
The executor is the client's; only fetching and batching are left out.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from river_fast.async_client import AsyncClient
from river_fast.client import Client
from river_fast.config import seconds
from river_fast.deadline_watch import DeadlineWatch
from river_fast.driver import RawRow, Statement
from river_fast.errors import ConfigError, JobLostError, NotFoundError, ValidationError
from river_fast.event import EventKind
from river_fast.insert_opts import InsertOpts
from river_fast.inserter import Inserter
from river_fast.job import Job
from river_fast.job_executor import BoundUnit, JobExecutor
from river_fast.job_row import METADATA, PG_EPOCH, StoredRow
from river_fast.job_run import JobRun
from river_fast.job_set_state import JobSetState
from river_fast.resumable import CURSOR_KEY, STEP_KEY, STORED_MARK
from river_fast.statement_runner import StatementRunner
from river_fast.subscription_manager import event_kind
from river_fast.testing.clock import Clock, TestBuilder

NOT_GIVEN: Any = object()
LOOK = 0.05  # seconds between two looks at the job's timeout, at most


@dataclass(frozen=True, slots=True)
class WorkResult:
    """What became of a job. River: rivertest.WorkResult.

    `event_kind`: what a subscriber would have heard; `job`: the row as stored afterwards; `error`: what the work raised
    in the end, snoozes and cancels included, None where the job completed.
    """

    event_kind: EventKind
    job: Job[Any]
    error: BaseException | None

    @property
    def output(self) -> Any:
        """What the job recorded with `record_output`."""
        return self.job.output


def work_job(
    client: Client | AsyncClient,
    job: Any,
    opts: InsertOpts | None = None,
    *,
    conn: Any = None,
    clock: Clock | None = None,
    resume_after: str | None = None,
    cursor: Any = NOT_GIVEN,
) -> Any:
    """Work one job now and store its outcome: a `WorkResult`. River: rivertest.Worker.Work and WorkJob.

    `client` has the workers, and need not run. `job`: an args value, which is inserted (as `opts` say, but never
    unique: tests at the same time would meet), or a job or its id, which is worked whatever its state and schedule.
    `conn`: all of it in this transaction; the job's own inserts are in it only by `_tx`. `clock`: the times it stores.
    `resume_after`: as if an earlier attempt had finished that step; with `cursor`: as if it had stopped in it, there.

    Nothing the job raises is raised here. Awaitable for an `AsyncClient`, whose `conn` is an async connection.
    `ConfigError` without workers, `NotFoundError`, `ValidationError`; `JobLostError` where somebody else freed the job.
    """
    inner = client._client if isinstance(client, AsyncClient) else client
    if not isinstance(inner, Client):
        raise ConfigError(f"work_job takes a Client or an AsyncClient, got {type(client).__name__}")
    opts = _resuming(opts, job, resume_after, cursor)
    work = InlineWork(inner, clock)
    if conn is not None and work.driver.is_async(conn) is (inner is client):
        raise ConfigError(f"a {type(client).__name__} does not go with a {type(conn).__name__}: take its kind")
    return _work(work, job, opts, conn) if inner is client else _work_async(work, job, opts, conn)


def _work(work: InlineWork, job: Any, opts: InsertOpts | None, conn: Any) -> WorkResult:
    runner, inserter = StatementRunner(work.driver), work.inserter

    def ask(statement: Statement[Any]) -> Any:
        return runner.run(statement) if conn is None else runner.run_tx(conn, statement)

    job_id = _id_of(job)
    if job_id is None:
        result = inserter.insert(job, opts) if conn is None else inserter.insert_tx(conn, job, opts)
        job_id = result.job.id
    work.claimed(ask(work.claim(job_id)))
    if work.is_async:
        thread = threading.Thread(target=lambda: asyncio.run(work.execute_async()), name="river_fast.inline_work")
        thread.start()
        thread.join()
    else:
        work.execute()
    for statement in work.outcome():
        ask(statement)
    return work.result(ask(work.stored(job_id)))


async def _work_async(work: InlineWork, job: Any, opts: InsertOpts | None, conn: Any) -> WorkResult:
    runner, inserter = StatementRunner(work.driver), work.inserter

    async def ask(statement: Statement[Any]) -> Any:
        return await (runner.run_async(statement) if conn is None else runner.run_tx(conn, statement))

    job_id = _id_of(job)
    if job_id is None:
        inserting = inserter.insert_async(job, opts) if conn is None else inserter.insert_tx_async(conn, job, opts)
        job_id = (await inserting).job.id
    work.claimed(await ask(work.claim(job_id)))
    await (work.execute_async() if work.is_async else asyncio.to_thread(work.execute))
    for statement in work.outcome():
        await ask(statement)
    return work.result(await ask(work.stored(job_id)))


class InlineRow(StoredRow):
    """A claimed row with what the executor asks of the fetcher's: nothing is wrong with it, and nobody else has it."""

    __slots__ = ("attempted_at_us", "kind_index", "started_ns")

    claim = 0  # no slot is held
    queue_index = 0
    cancelled = False
    undecodable = None

    def __init__(self, fields: RawRow, kinds: list[str]) -> None:
        super().__init__(fields)
        self.kind_index = kinds.index(self.kind) if self.kind in kinds else -1
        self.attempted_at_us = int.from_bytes(fields[4] or b"", "big", signed=True)
        self.begin()

    @property
    def resumed(self) -> bool:
        return STORED_MARK in (self.field(METADATA) or b"")

    @property
    def plain(self) -> bool:
        return not self.resumed

    def begin(self) -> None:
        self.started_ns = time.monotonic_ns()


class InlineExecutor(JobExecutor):
    """The client's executor, which keeps what the work raised."""

    raised: BaseException | None = None
    clock: Clock | None = None

    def _classified(
        self, job: Job[Any], row: Any, unit: BoundUnit, run: JobRun | None, error: BaseException | None
    ) -> JobSetState:
        if run is not None:
            unfinished = run.take_error()
            error = unfinished if error is None else error
            if run.cancel_cause is not None and isinstance(error, asyncio.CancelledError):
                error = run.cancel_error().with_traceback(error.__traceback__)
        self.raised = error
        return super()._classified(job, row, unit, run, error)

    def _now(self) -> datetime | None:
        return None if self.clock is None else self.clock.now()


class InlineWork:
    """One job's way: claim, execute, outcome. Also the sink of its one outcome."""

    def __init__(self, client: Client, clock: Clock | None) -> None:
        config = client._config
        if config.workers is None or len(config.workers) == 0:
            raise ConfigError("work_job needs a client with workers: give Config(workers=...) with at least one added")
        client._check_process()
        self.driver = client._driver
        self.driver.open()
        self._client, self._clock = client, clock
        self._threshold = seconds("job_stuck_threshold", config.job_stuck_threshold)
        self._logger = client._logger.getChild("inline_work")
        self._kinds = config.workers.kinds()
        units = [unit for kind in self._kinds if (unit := config.workers.get(kind)) is not None]
        self._outcome: JobSetState | None = None
        self._job: Job[Any] | None = None
        self._executor = InlineExecutor(
            units,
            self.driver,
            self,
            job_timeout=seconds("job_timeout", config.job_timeout, never=True),
            retry_policy=config.retry_policy,
            context=client._context,
            logger=self._logger,
            installed=config.extensions(),
            error_handler=config.error_handler,
        )
        self._executor.clock = clock
        self.inserter = Inserter(self.driver, config, known_kinds=client._known_kinds)
        self.inserter._builder = TestBuilder.of(self.inserter._builder, clock, internal=True)

    # The sink.

    def push_completed(self, claim: int) -> int:
        """The executor's: it completed, and nothing more."""
        return self.push(claim, JobSetState.completed())

    try_push_completed = push_completed

    def push(self, claim: int, outcome: JobSetState) -> int:
        """The executor's."""
        self._outcome = outcome
        return 0

    try_push = push

    async def push_async(self, claim: int, outcome: JobSetState | None) -> int:
        """The executor's."""
        return self.push(claim, outcome or JobSetState.completed())

    # The steps.

    def claim(self, job_id: int) -> Statement[InlineRow]:
        """The job runs, from now on, for this client."""

        def parse(rows: list[RawRow], count: int) -> InlineRow:
            if not rows:
                raise NotFoundError(f"job {job_id} does not exist")
            return InlineRow(rows[0], self._kinds)

        now = None if self._clock is None else self._clock.now()
        return Statement("testing_job_claim", {"id": job_id, "now": now, "client_id": self._client.id}, parse)

    def claimed(self, row: InlineRow) -> None:
        """What `claim` brought."""
        self._job = Job(row)

    @property
    def is_async(self) -> bool:
        """Whether an `async def` works it."""
        assert self._job is not None
        return self._executor.is_async(self._job)

    def execute(self) -> None:
        """On this thread; the outcome is there after it."""
        assert self._job is not None
        active = {self._job.id: self._job}
        with self._timed(active):
            self._executor.execute(self._job, active)

    async def execute_async(self) -> None:
        """As a Task of this event loop."""
        assert self._job is not None
        job, loop = self._job, asyncio.get_running_loop()
        active = {job.id: job}
        tasks: dict[Job[Any], asyncio.Task[None]] = {}
        work = self._executor.execute_async(job, active, tasks, lambda: None)
        task = tasks[job] = loop.create_task(work, context=self._executor.context.copy())

        def cancel(_: Job[Any]) -> None:
            loop.call_soon_threadsafe(task.cancel)

        self._executor.cancel_task = cancel
        with self._timed(active):
            await asyncio.wait([task])

    @contextmanager
    def _timed(self, active: dict[int, Job[Any]]) -> Iterator[None]:
        """While inside, the job's timeout is watched."""
        ended = threading.Event()
        running: Callable[[], list[Job[Any]]] = lambda: list(active.values())  # noqa: E731
        handler = self._client._config.job_stuck_handler
        watch = DeadlineWatch(self._executor, running, lambda job: None, self._threshold, self._logger, handler)

        def look() -> None:
            while not ended.wait(min(watch.wait(), LOOK)):
                watch.scan()

        thread = threading.Thread(target=look, name="river_fast.inline_watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def outcome(self) -> list[Statement[Any]]:
        """What stores it: the completer's own statement."""
        assert self._job is not None
        assert self._outcome is not None, "the executor pushes an outcome whatever happens"
        job, outcome = self._job, self._outcome
        error = outcome.error
        if error is not None and self._clock is not None:
            error = json.dumps({**json.loads(error), "at": _rfc3339(self._clock.now())}, ensure_ascii=False).encode()
        attempted_at = PG_EPOCH + timedelta(microseconds=job._row.attempted_at_us)  # type: ignore[attr-defined]
        delay = -1 if outcome.delay is None else round(outcome.delay * 1e6)
        values = (job.id, job.attempt, attempted_at, outcome.state.value, 0, delay, outcome.restore_attempt,
                  None if error is None else error.decode(),
                  None if outcome.metadata is None else outcome.metadata.decode())  # fmt: skip
        params = {str(number): [value] for number, value in enumerate(values, 1)}
        statements: list[Statement[Any]] = [Statement("job_set_state_many", params)]
        if self._clock is not None:
            stamp = {"id": job.id, "attempted_at": attempted_at, "now": self._clock.now(), "delay": outcome.delay}
            statements.append(Statement("testing_job_stamp", stamp))
        return statements

    def stored(self, job_id: int) -> Statement[Job[Any]]:
        """The row as it is now."""
        assert self._job is not None
        unit = self._job._unit

        def parse(rows: list[RawRow], count: int) -> Job[Any]:
            if not rows:
                raise NotFoundError(f"job {job_id} was deleted while it was worked")
            return Job(StoredRow(rows[0]), unit)

        return Statement("job_get_by_id", {"id": job_id}, parse)

    def result(self, stored: Job[Any]) -> WorkResult:
        """What to tell of it."""
        assert self._outcome is not None
        kind = event_kind(stored.state, self._outcome.reason)
        if kind is None:
            raise JobLostError(f"job {stored.id} is {stored.state}: somebody else had it while it was worked here")
        return WorkResult(kind, stored, self._executor.raised)


def _id_of(job: Any) -> int | None:
    if isinstance(job, Job):
        return job.id
    if isinstance(job, bool) or not isinstance(job, int):
        return None
    return job


def _resuming(opts: InsertOpts | None, job: Any, resume_after: str | None, cursor: Any) -> InsertOpts | None:
    if resume_after is None:
        if cursor is not NOT_GIVEN:
            raise ValidationError("cursor", "needs resume_after: the name of the step it belongs to")
        return opts
    if _id_of(job) is not None:
        raise ValidationError("resume_after", "is for a job that is inserted here: give its args")
    metadata = (opts or InsertOpts()).metadata
    members = dict(json.loads(metadata)) if isinstance(metadata, bytes) else dict(metadata or {})
    members[STEP_KEY] = resume_after
    if cursor is not NOT_GIVEN:
        members[CURSOR_KEY] = {resume_after: cursor}
    return replace(opts or InsertOpts(), metadata=members)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
