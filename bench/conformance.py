"""River's release performance scenarios: our adapter of River's contract beside one of River's own Go client.

Prints, for inserts one after the other, for work, and for both at once, throughput (more is better) and the 95th
percentile (less is better) as ratios to River's: `python -m bench.conformance`. Needs Go. One thread; owns a schema.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from river_fast import embedded
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import Migrator
from tests.conformance.process import OURS, ROOT, AdapterProcess

JOBS = 1000
ROUNDS = 5
P95 = (
    "SELECT extract(epoch FROM percentile_disc(0.95) WITHIN GROUP (ORDER BY finalized_at - created_at)) FROM river_job"
)
Measured = tuple[float, float]  # jobs a second, seconds


def enqueue(adapter: AdapterProcess, conn: psycopg.Connection[Any]) -> Measured:
    taken = adapter.call("benchmark_enqueue", jobs=JOBS)
    return JOBS / taken["duration_ns"] * 1e9, taken["p95_ns"] / 1e9


def worker(adapter: AdapterProcess, conn: psycopg.Connection[Any]) -> Measured:
    for _ in range(JOBS // 500):
        adapter.call("insert_many", jobs=[{}] * 500)
    began = time.perf_counter()
    adapter.call("start", client_id="bench")
    return worked(adapter, conn, began)


def mixed(adapter: AdapterProcess, conn: psycopg.Connection[Any]) -> Measured:
    adapter.call("start", client_id="bench")
    began = time.perf_counter()
    adapter.call("benchmark_enqueue", jobs=JOBS)
    return worked(adapter, conn, began)


def worked(adapter: AdapterProcess, conn: psycopg.Connection[Any], began: float) -> Measured:
    while conn.execute("SELECT 1 FROM river_job WHERE state <> 'completed' LIMIT 1").fetchone():
        time.sleep(0.002)
    taken = time.perf_counter() - began
    adapter.call("stop")
    row = conn.execute(P95).fetchone()
    assert row is not None
    return JOBS / taken, float(row[0])


def main() -> None:
    dsn, schema = embedded.start().url, f"bench_{uuid.uuid4().hex[:12]}"
    url = make_conninfo(dsn, options=f"-c search_path={schema}")
    with tempfile.TemporaryDirectory() as where, psycopg.connect(url, autocommit=True) as conn:
        program = Path(where) / "interop"
        subprocess.run(["go", "build", "-o", str(program), "."], cwd=ROOT / "tests/interop/go", check=True)
        conn.execute(f"CREATE SCHEMA {schema}")
        driver = PsycopgDriver(dsn, schema)
        Migrator(driver).migrate_up()
        driver.close()
        try:
            compare(url, (str(program), "--contract"), conn)
        finally:
            conn.execute(f"DROP SCHEMA {schema} CASCADE")


def compare(url: str, go: tuple[str, str], conn: psycopg.Connection[Any]) -> None:
    with (
        AdapterProcess(url, "river-conformance-ours", OURS) as ours,
        AdapterProcess(url, "river-conformance-go", go) as reference,
    ):
        for measure in (enqueue, worker, mixed):
            found: dict[AdapterProcess, list[Measured]] = {ours: [], reference: []}
            for _ in range(ROUNDS):
                for adapter, measured in found.items():
                    conn.execute("TRUNCATE river_job")
                    measured.append(measure(adapter, conn))
            ratios = [median(m[n] for m in found[ours]) / median(m[n] for m in found[reference]) for n in (0, 1)]
            print(
                f"{measure.__name__}: throughput {ratios[0]:.2f} of River's, p95 {ratios[1]:.2f} of River's", flush=True
            )


if __name__ == "__main__":
    main()
