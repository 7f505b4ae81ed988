"""What `Config.asynchronous_fetch` saves: pickup and work rate with it and without, on this disk and on a slow one.

    python bench/fetch_commit.py                  # on the server given, or the embedded one
    python bench/fetch_commit.py --flush-ms 5     # on one of its own, whose log takes 5 ms more for each flush

The slow disk is this one, with a sleep before each `fdatasync` (`slow_flush.c`, preloaded into the server). On and off
take turns.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness import ROOT, BenchSchema, Spread, arguments, compile_c, database_url, report, say, table
from latency import Load, latency_run

import river_fast as river
from river_fast import embedded

LOADS = (Load("pickup at 50/s, ms: p50", 50), Load("pickup at 300/s, ms: p50", 300))


def work_rate(url: str, asynchronous: bool, jobs: int, sleep_ms: float) -> float:
    """Jobs a second of a client with 100 workers, all inserted beforehand, from start to the last one acknowledged."""
    workers = river.Workers()

    @workers.work("bench_noop")
    def work(job: river.Job[object]) -> None:
        if sleep_ms:
            time.sleep(sleep_ms / 1000)

    queues = {"default": river.QueueConfig(max_workers=100)}
    with BenchSchema(url) as schema:
        schema.fill(jobs)
        schema.settle()
        config = river.Config(schema=schema.name, queues=queues, workers=workers, asynchronous_fetch=asynchronous)
        with river.Client(url, config) as client:
            while client.stats()["completer_recorded"] < jobs:
                time.sleep(0.002)
        first, last = schema.span()
    return jobs / (last - first)


@contextlib.contextmanager
def slow_server(flush_ms: float) -> Iterator[str]:
    """The URL of a server of the bench's own, each of whose log's flushes takes so much longer."""
    home = Path(tempfile.mkdtemp(prefix="river-slow-"))
    home.chmod(0o755)  # the server's user must pass here, if ours is root
    library = home / "slow_flush.so"
    compile_c(ROOT / "bench" / "slow_flush.c", library, "-shared", "-fPIC")
    library.chmod(0o755)
    preload = ("env", f"LD_PRELOAD={library}", f"RF_FLUSH_US={round(flush_ms * 1000)}")
    choose, embedded.choose_identity = embedded.choose_identity, lambda *given: replace(choose(*given), prefix=preload)
    try:
        started = embedded.start(home)
    finally:
        embedded.choose_identity = choose
    try:
        yield started.url
    finally:
        started.stop()
        shutil.rmtree(home)


def measure(url: str, seconds: float, rounds: int, jobs: int) -> dict[str, dict[bool, list[float]]]:
    figures: dict[str, dict[bool, list[float]]] = {}

    def keep(name: str, asynchronous: bool, value: float) -> None:
        figures.setdefault(name, {False: [], True: []})[asynchronous].append(value)

    for number in range(1, rounds + 1):
        for asynchronous in (False, True) if number % 2 else (True, False):
            for load in LOADS:
                run = latency_run(url, load, seconds, None, {"asynchronous_fetch": asynchronous})
                keep(load.name, asynchronous, run.waited_p50)
                keep(load.name.replace("p50", "p99"), asynchronous, run.waited_p99)
            keep("no-op jobs/s, 100 workers", asynchronous, work_rate(url, asynchronous, jobs, 0))
            keep("jobs of 1 ms/s, 100 workers", asynchronous, work_rate(url, asynchronous, jobs // 4, 1))
            say(f"  round {number}, asynchronous_fetch={asynchronous}: done")
    return figures


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each latency run")
    parser.add_argument("--jobs", type=int, default=40_000, help="of each no-op run; a quarter of them of 1 ms")
    parser.add_argument("--flush-ms", type=float, help="a server of its own, whose log's flushes take so much longer")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.flush_ms is None:
            options.database_url = database_url(options.database_url)
        else:
            options.database_url = stack.enter_context(slow_server(options.flush_ms))
        figures = measure(options.database_url, options.seconds, options.rounds, options.jobs)
        rows = [
            [name, *(Spread(values[asked]).show(",.2f" if "ms:" in name else ",.0f") for asked in (False, True))]
            for name, values in figures.items()
        ]
        disk = "this disk" if options.flush_ms is None else f"each flush of the log {options.flush_ms:g} ms longer"
        shown = table([disk, "asynchronous_fetch off (default)", "on"], rows)
        text = f"{options.seconds:g} s a latency run, {options.rounds} rounds, medians (ranges).\n\n{shown}"
        kept = {name: {str(asked): made for asked, made in values.items()} for name, values in figures.items()}
        section = "fetch_commit" if options.flush_ms is None else "fetch_commit_slow"
        report(section, text, {"figures": kept}, options, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    main()
