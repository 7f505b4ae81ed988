"""How soon a job starts: from the moment the insert call returned to the moment the work function was entered.

    python bench/latency.py                                   # 50/s, 300/s, and 50/s beside a thread that burns the GIL
    python bench/latency.py --stages                          # where the time goes between the two
    python bench/latency.py --rates 1 50 1000 --clients 1 10  # more or fewer inserts, from one process or ten

Idle clients at default settings insert single jobs at a fixed rate and work them themselves, each client in a process
of its own (one alone: in this one). A negative figure is a job that was started before the insert call had returned; it
counts as it is. Times are of one clock, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from harness import BenchSchema, Spread, arguments, database_url, percentile, report, say, table

import river_fast as river

STAGES = {  # from, to: of what `one_client` keeps
    "insert called, to its commit acknowledged": ("called", "returned"),
    "insert called, to the fetch sent for it": ("called", "asked"),
    "fetch sent, to its reply, committed": ("asked", "fetched"),
    "reply there, to a worker thread that has it and the GIL": ("fetched", "popped"),
    "that, to the work function entered": ("popped", "entered"),
    "**in all**: insert called, to work entered": ("called", "entered"),
    "**pickup**: insert returned, to work entered": ("returned", "entered"),
}
PERCENTS = (50, 95, 99)
WARM_UP = 20
LEAST = 10  # jobs in a run, however slow the rate
NUMBERS = 1_000_000  # each client's jobs are numbered from a multiple of this


@dataclass
class TimedArgs(river.JobArgs, kind="bench_timed"):
    num: int = 0


@dataclass(frozen=True)
class Load:
    """`per_s`: by all clients together."""

    name: str
    per_s: float
    burners: int = 0
    clients: int = 1

    def jobs(self, seconds: float) -> int:
        """Of each client."""
        return max(round(self.per_s * seconds / self.clients), -(-LEAST // self.clients))


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
    stages: dict[str, list[float]]


@dataclass(frozen=True)
class Case:
    """What every client of a run is told."""

    url: str
    schema: str
    load: Load
    seconds: float
    switch_interval: float | None = None
    config: dict[str, Any] | None = None


Moments = dict[int, dict[str, int]]  # by job number: what happened when, in this process


def one_client(case: Case, number: int, together: Callable[[], Any], finished: Callable[[], Any]) -> Moments:
    """Inserts and works; `together` returns when all clients are warm, `finished` when all jobs are worked."""
    moments: Moments = {}
    workers = river.Workers()

    def work(job: river.Job[TimedArgs]) -> None:
        now = time.monotonic_ns()  # before anything of the job is decoded
        row: Any = job._row
        seen = {"asked": row.asked_ns, "fetched": row.fetched_ns, "popped": row.started_ns, "entered": now}
        moments.setdefault(job.args.num, {}).update(seen)

    workers.work(TimedArgs)(work)
    queues = {"default": river.QueueConfig(max_workers=100)}
    config = river.Config(schema=case.schema, queues=queues, workers=workers, **case.config or {})
    jobs, every = case.load.jobs(case.seconds), case.load.clients / case.load.per_s
    with switching(case.switch_interval), burning(case.load.burners), river.Client(case.url, config) as client:
        warm_up(client, case)
        together()
        start = time.monotonic() + every * number / case.load.clients
        for turn in range(jobs):
            time.sleep(max(0.0, start + turn * every - time.monotonic()))
            num = number * NUMBERS + turn + 1
            called = time.monotonic_ns()
            client.insert(TimedArgs(num))
            returned = time.monotonic_ns()
            moments.setdefault(num, {}).update(called=called, returned=returned)
        finished()
    return {num: seen for num, seen in moments.items() if num > 0}


def warm_up(client: river.Client, case: Case) -> None:
    """First inserts open connections and prepare statements: not what is measured. Then the client goes idle."""
    inserted = [client.insert(TimedArgs(-1)).job for _ in range(WARM_UP)]
    for job in inserted:
        client.wait(job, 30)
    time.sleep(1.0)


def in_a_process(case: Case, number: int, start: Any, end: Any, answers: Any) -> None:
    answers.put(one_client(case, number, start.wait, end.wait))


def latency_run(
    url: str, load: Load, seconds: float, switch_interval: float | None, config: dict[str, Any] | None = None
) -> Run:
    """One run in a schema of its own. `config`: settings of `river_fast.Config` besides."""
    with BenchSchema(url) as schema:
        schema.settle()
        case = Case(url, schema.name, load, seconds, switch_interval, config)
        all_jobs = load.clients * (WARM_UP + load.jobs(seconds))

        def finished() -> None:
            wait_until(lambda: schema.by_state().get("completed", 0) >= all_jobs, "the last jobs to be completed")

        moments = one_client(case, 0, lambda: None, finished) if load.clients == 1 else in_processes(case, finished)
    return as_run(list(moments.values()))


def in_processes(case: Case, finished: Callable[[], None]) -> Moments:
    spawn = multiprocessing.get_context("spawn")
    start, end, answers = spawn.Barrier(case.load.clients + 1), spawn.Event(), spawn.Queue()
    made = [
        spawn.Process(target=in_a_process, args=(case, number, start, end, answers), daemon=True)
        for number in range(case.load.clients)
    ]
    for process in made:
        process.start()
    start.wait()
    time.sleep(case.load.jobs(case.seconds) * case.load.clients / case.load.per_s)
    finished()
    end.set()
    moments: Moments = {}
    for _ in made:
        for num, seen in answers.get(timeout=60).items():  # one process inserted it, maybe another worked it
            moments.setdefault(num, {}).update(seen)
    for process in made:
        process.join()
    return moments


def as_run(jobs: list[dict[str, int]]) -> Run:
    def spent(begin: str, end: str) -> list[float]:
        return [(job[end] - job[begin]) / 1e6 for job in jobs]

    def percentiles(values: list[float], percents: tuple[int, ...] = PERCENTS) -> list[float]:
        return [round(percentile(values, percent), 3) for percent in percents]

    waited = percentiles(spent("returned", "entered"), (*PERCENTS, 100))
    stages = {name: percentiles(spent(*between)) for name, between in STAGES.items()}
    return Run(len(jobs), *waited, insert_p50=percentiles(spent("called", "returned"))[0], stages=stages)


def wait_until(reached: Callable[[], Any], what: str, timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(0.5)  # seldom: it is asked of the server that is measured


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


def pickup_table(runs: dict[str, list[Run]]) -> str:
    columns = ("waited_p50", "waited_p95", "waited_p99", "waited_max", "insert_p50")
    rows = [
        [name, *(Spread([getattr(run, column) for run in made]).show(".2f") for column in columns)]
        for name, made in runs.items()
    ]
    head = ["single inserts", "p50 ms", "p95 ms", "p99 ms", "max ms", "the insert itself, p50 ms"]
    return table(head, rows)


def stages_table(runs: dict[str, list[Run]]) -> str:
    rows = [
        [name, stage, *(Spread([run.stages[stage][place] for run in made]).show(".2f") for place in range(3))]
        for name, made in runs.items()
        for stage in STAGES
    ]
    return table(["single inserts", "from, to", "p50 ms", "p95 ms", "p99 ms"], rows)


def loads(options: argparse.Namespace) -> tuple[Load, ...]:
    if not options.rates:
        return LOADS[:2] if options.stages else LOADS
    return tuple(
        Load(f"{rate:,g}/s, {count} client{'s' if count > 1 else ''}", rate, clients=count)
        for count in options.clients
        for rate in options.rates
    )


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each run")
    parser.add_argument("--switch-interval", type=float, help="sys.setswitchinterval during the runs, seconds")
    parser.add_argument("--stages", action="store_true", help="where the time goes, instead of the pickup alone")
    parser.add_argument("--rates", type=float, nargs="+", help="inserts a second by all clients together")
    parser.add_argument("--clients", type=int, nargs="+", default=[1], help="processes that insert and work")
    options = parser.parse_args()
    options.database_url = database_url(options.database_url)

    asked = loads(options)
    runs: dict[str, list[Run]] = {load.name: [] for load in asked}
    for number in range(1, options.rounds + 1):
        for load in asked:
            run = latency_run(options.database_url, load, options.seconds, options.switch_interval)
            say(f"  round {number}, {load.name}: p50 {run.waited_p50:.2f}, p99 {run.waited_p99:.2f} ms")
            runs[load.name].append(run)

    what, show = ("Insert returned to work entered", pickup_table)
    if options.stages:
        what, show = "Stage by stage", stages_table
    rounds = f"{options.rounds} rounds, medians (ranges)" if options.rounds > 1 else "1 round"
    text = f"{what}, {options.seconds:g} s a run, {rounds}; {placement()}.\n\n{show(runs)}"
    figures = {name: [asdict(run) for run in made] for name, made in runs.items()}
    section = "latency_stages" if options.stages else "latency_rates" if options.rates else "latency"
    report(section, text, {"figures": figures}, options, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    main()
