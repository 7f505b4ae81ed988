"""What our rules compute from the suite's values: every fixture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.contract import DATA
from tests.conformance.process import AdapterProcess

FIXTURES = Path(__file__).parent.parent / "data"
VALUES = json.loads((DATA / "protocol_values.json").read_text("utf-8"))


def unique_cases() -> list[tuple[dict[str, Any], bytes]]:
    """Each case with its text as it stands in the file, on one line: the key covers the text of the args."""
    text = (FIXTURES / "unique_keys.json").read_text("utf-8")
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, strict=False)
    found = []
    for match in re.finditer(r"^    (?=\{)", text, re.MULTILINE):
        case, end = decoder.raw_decode(text, match.end())
        if "expected_sha256" in case or "expected_error" in case:
            found.append((case, text[match.end() : end].replace("\n", "").encode()))
    return found


CASES = unique_cases()


def test_fixture_was_read_wholly() -> None:
    assert len(CASES) == 31


@pytest.mark.parametrize(("case", "raw"), CASES, ids=[case["name"] for case, _ in CASES])
def test_unique_keys(adapter: AdapterProcess, case: dict[str, Any], raw: bytes) -> None:
    answer = adapter.ask(b'{"jsonrpc":"2.0","id":1,"method":"unique_key","params":' + raw + b"}")
    if "expected_error" in case:
        assert answer["error"]["code"] == -32002
    else:
        assert answer["result"] == {
            "sha256": case["expected_sha256"],
            "state_mask": int(case["expected_state_mask"]),
        }


CRON = json.loads((FIXTURES / "maintenance_values.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CRON["cron_cases"] + CRON["cron_named_zone_cases"], ids=lambda case: case["name"])
def test_cron_schedules(adapter: AdapterProcess, case: dict[str, Any]) -> None:
    count = max(len(case["next"]), 5)
    told = adapter.call("cron_next", expression=case["expression"], **{"from": case["from"]}, count=count)
    assert told["next"] == case["next"]


@pytest.mark.parametrize("expression", CRON["cron_invalid"])
def test_invalid_cron_expressions_are_rejected(adapter: AdapterProcess, expression: str) -> None:
    at = {"from": "2026-01-02T03:04:05Z"}
    assert adapter.refused("cron_next", expression=expression, **at, count=1) == "rejected"
    assert adapter.refused("cron_next", expression="@daily", **at, count=0) == "invalid_params"


def test_retry_delays_lie_within_rivers_bounds(adapter: AdapterProcess, make_adapter: Any) -> None:
    assert make_adapter().refused("retry_delay", error_count=1, job_id=1) == "rejected"
    for case in VALUES["retry_cases"]:
        adapter.call("clock_set", now=case["now"])
        adapter.call("rng_seed", seed=case["seed"])
        told = adapter.call("retry_delay", error_count=case["error_count"], job_id=case["job_id"])
        assert case["min_delay_ns"] <= told["delay_ns"] <= case["max_delay_ns"]
    assert adapter.refused("retry_delay", error_count=0, job_id=1) == "invalid_params"
