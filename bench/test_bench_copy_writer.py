"""Writing PostgreSQL's binary forms: the completer's in C, the inserter's in Python."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from datetime import UTC, datetime

import river_fast as river
from bench.conftest import PerItem
from river_fast import pg_binary
from river_fast.insert_params import InsertBuilder
from river_fast.insert_statements import copies

ROWS = 5_000
ROW_BYTES = 2 + (4 + 8) + (4 + 2) + (4 + 8) + (4 + 8)
ERROR = b'{"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": "it went wrong", "trace": ""}'


@dataclass
class CopyArgs(river.JobArgs, kind="bench_copy"):
    num: int


def test_staging_rows_of_outcomes_in_c(per_item: PerItem, micro: ctypes.CDLL) -> None:
    written = per_item(lambda: micro.copy_rows(ctypes.c_int64(ROWS)), ROWS)
    assert written == 19 + ROWS * ROW_BYTES + 2


def test_jsonb_array_of_errors_in_c(per_item: PerItem, micro: ctypes.CDLL) -> None:
    size = ctypes.c_int64(len(ERROR))
    written = per_item(lambda: micro.jsonb_array(ctypes.c_int64(ROWS), size, ERROR), ROWS)
    assert written == 20 + ROWS * (4 + 1 + len(ERROR))


def test_copy_of_jobs_for_insert_many_fast(per_item: PerItem) -> None:
    """From args objects to the bytes sent: everything of `insert_many_fast` but the round trips."""
    builder = InsertBuilder(
        max_attempts=25, max_args_bytes=1024 * 1024, known_kinds=lambda: None, now=lambda: datetime.now(UTC)
    )
    jobs = [CopyArgs(num) for num in range(ROWS)]

    def stream() -> int:
        (copy,) = copies(builder.many(jobs))
        return sum(map(len, pg_binary.copy_stream(copy.chunks)))

    assert per_item(stream, ROWS) > ROWS * 50
