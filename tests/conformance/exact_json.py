"""JSON read and written without losing a digit: what stands between the pipe and the rows.

Pure; any thread. A number that no Python int of 64 bits holds exactly stays the text it was.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, NoReturn

import orjson

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONE = re.compile("[\ud800-\udfff]")
_RAW = json.JSONDecoder(parse_float=str, parse_int=str, strict=False)
_SPACE = re.compile(r"[ \t\r\n]*")


def parse(raw: bytes) -> Any:
    """The value; `ValueError` for what is not JSON. Floats, and integers beyond 64 bits, come as `orjson.Fragment`."""
    text = raw.decode("utf-8", "replace")
    try:
        value = json.loads(text, parse_float=orjson.Fragment, parse_int=_integer, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return _without_surrogates(value) if _SURROGATE.search(text) else value


def dump(value: Any) -> bytes:
    """Compact; `orjson.Fragment`s as they are. `TypeError` where it is nested deeper than 250 levels."""
    return orjson.dumps(value)


def compact(raw: bytes) -> orjson.Fragment:
    """JSON text as PostgreSQL writes it, without the spaces, every number as it stands."""
    try:
        return orjson.Fragment(dump(parse(raw)))
    except TypeError:
        return orjson.Fragment(raw)


def exact(value: Any) -> Any:
    """For `dump`: what our own reader made of JSON, Decimals and long integers among it."""
    if isinstance(value, dict):
        return {key: exact(member) for key, member in value.items()}
    if isinstance(value, list):
        return [exact(element) for element in value]
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    return _integer(str(value)) if isinstance(value, int) and not isinstance(value, bool) else value


def fits_a_float(raw: bytes) -> bool:
    """Whether each of its numbers can be told as a double: 1e400 cannot."""

    def check(text: str) -> None:
        if math.isinf(float(text)):
            raise OverflowError

    try:
        json.loads(raw, parse_float=check, parse_int=check)
    except OverflowError:
        return False
    return True


def tokens(raw: bytes) -> Any:
    """The value with every number as the text it is stored as."""
    return json.loads(raw, parse_float=str, parse_int=str)


def raw_member(text: str, *path: str) -> str | None:
    """The text of the member at `path`, as it stands; None where it is missing. Of equal names the last counts."""
    for name in path:
        found = None
        position = _SPACE.match(text, text.index("{") + 1).end()  # type: ignore[union-attr]
        while text[position] != "}":
            key, position = _RAW.raw_decode(text, position)
            position = _SPACE.match(text, _SPACE.match(text, position).end() + 1).end()  # type: ignore[union-attr]
            _, end = _RAW.raw_decode(text, position)
            if key == name:
                found = text[position:end]
            position = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            if text[position] == ",":
                position = _SPACE.match(text, position + 1).end()  # type: ignore[union-attr]
        if found is None:
            return None
        text = found
    return text


def _integer(text: str) -> Any:
    number = int(text) if len(text) <= 20 else 2**65
    # Python knows no negative zero
    return number if -(2**63) <= number < 2**64 and text != "-0" else orjson.Fragment(text)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _without_surrogates(value: Any) -> Any:
    """As Go reads them: a lone half of a pair becomes U+FFFD."""
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(element) for element in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(member) for key, member in value.items()}
    return value
