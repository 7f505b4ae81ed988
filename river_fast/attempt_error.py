"""How a failed attempt is written: an AttemptError as JSON that PostgreSQL can always store. River: AttemptError.

Pure; any thread. Nothing here may raise: an exception whose text raises, holds a NUL or a lone surrogate, or is 100 MB
long still leaves an error entry behind, and the other outcomes of its batch untouched.
"""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime

ERROR_TEXT_MAX = 16 * 1024  # characters kept of an error's text
TRACE_TEXT_MAX = 64 * 1024  # characters kept of a traceback: its end, where the error is
FRAMES_MAX = 64  # frames kept of a deep traceback (recursion): the last ones


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
