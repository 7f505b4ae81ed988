"""How soon a job starts: from the moment the insert call returned to the moment the work function was entered.

    python bench/latency.py                 # 50/s, 300/s, and 50/s beside a thread that burns the GIL

One idle client at default settings inserts single jobs at a fixed rate and works them itself, in one process. A
negative figure is a job that was started before the insert call had returned; it counts as it is.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from harness import BenchSchema, Spread, arguments, database_url, percentile, report, say, table

import river_fast as river


@dataclass
class TimedArgs(river.JobArgs, kind="bench_timed"):
    num: int = 0


@dataclass(frozen=True)
class Load:
    name: str
    per_s: float
    burners: int = 0


LOADS = (Load("50/s", 50), Load("300/s", 300), Load("50/s beside a GIL-burning thread", 50, burners=1))


@dataclass(frozen=True)
class Run:
    """Milliseconds. `waited_*`: insert returned to work entered; `insert_p50`: the insert call itself."""

    jobs: int
    waited_p50: float
    waited_p95: float
    waited_p99: float
    waited_max: float
    insert_p50: float


def latency_run(url: str, load: Load, seconds: float, switch_interval: float | None) -> Run:
    entered: dict[int, int] = {}
    returned: dict[int, int] = {}
    called: dict[int, int] = {}
    workers = river.Workers()

    def work(job: river.Job[TimedArgs]) -> None:
        now = time.monotonic_ns()  # before anything of the job is decoded
        entered[job.args.num] = now

    workers.work(TimedArgs)(work)
    jobs = round(load.per_s * seconds)
    with BenchSchema(url) as schema:
        schema.settle()
        config = river.Config(
            schema=schema.name, queues={"default": river.QueueConfig(max_workers=100)}, workers=workers
        )
        with switching(switch_interval), burning(load.burners), river.Client(url, config) as client:
            warm_up(client, entered)
            start = time.monotonic()
            for num in range(jobs):
                time.sleep(max(0.0, start + num / load.per_s - time.monotonic()))
                called[num] = time.monotonic_ns()
                client.insert(TimedArgs(num))
                returned[num] = time.monotonic_ns()
            wait_until(lambda: len(entered) >= jobs + WARM_UP, "the last jobs to start")
    waited = [(entered[num] - returned[num]) / 1e6 for num in range(jobs)]
    return Run(
        jobs,
        *(round(percentile(waited, percent), 3) for percent in (50, 95, 99, 100)),
        insert_p50=round(percentile([(returned[num] - called[num]) / 1e6 for num in range(jobs)], 50), 3),
    )


WARM_UP = 20


def warm_up(client: river.Client, entered: dict[int, int]) -> None:
    """First inserts open connections and prepare statements: not what is measured. Then the client goes idle."""
    for num in range(1, WARM_UP + 1):
        client.insert(TimedArgs(-num))
    wait_until(lambda: len(entered) >= WARM_UP, "the warm-up jobs to start")
    time.sleep(1.0)


def wait_until(reached: Any, what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(0.01)


@contextlib.contextmanager
def burning(threads: int) -> Iterator[None]:
    """Threads that never give the GIL away by themselves."""
    stop = False

    def burn() -> None:
        number = 0
        while not stop:
            number += 1

    started = [threading.Thread(target=burn, daemon=True) for _ in range(threads)]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        stop = True
        for thread in started:
            thread.join()


@contextlib.contextmanager
def switching(interval: float | None) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(before if interval is None else interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def placement() -> str:
    """A round trip costs 10 us where client and backend share a CPU and 85 us where they do not."""
    if hasattr(os, "sched_getaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        return f"client process on CPUs {','.join(map(str, cpus))} of {os.cpu_count()}, not pinned further"
    return "placement unknown on this system"


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each run")
    parser.add_argument("--switch-interval", type=float, help="sys.setswitchinterval during the runs, seconds")
    options = parser.parse_args()
    options.database_url = database_url(options.database_url)

    runs: dict[str, list[Run]] = {load.name: [] for load in LOADS}
    for number in range(1, options.rounds + 1):
        for load in LOADS:
            run = latency_run(options.database_url, load, options.seconds, options.switch_interval)
            say(f"  round {number}, {load.name}: p50 {run.waited_p50:.2f}, p99 {run.waited_p99:.2f} ms")
            runs[load.name].append(run)

    columns = ("waited_p50", "waited_p95", "waited_p99", "waited_max", "insert_p50")
    rows = [
        [name, *(Spread([getattr(run, column) for run in made]).show(".2f") for column in columns)]
        for name, made in runs.items()
    ]
    head = ["single inserts", "p50 ms", "p95 ms", "p99 ms", "max ms", "the insert itself, p50 ms"]
    text = (
        f"Insert returned to work function entered, {options.seconds:g} s a run, {options.rounds} rounds,"
        f" medians (ranges); {placement()}.\n\n{table(head, rows)}"
    )
    figures = {name: [asdict(run) for run in made] for name, made in runs.items()}
    report("latency", text, {"figures": figures}, options, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    main()
