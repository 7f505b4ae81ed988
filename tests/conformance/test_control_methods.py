"""What our rules compute from the suite's values: every fixture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from river_fast.control import CONTROL_TOPIC, INSERT_TOPIC, LEADERSHIP_TOPIC, parse_control
from river_fast.periodic_job import PERIODIC_JOB_ID
from river_fast.resumable import CURSOR_KEY, STEP_KEY
from tests.conformance.contract import DATA
from tests.conformance.process import AdapterProcess
from tests.conformance.values import NONCE
from tests.fix_client import eventually

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


def test_names_are_rivers() -> None:
    assert VALUES["topics"] == {"control": CONTROL_TOPIC, "insert": INSERT_TOPIC, "leadership": LEADERSHIP_TOPIC}
    keys = VALUES["metadata_keys"]
    assert (keys["periodic_job_id"], keys["resumable_step"]) == (PERIODIC_JOB_ID, STEP_KEY)
    assert (keys["resumable_cursor"], keys["unique_nonce"]) == (CURSOR_KEY, NONCE)


@pytest.mark.parametrize("told", VALUES["notifications"], ids=lambda told: told["name"])
def test_messages_are_read_as_river_writes_them(told: dict[str, Any]) -> None:
    if told["topic"] == CONTROL_TOPIC:
        message = parse_control(told["payload"])
        assert message is not None
        assert (message.action, message.queue) == (told["payload"]["action"], told["payload"]["queue"])
        assert message.job_id == told["payload"].get("job_id", 0)
        assert message.metadata == told["payload"].get("metadata")


def test_no_key_of_metadata_is_written_but_rivers_and_the_jobs_own(
    adapter: AdapterProcess, database: psycopg.Connection
) -> None:
    adapter.call("start", client_id="c", retry_delay_ms=1, periodic_run_on_start=True, elect_interval_ms=50)
    for behavior in ("output", "error", "snooze_once", "resumable_cursor", "transactional_complete", "cancel"):
        job = adapter.call("insert", behavior=behavior, opts={"max_attempts": 3})
        adapter.call("wait", id=job["id"])
    adapter.call("retry", id=job["id"])
    adapter.call("cancel", id=adapter.call("insert", opts={"pending": True})["id"])
    eventually(lambda: adapter.call("list", metadata={"periodic": True})["jobs"])
    reserved = {entry["key"] for entry in VALUES["reserved_metadata_keys"]}
    own = {"first_attempt", "cursor_observed", "transactional_completion"}
    written = database.execute("SELECT DISTINCT jsonb_object_keys(metadata) FROM river_job").fetchall()
    assert {"output", "snoozes", "periodic", "river:resumable_step"} <= {key for (key,) in written} <= reserved | own
