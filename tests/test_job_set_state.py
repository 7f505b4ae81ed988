"""The counter of snoozes, against River's own fixture."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.job_set_state import snooze_count
from tests.fix_client import Args, make_client, until, workers_of
from tests.fix_rows import insert

__all__ = ["make_client", "until"]

FIXTURE = Path(__file__).parent / "data" / "maintenance_values.json"
CASES: list[dict[str, Any]] = json.loads(FIXTURE.read_text("utf-8"))["snooze_counters"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_snoozes_are_counted_as_rivers(case: dict[str, Any]) -> None:
    assert snooze_count(case["metadata"].get("snoozes")) == case["expected_snoozes"]


@pytest.mark.parametrize(
    "stored",
    [2**63, -(2**63) - 1, 1e300, float("inf"), float("nan"), Decimal("1e999"), "9" * 5000, "-", "", "٣", "5\n"],
)
def test_what_is_no_count_begins_anew(stored: Any) -> None:
    assert snooze_count(stored) == 1


def test_counters_that_others_wrote_go_on_in_their_rows(make_client: Any, conn: psycopg.Connection, until: Any) -> None:
    def snooze(job: river.Job[Args]) -> None:
        raise river.JobSnoozeError(3600)

    ids = [insert(conn, kind="test_job", metadata=json.dumps(case["metadata"])) for case in CASES]
    make_client(workers_of(snooze)).start()
    until("SELECT count(*) FROM river_job WHERE state = 'scheduled' AND attempt = 0", len(CASES))
    rows = dict(conn.execute("SELECT id, metadata -> 'snoozes' FROM river_job").fetchall())
    assert [rows[id] for id in ids] == [case["expected_snoozes"] for case in CASES]
