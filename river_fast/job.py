"""A job: its row, its states, and what its worker may ask of it. River: Job, JobRow, JobState.

Any thread reads; only the worker that runs the job stages metadata or output. A `Job` owns its row, which stays in the
form PostgreSQL sent it (binary) until a field is read: most jobs of a busy service are never looked at.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from river_fast.job_run import JobRun

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

# The order in which every statement of ours returns a job's columns; `Row.field` takes these numbers.
COLUMNS = (
    "id",
    "state",
    "attempt",
    "max_attempts",
    "attempted_at",
    "created_at",
    "finalized_at",
    "scheduled_at",
    "priority",
    "args",
    "attempted_by",
    "errors",
    "kind",
    "metadata",
    "queue",
    "tags",
)
(ID, STATE, ATTEMPT, MAX_ATTEMPTS, ATTEMPTED_AT, CREATED_AT, FINALIZED_AT, SCHEDULED_AT) = range(8)
(PRIORITY, ARGS, ATTEMPTED_BY, ERRORS, KIND, METADATA, QUEUE, TAGS) = range(8, 16)

# PostgreSQL stores times that Python cannot hold (infinity, 4713 BC, the year 294276); they read as these.
FAR_FUTURE = datetime.max.replace(tzinfo=UTC)
FAR_PAST = datetime.min.replace(tzinfo=UTC)
PG_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's binary timestamps count microseconds from here


@dataclass(frozen=True, slots=True)
class AttemptError:
    """One failed attempt, as stored in `errors`. River: AttemptError."""

    at: datetime
    attempt: int
    error: str
    trace: str


class Row(Protocol):
    """A stored job in binary form: the compiled fetcher's, or `StoredRow`."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def encoded_args(self) -> bytes: ...
    def field(self, column: int) -> bytes | None:
        """The column's value in PostgreSQL's binary format, None for NULL."""


class Unit(Protocol):
    """What a job knows of its kind: how to read its args and, where it runs, how to get at its run."""

    def decode_args(self, encoded: bytes) -> Any: ...
    def run_of(self, job: Job[Any]) -> JobRun: ...


class StoredRow:
    """A row as one of our statements returned it: `fields` in the order of `COLUMNS`, binary."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Sequence[bytes | None]) -> None:
        self._fields = fields

    def field(self, column: int) -> bytes | None:
        return self._fields[column]

    @property
    def id(self) -> int:
        return _int(self._fields[ID])

    @property
    def kind(self) -> str:
        return _text(self._fields[KIND])

    @property
    def queue(self) -> str:
        return _text(self._fields[QUEUE])

    @property
    def state(self) -> str:
        return _text(self._fields[STATE])

    @property
    def attempt(self) -> int:
        return _int(self._fields[ATTEMPT])

    @property
    def max_attempts(self) -> int:
        return _int(self._fields[MAX_ATTEMPTS])

    @property
    def priority(self) -> int:
        return _int(self._fields[PRIORITY])

    @property
    def encoded_args(self) -> bytes:
        return _jsonb(self._fields[ARGS])


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
        return _jsonb(self._row.field(METADATA)) or b"{}"

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

    def set_metadata(self, key: str, value: Any) -> None:
        """Merge one top-level key into the metadata with the outcome; keys starting with `river:` are refused."""
        self._running().set_metadata(key, value)

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


def _int(raw: bytes | None) -> int:
    return 0 if raw is None else int.from_bytes(raw, "big", signed=True)


def _text(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode("utf-8", "replace")


def _jsonb(raw: bytes | None) -> bytes:
    """jsonb's binary form is a version byte and the text."""
    return b"" if raw is None else raw[1:]


def decode_timestamptz(raw: bytes | None) -> datetime | None:
    """Binary timestamptz to an aware datetime; out of Python's range: `FAR_PAST` or `FAR_FUTURE`; never raises."""
    if raw is None:
        return None
    microseconds = int.from_bytes(raw, "big", signed=True)
    try:
        return PG_EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return FAR_FUTURE if microseconds > 0 else FAR_PAST


def decode_array(raw: bytes | None) -> list[bytes]:
    """The elements of a binary array, NULLs dropped and dimensions flattened (other writers store both)."""
    if raw is None or len(raw) < 12:
        return []
    dimensions = struct.unpack_from("!i", raw)[0]
    position = 12 + 8 * dimensions
    elements = []
    while position < len(raw):
        (length,) = struct.unpack_from("!i", raw, position)
        position += 4
        if length >= 0:
            elements.append(raw[position : position + length])
            position += length
    return elements


def decode_text_array(raw: bytes | None) -> list[str]:
    return [element.decode("utf-8", "replace") for element in decode_array(raw)]


def decode_jsonb_array(raw: bytes | None) -> list[bytes]:
    return [_jsonb(element) for element in decode_array(raw)]


def loads_exact(raw: bytes) -> Any:
    """JSON decoded without losing a digit: a number that a float cannot hold becomes a Decimal."""
    return json.loads(raw or b"null", parse_float=_exact_number)


def _exact_number(text: str) -> float | Decimal:
    number = float(text)
    exact = Decimal(text)
    return number if number - number == 0 and Decimal(repr(number)) == exact else exact


def decode_attempt_error(raw: bytes) -> AttemptError:
    """One element of `errors`, read as leniently as River reads it: nothing stored there may stop a job."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return AttemptError(FAR_PAST, 0, raw.decode("utf-8", "replace"), "")
    if not isinstance(value, dict):
        return AttemptError(FAR_PAST, 0, _compact(value), "")
    try:
        at = datetime.fromisoformat(value.get("at", ""))
    except (TypeError, ValueError):
        at = FAR_PAST
    try:
        attempt = int(value.get("attempt", 0))
    except (TypeError, ValueError, OverflowError):
        attempt = 0
    error, trace = value.get("error", ""), value.get("trace", "")
    return AttemptError(
        at if at.tzinfo else at.replace(tzinfo=UTC),
        attempt,
        error if isinstance(error, str) else _compact(error),
        trace if isinstance(trace, str) else _compact(trace),
    )


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
