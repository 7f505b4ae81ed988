"""The bench that decides: that its statistics, ratios, tables and promises say what the figures say. No peer is run."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "bench"
Case = dict[str, Any]


@pytest.fixture(scope="module")
def programs() -> Iterator[Any]:
    """Imports a program of `bench/` as it imports its neighbours: by its bare name."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(f"{BENCH}/"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def verdict(programs: Any) -> Any:
    return programs("verdict")


def case(name: str, *rates: float | None, peer: str = "river_fast", question: str = "throughput", **more: Any) -> Case:
    runs = [None if rate is None else {"jobs_per_s": rate, "unfinished": 0} for rate in rates]
    made = {"question": question, "group": "one process", "name": name, "peer": peer, "keeps": "rows kept"}
    return {**made, "rival": "", "not_run": None, "runs": runs, **more}


OURS, GO = "river_fast, max_workers 2,000", "River Go, its bench's settings, max_workers 2,000"


def test_ratio_is_of_medians_and_its_range_is_over_the_rounds(verdict: Any) -> None:
    ours, go = case("a", 100, 200, 600), case("b", 100, 50, 200)
    assert verdict.ratio(ours, go) == 2.0
    assert verdict.ratios(ours, go) == [1.0, 4.0, 3.0]
    assert verdict.show_ratio(ours, go) == "2.00 (1.00 .. 4.00)"


def test_round_without_figures_drops_out_of_both_sides_of_a_ratio(verdict: Any) -> None:
    ours, go = case("a", 100, None, 300), case("b", 50, 10, None)
    assert verdict.ratios(ours, go) == [2.0]
    assert verdict.ratio(ours, go) == 200 / 30
    assert verdict.show_ratio(case("a", None, 6), case("b", 3, None)) == "2.00"


def test_ratio_to_nothing_is_nothing(verdict: Any) -> None:
    assert verdict.ratio(case("a", 1), None) is None
    assert verdict.ratio(case("a", None), case("b", 1)) is None
    assert verdict.ratio(case("a", 1), case("b", 0)) is None
    assert verdict.show_ratio(case("a", 1), None) == ""


def test_table_shows_rate_limit_rival_and_what_is_kept(verdict: Any) -> None:
    cases = [
        case("limit, 2 loops of 2,000", 1000, 1200, peer="limit"),
        case(
            OURS,
            900,
            1080,
            rival=GO,
            runs=[{"jobs_per_s": 900, "unfinished": 2}, {"jobs_per_s": 1080, "unfinished": 1}],
        ),
        case(GO, 450, 540, peer="go"),
    ]
    head, _, _, ours, go = verdict.question_table(cases, "throughput").splitlines()
    assert [cell.strip() for cell in head.split("|")][2:6] == ["contestant", "jobs/s", "of the limit", "x its rival"]
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells[:5] == ["one process", OURS, "990 (900 .. 1,080)", "0.90 (0.90 .. 0.90)", "2.00 (2.00 .. 2.00)"]
    assert cells[-2:] == ["3", "rows kept"]
    assert "not measured" in go  # no CPU in these figures
    assert verdict.question_table(cases, "latency") == ""


def test_contestant_that_did_not_run_is_named_with_its_reason_and_not_in_the_table(verdict: Any) -> None:
    absent = case("graphile-worker", peer="graphile", not_run="it needs npm")
    flaky = case("pgqueuer", 10, None, peer="pgqueuer", not_run="it ended early")
    assert verdict.not_run([absent, flaky, case(OURS, 1)]) == [
        "* not run: graphile-worker, one process: it needs npm",
        "* not run in 1 rounds: pgqueuer, one process: it ended early",
    ]
    assert "graphile-worker" not in verdict.question_table([absent, case(OURS, 1)], "throughput")


def test_promise_is_kept_at_its_bound_and_unmeasured_without_a_figure(verdict: Any) -> None:
    at_least = verdict.Promise("rate", lambda cases: 3.0, 3)
    at_most = verdict.Promise("cost", lambda cases: 3.001, 3, True)
    assert at_least.row([]) == ["rate", "at least 3", "3.00", "kept"]
    assert at_most.row([]) == ["cost", "at most 3", "3.00", "**not kept**"]
    assert verdict.Promise("none", lambda cases: None, 1).row([]) == ["none", "at least 1", "not measured", ""]
    of_a_rival = verdict.Promise("times", lambda cases: 1.7, 2, rival_of_limit=lambda cases: 0.6)
    assert of_a_rival.row([]) == ["times", "at least 2", "1.70", "**not kept**: it takes 1.20 of the limit"]


def test_promises_find_their_cases_under_the_names_that_the_questions_give(programs: Any, verdict: Any) -> None:
    """Every promise has a figure once every case that is asked has run: a renamed case would leave one unmeasured."""
    questions = programs("questions")
    scale = questions.Scale(jobs=1000, seconds=1, limits=((2, 2000), (3, 2000)))
    figures = {"jobs_per_s": 5.0, "client_cpu_us": 1.0, "postgres_cpu_us": 1.0, "wal_bytes": 1.0}
    figures |= {"p50": 1.0, "p99": 1.0, "stop_ms": 1.0, "most_at_once": 100.0}
    cases = [
        case(
            asked.name,
            peer=asked.peer.key,
            question=asked.question,
            group=asked.group,
            rival=asked.rival,
            runs=[figures],
        )
        for asked in questions.all_cases(scale, questions.QUESTIONS, [])
    ]
    assert [promise.what for promise in verdict.promises() if promise.figure(cases) is None] == []
    for one in cases:
        assert not one["rival"] or verdict.find(cases, one["question"], one["group"], one["rival"]), one["name"]
    names = [(one["question"], one["group"], one["name"]) for one in cases]
    assert len(names) == len(set(names))


def test_best_peer_of_latency_is_the_quickest_and_of_rates_the_fastest(verdict: Any) -> None:
    group = {"question": "latency", "group": "50/s"}
    cases = [
        case("river_fast", **group, runs=[{"p50": 0.5}]),
        case("River Go", peer="go", **group, runs=[{"p50": 1.0}]),
        case("pgqueuer", peer="pgqueuer", **group, runs=[{"p50": 2.0}]),
    ]
    name = ("latency", "50/s", "river_fast")
    assert verdict.of_best(name, ("go", "pgqueuer"), "p50", min)(cases) == 0.5
    assert verdict.of_best(name, ("go", "pgqueuer"), "p50", max)(cases) == 0.25
    assert verdict.of_best(name, ("procrastinate",), "p50", min)(cases) is None


def test_limit_is_its_best_settings(verdict: Any) -> None:
    slow, fast = case("limit, 1", 10, 90, 11, peer="limit"), case("limit, 2", 20, 21, None, peer="limit")
    assert verdict.limit_of([slow, case(OURS, 99), fast], "throughput", "one process") is fast
    assert verdict.limit_of([slow], "throughput", "two processes") is None


def test_columns_that_say_nothing_are_left_out(verdict: Any) -> None:
    alone = [case("River Go", 5, question="inserts", peer="go")]
    head = verdict.question_table(alone, "inserts").splitlines()[0]
    assert "of the limit" not in head
    assert "x its rival" not in head
    assert "jobs/s" in head


def test_most_at_once_is_of_every_round_and_group(verdict: Any) -> None:
    asked = {"question": "lengths", "name": "ours"}
    cases = [
        case(**asked, group="1 ms", runs=[{"most_at_once": 99.0}, None]),
        case(**asked, group="10 ms", runs=[{"most_at_once": 101.0}, {"most_at_once": None}]),
    ]
    assert verdict.most("lengths", ("ours",), "most_at_once")(cases) == 101
    assert verdict.most("lengths", ("other",), "most_at_once")(cases) is None


def test_arithmetic_rate_is_capped_by_the_limit(verdict: Any) -> None:
    limit = case("limit", 50, peer="limit", question="lengths", group="0 ms")
    ours = case("ours", 45, question="lengths", group="1 ms")
    assert verdict.of_arithmetic("1 ms", "ours", 100)([limit, ours]) == 0.9
    assert verdict.of_arithmetic("1 ms", "ours", 45)([limit, ours]) == 1.0


def test_only_names_contestants_and_the_limit_always_takes_part(programs: Any) -> None:
    questions = programs("questions")
    scale = questions.Scale(jobs=1000, seconds=1, limits=((2, 2000), (3, 2000)))
    asked = questions.all_cases(scale, ["throughput"], ["go"])
    assert {one.peer.key for one in asked} == {"go", "limit"}
    assert {one.question for one in asked} == {"throughput"}


def test_slow_contestant_gets_fewer_jobs_and_whole_batches(programs: Any) -> None:
    decide, questions, contestants = (programs(name) for name in ("decide", "questions", "contestants"))
    options = argparse.Namespace(jobs=200_000, seconds=10.0)

    def jobs(rate: float, unit: int = 1, seconds: float = 0) -> int:
        asked = questions.Asked(
            "throughput", "", "", contestants.GO, lambda arena, jobs: {}, unit=unit, seconds=seconds
        )
        return int(decide.jobs_of(asked, rate, options))

    assert jobs(50_000) == jobs(10_000) == 200_000
    assert jobs(997) == 9_970
    assert jobs(997, unit=1000) == 9_000
    assert jobs(3) == decide.LEAST_JOBS
    assert jobs(3, unit=5000) == 5000
    assert (jobs(9.7, seconds=2), jobs(9_000, seconds=2), jobs(0.1, seconds=2)) == (19, 18_000, 1)


def test_figures_are_stored_with_six_digits(programs: Any) -> None:
    assert programs("decide").rounded({"a": [1.23456789, None, 7], "b": 123456.789}) == {
        "a": [1.23457, None, 7],
        "b": 123457.0,
    }


def test_questions_that_are_not_asked_again_stay_whole(programs: Any, tmp_path: Path) -> None:
    decide = programs("decide")
    file = tmp_path / "decide.json"
    assert decide.kept_cases(file, ["latency"]) == []
    file.write_text('{"cases": [{"question": "latency", "name": "a"}, {"question": "stop", "name": "b"}]}')
    assert decide.kept_cases(file, ["latency"]) == [{"question": "stop", "name": "b"}]


def test_baseline_comparison_takes_the_machine_apart(programs: Any) -> None:
    compare = programs("baseline").compare
    before = {"ring": 10.0, "copy": 20.0, "codec": 30.0, "gone": 1.0}
    rows, worse = compare(before, {"ring": 20.0, "copy": 40.0, "codec": 90.0, "new": 5.0}, 1.3)
    assert worse == ["codec"]
    assert [row[0] for row in rows] == ["codec", "copy", "gone", "new", "ring"]
    assert rows[0] == ["codec", "30.0", "90.0", "1.50", "slower"]
    assert rows[1][3:] == ["1.00", ""]
    assert rows[2] == ["gone", "1.0", "", "", "only in one"]


def test_baseline_is_of_the_quickest_round_by_the_item(programs: Any, tmp_path: Path) -> None:
    file = tmp_path / "micro.json"
    file.write_text(
        '{"benchmarks": [{"fullname": "bench/a.py::b", "stats": {"min": 2e-6}, "extra_info": {"items": 100}}]}'
    )
    assert programs("baseline").measured(file) == {"a.py::b": 20.0}


def test_charts_are_drawn_from_what_was_asked(programs: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    charts = programs("charts")
    shape = {"shape": [0.1, 0.5, 1.0, 5.0]}
    cases = [
        case("limit", 3, 4, peer="limit"),
        case(OURS, 3, None, 4),
        case("river_fast", 5, question="workers", group="max_workers 2,000"),
        case("river_fast", question="latency", group="50/s", runs=[shape, None]),
        case("absent", question="lengths", group="1 ms", not_run="no reason"),
    ]
    drawn = charts.draw_all(cases, (0, 50, 99, 100), tmp_path)
    assert drawn == ["rate_by_peer", "rate_by_max_workers", "latency"]
    assert all(0 < (tmp_path / f"{name}.png").stat().st_size < 100_000 for name in drawn)
