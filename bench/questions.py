"""What the bench that decides asks, and of whom: every case, in the order in which each round runs them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import contest
from contest import Arena, Figures
from contestants import (
    GO,
    GRAPHILE_WORKER,
    LIMIT,
    PGQUEUER_PEER,
    PROCRASTINATE_PEER,
    RIVER_FAST,
    THREADS,
    Peer,
)

QUESTIONS = ("throughput", "workers", "lengths", "inserts", "latency", "stop")
GO_BENCH = "River Go, its bench's settings, max_workers {:,}"
GO_DEFAULT = "River Go, default settings, max_workers 100"
# procrastinate: more jobs or connections at once only cost it time
PROCRASTINATE = ("--max-workers", "10", "--connections", "12")
Run = Callable[[Arena, int], Figures]


@dataclass(frozen=True)
class Asked:
    """One case: `run` works, inserts or stops so many jobs; `pilot` of them tell how many a round can have."""

    question: str
    group: str
    name: str
    peer: Peer
    run: Run
    pilot: int = 0  # 0: its length is given, not its jobs
    unit: int = 1  # the jobs of a round are a multiple of this
    rival: str = ""  # the name in the same group that it is compared with
    rate: Run | None = None  # what the pilot runs, if not `run`
    seconds: float = 0  # how long a round takes, however few jobs that is; 0: as the options say


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    jobs: int
    seconds: float
    limits: tuple[tuple[int, int], ...]  # loops and rows; the best first


def work(peer: Peer, *arguments: str, count: int = 1) -> Run:
    return lambda arena, jobs: contest.work(arena, peer, arguments, jobs, count)


def workers(number: int, *more: str) -> tuple[str, ...]:
    return ("--max-workers", str(number), *more)


def limit(loops: int, rows: int) -> Run:
    return lambda arena, jobs: contest.limit(arena, loops, rows, jobs)


def limit_name(loops: int, rows: int) -> str:
    return f"limit, {loops} loops of {rows:,}"


def throughput(scale: Scale) -> Iterator[Asked]:
    ours = "river_fast, max_workers {:,}"
    go_best = GO_BENCH.format(2000)
    for count, group in ((1, "one process"), (2, "two processes")):
        asked = functools.partial(Asked, "throughput", group, pilot=2000)
        settings_here = scale.limits if count == 1 else dict.fromkeys((4, rows) for _, rows in scale.limits)
        for loops, rows in settings_here:
            yield asked(limit_name(loops, rows), LIMIT, limit(loops, rows))
        yield asked(ours.format(2000), RIVER_FAST, work(RIVER_FAST, *workers(2000), count=count), rival=go_best)
        yield asked(go_best, GO, work(GO, *workers(2000), count=count))
        hundred = GO_BENCH.format(100)
        yield asked(ours.format(100), RIVER_FAST, work(RIVER_FAST, *workers(100), count=count), rival=hundred)
        yield asked(hundred, GO, work(GO, *workers(100), count=count))
        name = "river_fast, async, max_workers 2,000"
        run = work(RIVER_FAST, *workers(2000, "--mode", "async"), count=count)
        yield asked(name, RIVER_FAST, run, rival=ours.format(2000))
        yield asked(GO_DEFAULT, GO, work(GO, *workers(100, "--settings", "default"), count=count))
        for settings, name in (("preset", "its benchmark's preset"), ("large", "local queue of 5,000")):
            run = work(GRAPHILE_WORKER, "--settings", settings, count=count)
            yield asked(f"graphile-worker, {name}", GRAPHILE_WORKER, run, rival=go_best)
        for settings, name in (("", "batches of 1,000"), ("own bench", "5 managers, batches of 10")):
            run = work(PGQUEUER_PEER, "--settings", settings, count=count)
            yield asked(f"pgqueuer with asyncpg, {name}", PGQUEUER_PEER, run, rival=go_best)
        run = work(PROCRASTINATE_PEER, *PROCRASTINATE, count=count)
        yield asked("procrastinate, concurrency 10", PROCRASTINATE_PEER, run, rival=go_best)


def max_workers(scale: Scale) -> Iterator[Asked]:
    for number in (1, 10, 100, 2000):
        asked = functools.partial(Asked, "workers", f"max_workers {number:,}", pilot=1000, rival="River Go")
        yield asked("river_fast", RIVER_FAST, work(RIVER_FAST, *workers(number)))
        yield asked("river_fast, async", RIVER_FAST, work(RIVER_FAST, *workers(number, "--mode", "async")))
        yield asked("River Go", GO, work(GO, *workers(number)), rival="")


def lengths(scale: Scale) -> Iterator[Asked]:
    go = GO_BENCH.format(100)
    for ms in (0, 1, 10, 100):
        asked = functools.partial(Asked, "lengths", f"{ms} ms", pilot=1000)
        arguments = workers(100, "--sleep-ms", str(ms))
        if ms == 0:
            yield asked(limit_name(*scale.limits[0]), LIMIT, limit(*scale.limits[0]))
        else:
            yield Asked("lengths", f"{ms} ms", "bare threads, 100 of them", THREADS, threads(arguments, scale.seconds))
        yield asked("river_fast, max_workers 100", RIVER_FAST, work(RIVER_FAST, *arguments), rival=go)
        run = work(RIVER_FAST, *arguments, "--mode", "async")
        yield asked("river_fast, async, max_workers 100", RIVER_FAST, run, rival=go)
        run = work(RIVER_FAST, *arguments, "--mode", "async", "--loop", "asyncio")
        yield asked("river_fast, async without uvloop, max_workers 100", RIVER_FAST, run, rival=go)
        yield asked(go, GO, work(GO, *arguments))
    for number, ms in itertools.product((1, 10), (1, 10, 100)):
        pilot, arguments = max(number * 500 // ms, 10), workers(number, "--sleep-ms", str(ms))
        asked = functools.partial(
            Asked, "lengths", f"{ms} ms, max_workers {number}", pilot=pilot, seconds=scale.seconds / 5
        )
        yield asked("river_fast", RIVER_FAST, work(RIVER_FAST, *arguments))
        yield asked("river_fast, async", RIVER_FAST, work(RIVER_FAST, *arguments, "--mode", "async"))


def threads(arguments: Sequence[str], seconds: float) -> Run:
    return lambda arena, jobs: contest.threads(arena, arguments, seconds)


def insert(peer: Peer, batch: int, *arguments: str) -> Run:
    return lambda arena, jobs: contest.insert(arena, peer, arguments, jobs, batch)


def inserts(scale: Scale) -> Iterator[Asked]:
    everybody = (RIVER_FAST, GO, GRAPHILE_WORKER, PGQUEUER_PEER, PROCRASTINATE_PEER)
    for group, way, batch, pilot, peers in (
        ("one by one", "single", 1, 200, everybody),
        ("many, 1,000 a call", "many", 1000, 4000, everybody),
        ("fast, 5,000 a call", "fast", 5000, 10_000, (RIVER_FAST, GO)),
    ):
        for peer in peers:
            rival = "" if peer is GO else "River Go"
            run = insert(peer, batch, "--way", way)
            yield Asked("inserts", group, peer.name, peer, run, pilot, batch, rival)
    at_once = ("--callers", "64")
    for name, peer, more in (
        ("river_fast, 64 threads", RIVER_FAST, ()),
        ("river_fast, 64 async tasks", RIVER_FAST, ("--mode", "async")),
        ("River Go, 4 connections", GO, ("--connections", "4")),
        ("River Go, 64 connections", GO, ("--connections", "64")),
        ("graphile-worker, 10 connections", GRAPHILE_WORKER, ("--connections", "10")),
        ("pgqueuer, 10 connections", PGQUEUER_PEER, ("--connections", "10")),
        ("procrastinate, 10 connections", PROCRASTINATE_PEER, ("--connections", "10")),
    ):
        rival = "" if peer is GO else "River Go, 64 connections"
        yield Asked("inserts", "64 at once", name, peer, insert(peer, 1, *at_once, *more), 640, 64, rival)


def latency(scale: Scale) -> Iterator[Asked]:
    def timed(name: str, peer: Peer, rate: float, group: str, *arguments: str) -> Asked:
        return Asked("latency", group, name, peer, pickup(peer, arguments, rate, scale.seconds))

    for rate in (50, 300):
        group = f"{rate}/s"
        yield timed("river_fast", RIVER_FAST, rate, group, *workers(100))
        yield timed("River Go, its bench's settings", GO, rate, group, *workers(100))
        yield timed("River Go, default settings", GO, rate, group, *workers(100, "--settings", "default"))
        yield timed("graphile-worker, its benchmark's preset", GRAPHILE_WORKER, rate, group, "--settings", "preset")
        yield timed("graphile-worker, no local queue", GRAPHILE_WORKER, rate, group, "--settings", "plain")
        yield timed("pgqueuer with asyncpg", PGQUEUER_PEER, rate, group)
        yield timed("procrastinate", PROCRASTINATE_PEER, rate, group, *PROCRASTINATE)
    burnt, burner = "50/s beside a thread that burns the GIL", ("--burners", "1")
    yield timed("river_fast", RIVER_FAST, 50, burnt, *workers(100, *burner))
    short = workers(100, *burner, "--switch-interval", "0.0005")
    yield timed("river_fast, switch interval 0.5 ms", RIVER_FAST, 50, burnt, *short)


def pickup(peer: Peer, arguments: Sequence[str], rate: float, seconds: float) -> Run:
    return lambda arena, jobs: contest.latency(arena, peer, arguments, rate, seconds)


def stop(scale: Scale) -> Iterator[Asked]:
    for name, peer, arguments in (
        ("river_fast, max_workers 2,000", RIVER_FAST, workers(2000)),
        (GO_BENCH.format(2000), GO, workers(2000)),
        ("river_fast, max_workers 100", RIVER_FAST, workers(100)),
        (GO_BENCH.format(100), GO, workers(100)),
        ("graphile-worker, its benchmark's preset", GRAPHILE_WORKER, ("--settings", "preset")),
        ("pgqueuer with asyncpg, batches of 1,000", PGQUEUER_PEER, ()),
        ("procrastinate, concurrency 10", PROCRASTINATE_PEER, PROCRASTINATE),
    ):
        yield Asked("stop", "", name, peer, stopped(peer, arguments), 2000, rate=work(peer, *arguments))


def stopped(peer: Peer, arguments: Sequence[str]) -> Run:
    return lambda arena, jobs: contest.stop(arena, peer, arguments, jobs)


def all_cases(scale: Scale, questions: Sequence[str], only: Sequence[str]) -> list[Asked]:
    """What is asked of whom; the limit and the bare threads always take part."""
    makers = (throughput, max_workers, lengths, inserts, latency, stop)
    asked = [case for maker in makers for case in maker(scale)]
    return [
        case
        for case in asked
        if case.question in questions and (not only or case.peer.key in {*only, "limit", "threads"})
    ]
