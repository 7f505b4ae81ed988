"""Runs one job: from the fetched row to the outcome pushed to the completer. River: JobExecutor.

`execute` runs on the worker thread that popped the job, `execute_async` as a Task on the event loop. The straight path
of a job that succeeds touches nothing it does not need; everything else stands in `_outcome`. Worker threads have that
straight path compiled (`_ext/work_loop.pxi`) and come here with all other jobs, to `execute` or, once run, to `settle`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from river_fast.attempt_error import encode_attempt_error
from river_fast.config import NEVER, SCHEDULER_INTERVAL, seconds
from river_fast.driver import Driver
from river_fast.error_handler import ErrorHandler, ErrorHandlerResult
from river_fast.errors import (
    ConfigError,
    DecodeError,
    JobCancelError,
    JobInterruptedError,
    JobSnoozeError,
    UnknownJobKindError,
)
from river_fast.job import Job
from river_fast.job_row import ERRORS, decode_array, loads_exact
from river_fast.job_run import CancelCause, JobRun
from river_fast.job_set_state import JobSetState, snooze_count
from river_fast.plugin import NONE, Extensions
from river_fast.retry_policy import DefaultRetryPolicy, RetryPolicy, retry_delay
from river_fast.work_chain import work_chain
from river_fast.worker import WorkUnit

if TYPE_CHECKING:
    from river_fast._ext.fetcher import FetchedRow

FULL = 1  # what a `try_push` that found no room answers (the compiled completer's FULL)
SNOOZE_MAX_SECONDS = 100 * 365.25 * 86400  # a hundred years: what lies beyond is a mistake, not a plan


class OutcomeSink(Protocol):
    """The completer, as the executor sees it."""

    def push_completed(self, claim: int) -> int: ...
    def try_push_completed(self, claim: int) -> int: ...
    def push(self, claim: int, outcome: JobSetState) -> int: ...
    def try_push(self, claim: int, outcome: JobSetState) -> int: ...
    async def push_async(self, claim: int, outcome: JobSetState | None) -> int: ...


class BoundUnit:
    """A registered kind inside one client: what `Job` and the executor need of it at once."""

    __slots__ = ("_executor", "decode_args", "is_async", "next_retry", "plain", "timeout", "timeout_of", "work")

    def __init__(
        self, unit: WorkUnit, executor: JobExecutor, job_timeout: float, work: Callable[[Job[Any]], Any]
    ) -> None:
        self._executor = executor
        self.work = work  # the worker's function, or what hooks and middleware made of it
        self.is_async = unit.is_async
        self.decode_args = unit.decode_args
        self.timeout = job_timeout if unit.timeout in (None, 0.0) else unit.timeout  # seconds or NEVER
        self.timeout_of = unit.timeout_of
        self.plain = unit.timeout_of is None  # its jobs may simply run, unless something happened to them
        self.next_retry = unit.next_retry

    def run_of(self, job: Job[Any]) -> JobRun:
        return self._executor.run_of(job)


def _unknown_kind(job: Job[Any]) -> None:
    raise UnknownJobKindError(job.kind)


class JobExecutor:
    """`units` in the order of the fetcher's kinds; the last one serves kinds that nobody registered (index -1)."""

    def __init__(
        self,
        units: Sequence[WorkUnit],
        driver: Driver,
        completer: OutcomeSink,
        *,
        job_timeout: float,
        retry_policy: RetryPolicy,
        context: contextvars.Context,
        logger: logging.Logger,
        scheduler_interval: float = SCHEDULER_INTERVAL,
        installed: Extensions = NONE,
        error_handler: ErrorHandler | Callable[[Job[Any], BaseException], ErrorHandlerResult | None] | None = None,
    ) -> None:
        self._units = [BoundUnit(unit, self, job_timeout, work_chain(unit, installed)) for unit in units]
        unknown = WorkUnit("", (), _unknown_kind, False, loads_exact)  # as River: no hook or middleware sees its jobs
        self._units.append(BoundUnit(unknown, self, job_timeout, unknown.work))
        handle_error: Any = getattr(error_handler, "handle_error", error_handler)
        self._handle_error: Callable[[Job[Any], BaseException], Any] | None = handle_error
        self._driver = driver
        self._completer = completer
        self.push_completed = completer.push_completed
        self._try_push_completed = completer.try_push_completed
        self._retry_policy = retry_policy
        self._default_policy = DefaultRetryPolicy()
        self.context = context
        self._logger = logger
        self._soon = scheduler_interval  # delays up to this become available at once
        self.on_unstuck: Callable[[Job[Any]], None] | None = None  # a stuck job came back after all
        self.cancel_task: Callable[[Job[Any]], None] | None = None  # set by whoever runs the event loop

    @property
    def units(self) -> Sequence[BoundUnit]:
        return self._units

    def run_of(self, job: Job[Any]) -> JobRun:
        """The job's run, made if need be. `setdefault` on the instance's dict is atomic: two threads get one run."""
        run: JobRun = job.__dict__.setdefault("_run", JobRun(job, self._driver))
        return run

    def execute(self, job: Job[Any], active: dict[int, Job[Any]]) -> None:
        """Works a sync job on the calling thread and pushes its outcome; never raises."""
        row: FetchedRow = job._row  # type: ignore[assignment]
        job._unit = unit = self._units[row.kind_index]
        error: BaseException | None = None
        try:
            if not row.plain or not unit.plain or job._run is not None:
                self._prepare(job, row, unit)
            self.context.copy().run(unit.work, job)
        except BaseException as raised:  # whatever the job raises, SystemExit included, is the job's outcome
            error = raised
        self.settle(job, active, error)
        error = None  # its traceback holds this frame: a cycle for each failed job otherwise

    def settle(self, job: Job[Any], active: dict[int, Job[Any]], error: BaseException | None) -> None:
        """The work function of a sync job has ended, with this error or none: pushes the outcome; never raises."""
        row: FetchedRow = job._row  # type: ignore[assignment]
        run = job._run
        if error is None and run is None:
            self.push_completed(row.claim)
        else:
            outcome = self._outcome(job, row, self._units[row.kind_index], run, error)
            if run is None or not run.abandoned:
                self._completer.push(row.claim, outcome)
        _leave(active, job, row.id)
        if run is not None and run.ended() and self.on_unstuck is not None:
            self.on_unstuck(job)

    async def execute_async(
        self,
        job: Job[Any],
        active: dict[int, Job[Any]],
        tasks: dict[Job[Any], asyncio.Task[None]],
        ended: Callable[[], None],
    ) -> None:
        """The same for an async job, as the body of its Task; never raises. The Task leaves `tasks` itself, and calls
        `ended` last."""
        row: FetchedRow = job._row  # type: ignore[assignment]
        job._unit = unit = self._units[row.kind_index]
        row.begin()
        error: BaseException | None = None
        try:
            if not row.plain or not unit.plain or job._run is not None:
                self._prepare(job, row, unit)
            await unit.work(job)
        except BaseException as raised:
            error = raised
        tasks.pop(job, None)
        run = job._run
        if error is None and run is None:
            if self._try_push_completed(row.claim) == FULL:
                await self._completer.push_async(row.claim, None)
        else:
            outcome = self._outcome(job, row, unit, run, error)
            if run is None or not run.abandoned:
                await self._completer.push_async(row.claim, outcome)
            error = None
        _leave(active, job, row.id)
        if run is not None and run.ended() and self.on_unstuck is not None:
            self.on_unstuck(job)
        ended()

    def try_give_back(self, job: Job[Any], active: dict[int, Job[Any]]) -> bool:
        """A job that was taken and will not begin: available again. False: no room for it now. Event loop only."""
        row: FetchedRow = job._row  # type: ignore[assignment]
        if self._completer.try_push(row.claim, self.interrupted(job)) == FULL:
            return False
        _leave(active, job, row.id)
        return True

    def cancel(self, job: Job[Any], cause: CancelCause) -> None:
        """Tell a job to end, once for each cause; any thread. One that has not begun will not begin; an async one gets
        `CancelledError`."""
        if not self.run_of(job).cancel(cause, time_limit(job) if cause == "timeout" else None):
            return
        unit = job._unit
        if self.cancel_task is not None and (not isinstance(unit, BoundUnit) or unit.is_async):
            self.cancel_task(job)

    def is_async(self, job: Job[Any]) -> bool:
        """Whether the job is worked by an `async def`, as a Task."""
        row: FetchedRow = job._row  # type: ignore[assignment]
        return self._units[row.kind_index].is_async

    def interrupted(self, job: Job[Any]) -> JobSetState:
        """The outcome of a job that a stop leaves behind."""
        return JobSetState.interrupted(job._run.staged(failed=True) if job._run is not None else None)

    def _prepare(self, job: Job[Any], row: FetchedRow, unit: BoundUnit) -> None:
        """What few jobs need before they start; raises the error that stands for a job that shall not run."""
        if row.undecodable is not None:
            raise DecodeError(f"job row couldn't be decoded: column {row.undecodable} holds a value no job can have")
        if row.cancelled:
            self.run_of(job).cancel("remote")
        job.raise_if_cancelled()
        if row.resumed:
            self.run_of(job).resumable  # noqa: B018 (reads what earlier attempts left: a `DecodeError` is the job's)
        if unit.timeout_of is not None:
            limit = unit.timeout_of(job)
            if limit is not None:
                self.run_of(job).timeout = seconds("timeout", limit, never=True) or None

    def _outcome(
        self, job: Job[Any], row: FetchedRow, unit: BoundUnit, run: JobRun | None, error: BaseException | None
    ) -> JobSetState:
        """What the attempt came to. Never raises: no outcome may be lost to what cannot be told of it."""
        try:
            return self._classified(job, row, unit, run, error)
        except BaseException as broken:  # metadata that cannot be read or staged, the job's own classes
            self._logger.exception("the outcome of job %d could not be told; it counts as failed", row.id)
            age = (time.monotonic_ns() - row.started_ns) / 1e9
            encoded = encode_attempt_error(broken if error is None else error, row.attempt, age)
            metadata = None
            with contextlib.suppress(BaseException):
                metadata = None if run is None else run.staged(failed=True)
            if row.attempt >= row.max_attempts:
                return JobSetState.discarded(encoded, metadata)
            return JobSetState.error_available(self._default_policy.delay_seconds(1), encoded, metadata)

    def _classified(
        self, job: Job[Any], row: FetchedRow, unit: BoundUnit, run: JobRun | None, error: BaseException | None
    ) -> JobSetState:
        """River's mapping (river.md 2.4), in its order."""
        cause = None if run is None else run.cancel_cause
        unfinished = None if run is None else run.take_error()
        error = unfinished if error is None else error
        metadata = None if run is None else run.staged(failed=error is not None)
        if error is None:
            return JobSetState.completed(metadata)
        if run is not None and cause is not None and isinstance(error, asyncio.CancelledError):
            error = run.cancel_error().with_traceback(error.__traceback__)
        age = (time.monotonic_ns() - row.started_ns) / 1e9
        # What is no `Exception` is Go's panic: it is recorded as it is, and the cancel, which stands in the row, holds.
        if cause == "remote" and isinstance(error, Exception):
            if not isinstance(error, JobCancelError):
                assert run is not None
                error = run.cancel_error().with_traceback(error.__traceback__)
            return JobSetState.cancelled(encode_attempt_error(error, row.attempt, age), metadata)
        if isinstance(error, JobSnoozeError):
            if 0 <= error.seconds <= SNOOZE_MAX_SECONDS:  # NaN fails both
                return self._snoozed(job, error.seconds)
            error = ConfigError(f"JobSnoozeError needs 0 to {SNOOZE_MAX_SECONDS:g} seconds, got {error.seconds!r}")
        if isinstance(error, JobCancelError):
            return JobSetState.cancelled(encode_attempt_error(error, row.attempt, age), metadata)
        if cause == "stop" and isinstance(error, JobInterruptedError):
            return JobSetState.interrupted(metadata)
        return self._failed(job, row, unit, error, age, metadata)

    def _snoozed(self, job: Job[Any], delay: float) -> JobSetState:
        run = self.run_of(job)
        run.stage("snoozes", snooze_count(job.metadata.get("snoozes")))
        metadata = run.staged(failed=True)
        assert metadata is not None
        if delay <= self._soon:
            return JobSetState.snoozed_available(delay, metadata)
        return JobSetState.snoozed(delay, metadata)

    def _failed(
        self, job: Job[Any], row: FetchedRow, unit: BoundUnit, error: BaseException, age: float, metadata: bytes | None
    ) -> JobSetState:
        encoded = encode_attempt_error(error, row.attempt, age)
        if self._handle_error is not None:
            cancelled = self._is_cancelled_by_handler(job, error)
            metadata = None if job._run is None else job._run.staged(failed=True)  # it may have staged some
            if cancelled:
                return JobSetState.cancelled(encoded, metadata)
        if row.attempt >= row.max_attempts:
            return JobSetState.discarded(encoded, metadata)
        delay = self._retry_delay(job, unit, error)
        if delay <= self._soon:
            return JobSetState.error_available(delay, encoded, metadata)
        return JobSetState.error_retryable(delay, encoded, metadata)

    def _is_cancelled_by_handler(self, job: Job[Any], error: BaseException) -> bool:
        """What the error handler says; nothing it does costs the outcome."""
        try:
            assert self._handle_error is not None
            result = self.context.copy().run(self._handle_error, job, error)
            if result is None or isinstance(result, ErrorHandlerResult):
                return result is not None and result.set_cancelled
            self._logger.warning("the error handler gave %.80r, not an ErrorHandlerResult; ignored", result)
        except BaseException:  # a handler that exits must not take our thread along
            self._logger.exception("the error handler raised for job %d", job.id)
        return False

    def _retry_delay(self, job: Job[Any], unit: BoundUnit, error: BaseException) -> float:
        """As River: the worker is not asked about args that it could not read, and a row that could not be decoded may
        have errors nobody can count."""
        errors = len(decode_array(job._row.field(ERRORS)))
        next_retry = None if isinstance(error, DecodeError) else unit.next_retry
        return retry_delay(job, errors, self._retry_policy, self._logger, next_retry, self._now())

    def _now(self) -> datetime | None:
        """What next_retry's answer is counted from; None: now."""
        return None


def _leave(active: dict[int, Job[Any]], job: Job[Any], job_id: int) -> None:
    """After the push: at every moment the job is found in the ring, in `active`, or in the completer (liveness)."""
    left = active.pop(job_id, None)
    if left is not job and left is not None:
        active[job_id] = left  # a later attempt of the same job, fetched while this one would not end


def time_limit(job: Job[Any]) -> float:
    """The running job's timeout in seconds, `NEVER` where it has none."""
    run, unit = job._run, job._unit
    if run is not None and run.timeout is not None:
        return run.timeout
    return unit.timeout if isinstance(unit, BoundUnit) and unit.timeout is not None else NEVER

