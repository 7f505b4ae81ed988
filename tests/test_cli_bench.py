"""`river-fast bench` and its meter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from river_fast.cli import bench, main, meter
from river_fast.client import Client
from river_fast.driver.psycopg import PsycopgDriver

KEYS = [
    "jobs",
    "worked_per_s",
    "inserted_per_s",
    "client_cpu_us_per_job",
    "postgres_cpu_us_per_job",
    "wal_bytes_per_job",
    "peak_rss_mb",
]


def bench_schemas(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", [f"{bench.SCHEMA_PREFIX}%"])
        return [row[0] for row in rows]


@pytest.fixture
def leaves_no_schema(dsn: str) -> Iterator[None]:
    before = bench_schemas(dsn)
    yield
    assert bench_schemas(dsn) == before


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(["bench", *argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.usefixtures("leaves_no_schema")
def test_burn_down_reports_every_job_and_the_promised_keys(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--database-url", dsn, "--num-total-jobs", "6001", "--json")
    figures = json.loads(out)
    assert list(figures) == KEYS
    assert figures["jobs"] == 6001
    assert status == 0
    for key in ("worked_per_s", "inserted_per_s", "client_cpu_us_per_job", "wal_bytes_per_job", "peak_rss_mb"):
        assert figures[key] > 0, key


@pytest.mark.usefixtures("leaves_no_schema")
def test_continuous_mode_inserts_while_it_works(
    dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = bench.Bench._show_worked

    def show_and_end_when_enough(self: bench.Bench) -> None:
        shown(self)
        if self._recorded() > bench.INSERT_BATCH:  # the first batch is worked, so a second one was inserted meanwhile
            self._interrupt._event.set()

    monkeypatch.setattr(bench.Bench, "_show_worked", show_and_end_when_enough)
    monkeypatch.setattr(bench.ProgressLine, "INTERVAL", 0.0)
    status, out, err = run(capsys, "--database-url", dsn, "--duration", "100", "--max-workers", "100", "--json")
    figures = json.loads(out)
    assert status == bench.INTERRUPTED
    assert figures["jobs"] > bench.INSERT_BATCH
    assert figures["inserted_per_s"] > 0
    assert "jobs/s" in err, "no progress was shown"


@pytest.mark.usefixtures("leaves_no_schema")
def test_continuous_mode_ends_when_its_time_is_over(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    status, out, _ = run(capsys, "--database-url", dsn, "--duration", "0.3", "--json")
    assert status == 0
    assert list(json.loads(out)) == KEYS
    assert time.monotonic() - began >= 0.3


@pytest.mark.usefixtures("leaves_no_schema")
def test_table_for_people_names_what_was_measured(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--database-url", dsn, "--num-total-jobs", "100")
    assert status == 0
    for word in ("jobs worked", "client CPU", "PostgreSQL CPU", "WAL", "peak memory"):
        assert word in out


@pytest.mark.usefixtures("leaves_no_schema")
def test_jobs_left_unfinished_fail_the_run_and_are_not_counted(
    dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "STALLED_AFTER", 0.2)
    monkeypatch.setattr(Client, "start", lambda self: None)
    monkeypatch.setattr(bench.Bench, "_recorded", lambda self: 0)
    status, out, _ = run(capsys, "--database-url", dsn, "--num-total-jobs", "50", "--json")
    figures = json.loads(out)
    assert status == 1
    assert figures["jobs"] == 0
    assert figures["client_cpu_us_per_job"] is None


@pytest.mark.parametrize(
    "argv",
    [
        ("--num-total-jobs", "5", "--duration", "1"),
        ("--num-total-jobs", "0"),
        ("--duration", "-1"),
        ("--duration", "nan"),
        ("--max-workers", "x"),
    ],
)
def test_unusable_options_are_refused(dsn: str, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    status, _, err = run(capsys, "--database-url", dsn, *argv)
    assert status == 2
    assert argv[-2] in err


@pytest.mark.usefixtures("leaves_no_schema")
def test_a_schema_of_the_users_is_refused(dsn: str, schema: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "--database-url", dsn, "--schema", schema, "--num-total-jobs", "5")
    assert status == 2
    assert "--schema" in err


@pytest.mark.usefixtures("leaves_no_schema")
@pytest.mark.parametrize("amount", [("--duration", "600"), ("--num-total-jobs", "5000000")])
def test_interrupt_ends_the_run_with_its_figures_and_without_its_schema(dsn: str, amount: tuple[str, str]) -> None:
    command = [sys.executable, "-m", "river_fast", "bench", "--database-url", dsn, *amount, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline(), "it ended before it showed progress"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == bench.INTERRUPTED, err
    assert list(json.loads(out)) == KEYS
    assert "Traceback" not in err


def used_by(driver: PsycopgDriver, statement: str) -> meter.Usage:
    reader = meter.Meter(driver)
    start = reader.read()
    with driver.autocommit() as executor:
        executor._conn.execute(statement)
    return reader.since(start)


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    made = PsycopgDriver(dsn, schema)
    yield made
    made.close()


def test_meter_counts_what_the_server_works_and_writes(driver: PsycopgDriver, schema: str) -> None:
    if not meter.Meter(driver).is_local:
        assert used_by(driver, "SELECT 1").postgres_cpu is None
        return
    busy = used_by(driver, "SELECT count(*) FROM generate_series(1, 3000000)")
    assert busy.postgres_cpu is not None
    assert busy.postgres_cpu > 0.05
    writing = used_by(
        driver,
        f'INSERT INTO "{schema}".river_job (args, kind, max_attempts)'
        " SELECT '{}', 'noop', 25 FROM generate_series(1, 1000)",
    )
    assert writing.wal is not None
    assert writing.wal > 100_000


def test_a_process_that_is_not_our_backend_is_never_taken_for_the_server(driver: PsycopgDriver) -> None:
    with driver.autocommit() as executor:
        pid, port = executor.run(meter.Statement("bench_server", parse=meter._two_numbers))
        here = meter.local_postmaster(pid, port)
        assert meter.local_postmaster(os.getpid(), port) is None
        assert meter.local_postmaster(pid, 1) is None or port <= 0
        assert meter.local_postmaster(2**22 + 1, port) is None
    assert here is None or here > 1


def test_meter_counts_the_client(driver: PsycopgDriver) -> None:
    reader = meter.Meter(driver)
    start = reader.read()
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    used = reader.since(start)
    assert used.client_cpu >= 0.1
    assert used.client_cpu_us(1000) == pytest.approx(used.client_cpu * 1000, rel=1e-3)


def test_nothing_measured_is_none_not_zero() -> None:
    nothing: Any = meter.Usage(1.0, 0.5, None, None)
    assert nothing.postgres_cpu_us(10) is None
    assert nothing.wal_bytes(10) is None
    assert nothing.client_cpu_us(0) is None


def test_peak_memory_is_this_processes_own() -> None:
    # in a process of its own: this one's peak may lie above all that the test can add
    program = """if True:
        from river_fast.cli.meter import peak_rss_mb
        before = peak_rss_mb()
        held = bytearray(b"x" * 50_000_000)
        assert before + 40 <= peak_rss_mb() <= before + 120, (before, peak_rss_mb())
    """
    subprocess.run([sys.executable, "-c", program], check=True)
