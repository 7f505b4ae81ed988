"""What jobs log, kept with them: River's form, its bounds, and what must never cost the job."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.job import Job
from river_fast.job_log import JobLog
from river_fast.job_row import METADATA, StoredRow
from tests.fix_client import Args, make_client, workers_of
from tests.fix_outcomes import BOTH, work_one, worker_for
from tests.fix_rows import insert

__all__ = ["make_client"]

SHORT = logging.Formatter("%(levelname)s %(message)s")


@pytest.fixture
def app() -> Iterator[logging.Logger]:
    """An application's logger, without handlers at its end."""
    logger = logging.getLogger("tests.app")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.handlers.clear()
    logger.propagate = True


def logs(job: river.Job[Any]) -> Any:
    return job.metadata.get("river:log")


def stored_job(metadata: str = "{}", attempt: int = 1) -> Job[Any]:
    fields: list[bytes | None] = [None] * 16
    fields[0], fields[2] = (7).to_bytes(8, "big"), attempt.to_bytes(2, "big")
    fields[METADATA] = b"\x01" + metadata.encode()
    return Job(StoredRow(fields))


def member(log: JobLog, job: Job[Any]) -> Any:
    text = log.member(job)
    return None if text is None else json.loads(b"{" + text + b"}")["river:log"]


# ---- through a client ----


@BOTH
def test_what_the_jobs_logger_is_given_is_kept_with_the_job(make_client: Any, is_async: bool) -> None:
    def work(job: river.Job[Args]) -> None:
        job.logger.info("hello %s", "world")
        job.logger.debug("not kept: below INFO")
        job.logger.warning("extra", extra={"mine": 1})

    job = work_one(make_client(worker_for(work, is_async)))
    (entry,) = logs(job)
    assert entry["attempt"] == 1
    first, second = entry["log"].splitlines()
    assert first.endswith(" INFO hello world")
    assert second.endswith(" WARNING extra")


@BOTH
def test_a_handler_that_is_a_plugin_keeps_what_the_applications_loggers_are_given(
    make_client: Any, app: logging.Logger, is_async: bool
) -> None:
    handler = river.JobLogHandler(logging.DEBUG, formatter=SHORT)
    app.addHandler(handler)
    app.info("outside of jobs: nobody's")

    def work(job: river.Job[Args]) -> None:
        app.debug("from deep inside")
        logging.getLogger("tests.app.below").error("and below")
        job.logger.debug("with the handler's level and format")

    job = work_one(make_client(worker_for(work, is_async), plugins=[handler]))
    assert logs(job) == [
        {"attempt": 1, "log": "DEBUG from deep inside\nERROR and below\nDEBUG with the handler's level and format\n"}
    ]


def test_jobs_at_the_same_time_keep_their_own(make_client: Any, app: logging.Logger) -> None:
    handler = river.JobLogHandler(formatter=SHORT)
    app.addHandler(handler)
    together = threading.Barrier(4)
    together_async = 0

    workers = river.Workers()

    @workers.work("threads")
    def work(job: river.Job[Any]) -> None:
        app.info("%d before", job.id)
        together.wait(30)
        app.info("%d after", job.id)

    all_there = asyncio.Event()

    @workers.work("loop")
    async def work_async(job: river.Job[Any]) -> None:
        nonlocal together_async
        app.info("%d before", job.id)
        together_async += 1
        if together_async == 4:
            all_there.set()
        await all_there.wait()
        await asyncio.create_task(told(job.id))

    async def told(job_id: int) -> None:
        app.info("%d after", job_id)  # a Task of the job's own: in a copy of its context

    client = make_client(workers, plugins=[handler])
    jobs = [client.insert(river.RawArgs(kind, {})).job for kind in ["threads", "loop"] * 4]
    client.start()
    for job in jobs:
        (entry,) = logs(client.wait(job, 30))
        assert entry["log"] == f"INFO {job.id} before\nINFO {job.id} after\n"


@BOTH
def test_each_attempt_has_its_entry_however_it_ends(make_client: Any, conn: psycopg.Connection, is_async: bool) -> None:
    def work(job: river.Job[Args]) -> None:
        job.logger.info("try %d", job.attempt)
        raise SystemExit

    first = json.dumps({"mine": 1, "river:log": [{"log": "from Go\n", "attempt": 1, "more": 12345678901234567890.5}]})
    row = insert(conn, kind="test_job", args='{"n": 1}', attempt=1, metadata=first)
    job = work_one(make_client(worker_for(work, is_async)), row=row)
    assert job.metadata["mine"] == 1
    assert [entry["attempt"] for entry in logs(job)] == [1, 2]
    assert logs(job)[1]["log"].endswith("INFO try 2\n")
    assert b"12345678901234567" in job.encoded_metadata


def test_a_job_that_logs_nothing_stores_nothing(make_client: Any, app: logging.Logger) -> None:
    handler = river.JobLogHandler()
    app.addHandler(handler)
    job = work_one(make_client(workers_of(lambda job: app.debug("below the level")), plugins=[handler]))
    assert job.encoded_metadata == b"{}"


def test_a_log_goes_with_a_completion_in_the_callers_transaction(make_client: Any, dsn: str, schema: str) -> None:
    def work(job: river.Job[Args]) -> None:
        job.logger.info("before")
        with psycopg.connect(dsn, options=f"-c search_path={schema}") as own:
            job.complete_tx(own)
        job.logger.info("after")

    job = work_one(make_client(workers_of(work)))
    assert job.state == "completed"
    (entry,) = logs(job)
    assert [line.split()[-1] for line in entry["log"].splitlines()] == ["before", "after"]


def test_a_record_that_cannot_be_formatted_costs_nobody_anything(
    make_client: Any, app: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # else it is printed
    handler = river.JobLogHandler(formatter=SHORT)
    app.addHandler(handler)

    def work(job: river.Job[Args]) -> None:
        app.info("%d is no number", "x")
        job.logger.info("%d neither", "x")
        app.info("a\0b \ud800 ü")

    job = work_one(make_client(workers_of(work), plugins=[handler]))
    assert job.state == "completed"
    assert logs(job) == [{"attempt": 1, "log": "INFO a\\u0000b \\ud800 ü\n"}]


# ---- bounds ----


def log_of(**bounds: Any) -> JobLog:
    return JobLog(river.JobLogHandler(**bounds))


def test_an_attempt_is_cut_at_its_bound_between_two_characters() -> None:
    log = log_of(max_size_bytes=10)
    for _ in range(1000):
        log.write("äöüß")
    assert member(log, stored_job()) == [{"attempt": 1, "log": "äöüß\n"}]
    log = log_of(max_size_bytes=10)
    log.write("a" + "ä" * 20)
    assert member(log, stored_job()) == [{"attempt": 1, "log": "aääää"}]


def test_what_is_beyond_the_bound_is_not_held_in_memory() -> None:
    log = log_of(max_size_bytes=100)
    for _ in range(10_000):
        log.write("x" * 50)
    assert sum(map(len, log._lines)) <= 150


def test_the_oldest_attempts_are_dropped_from_a_log_that_is_too_long(caplog: pytest.LogCaptureFixture) -> None:
    entries = [{"attempt": n, "log": "x" * 100} for n in range(1, 6)]
    log = log_of(max_total_bytes=400)
    log.write("y" * 99)
    kept = member(log, stored_job(json.dumps({"river:log": entries}), 6))
    assert [entry["attempt"] for entry in kept] == [4, 5, 6]
    assert "its oldest 3 attempts are dropped" in caplog.text
    text = log.member(stored_job(json.dumps({"river:log": entries}), 6))
    assert text is not None
    assert len(text) - len('"river:log":') <= 400


def test_the_newest_attempt_is_kept_whatever_its_size() -> None:
    log = log_of(max_total_bytes=10)
    log.write("x" * 1000)
    assert len(member(log, stored_job(json.dumps({"river:log": [{"attempt": 1, "log": "y"}]}), 2))) == 1


@pytest.mark.parametrize("stored", ['"text"', "7", "null", '{"a": 1}'])
def test_a_stored_log_that_is_no_list_is_left_alone(stored: str, caplog: pytest.LogCaptureFixture) -> None:
    log = log_of()
    log.write("x")
    assert log.member(stored_job(f'{{"river:log": {stored}}}')) is None
    assert "is no list" in caplog.text


@pytest.mark.parametrize("bounds", [{"max_size_bytes": 0}, {"max_total_bytes": -1}, {"max_size_bytes": "2 MB"}])
def test_bounds_are_numbers_of_bytes(bounds: Any) -> None:
    with pytest.raises(river.ConfigError, match="must be a number of bytes"):
        river.JobLogHandler(**bounds)


def test_the_bound_of_all_attempts_is_never_above_rivers() -> None:
    assert river.JobLogHandler(max_total_bytes=10**12).max_total_bytes == 64 * 1024 * 1024
