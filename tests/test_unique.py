"""Unique keys against River's own fixture, and the rules of `UniqueOpts`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from river_fast.canonical_json import canonical_args, go_float, sort_paths
from river_fast.errors import ValidationError
from river_fast.insert_opts import UniqueOpts
from river_fast.job_args import RawArgs, args_info
from river_fast.unique import period_start, states_mask, unique_key, unique_rule

FIXTURE = Path(__file__).parent / "data" / "unique_keys.json"


def _cases() -> list[dict[str, Any]]:
    """Each case with the raw text of its args beside them: the key covers the text."""
    text = FIXTURE.read_text("utf-8")
    loaded = json.loads(text)
    cases = loaded["cases"] + loaded["typed_only_cases"]
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    starts = [match.end() for match in re.finditer(r'\n      "args": ', text)]
    assert len(starts) == len(cases) == 31
    for case, start in zip(cases, starts, strict=True):
        case["raw"] = text[start : decoder.raw_decode(text, start)[1]].encode()
    return cases


def _key_of(case: dict[str, Any], args: bytes, *, go_floats: bool) -> bytes:
    options = case["options"]
    rule = unique_rule(
        UniqueOpts(
            by_args=options["by_args"],
            by_period=options["by_period_nanos"] / 1e9 or None,
            by_queue=options["by_queue"],
            by_state=options.get("by_state"),
            exclude_kind=options["exclude_kind"],
        )
    )
    assert rule.states == case["expected_state_mask"]
    return unique_key(
        rule,
        kind=case["kind"],
        queue=case["queue"],
        args=args,
        at=datetime.fromisoformat(case["scheduled_at"] or case["now"]),
        paths=sort_paths([tuple(path) for path in case.get("selected_unique_components") or ()]),
        go_floats=go_floats,
    )


@pytest.mark.parametrize("go_floats", [False, True], ids=["raw", "rewritten"])
@pytest.mark.parametrize("case", _cases(), ids=lambda case: case["name"])
def test_key_equals_rivers(case: dict[str, Any], go_floats: bool) -> None:
    if "expected_error" in case:
        with pytest.raises(ValidationError, match="object"):
            _key_of(case, case["raw"], go_floats=go_floats)
    else:
        assert _key_of(case, case["raw"], go_floats=go_floats).hex() == case["expected_sha256"]


@pytest.mark.parametrize(
    "case",
    [case for case in _cases() if "expected_error" not in case and isinstance(case["args"], dict)],
    ids=lambda case: case["name"],
)
def test_key_of_python_values_equals_rivers(case: dict[str, Any]) -> None:
    if b"\\u0000" in case["raw"]:  # PostgreSQL could not store it
        with pytest.raises(ValidationError, match="NUL"):
            args_info(RawArgs("kind", case["args"])).encode(RawArgs("kind", case["args"]))
        return
    args = json.loads(case["raw"], object_pairs_hook=_first_wins, parse_int=_go_int)
    raw = args_info(RawArgs(case["kind"], args)).encode(RawArgs(case["kind"], args))
    assert _key_of(case, raw, go_floats=True).hex() == case["expected_sha256"]


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(dict(reversed(pairs)).items()))


def _go_int(text: str) -> int | float:
    """In Go these were floats, written without a point."""
    return -0.0 if text == "-0" else int(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (-0.0, "-0"), (0.0, "0"), (1e20, "100000000000000000000"), (1e21, "1e+21"),
        (1e16, "10000000000000000"),
        (1e-6, "0.000001"), (1e-7, "1e-7"), (5e-324, "5e-324"), (1.7976931348623157e308, "1.7976931348623157e+308"),
        (-1.5e-9, "-1.5e-9"), (123456.789, "123456.789"), (0.1, "0.1"), (9.999999999999999e20, "999999999999999900000"),
    ],
)
def test_floats_are_written_as_go_writes_them(value: float, text: str) -> None:
    assert go_float(value) == text


def test_white_space_between_tokens_counts_for_nothing() -> None:
    spaced = b' { "b" : [ 1 , "a  b" ] ,\n\t"a" : { "x" : "\\" :" } } '
    assert canonical_args(spaced) == '{"a":{"x":"\\" :"},"b":[1,"a  b"]}'


def test_members_beside_the_selected_ones_count_for_nothing() -> None:
    paths = sort_paths([("b",), ("a", "x")])
    assert canonical_args(b'{"b":1,"a":{"x":2,"y":3},"c":4}', paths) == '{"a":{"x":2},"b":1}'
    assert canonical_args(b'{"b":1,"a":null}', paths) == '{"b":1}'
    assert canonical_args(b'{"b":1,"a":[1]}', paths) == '{"b":1}'


@pytest.mark.parametrize(
    ("at", "period", "start"),
    [
        ("2026-01-02T03:04:05.6789Z", timedelta(days=7), "2025-12-29T00:00:00Z"),  # weeks begin on Monday
        ("2026-01-02T03:04:05.6789Z", timedelta(hours=1), "2026-01-02T03:00:00Z"),
        ("1969-12-31T23:59:59.5Z", timedelta(seconds=1), "1969-12-31T23:59:59Z"),
        ("0001-01-01T00:00:01Z", timedelta(days=1), "0001-01-01T00:00:00Z"),
    ],
)
def test_period_begins_where_go_truncates(at: str, period: timedelta, start: str) -> None:
    assert period_start(datetime.fromisoformat(at), period // timedelta(microseconds=1) * 1000) == start


def test_default_states_are_all_but_cancelled_and_discarded() -> None:
    assert states_mask(None) == states_mask([]) == 245
    assert states_mask(["available", "pending", "running", "scheduled"]) == 1 + 16 + 64 + 128


def test_missing_required_states_are_named() -> None:
    with pytest.raises(ValidationError, match="missing: pending, scheduled"):
        states_mask(["available", "running"])


@pytest.mark.parametrize(
    "opts",
    [
        UniqueOpts(by_period=0.5), UniqueOpts(by_period=-1), UniqueOpts(by_period=float("nan")),
        UniqueOpts(by_period=float("inf")), UniqueOpts(by_period=11 * 366 * 86400), UniqueOpts(by_period=timedelta(-1)),
        UniqueOpts(by_period=True), UniqueOpts(by_period="1h"),  # type: ignore[arg-type]
        UniqueOpts(exclude_kind=True), UniqueOpts(exclude_kind=True, by_state=["available"]),
        UniqueOpts(by_state=["nonsense"]), UniqueOpts(by_state="available"),
        UniqueOpts(by_args=1),  # type: ignore[arg-type]
        UniqueOpts(by_state=["available", "pending", "running", "scheduled", "available"]),
    ],
    ids=repr,
)
def test_bad_unique_options_are_refused(opts: UniqueOpts) -> None:
    with pytest.raises(ValidationError) as caught:
        unique_rule(opts)
    assert caught.value.field == "unique"


def test_kind_can_be_left_out_of_the_key() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    keys = {
        unique_key(unique_rule(UniqueOpts(by_queue=True, exclude_kind=True)), kind=kind, queue="q", args=b"{}", at=at)
        for kind in ("one", "two")
    }
    assert len(keys) == 1
