"""Where a page of a job list ended, as text that River's clients and ours exchange. River: JobListCursor.

Pure values, any thread. Ours keeps PostgreSQL's microseconds: times beyond Python's years page like any other.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from river_fast.canonical_json import go_string, go_time
from river_fast.control import BIGINT_MAX
from river_fast.errors import ValidationError
from river_fast.job_row import PG_EPOCH

ZERO_TIME = "0001-01-01T00:00:00Z"  # Go's: no time
_TEXT_MAX = 64 * 1024
_RFC_3339 = re.compile(r"\A(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)
_OURS = re.compile(r"\A@-?\d{1,19}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class JobListCursor:
    """The last job of a page: `job_list(after=...)` takes it, or `str(cursor)`, and gives the jobs behind it.

    `sort_field` is the `order_by` of the list it comes from. `time`: that order's column in the last job's row, in
    microseconds since 2000; None for NULL, and in the order of ids.
    """

    id: int
    kind: str
    queue: str
    sort_field: str
    time: int | None = None

    def __str__(self) -> str:
        """River's text, byte for byte: padded base64url of JSON as Go writes it."""
        names = {"kind": self.kind, "queue": self.queue, "sort_field": self.sort_field, "time": _written(self.time)}
        text = f'{{"id":{self.id},' + ",".join(f'"{name}":{go_string(value)}' for name, value in names.items()) + "}"
        return base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode()

    @classmethod
    def parse(cls, text: str) -> JobListCursor:
        """From `str(cursor)`, ours or River's. `ValidationError` for anything else."""
        if not isinstance(text, str) or not text or len(text) > _TEXT_MAX:
            raise ValidationError("after", "must be a cursor of an earlier job_list, or its text")
        try:
            value: Any = json.loads(base64.b64decode(text.encode(), altchars=b"-_", validate=True))
        except (binascii.Error, ValueError, RecursionError):
            raise _refused("it is not base64url of JSON") from None
        if not isinstance(value, dict):
            raise _refused("its JSON is not an object")
        job_id, kind, queue, sort_field = (value.get(name) for name in ("id", "kind", "queue", "sort_field"))
        if isinstance(job_id, bool) or not isinstance(job_id, int) or not -BIGINT_MAX <= job_id <= BIGINT_MAX:
            raise _refused("its id is not a whole number of 64 bits")
        kind, queue, sort_field = kind or "", queue or "", sort_field or ""
        if not (isinstance(kind, str) and isinstance(queue, str) and isinstance(sort_field, str)):
            raise _refused("its kind, queue and sort_field must be text")
        return cls(job_id, kind, queue, sort_field, _read(value.get("time")))


def _written(microseconds: int | None) -> str:
    if microseconds is None:
        return ZERO_TIME
    try:
        return go_time(PG_EPOCH + timedelta(microseconds=microseconds))
    except OverflowError:
        return f"@{microseconds}"  # River cannot read such rows at all


def _read(text: Any) -> int | None:
    if text is None or text == "":
        return None
    if isinstance(text, str) and _OURS.match(text):
        return max(-(2**63), min(int(text[1:]), BIGINT_MAX))
    found = _RFC_3339.match(text) if isinstance(text, str) else None
    if found is None:
        raise _refused("its time is not in the form of RFC 3339")
    fraction = (found[2] or ".")[1:7].ljust(6, "0")  # nanoseconds are cut, as Go's driver cuts them
    try:
        at = datetime.fromisoformat(f"{found[1]}.{fraction}{found[3]}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise _refused("its time does not exist") from None
    return None if go_time(at) == ZERO_TIME else (at - PG_EPOCH) // timedelta(microseconds=1)


def _refused(why: str) -> ValidationError:
    return ValidationError("after", f"is not a job list's cursor: {why}; give str(result.last_cursor) unchanged")
