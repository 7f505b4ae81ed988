"""A job completed in its own transaction, and every way that transaction can end."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args, workers_of
from tests.fix_outcomes import work_one


def test_complete_tx_completes_with_the_callers_transaction(
    make_client: Any, conn: psycopg.Connection, dsn: str, schema: str
) -> None:
    conn.execute("CREATE TABLE effects (job_id bigint)")

    def work(job: river.Job[Args]) -> None:
        with psycopg.connect(dsn, options=f"-c search_path={schema}") as own, own.transaction():
            own.execute("INSERT INTO effects VALUES (%s)", [job.id])
            job.record_output("done")
            completed = job.complete_tx(own)
            assert completed.state == "completed"

    job = work_one(make_client(workers_of(work)))
    assert job.state == "completed"
    assert job.output == "done"
    assert conn.execute("SELECT count(*) FROM effects").fetchone() == (1,)


def test_complete_tx_on_an_async_connection(make_client: Any, dsn: str) -> None:
    async def work(job: river.Job[Args]) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as own:
            completed = await job.complete_tx(own)
            assert completed.state == "completed"

    assert work_one(make_client(workers_of(work))).state == "completed"


def test_complete_tx_is_fenced(make_client: Any, conn: psycopg.Connection, dsn: str) -> None:
    refused = threading.Event()

    def work(job: river.Job[Args]) -> None:
        conn.execute("UPDATE river_job SET attempted_at = attempted_at + interval '1 second'")  # another client's run
        with psycopg.connect(dsn) as own, pytest.raises(river.JobLostError):
            job.complete_tx(own)
        refused.set()

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert refused.wait(20)
    client.stop(5)
    assert client.job_get(job.id).state == "running"  # the other client's, untouched


def test_error_after_complete_tx_was_committed_has_no_effect(make_client: Any, dsn: str) -> None:
    def work(job: river.Job[Args]) -> None:
        with psycopg.connect(dsn) as own:
            job.complete_tx(own)
        raise ValueError("too late")

    job = work_one(make_client(workers_of(work)))
    assert job.state == "completed"
    assert job.errors == []


def test_error_after_complete_tx_was_rolled_back_is_the_attempts_error(make_client: Any, dsn: str) -> None:
    def work(job: river.Job[Args]) -> None:
        with psycopg.connect(dsn) as own, own.transaction():
            job.complete_tx(own)
            raise ValueError("rolls back")

    job = work_one(make_client(workers_of(work)))
    assert job.state == "available"
    assert [error.error for error in job.errors] == ["rolls back"]


def test_return_after_complete_tx_was_rolled_back_completes_the_job(make_client: Any, dsn: str) -> None:
    """As River has it: the work function returned, and the outcome is told all the same."""

    def work(job: river.Job[Args]) -> None:
        with psycopg.connect(dsn) as own:
            job.complete_tx(own)
            own.rollback()

    assert work_one(make_client(workers_of(work))).state == "completed"
