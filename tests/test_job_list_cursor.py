"""Cursor texts: River's bytes out, River's texts and nothing else in."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from river_fast.errors import ValidationError
from river_fast.job_list_cursor import JobListCursor

# What River v0.51.0 gave for such jobs.
RIVERS = {
    JobListCursor(6, "k6", "default", "id"): (
        "eyJpZCI6Niwia2luZCI6Ims2IiwicXVldWUiOiJkZWZhdWx0Iiwic29ydF9maWVsZCI6ImlkIiwidGltZSI6IjAwMDEtMDEtMDFUMDA6MDA6"
        "MDBaIn0="
    ),
    JobListCursor(5, "k5", "default", "finalized_at", 848602037120320): (
        "eyJpZCI6NSwia2luZCI6Ims1IiwicXVldWUiOiJkZWZhdWx0Iiwic29ydF9maWVsZCI6ImZpbmFsaXplZF9hdCIsInRpbWUiOiIyMDI2LTEx"
        "LTIxVDE4OjQ3OjE3LjEyMDMyWiJ9"
    ),
    JobListCursor(1, "a<b>&\u2028\x7f\x01\b", "default", "id"): (
        "eyJpZCI6MSwia2luZCI6ImFcdTAwM2NiXHUwMDNlXHUwMDI2XHUyMDI4f1x1MDAwMVxiIiwicXVldWUiOiJkZWZhdWx0Iiwic29ydF9maWVs"
        "ZCI6ImlkIiwidGltZSI6IjAwMDEtMDEtMDFUMDA6MDA6MDBaIn0="
    ),
}


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize("cursor", RIVERS, ids=lambda cursor: cursor.sort_field)
def test_text_is_rivers_to_the_byte_and_is_read_back(cursor: JobListCursor) -> None:
    assert str(cursor) == RIVERS[cursor]
    assert JobListCursor.parse(RIVERS[cursor]) == cursor


@given(
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.text(max_size=20),
    st.text(max_size=20),
    st.sampled_from(["id", "time", "scheduled_at", "finalized_at"]),
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
)
def test_every_cursor_is_read_back(job_id: int, kind: str, queue: str, field: str, time: int | None) -> None:
    cursor = JobListCursor(job_id, kind, queue, field, time)
    assert JobListCursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id":2}', JobListCursor(2, "", "", "")),
        ('{"id":2,"kind":null,"time":null,"other":[1]}', JobListCursor(2, "", "", "")),
        ('{"id":2,"time":"2000-01-01T02:00:01.5+02:00"}', JobListCursor(2, "", "", "", 1_500_000)),
        ('{"id":2,"time":"2000-01-01T00:00:00.123456789Z"}', JobListCursor(2, "", "", "", 123_456)),
        ('{"id":2,"time":"0001-01-01T00:00:00Z"}', JobListCursor(2, "", "", "", None)),
        ('{"id":2,"time":"@9223372036854775807"}', JobListCursor(2, "", "", "", 2**63 - 1)),
    ],
)
def test_other_texts_of_river_are_read(text: str, expected: JobListCursor) -> None:
    assert JobListCursor.parse(encoded(text)) == expected


JSON_OF_NO_CURSOR = [
    "x", "[]", "null", "{}", '{"id":"1"}', '{"id":2.0}', '{"id":true}', '{"id":99999999999999999999}', '{"id":2}x',
    '{"id":2,"kind":7}', '{"id":2,"time":"nonsense"}', '{"id":2,"time":"2020-01-01 00:00:00Z"}', '{"id":' + "[" * 5000,
    '{"id":2,"time":"2020-13-01T00:00:00Z"}', '{"id":2,"time":"2020-01-01T00:00:00"}', '{"id":2,"time":7}',
    '{"id":2,"time":"0001-01-01T00:00:00+23:00"}', '{"id":2,"kind":"' + "x" * 100_000 + '"}',
]  # fmt: skip
NO_TEXT_OF_OURS = ["", "!!", "eA==", "é", "\ud800", 5, None, b"eyJpZCI6Mn0=", encoded('{"id":2}').rstrip("=")]
WRONG = [*map(encoded, JSON_OF_NO_CURSOR), *NO_TEXT_OF_OURS]


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_is_no_cursor_is_refused_with_its_remedy(text: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        JobListCursor.parse(text)
    assert caught.value.field == "after"
    assert "cursor" in str(caught.value)
    assert len(str(caught.value)) < 300
