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


config = river.Config(
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
        await client.notify.request_resign()
