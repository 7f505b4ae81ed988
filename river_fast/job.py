"""A job: its row, its states, and what its worker may ask of it. River: Job, JobRow, JobState.

Any thread reads; only the worker that runs the job stages metadata or output. A `Job` owns its row (`job_row.py`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from river_fast.attempt_error import AttemptError, decode_attempt_error
from river_fast.job_row import (
    ATTEMPTED_AT,
    ATTEMPTED_BY,
    CREATED_AT,
    ERRORS,
    FAR_PAST,
    FINALIZED_AT,
    METADATA,
    SCHEDULED_AT,
    TAGS,
    Row,
    decode_jsonb,
    decode_jsonb_array,
    decode_text_array,
    decode_timestamptz,
    loads_exact,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from river_fast.job_log import JobLogger
    from river_fast.job_run import JobRun

R = TypeVar("R")
T = TypeVar("T")


class JobState(StrEnum):
    """River's states. `AVAILABLE` waits for a worker; the last three of River's words are final."""

    AVAILABLE = "available"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    DISCARDED = "discarded"
    PENDING = "pending"
    RETRYABLE = "retryable"
    RUNNING = "running"
    SCHEDULED = "scheduled"


FINAL_STATES = frozenset({JobState.CANCELLED, JobState.COMPLETED, JobState.DISCARDED})


class Unit(Protocol):
    """What a job knows of its kind: how to read its args and, where it runs, how to get at its run."""

    def decode_args(self, encoded: bytes) -> Any: ...
    def run_of(self, job: Job[Any]) -> JobRun: ...


class Job(Generic[T]):
    """A job. River: Job. Read-only but for `record_output` and `set_metadata`, which need it to be running here."""

    # Class-level defaults: the fetcher makes a Job by setting `_row` alone, the rest costs nothing until used.
    _row: Row
    _unit: Unit | None = None
    _args: Any = None
    _args_read: bool = False
    _run: JobRun | None = None

    def __init__(self, row: Row, unit: Unit | None = None) -> None:
        self._row = row
        self._unit = unit

    @property
    def id(self) -> int:
        """The row's id: unique, and growing in the order of insertion."""
        return self._row.id

    @property
    def kind(self) -> str:
        """What kind of job it is; the args' type names it."""
        return self._row.kind

    @property
    def queue(self) -> str:
        """The queue whose workers may take it."""
        return self._row.queue

    @property
    def state(self) -> JobState:
        """Where it stood when this row was read."""
        return JobState(self._row.state)

    @property
    def attempt(self) -> int:
        """How often the job was started, this start included; a snooze or an interrupt gives one back."""
        return self._row.attempt

    @property
    def max_attempts(self) -> int:
        """After so many failed attempts it is discarded."""
        return self._row.max_attempts

    @property
    def priority(self) -> int:
        """1 (first) to 4."""
        return self._row.priority

    @property
    def tags(self) -> list[str]:
        """Free words, given at insertion."""
        return decode_text_array(self._row.field(TAGS))

    @property
    def errors(self) -> list[AttemptError]:
        """One entry per failed attempt, oldest first; read leniently, as River does."""
        return [decode_attempt_error(raw) for raw in decode_jsonb_array(self._row.field(ERRORS))]

    @property
    def metadata(self) -> dict[str, Any]:
        """The row's metadata; `{}` where somebody stored something that is not an object."""
        value = loads_exact(self.encoded_metadata)
        return value if isinstance(value, dict) else {}

    @property
    def encoded_metadata(self) -> bytes:
        """The metadata's JSON text, exactly as stored."""
        return decode_jsonb(self._row.field(METADATA)) or b"{}"

    @property
    def created_at(self) -> datetime:
        """When it was inserted, by the server's clock."""
        return decode_timestamptz(self._row.field(CREATED_AT)) or FAR_PAST

    @property
    def scheduled_at(self) -> datetime:
        """When it may run first, or again."""
        return decode_timestamptz(self._row.field(SCHEDULED_AT)) or FAR_PAST

    @property
    def attempted_at(self) -> datetime | None:
        """When its newest attempt began; None before the first."""
        return decode_timestamptz(self._row.field(ATTEMPTED_AT))

    @property
    def finalized_at(self) -> datetime | None:
        """When it was completed, cancelled or discarded; None before that."""
        return decode_timestamptz(self._row.field(FINALIZED_AT))

    @property
    def attempted_by(self) -> list[str]:
        """The ids of the clients that started it, oldest first, the newest 100."""
        return decode_text_array(self._row.field(ATTEMPTED_BY))

    @property
    def encoded_args(self) -> bytes:
        """The args' JSON text, exactly as stored."""
        return self._row.encoded_args

    @property
    def args(self) -> T:
        """The args, decoded at the first read: the registered type, or plain JSON where no type is known.

        Raises `DecodeError` where the stored args do not fit the type.
        """
        if not self._args_read:
            unit = self._unit
            self._args = loads_exact(self.encoded_args) if unit is None else unit.decode_args(self.encoded_args)
            self._args_read = True
        return self._args  # type: ignore[no-any-return]

    @property
    def output(self) -> Any:
        """What the job recorded with `record_output`, None where it recorded nothing."""
        return self.metadata.get("output")

    @property
    def cancelled(self) -> bool:
        """True once the job was told to end: remotely, by its timeout, or by a stop."""
        return self._run is not None and self._run.cancel_cause is not None

    @property
    def cancel_cause(self) -> str | None:
        """`"remote"`, `"timeout"`, `"stop"`, or None while the job is not cancelled."""
        return None if self._run is None else self._run.cancel_cause

    def wait_cancelled(self, timeout: float | timedelta | None = None) -> bool:
        """Block until the job is cancelled (True) or `timeout` passed (False). For sync jobs."""
        return self._running().wait_cancelled(timeout)

    def raise_if_cancelled(self) -> None:
        """Raise the error that ends the job as its cancel cause asks; nothing while not cancelled."""
        if self._run is not None:
            self._run.raise_if_cancelled()

    def record_output(self, value: Any) -> None:
        """Keep `value` (any JSON, at most 32 MB) as the job's output, stored with its outcome. River: RecordOutput."""
        self._running().record_output(value)

    def recorded_output(self) -> bytes:
        """For `job_update`: what `record_output` has staged so far, as JSON text `"output":...`; empty: nothing."""
        return b"" if self._run is None else self._run.recorded_output()

    def set_metadata(self, key: str, value: Any) -> None:
        """Merge one top-level key into the metadata with the outcome; keys starting with `river:` are refused."""
        self._running().set_metadata(key, value)

    @property
    def logger(self) -> JobLogger:
        """A standard logger whose records are kept with the job, in River's `river:log`; see `JobLogHandler`."""
        return self._running().logger

    @overload
    def step(self, name: str, fn: Callable[[], Awaitable[R]]) -> Awaitable[R | None]: ...
    @overload
    def step(self, name: str, fn: Callable[[], R]) -> R | None: ...
    def step(self, name: str, fn: Callable[[], Any]) -> Any:
        """Run `fn()` as a named step and give its answer; None where an earlier attempt finished it. River:
        ResumableStep.

        For an `async def` the answer is awaited. The names of finished steps go into the metadata when the attempt ends
        without completing the job, for whatever reason; the next attempt begins behind them. Once a step failed, the
        steps behind it are passed over and the attempt fails with that error, even if the job swallows it. Raises
        `ResumableError` for a name used twice and for a step inside another.
        """
        return self._running().resumable.step(name, fn)

    @overload
    def step_cursor(self, name: str, fn: Callable[[Any], Awaitable[R]]) -> Awaitable[R | None]: ...
    @overload
    def step_cursor(self, name: str, fn: Callable[[Any], R]) -> R | None: ...
    def step_cursor(self, name: str, fn: Callable[[Any], Any]) -> Any:
        """As `step`, with `fn(cursor)`: what `set_cursor` said last in the attempt before, None at first. River:
        ResumableStepCursor."""
        return self._running().resumable.step_cursor(name, fn)

    def set_cursor(self, value: Any) -> None:
        """In a cursor step: how far it came (any JSON), stored if the attempt ends without completing the job. River:
        ResumableSetCursor."""
        self._running().resumable.set_cursor(value)

    def set_step_tx(self, conn: Any) -> Any:
        """In a step: store it as finished, and every cursor, in the caller's transaction; awaitable for an async
        connection. River: ResumableSetStepTx.

        Commit before the step returns. Fenced: raises `JobLostError` when the row is no longer this attempt's. Returns
        the job as stored.
        """
        return self._running().set_step_tx(conn)

    def set_cursor_tx(self, conn: Any, value: Any) -> Any:
        """In a cursor step: as `set_step_tx`, with the step's cursor. River: ResumableSetStepCursorTx."""
        return self._running().set_cursor_tx(conn, value)

    def complete_tx(self, conn: Any) -> Any:
        """Complete the job in the caller's transaction; awaitable for an async connection. River: JobCompleteTx.

        Fenced: raises `JobLostError` when the row is no longer this attempt's. Returns the job as stored.
        """
        return self._running().complete_tx(conn)

    def _running(self) -> JobRun:
        run = self._run
        if run is None:
            if self._unit is None:
                raise RuntimeError(f"job {self.id} is not running in this process")
            run = self._unit.run_of(self)  # made at first use: most jobs never need one
        return run

    def __repr__(self) -> str:
        row = self._row
        return f"Job(id={row.id}, kind={row.kind!r}, queue={row.queue!r}, state={row.state!r}, attempt={row.attempt})"
