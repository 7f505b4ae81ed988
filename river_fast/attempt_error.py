"""How a failed attempt is written, as JSON that PostgreSQL can always store, and read. River: AttemptError.

Pure; any thread. Nothing here may raise: an exception whose text raises, holds a NUL or a lone surrogate, or is 100 MB
long still leaves an error entry behind, and the other outcomes of its batch untouched.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from river_fast.job_row import FAR_PAST

ERROR_TEXT_MAX = 16 * 1024  # characters kept of an error's text
TRACE_TEXT_MAX = 64 * 1024  # characters kept of a traceback: its end, where the error is
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
        return str.__getitem__(str(error), slice(ERROR_TEXT_MAX)) or name  # a plain str, whatever `__str__` returned
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
