"""JSON text as Go's encoder writes it: what unique keys are hashed over. River: dbunique's args encoding.

Pure functions, any thread. Works on encoded text, because River does: a key covers the raw text of each member, so two
clients agree exactly when they write the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from river_fast.errors import ValidationError

# Go escapes these inside strings, everywhere; outside strings they cannot occur.
_GO_ESCAPES = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}
_NEEDS_GO_ESCAPE = re.compile("[<>&\u2028\u2029]")
_PLAIN_KEY = re.compile(r'\A[\x20-\x21\x23-\x5b\x5d-\x7f]*\Z')
_PATH_SYNTAX = re.compile(r"[@!{}\[\]:.*?#|\\]")
_STRING_OR_SPACE = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')
_STRING_OR_FLOAT = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)')
_MAYBE_FLOAT = re.compile(r"[0-9][.eE]")
_SPACE = re.compile(r"[ \t\r\n]")
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, strict=False)

Path = tuple[str, ...]


def canonical_args(raw: bytes, paths: Sequence[Path] = (), *, go_floats: bool = False) -> str:
    """The text that `by_args` hashes, of args encoded as `raw`.

    No `paths`: the top-level members sorted by the bytes of their keys, values as encoded. With `paths`: those members
    that are there, nested as they were, in the paths' order; none there: the empty string. `go_floats`: the text
    is another encoder's, so floats are rewritten as Go writes them.
    """
    text = go_text(raw.decode(), go_floats)
    if text == "[]":
        return "" if paths else "{}"
    if not text.startswith("{"):
        raise ValidationError("args", "must be a JSON object to be unique by args")
    if paths:
        return _selected(text, paths)
    members = dict(reversed(list(_members(text))))  # of equal keys the first counts
    return "{" + ",".join(f"{key_text(key)}:{members[key]}" for key in sorted(members)) + "}"


def sort_paths(paths: Sequence[Path]) -> tuple[Path, ...]:
    """River's order of selected members: by the parts joined with dots, ties by the escaped path."""
    return tuple(sorted(paths, key=lambda path: (".".join(path).encode(), _escaped(path).encode())))


def go_text(text: str, go_floats: bool = False) -> str:
    """JSON text compacted and escaped as Go's encoder leaves it; numbers are kept unless `go_floats`."""
    if _SPACE.search(text):
        text = _STRING_OR_SPACE.sub(r"\1", text)
    if _NEEDS_GO_ESCAPE.search(text):
        text = _NEEDS_GO_ESCAPE.sub(lambda match: _GO_ESCAPES[match.group()], text)
    if go_floats and _MAYBE_FLOAT.search(text):
        text = _STRING_OR_FLOAT.sub(_go_float_token, text)
    return text


def key_text(key: str) -> str:
    """A rewritten key: River leaves plain ASCII as it is, `<`, `>` and `&` included, and has Go write any other."""
    if _PLAIN_KEY.match(key):
        return f'"{key}"'
    return go_string(key)


def go_string(text: str) -> str:
    """A string as Go's encoder writes it."""
    return go_text(json.dumps(text, ensure_ascii=False))


def go_time(at: datetime) -> str:
    """An aware time in UTC as Go writes it: RFC 3339, a fraction without trailing zeros, none for a whole second."""
    text = at.astimezone(UTC).isoformat().removesuffix("+00:00")
    return (text.rstrip("0") if "." in text else text) + "Z"


def go_float(value: float) -> str:
    """A float64 as Go writes it: the shortest digits, an exponent below 1e-6 and from 1e21."""
    if value == 0:
        return "-0" if str(value).startswith("-") else "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    prefix = "-" if sign else ""
    if 1e-6 <= abs(value) < 1e21:
        return prefix + format(Decimal((0, digits, exponent)), "f")
    power = exponent + len(text) - 1
    mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
    return f"{prefix}{mantissa}e{'-' if power < 0 else '+'}{abs(power)}"


def _go_float_token(match: re.Match[str]) -> str:
    token = match.group()
    return token if token[0] == '"' else go_float(float(token))


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Key (decoded) and value (raw) of each member of a compact object."""
    position = 1
    while text[position] != "}":
        key, end = _DECODER.raw_decode(text, position)
        _, position = _DECODER.raw_decode(text, end + 1)
        yield key, text[end + 1 : position]
        if text[position] == ",":
            position += 1


def _selected(text: str, paths: Sequence[Path]) -> str:
    tree: dict[str, Any] = {}
    parsed: dict[Path, dict[str, str]] = {(): _first_members(text)}
    for path in paths:
        raw = _lookup(parsed, path)
        if raw is None:
            continue
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = raw
    return _write(tree) if tree else ""


def _lookup(parsed: dict[Path, dict[str, str]], path: Path) -> str | None:
    """The raw value at `path`, None where it is missing; objects on the way are split once."""
    for depth in range(1, len(path)):
        parent = path[:depth]
        if parent not in parsed:
            raw = parsed[parent[:-1]].get(parent[-1], "")
            parsed[parent] = _first_members(raw) if raw.startswith("{") else {}
    return parsed[path[:-1]].get(path[-1])


def _first_members(text: str) -> dict[str, str]:
    return dict(reversed(list(_members(text))))


def _write(node: dict[str, Any] | str) -> str:
    if isinstance(node, str):
        return node
    return "{" + ",".join(f"{key_text(key)}:{_write(value)}" for key, value in node.items()) + "}"


def _escaped(path: Path) -> str:
    return ".".join(_PATH_SYNTAX.sub(r"\\\g<0>", part) for part in path)
