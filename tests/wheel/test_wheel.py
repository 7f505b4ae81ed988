"""An installed river_fast, without a server: what a wheel must hold to be of use. cibuildwheel runs this on each."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import river_fast
from river_fast._ext import completer, fetcher
from river_fast.driver.psycopg import libpq_path


def test_compiled_part_finds_the_libpq_that_psycopg_loaded() -> None:
    fetcher.load_libpq(libpq_path())
    completer.load_libpq(libpq_path())


def test_statements_migrations_and_types_are_there() -> None:
    package = resources.files(river_fast)
    migration = "migration/main/002_initial_schema.up.sql"
    for name in ("sql/job_get_available.sql", migration, "py.typed", "_ext/fetcher.pyi"):
        assert package.joinpath(name).is_file(), name


def test_command_line_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "river_fast", "version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"river_fast  {river_fast.__version__}" in done.stdout


def test_pytest_finds_the_fixtures(tmp_path: Path) -> None:
    found = {entry.name: entry.value for entry in metadata.entry_points(group="pytest11")}
    assert found.get("pytest_river_fast") == "pytest_river_fast"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "-q", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "river_schema" in done.stdout, done.stdout + done.stderr
