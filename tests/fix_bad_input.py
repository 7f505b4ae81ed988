"""The corpus of bad input for an insert; test_bad_input.py gives each piece to each entry point."""

from __future__ import annotations

import decimal
import enum
import math
import uuid
from collections import UserString
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any

from river_fast.insert_opts import InsertOpts, UniqueOpts
from river_fast.job_args import RawArgs
from tests.fix_inserter import EmailArgs


@dataclass(frozen=True)
class Bad:
    """`make` builds the args (it may raise itself: some kinds are refused at once), `opts` the options."""

    row: int
    what: str
    make: Callable[[], Any] = lambda: EmailArgs("a")
    opts: Any = None
    field: str = "args"


class Colour(enum.Enum):
    RED = 1


class RaisingZone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        raise RuntimeError("no zone data")


def _email(value: Any) -> Callable[[], Any]:
    return lambda: EmailArgs(value)


def _raw(value: Any) -> Callable[[], Any]:
    return lambda: RawArgs("raw", value)


def _kind(kind: Any) -> Callable[[], Any]:
    return lambda: RawArgs(kind, {})


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _cycle() -> Any:
    value: dict[str, Any] = {}
    value["me"] = value
    return RawArgs("raw", value)


ARGS = [
    Bad(1, "NUL", _email("x\0")),
    Bad(1, "NUL escaped", _raw(rb'{"a":"\u0000"}')),
    Bad(2, "NUL raw", _raw(b'{"a":"\0"}')),
    Bad(3, "lone surrogate", _email("\ud800")),
    Bad(3, "lone surrogate escaped", _raw(rb'{"a":"\ud800"}')),
    Bad(4, "reversed pair", _email("\udc00\ud800")),
    Bad(5, "NaN", _email(math.nan)),
    Bad(5, "infinity", _email([math.inf])),
    Bad(5, "minus infinity", _raw({"a": {"b": -math.inf}})),
    Bad(5, "NaN in text", _raw(b'{"a":NaN}')),
    Bad(6, "1e131071", _raw(b'{"a":1e131071}')),
    Bad(7, "1e131072", _raw(b'{"a":1e131072}')),
    Bad(7, "1e-16384", _raw(b'{"a":1e-16384}')),
    Bad(8, "10**4300", _email(10**4300)),
    Bad(8, "4301 digits", _raw(b'{"a":' + b"9" * 4301 + b"}")),
    Bad(10, "1,001 levels", _email(_nested(1001))),
    Bad(10, "20,000 levels of text", _raw(b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}")),
    Bad(11, "cycle", _cycle),
    *(
        Bad(12, type(value).__name__, _email(value))
        for value in (
            b"x", {1}, datetime.now(UTC), date.today(), decimal.Decimal(1), uuid.uuid4(), Colour.RED, object(), 1j,
            UserString("x"), range(3), EmailArgs,
        )
    ),
    Bad(12, "dataclass in raw args", _raw({"a": EmailArgs("x")})),
    Bad(13, "int key", _email({1: 2, "1": 3})),
    Bad(13, "bool key", _email({True: 1})),
    *(Bad(14, f"top level {value!r}", _raw(value)) for value in (b"null", b"1", b'"x"', b"[]", b"[1]", [1], 1, None)),
    *(Bad(14, f"given {given!r}", lambda given=given: given) for given in (None, 1, "a", [1], {"to": "a"}, EmailArgs)),
    Bad(15, "byte order mark", _raw(b'\xef\xbb\xbf{"a":1}')),
    Bad(15, "trailing comma", _raw(b'{"a":1,}')),
    Bad(15, "leading zero", _raw(b'{"a":01}')),
    Bad(15, "raw tab", _raw(b'{"a":"\t"}')),
    Bad(15, "nothing", _raw(b"")),
    Bad(16, "1 MiB and a byte", _email("x" * (1024 * 1024 - 18))),
    Bad(16, "2 MiB of text", _raw(b'{"a":"' + b"x" * 2**21 + b'"}')),
    Bad(18, "invalid UTF-8", _raw(b'{"a":"\xff"}')),
]  # fmt: skip
KIND = [
    Bad(row, repr(kind)[:20], _kind(kind), field="kind")
    for row, kinds in {
        22: ["", "k" * 128],
        23: ["k", "a b", "a,b", 'a"b', "a'b", "ab\n", "a\nb", "a\0b"],
        24: ["żółć", "\u202eab", "a\u200db", "\u212aelvin"],
        25: ["ł" * 127, None, 7, b"kind"],
    }.items()
    for kind in kinds
]
QUEUE = [
    Bad(row, repr(queue)[:20], opts=InsertOpts(queue=queue), field="queue")
    for row, queues in {
        28: ["", "q" * 65, "q" * 128],
        29: ["a" * 64 + "!", "a" * 63 + "!", "a" * 1_000_000 + "!"],
        30: ["default\n", "Default", "a--b", "-a", "a_", "a\0b", "ü"],
        31: ["*"],
        32: ["a'; NOTIFY x", 'a"}', 7, b"default"],
    }.items()
    for queue in queues
]
TAGS = [
    Bad(row, repr(tags)[:20], opts=InsertOpts(tags=tags), field="tags")
    for row, given in {
        33: [["ab"], ["x" * 256], [""]],
        34: [["a,b"], ['c"d'], ["e\\f"], ["{g}"], ['""'], ["\\."], ["a\tb"], ["abc\n"], ["-ab"], ["ab-"]],
        35: [[None], [["abc"]], "abc", iter(["abc"]), [f"tag{n}" for n in range(10_000)], ["abc", "abc"], {1}],
        36: [["a\0b"], ["abc\0"]],
    }.items()
    for tags in given
]
NUMBERS = [
    *(
        Bad(37, repr(priority), opts=InsertOpts(priority=priority), field="priority")
        for priority in (5, -1, 32768, True, False, 1.0, "1", 2**70)
    ),
    *(
        Bad(39, repr(attempts), opts=InsertOpts(max_attempts=attempts), field="max_attempts")
        for attempts in (-1, 32768, 2**63, True, 1.0, "1")
    ),
    Bad(39, "pending=1", opts=InsertOpts(pending=1), field="pending"),  # type: ignore[arg-type]
]
SCHEDULED_AT = [
    Bad(row, repr(at)[:40], opts=InsertOpts(scheduled_at=at), field="scheduled_at")
    for row, given in {
        41: [datetime(2026, 1, 1), datetime.min],
        42: [
            datetime.max,
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        ],
        46: [date(2026, 1, 1), 0, 1.5, "2026-01-01T00:00:00Z", timedelta(-1), True],
        47: [datetime(2026, 1, 1, tzinfo=RaisingZone())],
    }.items()
    for at in given
]
METADATA = [
    Bad(row, repr(metadata)[:24], opts=InsertOpts(metadata=metadata), field="metadata")
    for row, given in {
        48: [[], b"null", b"[]", b'"x"', b"1", 1, "x", b"{", {"a": math.nan}, {"a": "\0"}, {1: 2}, {"a": {1}}],
        49: [{"river:x": 1}, {"cancel_attempted_at": "x"}, b'{"snoozes":1}', {"river:log": []}],
        50: [{"a": "x" * 10_000_000}],
    }.items()
    for metadata in given
]
UNIQUE = [
    Bad(row, repr(unique)[:60], opts=InsertOpts(unique=unique), field="unique")
    for row, given in {
        51: [
            UniqueOpts(by_period=0.5), UniqueOpts(by_period=-1), UniqueOpts(by_period=20 * 366 * 86400),
            UniqueOpts(by_period=math.nan), UniqueOpts(by_period=timedelta(milliseconds=999)),
            UniqueOpts(by_period=True), UniqueOpts(by_period="1"),
        ],
        52: [UniqueOpts(by_state=["available"]), UniqueOpts(by_state=["completed"])],
        53: [
            UniqueOpts(by_state=["nonsense"]), UniqueOpts(by_state="available"), UniqueOpts(by_state=[7]),
            UniqueOpts(by_state=["available", "available", "pending", "running", "scheduled"]),
            UniqueOpts(exclude_kind=True), UniqueOpts(by_args=1), {"by_args": True}, True,
        ],
    }.items()
    for unique in given
]  # fmt: skip
OPTS = [Bad(39, repr(opts)[:20], opts=opts, field="opts") for opts in ({}, {"queue": "q"}, 3, "x", UniqueOpts())]
ALL = [*ARGS, *KIND, *QUEUE, *TAGS, *NUMBERS, *SCHEDULED_AT, *METADATA, *UNIQUE, *OPTS]
GOOD = EmailArgs("good")
