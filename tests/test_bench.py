"""The programs of `bench/`: that they count what they claim to count, on a few jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import harness

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bench_schema(dsn: str) -> Iterator[harness.BenchSchema]:
    with harness.BenchSchema(dsn) as schema:
        yield schema


def test_limit_completes_every_job_as_river_would(bench_schema: harness.BenchSchema) -> None:
    bench_schema.fill(2_345)
    bench_schema.settle()
    result = harness.run_limit(bench_schema, loops=2, rows=500)
    assert result["jobs"] == 2_345
    assert result["jobs_per_s"] == pytest.approx(2_345 / result["seconds"], rel=0.01)
    odd = bench_schema.execute(
        "SELECT count(*) FROM {}.river_job WHERE state <> 'completed' OR attempt <> 1 OR attempted_at IS NULL"
        " OR finalized_at < attempted_at OR attempted_by <> '{{limit}}'"
    ).fetchone()
    assert odd == (0,)
    assert bench_schema.by_state() == {"completed": 2_345}


def test_limit_says_what_is_wrong_and_fails(bench_schema: harness.BenchSchema) -> None:
    for options, complaint in (
        (["--rows", "0"], "is not a number from 1"),
        (["--libpq", "no-such-library"], "no-such-library"),
        (["--schema", "no_such_schema"], "42P01"),
        (["surplus"], "surplus"),
    ):
        command = [str(harness.build_limit()), "--dsn", bench_schema.url, "--libpq", harness.libpq_file(), *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert complaint in done.stderr
        assert done.stdout == ""


def test_throughput_counts_completed_rows_and_compares_with_the_limit(dsn: str, tmp_path: Path) -> None:
    command = [sys.executable, "bench/throughput.py", "--database-url", dsn, "--json", "--rounds", "1"]
    command += ["--jobs", "1000", "--limit", "1x500", "--max-workers", "50", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert json.loads((tmp_path / "throughput.json").read_text())["figures"] == figures
    assert set(figures) == {"limit, 1 loops of 500", "river_fast, max_workers=50"}
    ours, limit = figures["river_fast, max_workers=50"], figures["limit, 1 loops of 500"]
    assert ours["unfinished"] == limit["unfinished"] == 0
    assert ours["ratio_to_limit"] == pytest.approx(ours["jobs_per_s"]["median"] / limit["jobs_per_s"]["median"])
    run = ours["runs"][0]
    assert run["detail"]["graceful"]
    assert run["detail"]["stats"]["completer_recorded"] == 1000
    assert run["jobs_per_s"] == pytest.approx(1000 / run["seconds"])


def test_readme_section_is_replaced_and_nothing_else() -> None:
    document = "before\n<!-- one -->\nold\n<!-- end of one -->\nafter"
    assert harness.with_section(document, "one", "new") == "before\n<!-- one -->\n\nnew\n\n<!-- end of one -->\nafter"
    with pytest.raises(ValueError, match="two"):
        harness.with_section(document, "two", "new")


def test_readme_has_a_section_for_every_program() -> None:
    readme = harness.README.read_text()
    latencies = ("latency", "latency_stages", "latency_rates", "fetch_commit", "fetch_commit_slow")
    for section in ("decide", "throughput", *latencies, "insert", "micro_table"):
        harness.with_section(readme, section, "")


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [harness.percentile(values, percent) for percent in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert harness.percentile([7.0], 50) == 7.0
    assert harness.percentile([1.0, 2.0], 51) == 2.0


def test_spread_of_what_could_not_be_measured_says_so() -> None:
    assert harness.Spread([None, None]).show() == "not measured"
    assert harness.Spread([1000.0, 3000.0, 2000.0]).show() == "2,000 (1,000 .. 3,000)"


def test_micro_benchmarks_run_and_check_their_results() -> None:
    command = [sys.executable, "-m", "pytest", "bench", "--benchmark-disable", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
