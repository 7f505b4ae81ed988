"""A job's row is read leniently: nothing that stands in the table may raise in the fetcher or in an error path."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from river_fast.attempt_error import decode_attempt_error
from river_fast.job_row import (
    FAR_FUTURE,
    FAR_PAST,
    decode_jsonb_array,
    decode_text_array,
    decode_timestamptz,
    loads_exact,
)


def stored(dsn: str, expression: str) -> bytes | None:
    """The expression's value as PostgreSQL sends it in binary."""
    with psycopg.connect(dsn) as conn:
        result = conn.pgconn.exec_params(f"SELECT {expression}".encode(), [], result_format=1)
        return result.get_value(0, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02 03:04:05.678901+00", datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)),
        ("1969-12-31 23:59:59.999999+00", datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)),
        ("infinity", FAR_FUTURE),
        ("-infinity", FAR_PAST),
        ("294276-12-31 00:00:00+00", FAR_FUTURE),
        ("4713-01-01 00:00:00+00 BC", FAR_PAST),
    ],
)
def test_every_timestamp_postgresql_holds_is_read(dsn: str, text: str, expected: datetime) -> None:
    assert decode_timestamptz(stored(dsn, f"'{text}'::timestamptz")) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'{}'::text[]", []),
        ("NULL::text[]", []),
        (
            """ARRAY['a,b', 'c"d', 'e\\f', '{g}', 'NULL', '', E'\\t\\n']""",
            ["a,b", 'c"d', "e\\f", "{g}", "NULL", "", "\t\n"],
        ),
        ("ARRAY['a', NULL, 'b']", ["a", "b"]),
        ("ARRAY[['a', 'b'], ['c', 'd']]", ["a", "b", "c", "d"]),
        ("'[5:6]={x,y}'::text[]", ["x", "y"]),
    ],
)
def test_arrays_of_other_writers_are_read(dsn: str, expression: str, expected: list[str]) -> None:
    assert decode_text_array(stored(dsn, expression)) == expected


def test_jsonb_arrays_lose_their_version_bytes_and_nulls(dsn: str) -> None:
    raw = stored(dsn, """ARRAY['{"a": 1}'::jsonb, NULL, '2'::jsonb]""")
    assert decode_jsonb_array(raw) == [b'{"a": 1}', b"2"]


def test_truncated_array_header_is_no_crash() -> None:
    assert decode_text_array(struct.pack("!i", 1)) == []


def test_attempt_error_whose_time_is_not_rfc_3339_has_none() -> None:
    assert decode_attempt_error(b'{"at": "2026-01-02T03:04:05.123456789+01:00"}').at.microsecond == 123456
    for text in ("2026-01-02", "2026-01-02 03:04:05Z", "20260102T030405Z", "2026-13-02T03:04:05Z", "now"):
        assert decode_attempt_error(b'{"at": "%s"}' % text.encode()).at == FAR_PAST


@pytest.mark.parametrize(
    ("raw", "attempt", "error"),
    [
        (b'{"at": "2026-01-02T03:04:05.678901Z", "attempt": 3, "error": "e", "trace": "t"}', 3, "e"),
        (b'{"at": 5, "attempt": "7", "error": {"a": 1}}', 7, '{"a":1}'),
        (b'{"attempt": 2.0}', 2, ""),
        (b'{"at": "2026-01-02", "attempt": " 8 ", "error": 1.50}', 8, "1.50"),
        (b'{"attempt": 2.5}', 0, ""),
        (b'{"attempt": true}', 0, ""),
        (b'{"attempt": 1e400}', 0, ""),
        (b'{"attempt": "nan"}', 0, ""),
        (b'{"attempt": "many", "error": null}', 0, ""),
        (b'"text"', 0, "text"),
        (b"[1, 2.0]", 0, "[1,2.0]"),
        (b"not json", 0, "not json"),
        (b"[" * 100_000, 0, "[" * 100_000),
    ],
)
def test_attempt_errors_are_read_as_leniently_as_river_reads_them(raw: bytes, attempt: int, error: str) -> None:
    decoded = decode_attempt_error(raw)
    assert (decoded.attempt, decoded.error) == (attempt, error)
    assert decoded.at.tzinfo is not None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"n": 18446744073709551616}', {"n": 18446744073709551616}),
        (b'{"n": 0.1}', {"n": 0.1}),
        (b'{"n": 3.14159265358979323846264338327950288}', {"n": Decimal("3.14159265358979323846264338327950288")}),
        (b'{"n": 1e400}', {"n": Decimal("1e400")}),
    ],
)
def test_json_is_read_without_losing_a_digit(raw: bytes, expected: Any) -> None:
    assert loads_exact(raw) == expected
