"""PostgreSQL's binary formats, written: arrays for statements, rows for COPY.

Pure functions, any thread. Built by joins over whole columns: an insert of thousands of jobs costs a few appends a job.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BinaryParam:
    """A statement's parameter, already in PostgreSQL's binary form (None: NULL); `oid` its type."""

    oid: int
    data: bytes | None


# element type -> array type
BYTEA, INT2, INT4, TEXT, TIMESTAMPTZ, JSONB = 17, 21, 23, 25, 1184, 3802
_ARRAY_OF = {BYTEA: 1001, INT2: 1005, INT4: 1007, TEXT: 1009, TIMESTAMPTZ: 1185, JSONB: 3807}

_HEADER = struct.Struct("!iiIii").pack  # dimensions, has NULLs, element type, length, lower bound
_LENGTH = struct.Struct("!i").pack
_INT2 = struct.Struct("!ih").pack
_INT4 = struct.Struct("!ii").pack
_INT8 = struct.Struct("!iq").pack
_JSONB = struct.Struct("!iB").pack  # length, then jsonb's version byte
NULL = _LENGTH(-1)

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_TRAILER = struct.pack("!h", -1)
VARCHAR = 1043


def text_element(value: bytes) -> bytes:
    """One text or bytea value with its length."""
    return _LENGTH(len(value)) + value


def optional_element(value: bytes | None) -> bytes:
    return NULL if value is None else _LENGTH(len(value)) + value


def jsonb_element(text: bytes) -> bytes:
    return _JSONB(len(text) + 1, 1) + text


class _Heads(dict[int, bytes]):
    """By a JSON text's length, what stands before it: `before`, the length, jsonb's version byte."""

    def __init__(self, before: bytes) -> None:
        self._before = before

    def __missing__(self, size: int) -> bytes:
        head = self[size] = self._before + _JSONB(size + 1, 1)
        return head


def jsonb_elements(texts: Sequence[bytes], before: bytes = b"") -> bytes:
    """Many of `jsonb_element`, each behind `before`. Few texts of a batch differ in length: nearly all of it is C."""
    parts = [b""] * (2 * len(texts))
    parts[::2] = map(_Heads(before).__getitem__, map(len, texts))
    parts[1::2] = texts
    return b"".join(parts)


def param(element_type: int, element: bytes) -> BinaryParam:
    """An element as a parameter by itself."""
    return BinaryParam(element_type, None if element == NULL else element[4:])


def int2_element(value: int) -> bytes:
    return _INT2(2, value)


def int4_element(value: int | None) -> bytes:
    return NULL if value is None else _INT4(4, value)


def int8_element(value: int | None) -> bytes:
    """Also a timestamptz, as microseconds since 2000."""
    return NULL if value is None else _INT8(8, value)


def text_array_element(values: Sequence[bytes], element_type: int = VARCHAR) -> bytes:
    """A value that is itself an array of text, for COPY."""
    if not values:
        return _LENGTH(12) + struct.pack("!iiI", 0, 0, element_type)
    body = _HEADER(1, 0, element_type, len(values), 1) + b"".join(map(text_element, values))
    return _LENGTH(len(body)) + body


def array(element_type: int, elements: Sequence[bytes]) -> BinaryParam:
    """A one-dimensional array of encoded elements (length and value each)."""
    return BinaryParam(_ARRAY_OF[element_type], _HEADER(1, 1, element_type, len(elements), 1) + b"".join(elements))


def jsonb_array(values: Sequence[bytes]) -> BinaryParam:
    """Of JSON texts."""
    return BinaryParam(_ARRAY_OF[JSONB], _HEADER(1, 1, JSONB, len(values), 1) + jsonb_elements(values))


def texts(values: Iterable[str]) -> BinaryParam:
    elements = [text_element(value.encode()) for value in values]
    if not elements:
        return BinaryParam(_ARRAY_OF[TEXT], struct.pack("!iiI", 0, 0, TEXT))
    return array(TEXT, elements)


def copy_stream(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A binary COPY of encoded rows, so many in a chunk as its maker liked."""
    yield COPY_HEADER
    yield from chunks
    yield COPY_TRAILER
