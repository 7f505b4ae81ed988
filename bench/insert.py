"""How fast jobs go in: single inserts, insert_many of 1,000, insert_many_fast of 5,000; one caller and four.

    python bench/insert.py

An insert-only client; nothing works the jobs. Each run has a fresh schema.
"""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from harness import BenchSchema, Spread, arguments, database_url, report, say, table

import river_fast as river
from river_fast.cli.meter import Meter
from river_fast.driver.psycopg import PsycopgDriver


@dataclass
class InsertArgs(river.JobArgs, kind="bench_insert"):
    num: int = 0


@dataclass(frozen=True)
class Way:
    """One way to insert: `batch` jobs a call, `jobs` in all."""

    name: str
    batch: int
    jobs: int
    call: Callable[[river.Client, list[InsertArgs]], object]


WAYS = (
    Way("insert", 1, 4_000, lambda client, batch: client.insert(batch[0])),
    Way("insert_many, 1,000 a call", 1_000, 100_000, lambda client, batch: client.insert_many(batch)),
    Way("insert_many_fast, 5,000 a call", 5_000, 200_000, lambda client, batch: client.insert_many_fast(batch)),
)


@dataclass(frozen=True)
class Run:
    jobs: int
    jobs_per_s: float
    client_cpu_us: float | None
    postgres_cpu_us: float | None
    wal_bytes: float | None


def insert_run(url: str, way: Way, callers: int, scale: float) -> Run:
    calls = max(round(way.jobs * scale / way.batch / callers), 1)
    jobs = calls * callers * way.batch
    with BenchSchema(url) as schema:
        schema.settle()
        driver = PsycopgDriver(url, schema.name)
        client = river.Client(url, river.Config(schema=schema.name))
        failed: list[BaseException] = []

        def insert(caller: int) -> None:
            try:
                for call in range(calls):
                    first = (caller * calls + call) * way.batch
                    way.call(client, [InsertArgs(num) for num in range(first, first + way.batch)])
            except BaseException as error:
                failed.append(error)

        try:
            way.call(client, [InsertArgs(-1)] * way.batch)  # connections opened, statements prepared
            meter = Meter(driver)
            start = meter.read()
            threads = [threading.Thread(target=insert, args=(caller,)) for caller in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.monotonic() - start.at
            used = meter.since(start)
        finally:
            client.stop(10)
            driver.close()
        if failed:
            raise failed[0]
        stored = sum(schema.by_state().values())
        assert stored == jobs + way.batch, f"{stored} rows where {jobs + way.batch} were inserted"
    return Run(jobs, jobs / seconds, used.client_cpu_us(jobs), used.postgres_cpu_us(jobs), used.wal_bytes(jobs))


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of jobs")
    options = parser.parse_args()
    options.database_url = database_url(options.database_url)

    runs: dict[str, list[Run]] = {}
    for number in range(1, options.rounds + 1):
        for way in WAYS:
            for callers in options.callers:
                name = f"{way.name}, {callers} {'caller' if callers == 1 else 'callers'}"
                run = insert_run(options.database_url, way, callers, options.scale)
                say(f"  round {number}, {name}: {run.jobs_per_s:,.0f} jobs/s")
                runs.setdefault(name, []).append(run)

    forms = {"jobs_per_s": ",.0f", "client_cpu_us": ".1f", "postgres_cpu_us": ".1f", "wal_bytes": ",.0f"}
    rows = [
        [name, *(Spread([getattr(run, column) for run in made]).show(form) for column, form in forms.items())]
        for name, made in runs.items()
    ]
    head = ["inserts", "jobs/s", "client CPU us/job", "PostgreSQL CPU us/job", "WAL bytes/job"]
    text = f"{options.rounds} rounds, medians (ranges).\n\n{table(head, rows)}"
    figures = {name: [asdict(run) for run in made] for name, made in runs.items()}
    report("insert", text, {"figures": figures}, options, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    main()
