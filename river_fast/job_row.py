"""A stored job's row: its columns and how their binary forms are read.

Any thread reads; pure values. A row stays in the form PostgreSQL sent it until a field is read: most jobs of a busy
service are never looked at.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

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


class BinaryRow:
    """A row as one of our statements returned it, its columns in the order of `COLUMNS`, wherever it is kept."""

    __slots__ = ()

    def field(self, column: int) -> bytes | None:
        raise NotImplementedError

    @property
    def id(self) -> int:
        return _int(self.field(ID))

    @property
    def kind(self) -> str:
        return _text(self.field(KIND))

    @property
    def queue(self) -> str:
        return _text(self.field(QUEUE))

    @property
    def state(self) -> str:
        return _text(self.field(STATE))

    @property
    def attempt(self) -> int:
        return _int(self.field(ATTEMPT))

    @property
    def max_attempts(self) -> int:
        return _int(self.field(MAX_ATTEMPTS))

    @property
    def priority(self) -> int:
        return _int(self.field(PRIORITY))

    @property
    def encoded_args(self) -> bytes:
        return decode_jsonb(self.field(ARGS))


class StoredRow(BinaryRow):
    """One that is kept as `fields`."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Sequence[bytes | None]) -> None:
        self._fields = fields

    def field(self, column: int) -> bytes | None:
        return self._fields[column]


def _int(raw: bytes | None) -> int:
    return 0 if raw is None else int.from_bytes(raw, "big", signed=True)


def _text(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode("utf-8", "replace")


def decode_jsonb(raw: bytes | None) -> bytes:
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
    return [decode_jsonb(element) for element in decode_array(raw)]


def loads_exact(raw: bytes) -> Any:
    """JSON decoded without losing a digit: a number that a float cannot hold becomes a Decimal."""
    return json.loads(raw or b"null", parse_float=_exact_number)


def _exact_number(text: str) -> float | Decimal:
    number = float(text)
    exact = Decimal(text)
    return number if number - number == 0 and Decimal(repr(number)) == exact else exact
