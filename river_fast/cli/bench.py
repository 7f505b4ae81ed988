"""`river-fast bench`: insert and work no-op jobs in a schema of its own, and say what that took. River: `river bench`.

Runs on the main thread, beside the client's own threads; owns the schema it makes and drops. Jobs worked are counted in
the database, where their rows say `completed`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import FrameType

from river_fast.cli.database import positive, url_of
from river_fast.cli.meter import Meter, Usage, peak_rss_mb
from river_fast.cli.progress_line import ProgressLine
from river_fast.client import Client
from river_fast.config import Config, QueueConfig
from river_fast.driver import Driver, RawRow, Statement
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import ConfigError
from river_fast.job import Job
from river_fast.job_args import JobArgs
from river_fast.migrate import Migrator
from river_fast.worker import Workers

SCHEMA_PREFIX = "river_fast_bench_"
DEFAULT_DURATION = 10.0
DEFAULT_MAX_WORKERS = 2_000
INSERT_BATCH = 5_000  # jobs in one insert_many_fast
AHEAD = 4 * INSERT_BATCH  # while inserting and working at once: so many jobs are kept waiting
STALLED_AFTER = 30.0  # seconds without an outcome after which a run is given up
STOP_TIMEOUT = 10.0
INTERRUPTED = 130  # exit status of a run that Ctrl-C ended early


@dataclass
class BenchArgs(JobArgs, kind="river_fast_bench"):
    """What River's own benchmark inserts."""

    num: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What `--json` prints. None: cannot be measured here (the server is not on this machine, no jobs were worked)."""

    jobs: int
    worked_per_s: float
    inserted_per_s: float
    client_cpu_us_per_job: float | None
    postgres_cpu_us_per_job: float | None
    wal_bytes_per_job: float | None
    peak_rss_mb: float | None


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The `bench` command."""
    parser = commands.add_parser(
        "bench",
        help="insert and work no-op jobs in a schema of its own, and report rates and costs",
        description=f"Without an amount: inserts and works at the same time for {DEFAULT_DURATION:g} seconds.",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("-n", "--num-total-jobs", type=positive, metavar="N", help="insert N jobs, then work them")
    amount.add_argument("--duration", type=_seconds, metavar="S", help="insert and work at the same time for S seconds")
    parser.add_argument("--max-workers", type=positive, default=DEFAULT_MAX_WORKERS, metavar="N")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0; 1 when jobs were left unfinished; 130 when interrupted. The schema is gone in every case."""
    if args.schema is not None:
        raise ConfigError("bench works in a schema of its own, which it makes and drops: --schema is not for it")
    url = url_of(args)
    driver = PsycopgDriver(url, f"{SCHEMA_PREFIX}{uuid.uuid4().hex[:12]}")
    try:
        with Interrupt() as interrupt, own_schema(driver):
            bench = Bench(driver, url, args.max_workers, interrupt)
            if args.num_total_jobs is not None:
                figures = bench.burn_down(args.num_total_jobs)
                finished = figures.jobs == args.num_total_jobs
            else:
                figures = bench.continuous(args.duration or DEFAULT_DURATION)
                finished = True
    finally:
        driver.close()
    print(json.dumps(asdict(figures)) if args.json else _table(figures, args.num_total_jobs is None))
    if interrupt.is_set():
        return INTERRUPTED
    return 0 if finished else 1


class Interrupt:
    """While entered, Ctrl-C and SIGTERM end the run early instead of the process: the schema must still be dropped."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # handlers belong to it alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float) -> bool:
        return self._event.wait(timeout)


@contextlib.contextmanager
def own_schema(driver: Driver) -> Iterator[None]:
    """The driver's schema, made and migrated, and dropped at the end with all that is in it."""
    with driver.autocommit() as executor:
        executor.run(Statement("schema_create"))
    try:
        Migrator(driver).migrate_up()
        yield
    finally:
        with driver.autocommit() as executor:
            executor.run(Statement("schema_drop"))


class Bench:
    """One run over the driver's schema."""

    def __init__(self, driver: Driver, url: str, max_workers: int, interrupt: Interrupt) -> None:
        workers = Workers()

        @workers.work(BenchArgs)
        def noop(job: Job[BenchArgs]) -> None:
            pass

        config = Config(schema=driver.schema, queues={"default": QueueConfig(max_workers=max_workers)}, workers=workers)
        self._driver = driver
        self._client = Client(url, config)
        self._interrupt = interrupt
        self._inserted = 0
        self._line = ProgressLine()

    def burn_down(self, jobs: int) -> Figures:
        """Insert first, then work: nothing but working is in the figures of working."""
        began = time.monotonic()
        while self._inserted < jobs and not self._interrupt.is_set():
            self._insert(min(INSERT_BATCH, jobs - self._inserted))
            self._line.show(f"inserted {self._inserted:,} of {jobs:,}")
        inserted_per_s = self._inserted / (time.monotonic() - began)
        with self._working() as meter:
            start = meter.read()
            self._client.start()
            self._wait_worked(jobs)
            used = meter.since(start)
        return self._figures(used, inserted_per_s)

    def continuous(self, duration: float) -> Figures:
        """Insert and work at the same time, some jobs always waiting."""
        with self._working() as meter:
            start = meter.read()
            self._client.start()
            while time.monotonic() < start.at + duration and not self._interrupt.is_set():
                waiting = self._inserted - self._recorded()
                if waiting < AHEAD:
                    self._insert(INSERT_BATCH)
                else:
                    self._interrupt.wait(0.001)
                self._show_worked()
            self._client.stop(STOP_TIMEOUT)
            used = meter.since(start)
        return self._figures(used, self._inserted / used.seconds)

    @contextlib.contextmanager
    def _working(self) -> Iterator[Meter]:
        try:
            yield Meter(self._driver)
        finally:
            self._client.stop(STOP_TIMEOUT)
            self._line.end()

    def _insert(self, count: int) -> None:
        first = self._inserted
        self._inserted += self._client.insert_many_fast([BenchArgs(num) for num in range(first, first + count)])

    def _wait_worked(self, jobs: int) -> None:
        recorded, changed = 0, time.monotonic()
        while recorded < jobs and time.monotonic() < changed + STALLED_AFTER and not self._interrupt.wait(0.005):
            before, recorded = recorded, self._recorded()
            if recorded != before:
                changed = time.monotonic()
            self._show_worked()

    def _recorded(self) -> int:
        """Outcomes whose COMMIT was acknowledged, by the client's own count: for progress, not for the figures."""
        return self._client.stats()["completer_recorded"]

    def _show_worked(self) -> None:
        if self._line.is_due():
            recorded = self._recorded()
            self._line.show_rate(recorded, f"worked {recorded:,} of {self._inserted:,} inserted")

    def _figures(self, used: Usage, inserted_per_s: float) -> Figures:
        with self._driver.autocommit() as executor:
            jobs = executor.run(Statement("bench_job_count", parse=_completed))
        return Figures(
            jobs=jobs,
            worked_per_s=round(jobs / used.seconds, 1),
            inserted_per_s=round(inserted_per_s, 1),
            client_cpu_us_per_job=used.client_cpu_us(jobs),
            postgres_cpu_us_per_job=used.postgres_cpu_us(jobs),
            wal_bytes_per_job=used.wal_bytes(jobs),
            peak_rss_mb=peak_rss_mb(),
        )


def _completed(rows: list[RawRow], count: int) -> int:
    return next((int(number or b"0") for state, number in rows if state == b"completed"), 0)


def _table(figures: Figures, while_inserting: bool) -> str:
    def shown(value: float | None, form: str, unit: str) -> str:
        return "not measurable here" if value is None else f"{value:{form}} {unit}"

    rows = [
        ("jobs worked", f"{figures.jobs:,}"),
        ("worked", shown(figures.worked_per_s, ",.0f", "jobs/s")),
        ("inserted", shown(figures.inserted_per_s, ",.0f", "jobs/s")),
        ("client CPU", shown(figures.client_cpu_us_per_job, ",.2f", "us a job")),
        ("PostgreSQL CPU", shown(figures.postgres_cpu_us_per_job, ",.2f", "us a job")),
        ("WAL", shown(figures.wal_bytes_per_job, ",.0f", "bytes a job")),
        ("peak memory", shown(figures.peak_rss_mb, ",.1f", "MB")),
    ]
    lines = [f"{name:<16}{value:>24}" for name, value in rows]
    if while_inserting:
        lines.append("Jobs were inserted while others were worked: the costs are those of both.")
    return "\n".join(lines)


def _seconds(text: str) -> float:
    """An argparse type: seconds, more than 0 and not for ever."""
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return seconds
