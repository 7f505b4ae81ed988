"""A user's program for the type checker: `mypy --strict tests/consumer.py` must find nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, assert_type

import psycopg

import river_fast as river


@dataclass
class EmailArgs(river.JobArgs, kind="email"):
    to: Annotated[str, river.unique]
    body: str = ""


@river.job_args(kind="resize", aliases=("thumbnail",))
@dataclass
class ResizeArgs:
    path: str


workers = river.Workers()


@workers.work(EmailArgs, timeout=timedelta(seconds=30))
def send_email(job: river.Job[EmailArgs]) -> None:
    assert_type(job.args, EmailArgs)
    assert_type(job.attempt, int)
    if job.attempt > 3:
        raise river.JobCancelError("nobody there")
    if not job.args.to:
        raise river.JobSnoozeError(timedelta(minutes=5))
    job.record_output({"sent": True})


@workers.work(ResizeArgs)
async def resize(job: river.Job[ResizeArgs]) -> None:
    assert_type(job.args, ResizeArgs)


class Slow(river.Worker[ResizeArgs]):
    def work(self, job: river.Job[ResizeArgs]) -> None:
        assert_type(job.args.path, str)

    def next_retry(self, job: river.Job[ResizeArgs]) -> datetime | None:
        return datetime.now(UTC) + timedelta(seconds=1)


periodic_jobs = [
    river.PeriodicJob(river.PeriodicInterval(timedelta(hours=1)), lambda: EmailArgs(""), id="an-id", run_on_start=True),
    river.PeriodicJob(river.cron("0 9 * * *"), lambda: (EmailArgs("a"), river.InsertOpts(queue="low"))),
    river.PeriodicJob(river.ScheduleFunc(lambda now: now + timedelta(days=1)), lambda: None),
]

config = river.Config(
    periodic_jobs=periodic_jobs,
    queues={"default": river.QueueConfig(max_workers=100, prefetch=0)},
    workers=workers,
    job_timeout=river.NEVER,
    stop_timeout=timedelta(seconds=5),
    logger=logging.getLogger("mine"),
)


def sync_program(url: str, conn: psycopg.Connection[Any]) -> None:
    with river.Client(url, config) as client:
        opts = river.InsertOpts(priority=2, unique=river.UniqueOpts(by_args=True), metadata={"from": "here"})
        result = client.insert(EmailArgs(to="a@example.com"), opts)
        assert_type(result, river.JobInsertResult)
        assert_type(result.unique_skipped_as_duplicate, bool)
        client.insert_many([EmailArgs("b"), river.InsertManyParams(ResizeArgs("c"), opts)])
        assert_type(client.insert_many_fast([EmailArgs("d")]), int)
        with conn.transaction():
            client.insert_tx(conn, EmailArgs("e"))
        finished = client.wait(result.job, timeout=10)
        assert_type(finished.state, river.JobState)
        page = client.job_list(states=["running", river.JobState.AVAILABLE], order_by="time", limit=10)
        assert_type(page.jobs[0].errors[0].attempt, int)
        assert_type(client.job_list(after=page.last_cursor, metadata={"from": "here"}), river.JobListResult)
        assert_type(client.job_update(result.job, output=5), river.Job[Any])
        assert_type(client.job_delete_many(kinds=["email"]), list[river.Job[Any]])
        with conn.transaction():
            assert_type(client.job_list_tx(conn, ids=[1]), river.JobListResult)
            assert_type(client.queue_update_tx(conn, "default", {"a": 1}), river.Queue)
        handle = client.periodic_jobs.add(periodic_jobs[0])
        assert_type(client.periodic_jobs.remove(handle), bool)
        durable = client.durable_periodic_jobs
        assert_type(durable.define("daily", "0 9 * * *", EmailArgs("a"), zone="Asia/Tokyo"), river.DurablePeriodicJob)
        with conn.transaction():
            assert_type(durable.change_tx(conn, "daily", catch_up=3), river.DurablePeriodicJob)
            assert_type(durable.run_now_tx(conn, "daily"), river.JobInsertResult)
        client.notify.request_resign()
        report = client.stop(timeout=5)
        assert_type(report, river.StopReport)


async def async_program(conn: psycopg.AsyncConnection[Any]) -> None:
    client = river.AsyncClient(None, config)
    async with client:
        result = await client.insert(EmailArgs(to="a@example.com"))
        assert_type(result, river.JobInsertResult)
        await client.insert_tx(conn, river.RawArgs("other_kind", {"any": ["json"]}))
        await client.wait(result.job, timeout=10)
        assert_type((await client.job_list(tags_any=["a"])).jobs, list[river.Job[Any]])
        assert_type(await client.job_cancel_tx(conn, 1), river.Job[Any])
        assert_type(await client.durable_periodic_jobs.list(), list[river.DurablePeriodicJob])
        assert_type(await client.durable_periodic_jobs.pause_tx(conn, "daily"), river.DurablePeriodicJob)
        await client.notify.request_resign()
