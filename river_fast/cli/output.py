"""How results are shown: tables for people, JSON for programs.

Pure but for printing. JSON is one line of UTF-8, times in RFC 3339 UTC, numbers with every digit they are stored with.
Nothing that was stored can steer a terminal: what cannot be printed is written out as an escape.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson

from river_fast.canonical_json import go_time

GAP = "  "


def print_json(value: Any) -> None:
    """`value`: what orjson writes, with `raw` for JSON text as it is stored."""
    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()


def raw(text: bytes) -> orjson.Fragment:
    """JSON text that goes into the output as it is, digit by digit."""
    return orjson.Fragment(text or b"null")


def time_text(at: datetime | None) -> str | None:
    """RFC 3339 in UTC, None for no time."""
    return None if at is None else go_time(at)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """One line a row; columns as wide as their widest cell, numbers to the right. None is shown as `-`."""
    cells = [[printable("-" if cell is None or cell == "" else str(cell)) for cell in row] for row in rows]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(headers))]
    table = [list(headers), *cells]
    widths = [max(_width(row[i]) for row in table) for i in range(len(headers))]
    for row in table:
        line = GAP.join(_padded(cell, width, right) for cell, width, right in zip(row, widths, numeric, strict=True))
        print(line.rstrip())


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """One line a field: its name, then its value. None is shown as `-`."""
    shown = [(name, printable("-" if value is None or value == "" else str(value))) for name, value in fields]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}{GAP}{value}")


def printable(text: str) -> str:
    """With control characters, and what else no terminal shows, written out as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _width(text: str) -> int:
    return len(text) if text.isascii() else sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").removeprefix("-").replace(".", "", 1).isdigit()
