"""Durable periodic jobs as any client may define, change and ask for them, with threads and on event loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import psycopg
import pytest

import river_fast as river
from river_fast.durable_periodic_job import DurablePeriodicJob
from tests.fix_periodic import driver, fast

__all__ = ["driver", "fast"]


@dataclass
class Report(river.JobArgs, kind="durable_report", insert_opts=river.InsertOpts(queue="reports", tags=["own"])):
    account: Annotated[str, river.unique]
    body: str = ""


@pytest.fixture
def client(dsn: str, schema: str) -> Iterator[river.Client]:
    """Insert-only, on a schema without the line `fast` unless the test asks for it."""
    client = river.Client(dsn, river.Config(schema=schema))
    yield client
    client.stop()


@pytest.fixture
def jobs(fast: None, client: river.Client) -> Any:
    return client.durable_periodic_jobs


VERBS = {
    "define": ("id", "@hourly", Report("a")),
    "change": ("id",),
    "get": ("id",),
    "list": (),
    "pause": ("id",),
    "resume": ("id",),
    "delete": ("id",),
    "run_now": ("id",),
}


# The line.


@pytest.mark.parametrize("verb", VERBS)
def test_without_the_line_each_verb_names_the_command(
    client: river.Client, dsn: str, schema: str, verb: str
) -> None:
    command = f"run: river-fast migrate-up --line fast --schema {schema}"
    with pytest.raises(river.MigrationError, match=command):
        getattr(client.durable_periodic_jobs, verb)(*VERBS[verb])
    with psycopg.connect(dsn) as own, pytest.raises(river.MigrationError, match=command):
        getattr(client.durable_periodic_jobs, f"{verb}_tx")(own, *VERBS[verb])


@pytest.mark.parametrize("verb", VERBS)
async def test_without_the_line_the_async_ones_too(dsn: str, schema: str, verb: str) -> None:
    async with river.AsyncClient(dsn, river.Config(schema=schema)) as client:
        with pytest.raises(river.MigrationError, match="--line fast"):
            await getattr(client.durable_periodic_jobs, verb)(*VERBS[verb])
        async with await psycopg.AsyncConnection.connect(dsn) as own:
            with pytest.raises(river.MigrationError, match="--line fast"):
                await getattr(client.durable_periodic_jobs, f"{verb}_tx")(own, *VERBS[verb])


# Defining.


def test_what_was_defined_is_what_is_there(jobs: Any, conn: psycopg.Connection[Any]) -> None:
    opts = river.InsertOpts(
        priority=3, max_attempts=7, metadata=b'{"n": 1.50}', unique=river.UniqueOpts(by_args=True, by_period=3600)
    )
    before = conn.execute("SELECT clock_timestamp()").fetchone()
    defined = jobs.define("daily-report", "0 9 * * *", Report("a", "ü"), opts, zone="Europe/Berlin", catch_up=5)
    assert jobs.get("daily-report") == defined
    assert (defined.id, defined.schedule, defined.zone) == ("daily-report", "0 9 * * *", "Europe/Berlin")
    assert (defined.kind, defined.args, defined.catch_up) == ("durable_report", {"account": "a", "body": "ü"}, 5)
    found = defined.opts
    assert (found.queue, found.tags, found.priority, found.max_attempts) == ("reports", ["own"], 3, 7)
    assert found.metadata == b'{"n": 1.50}'
    assert found.unique is not None
    assert (found.unique.by_args, found.unique.by_period) == (True, timedelta(hours=1))
    assert defined.next_run_at is not None
    assert before is not None
    assert defined.next_run_at == river.cron("TZ=Europe/Berlin 0 9 * * *").next(before[0])
    assert (defined.last_run_at, defined.last_error, defined.paused_at) == (None, None, None)
    assert conn.execute("SELECT count(*) FROM river_job").fetchone() == (0,)


def test_defining_again_changes_the_job_and_keeps_what_was_not_said(jobs: Any, conn: psycopg.Connection[Any]) -> None:
    first = jobs.define("some", "@every 1h", Report("a"))
    conn.execute("UPDATE river_fast_periodic_job SET next_run_at = next_run_at - interval '10 minutes'")
    jobs.pause("some")
    again = jobs.define("some", "@every 1h", Report("b"), catch_up=2)
    assert again.next_run_at == first.next_run_at - timedelta(minutes=10)
    assert again.paused_at is not None
    assert (again.args["account"], again.catch_up, again.created_at) == ("b", 2, first.created_at)
    assert again.updated_at > first.updated_at
    other = jobs.define("some", "@every 2h", Report("b"))
    assert other.next_run_at > again.next_run_at + timedelta(minutes=30)
    elsewhere = jobs.define("some", "@every 2h", Report("b"), zone="Asia/Tokyo")
    assert elsewhere.zone == "Asia/Tokyo"
    assert len(jobs.list()) == 1


def test_raw_args_and_kinds_without_a_class(jobs: Any) -> None:
    defined = jobs.define("raw", "@daily", river.RawArgs("some_kind", b'{"b": 1,  "a": 2.0}'))
    assert defined.encoded_args == b'{"b": 1,  "a": 2.0}'
    assert defined.kind == "some_kind"


BAD = {
    "id": ("x", "@hourly", Report("a")),
    "schedule": ("some", "never", Report("a")),
    "schedule that never fires": ("some", "0 0 31 2 *", Report("a")),
    "args": ("some", "@hourly", river.RawArgs("raw", {"n": object()})),
    "no args": ("some", "@hourly", None),
    "a time": ("some", "@hourly", Report("a"), river.InsertOpts(scheduled_at=datetime.now(UTC))),
    "options": ("some", "@hourly", Report("a"), river.InsertOpts(priority=7)),
    "metadata": ("some", "@hourly", Report("a"), river.InsertOpts(metadata={"river:x": 1})),
    "too large": ("some", "@hourly", Report("a" * 2_000_000)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_before_anything_is_written(jobs: Any, name: str) -> None:
    with pytest.raises(river.ValidationError):
        jobs.define(*BAD[name])
    assert jobs.list() == []


def test_a_client_with_workers_defines_only_kinds_it_knows(fast: None, dsn: str, schema: str) -> None:
    client = river.Client(dsn, river.Config(schema=schema, workers=river.Workers()))
    with pytest.raises(river.UnknownJobKindError, match="durable_report"):
        client.durable_periodic_jobs.define("some", "@hourly", Report("a"))
    client.stop()


# Changing, looking, pausing.


def test_change_changes_what_is_given(jobs: Any) -> None:
    first = jobs.define("some", "@every 1h", Report("a"), river.InsertOpts(priority=2), zone=None, catch_up=3)
    assert jobs.change("some", catch_up=4).catch_up == 4
    moved = jobs.change("some", schedule="0 0 * * *", zone="Asia/Tokyo")
    assert (moved.schedule, moved.zone, moved.catch_up) == ("0 0 * * *", "Asia/Tokyo", 4)
    assert moved.next_run_at != first.next_run_at
    assert (moved.encoded_args, moved.opts) == (first.encoded_args, first.opts)
    other = jobs.change("some", args=Report("b"), opts=river.InsertOpts(queue="q"))
    assert (other.args["account"], other.opts.queue, other.opts.priority) == ("b", "q", 1)
    assert (other.schedule, other.next_run_at) == (moved.schedule, moved.next_run_at)
    assert jobs.change("some", schedule="0 0 * * *").zone is None
    for bad in ({"zone": "Asia/Tokyo"}, {"opts": river.InsertOpts()}, {"catch_up": 0}, {"schedule": "x"}, {"args": 5}):
        with pytest.raises(river.ValidationError):
            jobs.change("some", **bad)
    with pytest.raises(river.NotFoundError, match="'other'"):
        jobs.change("other", catch_up=1)


def test_list_goes_by_id_in_pages(jobs: Any) -> None:
    for id in ("bb", "aa", "cc"):
        jobs.define(id, "@hourly", Report(id))
    assert [job.id for job in jobs.list()] == ["aa", "bb", "cc"]
    assert [job.id for job in jobs.list(limit=2)] == ["aa", "bb"]
    assert [job.id for job in jobs.list(limit=2, after="bb")] == ["cc"]
    for bad in ({"limit": 0}, {"limit": 10_001}, {"limit": True}, {"after": 5}, {"after": "\0"}):
        with pytest.raises(river.ValidationError):
            jobs.list(**bad)


def test_pause_and_resume_twice_are_fine(jobs: Any) -> None:
    jobs.define("some", "@hourly", Report("a"))
    paused = jobs.pause("some")
    assert paused.paused_at is not None
    assert jobs.pause("some").paused_at == paused.paused_at
    resumed = jobs.resume("some")
    assert resumed.paused_at is None
    assert resumed.resumed_at > paused.paused_at
    assert jobs.resume("some").resumed_at == resumed.resumed_at


def test_what_is_not_there_is_not_found(jobs: Any) -> None:
    for verb in ("get", "pause", "resume", "delete", "run_now"):
        with pytest.raises(river.NotFoundError, match="'some'"):
            getattr(jobs, verb)("some")
    jobs.define("some", "@hourly", Report("a"))
    assert jobs.delete("some").id == "some"
    with pytest.raises(river.NotFoundError):
        jobs.delete("some")


def test_run_now_inserts_its_job_and_leaves_the_schedule(jobs: Any, conn: psycopg.Connection[Any]) -> None:
    defined = jobs.define("some", "@hourly", Report("a"), river.InsertOpts(metadata={"n": 1}))
    jobs.pause("some")
    inserted = jobs.run_now("some")
    assert (inserted.job.kind, inserted.job.queue, inserted.job.state) == ("durable_report", "reports", "available")
    assert inserted.job.metadata == {"n": 1, "periodic": True, "river:periodic_job_id": "some"}
    after = jobs.get("some")
    assert after.next_run_at == defined.next_run_at
    assert after.last_run_at == inserted.job.scheduled_at
    assert conn.execute("SELECT count(*) FROM river_job").fetchone() == (1,)


# In the caller's transaction.


def test_tx_forms_are_the_callers_to_commit(jobs: Any, dsn: str, schema: str) -> None:
    with psycopg.connect(dsn) as own:
        jobs.define_tx(own, "some", "@hourly", Report("a"))
        assert jobs.get_tx(own, "some").id == "some"
        jobs.change_tx(own, "some", catch_up=9)
        assert [job.catch_up for job in jobs.list_tx(own)] == [9]
        assert jobs.pause_tx(own, "some").paused_at is not None
        assert jobs.resume_tx(own, "some").paused_at is None
        assert jobs.run_now_tx(own, "some").job.state == "available"
        assert jobs.list() == []
        own.rollback()
        assert jobs.list() == []
        jobs.define_tx(own, "some", "@hourly", Report("a"))
        own.commit()
        assert jobs.get("some").last_run_at is None
        jobs.delete_tx(own, "some")
    assert jobs.list() == []


async def test_async_forms(fast: None, dsn: str, schema: str) -> None:
    async with river.AsyncClient(dsn, river.Config(schema=schema)) as client:
        jobs = client.durable_periodic_jobs
        defined = await jobs.define("some", "@hourly", Report("a"))
        assert isinstance(defined, DurablePeriodicJob)
        assert await jobs.get("some") == defined
        assert (await jobs.change("some", catch_up=3)).catch_up == 3
        assert (await jobs.pause("some")).paused_at is not None
        assert (await jobs.resume("some")).paused_at is None
        assert (await jobs.run_now("some")).job.kind == "durable_report"
        assert [job.id for job in await jobs.list()] == ["some"]
        assert (await jobs.delete("some")).id == "some"
        async with await psycopg.AsyncConnection.connect(dsn) as own:
            await jobs.define_tx(own, "some", "@hourly", Report("a"))
            assert (await jobs.change_tx(own, "some", catch_up=3)).catch_up == 3
            assert (await jobs.pause_tx(own, "some")).paused_at is not None
            assert (await jobs.resume_tx(own, "some")).paused_at is None
            assert (await jobs.get_tx(own, "some")).id == "some"
            assert len(await jobs.list_tx(own)) == 1
            assert (await jobs.run_now_tx(own, "some")).job.state == "available"
            assert (await jobs.delete_tx(own, "some")).id == "some"
            await own.rollback()
        assert await jobs.list() == []


def test_a_client_after_a_fork_is_refused(jobs: Any, client: river.Client) -> None:
    client._pid -= 1
    with pytest.raises(river.ForkedClientError):
        jobs.list()
    client._pid += 1


