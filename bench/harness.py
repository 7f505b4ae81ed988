"""What every program of this folder needs: a schema of its own, jobs to work, the machine's facts, medians, the table.

Programs here are run from the checkout (`python bench/throughput.py`), with river_fast importable. They may use psycopg
and write SQL of their own; nothing here is shipped.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

README = ROOT / "bench" / "README.md"
RESULTS = ROOT / "build" / "bench"


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what all programs take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--database-url", default=os.environ.get("DATABASE_URL"), help="default: the embedded PostgreSQL"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print every figure as one JSON object")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where every figure is kept as JSON")
    parser.add_argument("--readme", action="store_true", help="write the table into bench/README.md")
    return parser


def database_url(given: str | None) -> str:
    if given:
        return given
    from river_fast import embedded

    return embedded.start().url


class BenchSchema:
    """A fresh, migrated schema, and what is done to it between runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"bench_{uuid.uuid4().hex[:12]}"
        self.conn = psycopg.connect(url, autocommit=True)

    def __enter__(self) -> BenchSchema:
        try:
            self._create()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _create(self) -> None:
        from river_fast.driver.psycopg import PsycopgDriver
        from river_fast.migrate import Migrator

        self.conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.name)))
        driver = PsycopgDriver(self.url, self.name)
        try:
            Migrator(driver).migrate_up()
        finally:
            driver.close()

    def __exit__(self, *_: object) -> None:
        with self.conn:
            self.conn.execute("SET client_min_messages = warning")
            self.conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self.name)))

    def fill(self, jobs: int, kind: str = "bench_noop") -> None:
        """`jobs` available no-op jobs, args `{"num": n}`, as inserts of River would leave them."""
        self.execute(
            "INSERT INTO {}.river_job (args, kind, max_attempts, metadata, priority, queue, state, tags)"
            " SELECT jsonb_build_object('num', n), %s, 25, '{{}}', 1, 'default', 'available', '{{}}'"
            " FROM generate_series(1, %s) n",
            kind,
            jobs,
        )

    def settle(self) -> None:
        """Statistics there, no dead row, nothing left for a checkpoint to write during the run."""
        self.execute("VACUUM (ANALYZE) {}.river_job")
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            self.conn.execute("CHECKPOINT")

    @contextlib.contextmanager
    def pinned_snapshot(self) -> Iterator[None]:
        """A session that holds an old snapshot: no dead index entry may go, so each fetch walks over all of them."""
        with psycopg.connect(self.url) as conn:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            conn.execute("SELECT txid_current_snapshot()")
            yield

    def span(self) -> tuple[float, float]:
        """By the server's clock, as epoch seconds: the first claim, the last completion."""
        row = self.execute(
            "SELECT extract(epoch FROM min(attempted_at))::float8, extract(epoch FROM max(finalized_at))::float8"
            " FROM {}.river_job"
        ).fetchone()
        if row is None or row[0] is None:
            raise RuntimeError("no job was started")
        return row[0], row[0] if row[1] is None else row[1]

    def by_state(self) -> dict[str, int]:
        return dict(self.execute("SELECT state::text, count(*) FROM {}.river_job GROUP BY state").fetchall())

    def execute(self, statement: str, *params: Any) -> psycopg.Cursor[Any]:
        return self.conn.execute(
            sql.SQL(statement).format(*[sql.Identifier(self.name)] * statement.count("{}.")), params
        )


def build_limit() -> Path:
    """The ceiling program."""
    target = RESULTS / "limit"
    compile_c(ROOT / "bench" / "limit.c", target)
    return target


def compile_c(source: Path, target: Path, *flags: str) -> None:
    """As `make` would: when the source, or a header of the compiled part, is newer."""
    newest = max(file.stat().st_mtime for file in [source, *(ROOT / "_ext").glob("*.h")])
    if target.exists() and target.stat().st_mtime >= newest:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "cc").split()
    common = ["-O2", "-g1", "-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Wno-unused-function"]
    subprocess.run([*compiler, *common, *flags, str(source), "-o", str(target), "-ldl"], check=True)


def libpq_file() -> str:
    """The libpq that psycopg has loaded into this process: a plain library, which a program without Python can load."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if re.search(r"/libpq[-.][^/]*$", line):
                return line.split(maxsplit=5)[5]
    from psycopg.pq import misc

    return misc.find_libpq_full_path() or "libpq.so.5"


def run_limit(schema: BenchSchema, loops: int, rows: int) -> dict[str, Any]:
    """One run of the ceiling over what is in the schema."""
    command = [
        str(build_limit()),
        "--dsn",
        schema.url,
        "--schema",
        schema.name,
        "--loops",
        str(loops),
        "--rows",
        str(rows),
        "--libpq",
        libpq_file(),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


class Spread:
    """A figure measured several times: median and range."""

    def __init__(self, values: Sequence[float | None]) -> None:
        self.values = [value for value in values if value is not None]

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    def show(self, form: str = ",.0f") -> str:
        """`median (min .. max)`."""
        if not self.values:
            return "not measured"
        text = format(statistics.median(self.values), form)
        if len(self.values) > 1:
            text += f" ({min(self.values):{form}} .. {max(self.values):{form}})"
        return text

    def as_json(self) -> dict[str, Any]:
        return {"median": self.median, "all": self.values}


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def machine(url: str) -> dict[str, str]:
    """What a figure is worth nothing without."""
    from psycopg import pq

    names = ("server_version", "shared_buffers", "max_wal_size", "fsync", "synchronous_commit")
    with psycopg.connect(url) as conn:
        settings = [conn.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]
        version, *values = [row[0] for row in settings if row is not None]
        host = conn.info.host or "a Unix socket"
    shown = ", ".join(f"{name} {value}" for name, value in zip(names[1:], values, strict=True))
    system = f"{platform.system()} {platform.release()}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    libpq = f"{pq.version() // 10000}.{pq.version() % 10000}"
    return {
        "machine": f"{_cpu_model()}, {os.cpu_count()} CPUs, {_memory_gib():.0f} GiB, {system}",
        "PostgreSQL": f"{version} at {host}, {shown}",
        "client": f"{python}, psycopg {psycopg.__version__} ({pq.__impl__}), libpq {libpq}, {_event_loop()}",
        "river_fast": _commit(),
    }


def _event_loop() -> str:
    """What async jobs run on."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"uvloop {importlib.metadata.version('uvloop')}"
    return "no uvloop"


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
        ).stdout
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown commit"
    return f"commit {commit.strip()}{' with local changes' if dirty.strip() else ''}"


def report(section: str, text: str, figures: dict[str, Any], options: argparse.Namespace, command: str) -> None:
    """Print it, keep the JSON, and put the table into the README where that was asked for."""
    facts = machine(options.database_url)
    options.results.mkdir(parents=True, exist_ok=True)
    document = json.dumps({"command": command, **facts, **figures}, indent=1)
    (options.results / f"{section}.json").write_text(document + "\n")
    print(document if options.json else text)
    if options.readme:
        lines = [text, "", *(f"* {name}: {fact}" for name, fact in facts.items()), f"* command: `{command}`"]
        README.write_text(with_section(README.read_text(), section, "\n".join(lines)))


def with_section(document: str, section: str, text: str) -> str:
    """`document` with what stands between the section's two markers replaced."""
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no section {section} in {README}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def say(text: str) -> None:
    """A line on stderr about what is being done: these programs take minutes."""
    print(text, file=sys.stderr, flush=True)
