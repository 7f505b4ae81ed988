"""The bench that decides: the database's limit, river_fast and every rival, taking turns in one run on one server.

    python bench/decide.py                                                  # everything, 5 rounds, about an hour
    python bench/decide.py --rounds 3 --only river_fast go --questions throughput latency
    python bench/decide.py --render --readme                                # tables and charts anew, no runs

Each round runs every case once, every second round in the opposite order. A case's first, small run tells how many jobs
its rounds can have; a contestant that fails it is named as not run, with the reason. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import contest
import psycopg
import server
import verdict
from contest import SHAPE, Arena
from contestants import ALL, CannotRun
from gauge import Gauge
from harness import README, ROOT, arguments, build_limit, machine, say, with_section
from questions import QUESTIONS, Asked, Scale, all_cases

RESULTS = ROOT / "bench" / "results"
FILE = "decide.json"
LIMIT_LOOPS, LIMIT_ROWS = (1, 2, 3), (500, 2000, 5000)
FAST_ENOUGH_S = 20  # a contestant that would need longer than this for all jobs gets fewer
LEAST_JOBS = 500


def listed(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def parse() -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0])
    parser.set_defaults(rounds=5, results=RESULTS)
    parser.add_argument("--questions", type=listed, nargs="*", default=[], help=f"of {', '.join(QUESTIONS)}; all")
    parser.add_argument("--only", type=listed, nargs="*", default=[], help=f"of {', '.join(p.key for p in ALL)}; all")
    parser.add_argument("--jobs", type=int, default=200_000, help="at most, in a run")
    parser.add_argument("--seconds", type=float, default=10, help="of a latency run, and of a slow contestant's")
    parser.add_argument("--limit", metavar="LOOPSxROWS", help="the ceiling's settings; none: a scan finds the best two")
    parser.add_argument("--data-dir", type=Path, help="of the embedded PostgreSQL, where no server is given")
    parser.add_argument("--merge", action="store_true", help="keep what the results say of questions not asked now")
    parser.add_argument(
        "--render", action="store_true", help="no runs: tables and charts from the results that are there"
    )
    parser.add_argument("--no-charts", action="store_true")
    options = parser.parse_args()
    options.questions = list(itertools.chain(*options.questions)) or list(QUESTIONS)
    options.only = list(itertools.chain(*options.only))
    for given, known in ((options.questions, QUESTIONS), (options.only, [peer.key for peer in ALL])):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    return options


def jobs_of(asked: Asked, rate: float, options: argparse.Namespace) -> int:
    """All, if the pilot's rate promises an end in time; else what takes a slow contestant its seconds."""
    if asked.seconds:
        return min(max(round(rate * asked.seconds), asked.unit), options.jobs)
    jobs: int = options.jobs if rate * FAST_ENOUGH_S >= options.jobs else round(rate * options.seconds)
    jobs = min(max(jobs, LEAST_JOBS), options.jobs)
    return max(jobs // asked.unit, 1) * asked.unit


def best_limits(arena: Arena, options: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    """The ceiling's settings: as given, or the two fastest in a scan of one run each; all take part in every round."""
    if options.limit:
        loops, _, rows = options.limit.partition("x")
        return ((int(loops), int(rows)),)
    found: list[tuple[float, int, int]] = []
    for loops, rows in itertools.product(LIMIT_LOOPS, LIMIT_ROWS):
        rate = float(contest.limit(arena, loops, rows, options.jobs)["jobs_per_s"])
        say(f"  limit, {loops} loops of {rows:,}: {rate:,.0f} jobs/s")
        found.append((rate, loops, rows))
    return tuple((loops, rows) for _, loops, rows in sorted(found, reverse=True)[:2])


def pilot(arena: Arena, asked: Asked, options: argparse.Namespace) -> int:
    """How many jobs its rounds have. CannotRun where it cannot take part."""
    if not asked.pilot:
        return 0
    few = min(asked.pilot, max(options.jobs // asked.unit, 1) * asked.unit)
    return jobs_of(asked, (asked.rate or asked.run)(arena, few)["jobs_per_s"], options)


def measure(arena: Arena, cases: list[Asked], options: argparse.Namespace) -> list[verdict.Case]:
    """One question's cases as the results' JSON has them. The contestants take turns in each round."""
    results = [entry(asked) for asked in cases]
    jobs: dict[int, int] = {}
    for number, asked in enumerate(cases):
        with failing(asked, results[number]):
            jobs[number] = pilot(arena, asked, options)
    for round_number in range(1, options.rounds + 1):
        for number in sorted(jobs, reverse=round_number % 2 == 0):
            asked, figures = cases[number], None
            with failing(asked, results[number]):
                figures = asked.run(arena, jobs[number])
                say(f"  round {round_number}, {asked.question}, {asked.group}, {asked.name}: {brief(figures)}")
            results[number]["runs"].append(rounded(figures))
    return results


def entry(asked: Asked) -> verdict.Case:
    return {
        "question": asked.question,
        "group": asked.group,
        "name": asked.name,
        "peer": asked.peer.key,
        "keeps": asked.peer.keeps,
        "rival": asked.rival,
        "not_run": None,
        "runs": [],
    }


@contextlib.contextmanager
def failing(asked: Asked, result: verdict.Case) -> Iterator[None]:
    """One contestant's failure is noted and does not end the run."""
    try:
        yield
    except (CannotRun, psycopg.Error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        say(f"  not run: {asked.question}, {asked.group}, {asked.name}: {reason}")
        result["not_run"] = reason


def brief(run: contest.Figures) -> str:
    if "jobs_per_s" in run:
        return f"{run['jobs_per_s']:,.0f} jobs/s, {run.get('unfinished', 0)} unfinished"
    if "stop_ms" in run:
        return f"stopped in {run['stop_ms']:,.0f} ms, {run['left_running']} left claimed"
    return f"p50 {run['p50']:.2f}, p99 {run['p99']:.2f} ms"


def rounded(value: Any) -> Any:
    """Four significant digits more than anybody reads, and half of the file."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, as the results' JSON, which is written after each question."""
    url = options.database_url or server.start(options.data_dir)
    build_limit()
    begun, file = time.monotonic(), options.results / FILE
    with Gauge(url, may_reset=not options.database_url) as gauge:
        document: dict[str, Any] = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": machine(url),
            "rounds": options.rounds,
            "jobs": options.jobs,
            "seconds": options.seconds,
            "not_measured": gauge.missing,
            "python": list(sys.version_info[:2]),
            "percentiles": SHAPE,
            "cases": kept_cases(file, options.questions) if options.merge else [],
        }
        arena = Arena(url, gauge)
        scale = Scale(options.jobs, options.seconds, best_limits(arena, options))
        cases = all_cases(scale, options.questions, options.only)
        for question in options.questions:
            document["cases"] += measure(arena, [asked for asked in cases if asked.question == question], options)
            document["minutes"] = round((time.monotonic() - begun) / 60, 1)
            lines = json.dumps(document, separators=(",", ":")).replace('{"question"', '\n{"question"')
            file.write_text(lines + "\n")
    return document


def kept_cases(file: Path, questions: list[str]) -> list[verdict.Case]:
    """Of an earlier run: whole questions, so that nothing is compared with a figure of another run."""
    if not file.exists():
        return []
    return [case for case in json.loads(file.read_text())["cases"] if case["question"] not in questions]


def text_of(document: dict[str, Any]) -> str:
    """What goes into the README."""
    rounds = sorted({len(case["runs"]) for case in document["cases"] if case["runs"]})
    shown = " to ".join(str(number) for number in dict.fromkeys((rounds[0], rounds[-1]))) if rounds else "no"
    lines = [
        f"At most {document['jobs']:,} jobs a run, {shown} rounds, medians (ranges). A ratio is of"
        " medians, its range is over the rounds. A rival is River Go with as many workers (for the other peers: with"
        " 2,000; for our async figure: our sync one).",
        "",
        verdict.report(document["cases"], tuple(document["python"])),
        "",
    ]
    if document["not_measured"]:
        lines.append(f"* not measured here, for want of: {', '.join(document['not_measured'])}")
    lines += [f"* {name}: {fact}" for name, fact in document["machine"].items()]
    lines.append(f"* command: `{document['command']}`, {document['minutes']:g} minutes")
    return "\n".join(lines)


def draw(document: dict[str, Any], folder: Path) -> list[str]:
    """The charts' names; none, and a word, without matplotlib."""
    try:
        import charts
    except ImportError as error:
        say(f"no charts: {error} (the extra `bench` brings matplotlib)")
        return []
    drawn: list[str] = charts.draw_all(document["cases"], document["percentiles"], folder)
    return drawn


def main() -> None:
    options = parse()
    options.results.mkdir(parents=True, exist_ok=True)
    document = json.loads((options.results / FILE).read_text()) if options.render else run(options)
    text = text_of(document)
    drawn = [] if options.no_charts else draw(document, options.results)
    print(json.dumps(document) if options.json else text)
    if options.readme:
        pictures = "".join(f"\n![{name}](results/{name}.png)" for name in drawn)
        README.write_text(with_section(README.read_text(), "decide", f"{text}\n{pictures}".rstrip()))


if __name__ == "__main__":
    main()
