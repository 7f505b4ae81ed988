"""`job_complete_tx.sql`, the statement: fenced, and merging on the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from river_fast.driver import Statement, stored_rows
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.job import Job
from tests.fix_rows import column, insert

Complete = Callable[..., list[Job[Any]]]


@pytest.fixture
def complete(dsn: str, schema: str, conn: psycopg.Connection) -> Iterator[Complete]:
    driver = PsycopgDriver(dsn, schema)

    def run(job_id: int, attempt: int, attempted_at: datetime | None, metadata: str | None = None) -> list[Job[Any]]:
        params = {"id": job_id, "attempt": attempt, "attempted_at": attempted_at, "metadata": metadata}
        with psycopg.connect(dsn) as theirs:
            return [Job(row) for row in driver.on(theirs).run(Statement("job_complete_tx", params, stored_rows))]

    yield run
    driver.close()


def test_the_run_named_is_completed_and_returned_as_stored(complete: Complete, conn: psycopg.Connection) -> None:
    job_id = insert(conn, "running", metadata='{"a": 1, "b": 2}')
    (job,) = complete(job_id, 1, column(conn, job_id, "attempted_at"), '{"b": 3, "output": [1]}')
    assert (job.state, job.metadata) == ("completed", {"a": 1, "b": 3, "output": [1]})
    assert job.finalized_at == column(conn, job_id, "finalized_at")
    assert column(conn, job_id, "state") == "completed"


def test_without_staged_metadata_the_stored_one_stays_whatever_it_is(
    complete: Complete, conn: psycopg.Connection
) -> None:
    job_id = insert(conn, "running", metadata="[1]")
    complete(job_id, 1, column(conn, job_id, "attempted_at"))
    assert column(conn, job_id, "metadata") == [1]


@pytest.mark.parametrize("metadata", ["[1]", "null", '"x"'])
def test_metadata_that_is_no_object_gives_way_to_what_was_staged(
    complete: Complete, conn: psycopg.Connection, metadata: str
) -> None:
    job_id = insert(conn, "running", metadata=metadata)
    complete(job_id, 1, column(conn, job_id, "attempted_at"), '{"a": 1}')
    assert column(conn, job_id, "metadata") == {"a": 1}


def test_a_requested_cancel_does_not_stop_it(complete: Complete, conn: psycopg.Connection) -> None:
    job_id = insert(conn, "running", metadata='{"cancel_attempted_at": "2026-01-01T00:00:00Z"}')
    (job,) = complete(job_id, 1, column(conn, job_id, "attempted_at"))
    assert job.state == "completed"


@pytest.mark.parametrize("wrong", ["attempt", "attempted_at", "null", "state", "id"])
def test_any_other_run_is_left_alone(complete: Complete, conn: psycopg.Connection, wrong: str) -> None:
    state = "retryable" if wrong == "state" else "running"
    job_id = insert(conn, state, attempt=1, attempted_at="2020-01-01T00:00:00Z")
    at = column(conn, job_id, "attempted_at")
    before = column(conn, job_id, "xmin::text")
    named = {
        "attempt": (job_id, 2, at),
        "attempted_at": (job_id, 1, at + timedelta(microseconds=1)),
        "null": (job_id, 1, None),
        "state": (job_id, 1, at),
        "id": (job_id + 1, 1, at),
    }[wrong]
    assert complete(*named, '{"a": 1}') == []
    assert column(conn, job_id, "xmin::text") == before
