"""`Clock` and `pass_time`: time as a test wants it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.testing import Clock, pass_time, work_job
from tests.fix_client import Args, eventually, make_client, workers_of
from tests.fix_rows import column, insert
from tests.fix_testing import EVERYWHERE, ask, work_on

__all__ = ["ask", "make_client", "work_on"]

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_a_clock_stands_until_it_is_moved() -> None:
    clock = Clock(NOON)
    assert clock.now() == NOON
    assert clock.advance(90) == NOON + timedelta(seconds=90)
    clock.set(NOON.astimezone())
    assert clock.advance(timedelta(hours=1)) == NOON + timedelta(hours=1)
    before = datetime.now(UTC)
    assert before - timedelta(seconds=60) < Clock().now() <= datetime.now(UTC)
    for wrong in (datetime(2030, 1, 1), "noon"):
        with pytest.raises(river.ValidationError, match="aware datetime"):
            Clock(wrong)  # type: ignore[arg-type]
    with pytest.raises(river.ConfigError):
        clock.advance(-1)


@EVERYWHERE
def test_times_of_a_job_worked_by_a_clock_are_the_clocks(work_on: Any) -> None:
    clock = Clock(NOON)

    class InTwoHours:
        def next_retry(self, job: river.Job[Any]) -> datetime:
            return clock.now() + timedelta(hours=2)

    def work(job: river.Job[Args]) -> None:
        assert job.attempted_at == NOON
        clock.advance(60)
        if job.args.n == 1:
            raise ValueError("no")

    minute = NOON + timedelta(minutes=1)
    failed = work_on(workers_of(work), Args(1), more={"clock": clock}, retry_policy=InTwoHours())
    assert (failed.job.state, failed.job.scheduled_at) == ("retryable", minute + timedelta(hours=2))
    assert failed.job.errors[0].at == minute


def test_default_retries_and_snoozes_are_counted_from_the_clock(make_client: Any) -> None:
    clock = Clock(NOON)

    def work(job: river.Job[Args]) -> None:
        if job.args.n == 0:
            raise river.JobSnoozeError(3600)
        if job.attempt < 4:
            raise ValueError("no")

    client = make_client(workers_of(work))
    snoozed = work_job(client, Args(0), clock=clock).job
    assert (snoozed.state, snoozed.scheduled_at) == ("scheduled", NOON + timedelta(hours=1))
    job = work_job(client, Args(1), clock=clock).job
    for failures, seconds in ((1, 1), (2, 16), (3, 81)):
        assert len(job.errors) == failures
        delay = (job.scheduled_at - clock.now()).total_seconds()
        assert 0.9 * seconds <= delay <= 1.1 * seconds
        clock.set(job.scheduled_at)
        job = work_job(client, job, clock=clock).job
    assert (job.state, job.finalized_at) == ("completed", clock.now())


def test_inserts_of_a_client_go_by_an_installed_clock(make_client: Any) -> None:
    clock = Clock(NOON)
    client = make_client()
    clock.install(client)
    hourly = river.InsertOpts(unique=river.UniqueOpts(by_period=3600))
    first = client.insert(Args(1), hourly)
    clock.advance(3599)
    assert client.insert(Args(1), hourly).unique_skipped_as_duplicate
    clock.advance(1)
    again = client.insert(Args(1), hourly)
    assert not again.unique_skipped_as_duplicate
    assert (first.job.scheduled_at, again.job.scheduled_at) == (NOON, NOON + timedelta(hours=1))
    assert first.job.state == "available", "due by the clock"
    many = client.insert_many([Args(2), river.InsertManyParams(Args(3), river.InsertOpts(scheduled_at=NOON))])
    assert [result.job.scheduled_at for result in many] == [clock.now(), NOON]
    with pytest.raises(river.ConfigError, match="install takes"):
        clock.install(None)  # type: ignore[arg-type]


def test_a_clock_goes_with_hooks_that_change_jobs(make_client: Any) -> None:
    def prefer(params: Any) -> None:
        params.priority = 3

    clock = Clock(NOON)
    client = make_client(plugins=[river.Plugin(insert_begin=prefer)])
    clock.install(client)
    job = client.insert(Args()).job
    assert (job.priority, job.state, job.scheduled_at) == (3, "available", NOON)


@EVERYWHERE
def test_time_passes_for_all_jobs_but_running_ones(ask: Any, conn: psycopg.Connection) -> None:
    hour = timedelta(hours=1)
    ids = [insert(conn, state) for state in ("available", "retryable", "completed", "running")]
    names = ("created_at", "scheduled_at", "attempted_at", "finalized_at")
    before = {job_id: [column(conn, job_id, name) for name in names] for job_id in ids}
    assert ask(pass_time, hour) == 3
    for job_id in ids:
        moved = timedelta(0) if job_id == ids[3] else hour
        expected = [None if at is None else at - moved for at in before[job_id]]
        assert [column(conn, job_id, name) for name in names] == expected


def test_a_running_client_finds_due_what_time_has_passed_for(make_client: Any) -> None:
    client = make_client(workers_of(lambda job: None), fetch_poll_interval=0.05)
    job = client.insert(Args(), river.InsertOpts(scheduled_at=datetime.now(UTC) + timedelta(days=1))).job
    client.start()
    pass_time(client, timedelta(days=2))
    assert eventually(lambda: client.job_get(job.id).state == "completed")
