"""The deciding run: no-op jobs, inserted beforehand, worked by one process, against what the database alone allows.

    python bench/throughput.py                    # 200,000 jobs, 3 rounds, max_workers 2,000 and 100
    python bench/throughput.py --memory           # also: peak memory at 1,000,000 jobs against 100,000

In each round the ceiling (`limit.c`) and river_fast take turns, each on a fresh schema, vacuumed, analysed and
checkpointed. A run's time is from the first claim to the last acknowledged completion.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import BenchSchema, Spread, arguments, build_limit, database_url, report, run_limit, say, table

from river_fast.cli.meter import Meter, Usage
from river_fast.driver.psycopg import PsycopgDriver

LIMIT_LOOPS = (1, 2, 3)
LIMIT_ROWS = (500, 2000, 5000)
WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Run:
    """One run over one fresh schema."""

    jobs: int
    jobs_per_s: float  # completed rows over seconds
    seconds: float  # the first claim to the last acknowledged completion
    database_seconds: float  # the same by the rows' own times: less the last statement and its commit
    client_cpu_us: float
    postgres_cpu_us: float | None
    wal_bytes: float | None
    peak_rss_mb: float | None
    unfinished: int
    detail: dict[str, Any]


class Server:
    """The meter of one run: what the server and its log did between two moments."""

    def __init__(self, url: str) -> None:
        self._driver = PsycopgDriver(url)
        self._meter = Meter(self._driver)
        self.is_local = self._meter.is_local
        self._start = self._meter.read()
        self.used: Usage | None = None

    def done(self) -> None:
        self.used = self._meter.since(self._start)
        self._driver.close()


@dataclass(frozen=True)
class Load:
    """What every run of a session starts from."""

    url: str
    jobs: int
    pinned_snapshot: bool = False

    @contextlib.contextmanager
    def schema(self) -> Iterator[BenchSchema]:
        with BenchSchema(self.url) as schema:
            schema.fill(self.jobs)
            schema.settle()
            with schema.pinned_snapshot() if self.pinned_snapshot else contextlib.nullcontext():
                yield schema


def limit_run(load: Load, loops: int, rows: int) -> Run:
    with load.schema() as schema:
        server = Server(load.url)
        result = run_limit(schema, loops, rows)
        server.done()
        return finished(load, schema, server, result["seconds"], result["client_cpu_us_per_job"], result)


def worker_run(load: Load, max_workers: int, asynchronous: bool = False) -> Run:
    with load.schema() as schema:
        command = [sys.executable, str(WORKER), "--database-url", load.url, "--schema", schema.name]
        command += ["--jobs", str(load.jobs), "--max-workers", str(max_workers)]
        command += ["--async"] if asynchronous else []
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the worker process did not start")
            server = Server(load.url)
            process.stdin.write("go\n")
            process.stdin.flush()
            line = process.stdout.readline()
            server.done()
            rest = process.stdout.readline()
        if not line or not rest:
            raise RuntimeError(f"the worker process ended without figures (status {process.returncode})")
        result = {**json.loads(line), **json.loads(rest)}
        first, last = schema.span()
        # the worker's clock is the server's where both are one machine; elsewhere only the rows' own times compare
        seconds = (result["finished"] if server.is_local else last) - first
        return finished(load, schema, server, seconds, result["client_cpu"] * 1e6 / load.jobs, result)


def finished(
    load: Load, schema: BenchSchema, server: Server, seconds: float, client_cpu_us: float, detail: dict[str, Any]
) -> Run:
    assert server.used is not None
    first, last = schema.span()
    completed = schema.by_state().get("completed", 0)
    return Run(
        jobs=load.jobs,
        jobs_per_s=completed / seconds,
        seconds=seconds,
        database_seconds=last - first,
        client_cpu_us=client_cpu_us,
        postgres_cpu_us=server.used.postgres_cpu_us(load.jobs),
        wal_bytes=server.used.wal_bytes(load.jobs),
        peak_rss_mb=detail.get("peak_rss_mb"),
        unfinished=load.jobs - completed,
        detail=detail,
    )


def best_limit_settings(load: Load, keep: int) -> list[tuple[int, int]]:
    """The ceiling's settings in a scan of one run each, best first."""
    found = []
    for loops, rows in itertools.product(LIMIT_LOOPS, LIMIT_ROWS):
        run = limit_run(load, loops, rows)
        say(f"  limit, {loops} loops of {rows}: {run.jobs_per_s:,.0f} jobs/s")
        found.append((run.jobs_per_s, loops, rows))
    return [(loops, rows) for _, loops, rows in sorted(found, reverse=True)[:keep]]


def measure(options: argparse.Namespace) -> dict[str, list[Run]]:
    """Runs by what they measured; the contestants take turns in every round."""
    load = Load(options.database_url, options.jobs, options.pinned_snapshot)
    settings = [parse_setting(text) for text in options.limit] or best_limit_settings(load, 2)
    contestants: dict[str, Callable[[], Run]] = {}
    for loops, rows in settings:
        contestants[f"limit, {loops} loops of {rows:,}"] = functools.partial(limit_run, load, loops, rows)
    for max_workers in options.max_workers:
        contestants[f"river_fast, max_workers={max_workers:,}"] = functools.partial(worker_run, load, max_workers)
    if options.asynchronous:
        contestants["river_fast, async, max_workers=2,000"] = functools.partial(worker_run, load, 2000, True)
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for round_number in range(1, options.rounds + 1):
        for name, contestant in contestants.items():
            run = contestant()
            say(f"  round {round_number}, {name}: {run.jobs_per_s:,.0f} jobs/s, {run.unfinished} unfinished")
            runs[name].append(run)
    return runs


def summary(runs: dict[str, list[Run]]) -> tuple[str, dict[str, Any]]:
    """The table and the figures. A ratio's range is over rounds, each against the best ceiling of its own round."""
    limits = [made for name, made in runs.items() if name.startswith("limit")]
    ceiling = max(statistics.median(run.jobs_per_s for run in made) for made in limits)
    ceiling_by_round = [max(made[i].jobs_per_s for made in limits) for i in range(len(limits[0]))]
    rows, figures = [], {}
    for name, made in runs.items():
        rate = Spread([run.jobs_per_s for run in made])
        ratio = statistics.median(rate.values) / ceiling
        ratios = Spread([run.jobs_per_s / top for run, top in zip(made, ceiling_by_round, strict=True)])
        columns = {
            "client_cpu_us_per_job": Spread([run.client_cpu_us for run in made]),
            "postgres_cpu_us_per_job": Spread([run.postgres_cpu_us for run in made]),
            "wal_bytes_per_job": Spread([run.wal_bytes for run in made]),
            "peak_rss_mb": Spread([run.peak_rss_mb for run in made]),
        }
        unfinished = sum(run.unfinished for run in made)
        shown_ratio = f"{ratio:.2f} ({min(ratios.values):.2f} .. {max(ratios.values):.2f})"
        client, postgres, wal, rss = (
            columns[key].show(form) for key, form in zip(columns, (".2f", ".1f", ",.0f", ".0f"), strict=True)
        )
        rows.append([name, rate.show(), shown_ratio, client, postgres, wal, rss, str(unfinished)])
        figures[name] = {
            "jobs_per_s": rate.as_json(),
            "ratio_to_limit": ratio,
            "ratios_by_round": ratios.values,
            **{key: spread.as_json() for key, spread in columns.items()},
            "unfinished": unfinished,
            "runs": [asdict(run) for run in made],
        }
    head = [
        "no-op jobs, one process",
        "jobs/s",
        "of the limit",
        "client CPU us/job",
        "PostgreSQL CPU us/job",
        "WAL bytes/job",
        "peak MB",
        "unfinished",
    ]
    return table(head, rows), figures


def memory(url: str, few: int, many: int) -> tuple[str, dict[str, Any]]:
    """Peak memory must not grow with the number of jobs worked."""
    runs = {jobs: worker_run(Load(url, jobs), 2000) for jobs in (few, many)}
    small, large = (runs[jobs].peak_rss_mb or 0.0 for jobs in (few, many))
    ratio = large / small
    text = f"Peak memory: {large:.1f} MB after {many:,} jobs, {small:.1f} MB after {few:,}: {ratio:.3f} of it."
    rate = f" {many:,} jobs: {runs[many].jobs_per_s:,.0f} jobs/s, {runs[many].unfinished} unfinished."
    return text + rate, {"few": asdict(runs[few]), "many": asdict(runs[many]), "ratio": ratio}


def parse_setting(text: str) -> tuple[int, int]:
    """`2x5000`: two loops of 5,000 rows."""
    loops, _, rows = text.partition("x")
    return int(loops), int(rows)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--max-workers", type=int, nargs="*", default=[2000, 100])
    parser.add_argument(
        "--limit",
        nargs="*",
        default=[],
        metavar="LOOPSxROWS",
        help="the ceiling's settings; none: a scan finds the best two",
    )
    parser.add_argument("--async", dest="asynchronous", action="store_true", help="also with an async work function")
    parser.add_argument(
        "--pinned-snapshot", action="store_true", help="with another session's snapshot open all the time"
    )
    parser.add_argument("--memory", action="store_true", help="also peak memory at 5 times --jobs against half of it")
    options = parser.parse_args()
    options.database_url = database_url(options.database_url)
    build_limit()

    text, figures = summary(measure(options))
    if options.memory:
        line, figures["memory"] = memory(options.database_url, options.jobs // 2, options.jobs * 5)
        text += "\n\n" + line
    text = f"{options.jobs:,} jobs a run, {options.rounds} rounds, medians (ranges); the ratio is of medians.\n\n{text}"
    report(
        "throughput",
        text,
        {"jobs": options.jobs, "rounds": options.rounds, "figures": figures},
        options,
        shlex.join(["python", *sys.argv]),
    )


if __name__ == "__main__":
    main()
