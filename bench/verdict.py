"""What the figures of the bench that decides say: medians, ranges, ratios, tables, and which promises are kept.

Knows nothing but the cases as they stand in the results' JSON: `question`, `group`, `name`, `peer`, `keeps`, `rival`
(the name in the same group that it is compared with), `not_run` (why, or none), `runs` (one object a round, or none).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness import Spread, table

Case = dict[str, Any]
TITLES = {
    "throughput": "No-op jobs, inserted beforehand",
    "workers": "No-op jobs by max_workers, one process",
    "lengths": "Jobs that sleep, one process",
    "inserts": "Inserts",
    "latency": "Insert returned to work function entered, client and worker in one process",
    "stop": "Stop in mid-load",
}


@dataclass(frozen=True)
class Column:
    head: str
    key: str
    form: str
    scale: float = 1.0


WORK = (
    Column("client CPU us/job", "client_cpu_us", ".2f"),
    Column("PostgreSQL CPU us/job", "postgres_cpu_us", ".1f"),
    Column("WAL bytes/job, full-page images apart", "wal_bytes", ",.0f"),
    Column("statements/1,000 jobs", "statements", ",.1f", 1000),
)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "throughput": (*WORK, Column("peak MB", "peak_mb", ".0f")),
    "workers": (
        Column("client CPU us/job", "client_cpu_us", ".2f"),
        Column("PostgreSQL CPU us/job", "postgres_cpu_us", ".1f"),
    ),
    "lengths": (
        Column("client CPU us/job", "client_cpu_us", ".2f"),
        Column("most at once", "most_at_once", ",.0f"),
        Column("a slot idle between two jobs, ms", "idle_ms", ".2f"),
    ),
    "inserts": WORK,
    "latency": (
        Column("p50 ms", "p50", ".2f"),
        Column("p95 ms", "p95", ".2f"),
        Column("p99 ms", "p99", ".2f"),
        Column("max ms", "max", ".1f"),
        Column("the insert itself, p50 ms", "insert_p50", ".2f"),
    ),
    "stop": (Column("ms", "stop_ms", ",.0f"), Column("left claimed", "left_running", ",.0f")),
}
RATED = ("throughput", "workers", "lengths", "inserts")


def values(case: Case, key: str) -> list[float | None]:
    """One for each round, None where the round has none."""
    return [None if run is None else run.get(key) for run in case["runs"]]


def spread(case: Case, key: str, scale: float = 1.0) -> Spread:
    return Spread([None if value is None else value * scale for value in values(case, key)])


def find(cases: Sequence[Case], question: str, group: str, name: str) -> Case | None:
    for case in cases:
        if (case["question"], case["group"], case["name"]) == (question, group, name):
            return case
    return None


def limit_of(cases: Sequence[Case], question: str, group: str) -> Case | None:
    """The ceiling at its best settings: the highest median."""
    asked = [case for case in cases if (case["question"], case["group"], case["peer"]) == (question, group, "limit")]
    return max(asked, key=lambda case: spread(case, "jobs_per_s").median or 0.0, default=None)


def ratio(case: Case | None, base: Case | None, key: str = "jobs_per_s") -> float | None:
    """Of the medians."""
    if case is None or base is None:
        return None
    over, under = spread(case, key).median, spread(base, key).median
    return None if over is None or not under else over / under


def ratios(case: Case, base: Case, key: str = "jobs_per_s") -> list[float]:
    """Of each round that has both."""
    pairs = zip(values(case, key), values(base, key), strict=False)
    return [over / under for over, under in pairs if over is not None and under]


def show_ratio(case: Case, base: Case | None) -> str:
    """`ratio of medians (range over the rounds)`."""
    of_medians = ratio(case, base)
    if base is None or of_medians is None:
        return ""
    by_round = ratios(case, base)
    if not by_round:
        return f"{of_medians:.2f}"
    return f"{of_medians:.2f} ({min(by_round):.2f} .. {max(by_round):.2f})"


def unfinished(case: Case) -> float:
    return float(sum(run.get("unfinished", 0) for run in case["runs"] if run is not None))


def question_table(cases: Sequence[Case], question: str) -> str:
    """One question's table; a contestant that did not run stands under it with its reason, not in it."""
    asked = [case for case in cases if case["question"] == question]
    rated, columns = question in RATED, COLUMNS[question]
    head = [TITLES[question], "contestant", *(["jobs/s", "of the limit", "x its rival"] if rated else [])]
    head += [column.head for column in columns]
    head += ["unfinished"] if question in ("throughput", "workers", "lengths") else []
    head += ["kept"] if question == "throughput" else []
    rows = []
    for case in asked:
        if not any(case["runs"]):
            continue
        row = [case["group"], case["name"]]
        if rated:
            limit = limit_of(cases, question, case["group"])
            rival = find(cases, question, case["group"], case["rival"]) if case["rival"] else None
            row += [spread(case, "jobs_per_s").show(), show_ratio(case, limit), show_ratio(case, rival)]
        row += [spread(case, column.key, column.scale).show(column.form) for column in columns]
        row += [f"{unfinished(case):,.0f}"] if "unfinished" in head else []
        row += [case["keeps"]] if "kept" in head else []
        rows.append(row)
    used = [number for number in range(len(head)) if any(row[number] for row in rows)]
    return table([head[number] for number in used], [[row[number] for number in used] for row in rows]) if rows else ""


def not_run(cases: Sequence[Case]) -> list[str]:
    """A line for each contestant and reason."""
    lines = []
    for case in cases:
        if case["not_run"]:
            rounds = "" if not any(case["runs"]) else f" in {sum(run is None for run in case['runs'])} rounds"
            lines.append(f"* not run{rounds}: {case['name']}, {case['group']}: {case['not_run']}")
    return list(dict.fromkeys(lines))


@dataclass(frozen=True)
class Promise:
    """A figure that is to be at least, or at most, so much. `rival_of_limit`: what share of the limit whoever it is a
    multiple of reaches, which says whether the multiple can be reached at all on this machine."""

    what: str
    figure: Callable[[Sequence[Case]], float | None]
    bound: float
    at_most: bool = False
    form: str = ".2f"
    rival_of_limit: Callable[[Sequence[Case]], float | None] = lambda cases: None

    def row(self, cases: Sequence[Case]) -> list[str]:
        figure = self.figure(cases)
        wanted = f"{'at most' if self.at_most else 'at least'} {self.bound:g}"
        if figure is None:
            return [self.what, wanted, "not measured", ""]
        if figure <= self.bound if self.at_most else figure >= self.bound:
            return [self.what, wanted, format(figure, self.form), "kept"]
        rival = self.rival_of_limit(cases)
        takes = "" if rival is None else f": it takes {rival * self.bound:.2f} of the limit"
        return [self.what, wanted, format(figure, self.form), f"**not kept**{takes}"]


Name = tuple[str, str, str]  # question, group, name
ONE, TWO = ("throughput", "one process"), ("throughput", "two processes")
OURS, GO = "river_fast, max_workers {}", "River Go, its bench's settings, max_workers {}"
OURS_ASYNC = "river_fast, async, max_workers {}"
GO_DEFAULT = "River Go, default settings, max_workers 100"


def times(
    ours: Name, base: Name | tuple[str, str], key: str = "jobs_per_s"
) -> Callable[[Sequence[Case]], float | None]:
    """Ours over another's; a base without a name is the limit of that group."""

    def figure(cases: Sequence[Case]) -> float | None:
        other = limit_of(cases, *base) if len(base) == 2 else find(cases, *base)
        return ratio(find(cases, *ours), other, key)

    return figure


def median(ours: Name, key: str) -> Callable[[Sequence[Case]], float | None]:
    def figure(cases: Sequence[Case]) -> float | None:
        case = find(cases, *ours)
        return None if case is None else spread(case, key).median

    return figure


def most(question: str, names: Sequence[str], key: str) -> Callable[[Sequence[Case]], float | None]:
    """The highest figure that any round of these contestants has in any group of the question."""

    def figure(cases: Sequence[Case]) -> float | None:
        asked = [case for case in cases if case["question"] == question and case["name"] in names]
        return max((value for case in asked for value in values(case, key) if value is not None), default=None)

    return figure


def of_arithmetic(group: str, name: str, rate: float) -> Callable[[Sequence[Case]], float | None]:
    """Of what the workers allow by arithmetic, or of the limit if that is lower."""

    def figure(cases: Sequence[Case]) -> float | None:
        case, limit = find(cases, "lengths", group, name), limit_of(cases, "lengths", "0 ms")
        top = None if limit is None else spread(limit, "jobs_per_s").median
        ours = None if case is None else spread(case, "jobs_per_s").median
        return None if ours is None or top is None else ours / min(rate, top)

    return figure


def of_best(
    ours: Name, peers: Sequence[str], key: str, best: Callable[[list[float]], float]
) -> Callable[[Sequence[Case]], float | None]:
    """Ours over the best median that any of these peers has in the same group."""

    def figure(cases: Sequence[Case]) -> float | None:
        case = find(cases, *ours)
        found = [
            value
            for other in cases
            if (other["question"], other["group"]) == ours[:2] and other["peer"] in peers
            if (value := spread(other, key).median) is not None
        ]
        mine = None if case is None else spread(case, key).median
        return None if mine is None or not found else mine / best(found)

    return figure


def best_of_limit(where: tuple[str, str], peers: Sequence[str]) -> Callable[[Sequence[Case]], float | None]:
    """The best rate of any of these peers, of the limit."""

    def figure(cases: Sequence[Case]) -> float | None:
        limit = limit_of(cases, *where)
        there = [case for case in cases if (case["question"], case["group"]) == where and case["peer"] in peers]
        return max((found for case in there if (found := ratio(case, limit)) is not None), default=None)

    return figure


def insert_promises() -> list[Promise]:
    kept = []
    for group, least in (("fast, 5,000 a call", 1.5), ("many, 1,000 a call", 1.3), ("one by one", 1.3)):
        name: Name = ("inserts", group, "river_fast")
        kept.append(Promise(f"insert {group}: x River Go", times(name, ("inserts", group, "River Go")), least))
    one: Name = ("inserts", "one by one", "river_fast")
    for callers in ("64 threads", "64 async tasks"):
        at_once: Name = ("inserts", "64 at once", f"river_fast, {callers}")
        kept.append(Promise(f"insert from {callers}: x one by one", times(at_once, one), 10, form=".1f"))
    return kept


def promises(python: tuple[int, int] = sys.version_info[:2]) -> list[Promise]:
    """What the project holds itself to, for a client of this Python."""
    best, hundred = OURS.format("2,000"), OURS.format("100")
    work, work_hundred, two = (*ONE, best), (*ONE, hundred), (*TWO, best)
    async_work = (*ONE, OURS_ASYNC.format("2,000"))
    go, go_hundred = (*ONE, GO.format("2,000")), (*ONE, GO.format("100"))
    eager = python >= (3, 12)
    rivals, python_rivals = ("go", "graphile", "pgqueuer", "procrastinate"), ("pgqueuer", "procrastinate")
    threads = ("lengths", "1 ms", "bare threads, 100 of them")
    kept = [
        Promise("work, max_workers 2,000: of the limit", times(work, ONE), 0.95),
        Promise("work, max_workers 2,000: x River Go", times(work, go), 1.85, rival_of_limit=times(go, ONE)),
        Promise("work, max_workers 100: of the limit", times(work_hundred, ONE), 0.90),
        Promise("work, max_workers 100: x River Go at 100", times(work_hundred, go_hundred), 2.8),
        Promise(
            "default settings, max_workers 100: x River Go", times(work_hundred, (*ONE, GO_DEFAULT)), 45, form=".1f"
        ),
        Promise("two processes: of the limit with four loops", times(two, TWO), 0.90),
        Promise("async no-op: of the sync figure", times(async_work, work), 0.95 if eager else 0.85),
        Promise(
            "1 ms, sync: of 100 bare threads",
            times(("lengths", "1 ms", hundred), threads),
            0.9,
            rival_of_limit=times(threads, ("lengths", "0 ms")),
        ),
        Promise("1 ms, sync: of the limit, which is lower", of_arithmetic("1 ms", hundred, 100_000), 0.9),
        Promise("10 ms, sync: of the arithmetic rate", of_arithmetic("10 ms", hundred, 10_000), 0.9),
        Promise(
            "1 ms, async: of that rate or the limit", of_arithmetic("1 ms", OURS_ASYNC.format("100"), 100_000), 0.9
        ),
        Promise("10 ms, async: of the arithmetic rate", of_arithmetic("10 ms", OURS_ASYNC.format("100"), 10_000), 0.9),
        Promise(
            "jobs in hand at once, max_workers 100: at most in any run",
            most("lengths", (hundred, OURS_ASYNC.format("100")), "most_at_once"),
            100,
            True,
            ".0f",
        ),
        Promise("client CPU, us a job", median(work, "client_cpu_us"), 3, True),
        Promise("client CPU, async, us a job", median(async_work, "client_cpu_us"), 3 if eager else 5, True),
        Promise("PostgreSQL CPU a job: of River Go's", times(work, go, "postgres_cpu_us"), 0.90, True),
        Promise("WAL a job, full-page images apart: of River Go's", times(work, go, "wal_bytes"), 1.05, True),
        Promise(
            "best Python peer, one process each: x",
            of_best(work, python_rivals, "jobs_per_s", max),
            3,
            rival_of_limit=best_of_limit(ONE, python_rivals),
        ),
    ]
    kept += insert_promises()
    for group, p50, p99 in (("50/s", 0.6, 1.2), ("300/s", 0.7, 1.5)):
        pickup: Name = ("latency", group, "river_fast")
        kept.append(Promise(f"pickup at {group}, p50 ms", median(pickup, "p50"), p50, True))
        kept.append(Promise(f"pickup at {group}, p99 ms", median(pickup, "p99"), p99, True))
        for key in ("p50", "p99"):
            what = f"pickup at {group}, {key}: of the best peer's"
            kept.append(Promise(what, of_best(pickup, rivals, key, min), 1, True))
    burnt = "50/s beside a thread that burns the GIL"
    for name_, bound in (("river_fast", 10), ("river_fast, switch interval 0.5 ms", 2)):
        kept.append(Promise(f"{burnt}, {name_}: p99 ms", median(("latency", burnt, name_), "p99"), bound, True))
    for workers in (best, hundred):
        kept.append(
            Promise(f"stop in mid-load, {workers}: ms", median(("stop", "", workers), "stop_ms"), 500, True, ".0f")
        )
    return kept


def promise_table(cases: Sequence[Case], python: tuple[int, int] = sys.version_info[:2]) -> str:
    return table(["what, by medians", "wanted", "measured", ""], [promise.row(cases) for promise in promises(python)])


def report(cases: Sequence[Case], python: tuple[int, int] = sys.version_info[:2]) -> str:
    """All tables of what was asked, in the order of the questions."""
    parts = [promise_table(cases, python)]
    parts += [text for question in TITLES if (text := question_table(cases, question))]
    parts += ["\n".join(not_run(cases))]
    return "\n\n".join(part for part in parts if part)
