"""JSON in and out: what is refused, with its path, and that no digit is lost."""

from __future__ import annotations

import enum
import json
import math
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from river_fast.encoding import check_raw, decode, encode_object
from river_fast.errors import DecodeError, EncodeError, ValidationError


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    RED = "red"


class OddStr(str):
    def __str__(self) -> str:
        raise RuntimeError("asked")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("asked")

    __hash__ = str.__hash__


class OddInt(int):
    def __repr__(self) -> str:
        return "not a number"


class OddDict(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("asked")

    def __len__(self) -> int:
        return 0


@dataclass
class Point:
    x: int


CYCLE: dict[str, Any] = {}
CYCLE["self"] = [CYCLE]
BOMB: Any = ["lol"]
for _ in range(64):
    BOMB = [BOMB, BOMB]

REFUSED = [
    ({"a": "x\0"}, "$.a"),
    ({"a\0": 1}, "$"),
    ({"a": "\ud800"}, "$.a"),
    ({"a": ["\udc00\ud800"]}, "$.a[0]"),
    ({"a": math.nan}, "$.a"),
    ({"a": {"b": [1.0, math.inf]}}, "$.a.b[1]"),
    ({"a": -math.inf}, "$.a"),
    ({"a": 10**4300}, "4300"),
    ({"a": _nested(1001)}, "512"),
    ({"a": CYCLE}, "holds itself"),
    ({"a": BOMB}, "max_args_bytes"),
    ({"a": b"x"}, "bytes at $.a"),
    ({"a": {1}}, "set at $.a"),
    ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "datetime at $.a"),
    ({"a": Decimal(1)}, "Decimal at $.a"),
    ({"a": uuid.uuid4()}, "UUID at $.a"),
    ({"a": Colour.RED}, "Colour at $.a"),
    ({"a": Point(1)}, "Point at $.a"),
    ({1: 2, "1": 3}, "key 1 at $"),
    ({"a": {True: 1}}, "key True at $.a"),
    ({"a b": {None: 1}}, "key None at $['a b']"),
]


@pytest.mark.parametrize(("value", "where"), REFUSED, ids=[where for _, where in REFUSED])
def test_what_cannot_be_stored_is_refused_with_its_path(value: dict[Any, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        encode_object(value, limit=1024 * 1024)
    assert caught.value.field == "args"
    assert where in caught.value.reason


def test_subclasses_are_encoded_by_what_they_are_and_never_asked() -> None:
    value = {"s": OddStr("text"), "i": OddInt(7), "d": OddDict(a=1), "w": Word.RED, "t": (1, 2)}
    assert encode_object(value) == b'{"s":"text","i":7,"d":{"a":1},"w":"red","t":[1,2]}'


def test_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert encode_object({"a": "\\u0000"}) == rb'{"a":"\\u0000"}'
    assert check_raw(rb'{"a":"\\u0000"}') == rb'{"a":"\\u0000"}'


def test_depth_of_512_is_taken() -> None:
    value = {"a": _nested(511)}
    assert decode(encode_object(value)) == value
    with pytest.raises(EncodeError):
        encode_object({"a": _nested(512)})
    assert check_raw(encode_object(value))
    with pytest.raises(EncodeError):
        check_raw(b'{"a":' + b"[" * 512 + b"]" * 512 + b"}")
    assert check_raw(b'{"a":"' + b"[" * 5000 + b'"}')


def test_size_limit_counts_bytes() -> None:
    assert len(encode_object({"a": "x" * 92}, limit=100)) == 100
    for refused in ({"a": "x" * 93}, {"a": "ü" * 47}, {"a": ["x"] * 200}):
        with pytest.raises(ValidationError, match="limit of 100"):
            encode_object(refused, limit=100)
    with pytest.raises(ValidationError, match="limit of 100"):
        check_raw(b'{"a":"' + b"x" * 93 + b'"}', limit=100)


RAW_REFUSED = [
    b"", b"{", b'\xef\xbb\xbf{"a":1}', b'{"a":1,}', b'{"a":01}', b'{"a":"\t"}', b'{"a":"\xff"}', b'{"a":NaN}',
    b'{"a":Infinity}', b'{"a":1e400,"b":}', b'{"a":"\\ud800"}', b'{"a":"\\udc00\\ud800"}', b'{"a":"\\u0000"}',
    b'{"a":1e131072}', b'{"a":1e99999999999999999999}', b'{"a":1e-16384}', b'{"a":' + b"1" * 4301 + b"}",
    b'{"a":1.' + b"1" * 16384 + b"}", b"[]", b"null", b'"x"', b"1", b"true", b'{"a":1} x', b'{"a":"\\x"}',
    '{"a":1}'.encode("utf-16"),
]


@pytest.mark.parametrize("raw", RAW_REFUSED, ids=lambda raw: repr(raw[:24]))
def test_raw_json_is_checked_before_it_is_sent(raw: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        check_raw(raw)
    assert caught.value.field == "args"


@pytest.mark.parametrize(
    "raw",
    [b'{"a":1,"a":2}', b' {"a" : [1 , 2]}', b'{"a":1e400}', b'{"a":18446744073709551616}', b'{"a":"\\ud83d\\ude00"}',
     b'{"a":' + b"1" * 4300 + b"}", b'{"a":"' + b"1" * 5000 + b'"}'],
    ids=lambda raw: repr(raw[:24]),
)  # fmt: skip
def test_raw_json_that_can_be_stored_is_kept_to_the_byte(raw: bytes) -> None:
    assert check_raw(raw) == raw


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"18446744073709551616", 2**64),
        (b"-9223372036854775809", -(2**63) - 1),
        (b"1" * 4300, int("1" * 4300)),
        (b"0.1", 0.1),
        (b"0.10000000000000000000000001", Decimal("0.10000000000000000000000001")),
        (b"1e400", Decimal("1e400")),
        (b"123456789012345678.5", Decimal("123456789012345678.5")),
        (b'"1234567890123456789012"', "1234567890123456789012"),
    ],
)
def test_decoding_keeps_every_digit(raw: bytes, value: Any) -> None:
    decoded = decode(b'{"a":' + raw + b"}")["a"]
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("raw", [b"1" * 4301, b"[" * 5000 + b"]" * 5000, b"{"], ids=["digits", "depth", "cut"])
def test_what_cannot_be_read_is_a_decode_error(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(raw)


@given(st.text(), st.text(alphabet=st.characters(min_codepoint=0xD700, max_codepoint=0xE010)))
def test_any_text_is_stored_exactly_or_refused(plain: str, odd: str) -> None:
    value = {"a": plain, "b": {odd: plain}}
    try:
        raw = encode_object(value)
    except EncodeError:
        assert "\0" in plain + odd or any("\ud800" <= c <= "\udfff" for c in plain + odd)
    else:
        assert json.loads(raw) == value


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abcü<&\u2028"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abü", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc"), JSON, max_size=4))
def test_objects_survive_the_round_trip(value: dict[str, Any]) -> None:
    raw = encode_object(value)
    assert decode(raw) == value
    assert check_raw(raw) == raw
