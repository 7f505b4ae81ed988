"""How a failed attempt is written, as JSON that PostgreSQL can always store, and read. River: AttemptError.

Pure; any thread. Nothing here may raise: an exception whose text raises, holds a NUL or a lone surrogate, or is 100 MB
long still leaves an error entry behind, and the other outcomes of its batch untouched.
"""

from __future__ import annotations

import json
import re
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from river_fast.errors import JobCancelError
from river_fast.job_row import FAR_PAST

ERROR_TEXT_MAX = 16 * 1024  # characters kept of an error's text
TRACE_TEXT_MAX = 64 * 1024  # characters kept of a traceback: its end, where the error is
RFC_3339 = re.compile(r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)\Z", re.ASCII)
FRAMES_MAX = 64  # frames kept of a deep traceback (recursion): the last ones


@dataclass(frozen=True, slots=True)
class AttemptError:
    """One failed attempt, as stored in `errors`. River: AttemptError."""

    at: datetime
    attempt: int
    error: str
    trace: str


def encode_attempt_error(error: BaseException, attempt: int, age: float = 0.0) -> bytes:
    """`age`: seconds since the attempt began; `at` is that moment by this client's clock, as River has it."""
    return encode_error_text(error_text(error), trace_text(error), attempt, age)


def encode_error_text(text: str, trace: str, attempt: int, age: float = 0.0) -> bytes:
    at = datetime.fromtimestamp(datetime.now(UTC).timestamp() - age, UTC)
    entry = {
        "at": at.isoformat().replace("+00:00", "Z"),
        "attempt": attempt,
        "error": storable(text[:ERROR_TEXT_MAX]),
        "trace": storable(trace[-TRACE_TEXT_MAX:]),
    }
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()


def error_text(error: BaseException) -> str:
    """`str(error)`, or its type's name where that is empty or raises."""
    name = type(error).__name__
    try:
        text = str.__getitem__(str(error), slice(ERROR_TEXT_MAX)) or name  # a plain str, whatever `__str__` returned
        return f"JobCancelError: {text}" if isinstance(error, JobCancelError) else text  # as River writes it
    except BaseException as nested:  # the job's own code: whatever it raises must not cost the outcome
        return f"<{name} whose text raised {type(nested).__name__}>"


def trace_text(error: BaseException) -> str:
    """The traceback without the text of the error (that stands in `error`); empty where there is none."""
    try:
        return "".join(traceback.format_tb(error.__traceback__, -FRAMES_MAX))
    except BaseException as nested:  # sources and lines come from the job's own modules
        return f"<traceback that raised {type(nested).__name__}>"


def storable(text: str) -> str:
    """With NUL and lone surrogates, which no PostgreSQL text can hold, written out as escapes."""
    if "\0" in text:
        text = text.replace("\0", "\\u0000")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def decode_attempt_error(raw: bytes) -> AttemptError:
    """One element of `errors`, read as leniently as River reads it: nothing stored there may stop a job."""
    try:
        value = json.loads(raw, parse_float=_Number, parse_int=_Number)
    except (ValueError, RecursionError):
        return AttemptError(FAR_PAST, 0, raw.decode("utf-8", "replace"), "")
    if not isinstance(value, dict):
        return AttemptError(FAR_PAST, 0, _text(value), "")
    return AttemptError(
        _time(value.get("at")), _int(value.get("attempt")), _text(value.get("error")), _text(value.get("trace"))
    )


class _Number(str):
    """A number as it stands in the text."""


def _written(number: _Number) -> orjson.Fragment:
    return orjson.Fragment(str.__str__(number))


def _time(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) and RFC_3339.match(value) else FAR_PAST
    except ValueError:
        return FAR_PAST


def _int(value: Any) -> int:
    """A number, or the text of one; floats where they are whole."""
    try:
        number = Decimal(value.strip()) if isinstance(value, str) and len(value) <= 400 else Decimal(0)
        return int(number) if number == number.to_integral_value() and abs(number) < 2**63 else 0
    except ArithmeticError:
        return 0


def _text(value: Any) -> str:
    if value is None or (isinstance(value, str) and not isinstance(value, _Number)):
        return value or ""
    try:
        return orjson.dumps(value, default=_written, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()
    except TypeError:  # nested deeper than orjson goes
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
