"""`river-fast demo`: a few thousand real jobs on a real PostgreSQL, in a schema of its own.

Runs on the main thread, beside the client's own threads; owns the schema `river_fast_demo`, which it makes anew and
leaves behind to be looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import shlex
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from river_fast.cli.database import url_of
from river_fast.cli.progress_line import ProgressLine
from river_fast.client import Client
from river_fast.config import Config, QueueConfig
from river_fast.driver import Driver, RawRow, Statement
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.embedded_programs import find_programs
from river_fast.errors import ConfigError, RiverError
from river_fast.insert_opts import InsertOpts
from river_fast.job import FINAL_STATES, Job
from river_fast.job_args import JobArgs
from river_fast.migrate import Migrator
from river_fast.worker import Workers

SCHEMA = "river_fast_demo"
LOCK_KEY = int.from_bytes(hashlib.sha256(SCHEMA.encode()).digest()[:8], "big", signed=True)
THUMBNAILS = 3_000
EMAILS = 2_000
FAILS_ONCE_EVERY = 100  # so many thumbnails, one fails at its first attempt and succeeds at its second
STRAGGLERS = THUMBNAILS // FAILS_ONCE_EVERY + 1  # those, and the scheduled one, wait for their time
REPORT_DELAY = 2.0  # seconds until the scheduled job is due
GIVE_UP_AFTER = 60.0  # seconds; a healthy machine needs a tenth
MAX_WORKERS = 200
STOP_TIMEOUT = 10.0


@dataclass
class Thumbnail(JobArgs, kind="demo_thumbnail"):
    """Worked by a thread: a little computing."""

    number: int


@dataclass
class Email(JobArgs, kind="demo_email"):
    """Worked on the event loop: a little waiting."""

    to: str


@dataclass
class Report(JobArgs, kind="demo_report"):
    """Scheduled for later."""

    title: str


@dataclass(frozen=True, slots=True)
class Result:
    """What `--json` prints."""

    jobs: int
    seconds: float
    worked_per_s: float
    failed_once: int
    states: dict[str, int]
    database_url: str
    schema: str


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The `demo` command."""
    parser = commands.add_parser(
        "demo",
        help="work a few thousand real jobs on a real PostgreSQL",
        description=f"Uses the embedded PostgreSQL (DATABASE_URL is not looked at) and a schema of its own, {SCHEMA}.",
    )
    parser.set_defaults(run=run, ignores_environment=True)


def run(args: argparse.Namespace) -> int:
    """0; 1 when jobs were left unfinished."""
    if args.schema is not None:
        raise ConfigError(f"demo works in a schema of its own, {SCHEMA}, which it makes anew: --schema is not for it")
    url = url_of(args)
    driver = PsycopgDriver(url, SCHEMA)
    try:
        with alone(driver):
            with driver.autocommit() as executor:
                executor.run(Statement("schema_drop"))
                executor.run(Statement("schema_create"))
            Migrator(driver).migrate_up()
            result = Demo(driver, url).run()
    finally:
        driver.close()
    query = driver.statement_text("demo_look").decode().strip()
    look = shlex.join([_psql(args.database_url is None), url, "-c", query])
    print(json.dumps(asdict(result)) if args.json else _told(result, look))
    return 0 if result.states == {"completed": result.jobs} else 1


@contextlib.contextmanager
def alone(driver: Driver) -> Iterator[None]:
    """Two at once would drop each other's schema."""
    with driver.transaction() as executor:
        if not executor.run(Statement("demo_lock", {"key": LOCK_KEY}, lambda rows, count: rows[0][0] == b"\x01")):
            raise RiverError("a demo is running in this database already; wait for it to end")
        yield


class Demo:
    """One demonstration over the driver's schema."""

    def __init__(self, driver: Driver, url: str) -> None:
        queues = {"default": QueueConfig(max_workers=MAX_WORKERS)}
        logger = logging.getLogger("river_fast.demo")
        logger.setLevel(logging.ERROR)  # the failures of this demo are meant
        self._driver = driver
        self._url = url
        self._client = Client(url, Config(schema=SCHEMA, queues=queues, workers=_workers(), logger=logger))
        self._line = ProgressLine()

    def run(self) -> Result:
        """Insert, work to the end, stop."""
        jobs = self._insert()
        began = time.monotonic()
        self._client.start()
        try:
            sprint = self._watch(jobs, began)
        finally:
            self._line.end()
            self._client.stop(STOP_TIMEOUT)
        return Result(
            jobs=jobs,
            seconds=round(time.monotonic() - began, 2),
            worked_per_s=round((jobs - STRAGGLERS) / sprint, 1),
            failed_once=THUMBNAILS // FAILS_ONCE_EVERY,
            states=self._states(),
            database_url=self._url,
            schema=SCHEMA,
        )

    def _insert(self) -> int:
        jobs = self._client.insert_many_fast([Thumbnail(number) for number in range(THUMBNAILS)])
        jobs += self._client.insert_many_fast([Email(f"user{number}@example.com") for number in range(EMAILS)])
        due = datetime.now(UTC) + timedelta(seconds=REPORT_DELAY)
        self._client.insert(Report("what the others did"), InsertOpts(scheduled_at=due))
        return jobs + 1

    def _watch(self, jobs: int, began: float) -> float:
        """Waits for all of them; returns the seconds until all but the stragglers were completed."""
        sprint = 0.0
        interval = 0.1 if sys.stderr.isatty() else 1.0
        shown = began
        while time.monotonic() < began + GIVE_UP_AFTER:
            states = self._states()
            now = time.monotonic()
            completed = states.get("completed", 0)
            if not sprint and completed >= jobs - STRAGGLERS:
                sprint = now - began
            if now >= shown + interval or completed == jobs:
                self._line.show_rate(completed, _progress(states, jobs))
                shown = now
            if sum(states.get(state, 0) for state in FINAL_STATES) == jobs:
                break
            time.sleep(0.02)
        return sprint or time.monotonic() - began

    def _states(self) -> dict[str, int]:
        with self._driver.autocommit() as executor:
            return executor.run(Statement("bench_job_count", parse=_by_state))


def _workers() -> Workers:
    workers = Workers()

    @workers.work(Thumbnail)
    def make_thumbnail(job: Job[Thumbnail]) -> None:
        if job.attempt == 1 and job.args.number % FAILS_ONCE_EVERY == 0:
            raise OSError("the disk was full, just this once")
        zlib.compress(hashlib.sha256(str(job.args.number).encode()).digest() * 64)

    @workers.work(Email)
    async def send_email(job: Job[Email]) -> None:
        await asyncio.sleep(0.005)  # the mail server's answer

    @workers.work(Report)
    def write_report(job: Job[Report]) -> None:
        job.record_output({"title": job.args.title})

    return workers


def _psql(is_embedded: bool) -> str:
    """The machine's own, else the one that came with the embedded server."""
    if shutil.which("psql") is None and is_embedded:
        return str(find_programs().bin_dir / "psql")
    return "psql"


def _by_state(rows: list[RawRow], count: int) -> dict[str, int]:
    return {(state or b"").decode(): int(number or b"0") for state, number in rows}


def _progress(states: dict[str, int], jobs: int) -> str:
    waiting = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()) if state != "completed")
    return f"{states.get('completed', 0):,} of {jobs:,} jobs completed{f' ({waiting})' if waiting else ''}"


def _told(result: Result, look: str) -> str:
    unfinished = result.jobs - result.states.get("completed", 0)
    end = f"NOT all done: {unfinished:,} are left after" if unfinished else "and all done in"
    states = "\n".join(f"  {state:<12}{number:>8,}" for state, number in sorted(result.states.items()))
    return f"""
{result.jobs:,} jobs on PostgreSQL: {result.worked_per_s:,.0f} jobs/s at once, {end} {result.seconds:g} s;
{result.failed_once} of them failed at first and were retried, 1 was scheduled for later.

Rows of {result.schema}.river_job by state:
{states}

Three commands to try next:
  {look}
  river-fast bench          how fast is this machine?
  river-fast migrate-up     a schema for jobs of your own"""
