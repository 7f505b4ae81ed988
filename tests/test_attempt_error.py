"""Whatever an exception is, its error entry can be stored."""

from __future__ import annotations

import json

import psycopg
import pytest

from river_fast.attempt_error import ERROR_TEXT_MAX, TRACE_TEXT_MAX, encode_attempt_error


class Unprintable(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def raised(error: BaseException, depth: int = 0) -> BaseException:
    def descend(left: int) -> None:
        if left:
            descend(left - 1)
        raise error

    try:
        descend(depth)
    except BaseException as caught:
        return caught
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        ValueError(),
        ValueError("nul \0"),
        ValueError("surrogate \ud800\udfff"),
        ValueError("x" * 30_000_000),
        Unprintable(),
        SystemExit(1),
    ],
    ids=lambda error: type(error).__name__ + str(len(error.args)),
)
def test_any_error_can_be_stored(dsn: str, error: BaseException) -> None:
    encoded = encode_attempt_error(raised(error, 200), 3, 1.5)
    entry = json.loads(encoded)
    assert set(entry) == {"at", "attempt", "error", "trace"}
    assert entry["attempt"] == 3
    assert entry["error"]
    assert len(entry["error"]) <= ERROR_TEXT_MAX + 64  # escapes of the last characters may stand beyond
    assert len(entry["trace"]) <= TRACE_TEXT_MAX
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT (%s::jsonb ->> 'attempt')::int", [encoded.decode()]).fetchone() == (3,)


def test_time_is_the_attempts_begin_in_rfc_3339() -> None:
    from datetime import UTC, datetime

    entry = json.loads(encode_attempt_error(ValueError("x"), 1, 60))
    assert entry["at"].endswith("Z")
    age = (datetime.now(UTC) - datetime.fromisoformat(entry["at"])).total_seconds()
    assert 59 < age < 65
