"""JSON, exactly: what may be stored, how it is written, and how it is read back without losing a digit.

Pure functions, any thread; own nothing. Written JSON is strict (no NaN, no NUL, no lone surrogate, string keys only),
so PostgreSQL never refuses it half-way through an insert. orjson does the work where it loses nothing; where it cannot
(integers beyond 64 bits, deep nesting) the standard library does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, NoReturn

import orjson

from river_fast.errors import DecodeError, EncodeError, ValidationError
from river_fast.job_row import loads_exact

MAX_DEPTH = 512  # PostgreSQL takes thousands, Python's parser about a thousand: what is stored must be readable
MAX_DIGITS = 4300  # CPython's own limit between int and text
MAX_SCALE = 16383  # PostgreSQL's limit of digits behind the point
HARD_MAX_BYTES = 64 * 1024 * 1024  # whatever Config.max_args_bytes says: jsonb ends at 255 MB, sanity before

PLAIN = frozenset({str, int, bool, type(None)})  # what orjson writes exactly, without being asked twice
_STR = frozenset({str})
_STRICT = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS

# A number of 16 digits or more, or with an exponent, may lose digits in orjson (jsonb itself never writes exponents).
# A string that looks so costs only time.
_MAY_LOSE_DIGITS = re.compile(rb"[0-9][0-9.]{15}|[0-9][eE]")
_LONG_NUMBER = re.compile(rb"[eE][+-]?[0-9]{4}|[0-9][0-9.]{3000}")
_STRING_OR_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?')
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_SPACES = re.compile(r"[ \t\r\n]*")
_SKIP = json.JSONDecoder(parse_float=str, parse_int=str, strict=False)  # for where a value ends, not for what it is
_IDENTIFIER = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z")


def encode_object(
    members: dict[str, Any], *, field: str = "args", limit: int = HARD_MAX_BYTES, structs: bool = False
) -> bytes:
    """The JSON text of an object.

    `structs`: dataclasses inside are written field by field and maps with sorted keys, as Go writes them; else they are
    refused and keys keep their order. Raises `EncodeError` naming the path of what cannot be stored, and
    `ValidationError` above `limit` bytes.
    """
    if not (PLAIN.issuperset(map(type, members.values())) and _STR.issuperset(map(type, members))):
        members = _Copier(field, limit, structs).copy(members)
    return encode_plain(members, field, limit)


def encode_plain(plain: dict[str, Any], field: str, limit: int) -> bytes:
    """The same for an object whose keys are exactly str, and whose values are of types in `PLAIN` or checked copies."""
    try:
        raw = orjson.dumps(plain, option=_STRICT)
    except TypeError:  # orjson's JSONEncodeError: a lone surrogate, an integer beyond 64 bits, or its own depth limit
        raw = _dumps_slowly(plain, field)
    if len(raw) > limit:
        _refuse_size(field, len(raw), limit)
    if rb"\u0000" in raw:
        _refuse_nul(plain, field)
    return raw


TOGETHER_MAX_CHARS = 16 * 1024 * 1024  # of strings in the jobs that are encoded together


def encode_plain_many(
    names: Sequence[str], columns: Sequence[Sequence[Any]], count: int, limit: int
) -> Sequence[bytes] | None:
    """`count` objects with the members `names`, whose values stand in `columns`, as `encode_plain` writes each. None
    where one of them is not plain or cannot be stored, or is above `limit`: whoever writes them one by one finds it."""
    if not all(PLAIN.issuperset(map(type, column)) for column in columns):
        return None
    if not names:
        return [b"{}"] * count
    if sum([len(value) for column in columns for value in column if type(value) is str]) > TOGETHER_MAX_CHARS:
        return None  # the texts stand in memory several times while they are cut
    if len(names) == 1:
        objects = [{names[0]: value} for value in columns[0]]
    else:
        objects = [dict(zip(names, values)) for values in zip(*columns)]  # noqa: B905 (as long as each other)
    try:
        # In one go, then cut: by itself, each of orjson's texts would hold on to pages of memory. No string inside can
        # look like the seam, for behind a string's last quote stands no name; and a line break is always escaped.
        seam = b"{" + orjson.dumps(names[0]) + b":"
        together = orjson.dumps(objects)
    except TypeError:
        return None
    texts = together[1:-1].replace(b"}," + seam, b"}\n" + seam).split(b"\n")
    return None if rb"\u0000" in together or max(map(len, texts)) > limit else texts


def check_raw(raw: bytes | bytearray | memoryview, *, field: str = "args", limit: int = HARD_MAX_BYTES) -> bytes:
    """JSON text that somebody else wrote, if it is an object that PostgreSQL can store and Python can read back."""
    if len(raw) > limit:
        _refuse_size(field, len(raw), limit)
    raw = bytes(raw)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise EncodeError(field, f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:  # or merely a number too large for a float
        value = _loads_strictly(raw, field, error)
    if not isinstance(value, dict):
        raise ValidationError(field, f"must be a JSON object, got {_json_type(value)}")
    if _LONG_NUMBER.search(raw):
        _check_numbers(raw.decode(), field)
    if rb"\u0000" in raw:
        _refuse_nul(value, field)
    return raw


def encode_metadata(given: Mapping[str, Any] | bytes | bytearray | memoryview) -> bytes:
    """The JSON text of a dict, or what somebody else wrote if it is an object. `ValidationError`, `EncodeError`."""
    if isinstance(given, bytes | bytearray | memoryview):
        return check_raw(given, field="metadata")
    if not isinstance(given, Mapping):
        raise ValidationError("metadata", f"must be a dict or the JSON text of an object, not {type(given).__name__}")
    return encode_object(dict(given), field="metadata")


def decode(raw: bytes) -> Any:
    """Stored JSON as Python values, every digit kept: a Decimal where a float would lose one. `DecodeError`."""
    try:
        if _MAY_LOSE_DIGITS.search(raw) is None:
            return orjson.loads(raw)
        return loads_exact(raw)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise DecodeError(f"stored JSON cannot be read: {error}") from error


def raw_members(text: bytes) -> dict[str, bytes]:
    """The members of a stored JSON object by key, with each value as it stands. `ValueError` for what is none."""
    found = {}
    rest = text.decode()
    position = _begin_of(rest, "{")
    while rest[position] != "}":
        key, position = _SKIP.raw_decode(rest, position)
        begin = _SPACES.match(rest, _SPACES.match(rest, position).end() + 1).end()  # type: ignore[union-attr]
        _, position = _SKIP.raw_decode(rest, begin)
        found[key] = rest[begin:position].encode()
        position = _next_of(rest, position)
    return found


def raw_elements(text: bytes) -> list[bytes]:
    """The elements of a stored JSON array, each as it stands. `ValueError` for what is no array."""
    found = []
    rest = text.decode()
    position = _begin_of(rest, "[")
    while rest[position] != "]":
        begin = position
        _, position = _SKIP.raw_decode(rest, begin)
        found.append(rest[begin:position].encode())
        position = _next_of(rest, position)
    return found


def _begin_of(text: str, opening: str) -> int:
    if not text.startswith(opening):
        raise ValueError(f"begins with {text[:1]!r}, not with {opening!r}")
    return _SPACES.match(text, 1).end()  # type: ignore[union-attr]


def _next_of(text: str, position: int) -> int:
    """Behind a value: the next one, or the closing bracket."""
    position = _SPACES.match(text, position).end()  # type: ignore[union-attr]
    return _SPACES.match(text, position + 1).end() if text[position] == "," else position  # type: ignore[union-attr]


def refuse_non_finite(value: Any, field: str = "args") -> None:
    """`EncodeError` if a NaN or an infinity is anywhere inside: some encoders write them as null."""
    for path, leaf in leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise EncodeError(field, f"{leaf!r} at {path} is not JSON")


def leaves(value: Any, path: str = "$") -> Iterator[tuple[str, Any]]:
    """Every scalar, and every object key, with its path; without recursion."""
    stack = [(path, value)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            for key, member in value.items():
                yield path, key
                stack.append((member_path(path, key), member))
        elif isinstance(value, list | tuple):
            stack.extend((f"{path}[{index}]", element) for index, element in enumerate(value))
        else:
            yield path, value


def member_path(path: str, key: object) -> str:
    text = key if isinstance(key, str) else repr(key)
    if _IDENTIFIER.match(text) and len(text) <= 80:
        return f"{path}.{text}"
    return f"{path}[{text[:80]!a}]"


class _Copier:
    """Makes a checked copy out of exact builtins only, so that encoding runs nobody else's code. Without recursion."""

    __slots__ = ("_field", "_keys", "_limit", "_nodes", "_open", "_stack", "_structs")

    def __init__(self, field: str, limit: int, structs: bool) -> None:
        self._field = field
        self._limit = limit
        self._structs = structs
        self._nodes = 0
        self._open: set[int] = set()  # ids of the containers around the present value
        self._keys: list[object] = []  # the present key of each of them: the path
        # for each: its id, what is left of it, its copy, and whether its keys are to be sorted
        self._stack: list[tuple[int, Iterator[tuple[Any, Any]], Any, bool]] = []

    def copy(self, members: dict[str, Any]) -> dict[str, Any]:
        root: dict[str, Any] = self._enter(members, dict.items(members), {}, False)
        while self._stack:
            identity, rest, made, sort = self._stack[-1]
            for key, value in rest:
                self._keys[-1] = key
                if type(made) is list:
                    made.append(self._value(value))
                elif isinstance(key, str) and not isinstance(key, Enum):
                    made[str.__str__(key)] = self._value(value)
                else:
                    self._keys.pop()
                    raise EncodeError(self._field, f"key {ascii(key)[:80]} at {self._path()} must be a str")
                if self._stack[-1][1] is not rest:
                    break  # into the container that was found; the rest follows
            else:
                self._stack.pop()
                self._keys.pop()
                self._open.discard(identity)
                if sort:
                    members_in_order = sorted(made.items())
                    made.clear()
                    made.update(members_in_order)
        return root

    def _value(self, value: Any) -> Any:
        if type(value) in PLAIN:
            return value
        if isinstance(value, float):
            number = float.__float__(value)
            if not math.isfinite(number):
                raise EncodeError(self._field, f"{number!r} at {self._path()} is not JSON")
            return number
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, dict):
            return self._enter(value, dict.items(value), {}, self._structs)
        if isinstance(value, list):
            return self._enter(value, enumerate(list.__iter__(value)), [], False)
        if isinstance(value, tuple):
            return self._enter(value, enumerate(tuple.__iter__(value)), [], False)
        if self._structs and is_dataclass(value) and not isinstance(value, type | Enum):
            return self._enter(value, self._fields_of(value), {}, False)
        raise EncodeError(
            self._field,
            f"{type(value).__qualname__} at {self._path()} has no JSON form: "
            "convert it to str, int, float, bool, list or dict",
        )

    def _fields_of(self, value: Any) -> list[tuple[str, Any]]:
        try:
            return [(f.name, getattr(value, f.name)) for f in fields(value)]
        except Exception as error:  # an unset slot, or a property that raises
            raise EncodeError(self._field, f"a field at {self._path()} cannot be read: {error!r}") from error

    def _enter(self, value: Any, members: Iterable[tuple[Any, Any]], made: Any, sort: bool) -> Any:
        if id(value) in self._open:
            raise EncodeError(self._field, f"{self._path()} holds itself")
        if len(self._stack) >= MAX_DEPTH:
            raise EncodeError(self._field, f"nested deeper than {MAX_DEPTH} levels")
        frozen = list(members)
        self._nodes += len(frozen)  # each takes two bytes or more: what refers to itself many times ends here
        if self._nodes * 2 > self._limit + 2:
            _refuse_size(self._field, self._nodes * 2, self._limit)
        self._open.add(id(value))
        self._keys.append(None)
        self._stack.append((id(value), iter(frozen), made, sort))
        return made

    def _path(self) -> str:
        path = "$"
        for key in self._keys:
            path = f"{path}[{key}]" if isinstance(key, int) else member_path(path, key)
        return path


def _dumps_slowly(value: Any, field: str) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
        return text.encode()
    except UnicodeEncodeError:
        for path, leaf in leaves(value):
            if isinstance(leaf, str) and _has_surrogate(leaf):
                raise EncodeError(field, f"lone surrogate at {path} cannot be stored") from None
        raise
    except RecursionError:
        raise EncodeError(field, "nested too deeply for this stack") from None
    except ValueError as error:  # more than 4,300 digits
        raise EncodeError(field, f"cannot be written as JSON: {error}") from error


def _loads_strictly(raw: bytes, field: str, why: Exception) -> Any:
    """The value of JSON text that orjson refused, if it is JSON after all; numbers as text."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EncodeError(field, f"invalid UTF-8 at byte {error.start}") from None

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(text, parse_float=str, parse_int=str, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise EncodeError(field, f"not valid JSON: {why}") from None
    for path, leaf in leaves(value):
        if isinstance(leaf, str) and _has_surrogate(leaf):
            raise EncodeError(field, f"lone surrogate at {path} cannot be stored")
    return value


def _check_numbers(text: str, field: str) -> None:
    for match in _STRING_OR_NUMBER.finditer(text):
        token = match.group()
        if token[0] == '"':
            continue
        try:
            number = Decimal(token)
        except InvalidOperation:
            raise EncodeError(field, "a number is out of PostgreSQL's range") from None
        exponent = number.as_tuple().exponent
        assert isinstance(exponent, int)
        if number.adjusted() >= MAX_DIGITS or -exponent > MAX_SCALE:
            raise EncodeError(field, f"a number has more than {MAX_DIGITS} digits, or {MAX_SCALE} behind the point")


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    for byte in re.sub(rb"[^][{}]", b"", _STRING.sub(b"", raw)):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def is_utf8(text: str) -> bool:
    """Whether it holds no half of a character (a lone surrogate)."""
    return not _has_surrogate(text)


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_nul(value: Any, field: str) -> None:
    """`\\u0000` in the text may also be an escaped backslash followed by u0000, which is fine."""
    for path, leaf in leaves(value):
        if isinstance(leaf, str) and "\0" in leaf:
            raise EncodeError(field, f"NUL at {path} cannot be stored by PostgreSQL")


def _refuse_size(field: str, size: int, limit: int) -> NoReturn:
    raise ValidationError(field, f"is {size} bytes of JSON or more, above the limit of {limit} (Config.max_args_bytes)")


def _json_type(value: Any) -> str:
    names: dict[type, str] = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
