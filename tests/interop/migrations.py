"""`make interop`: River's own migrations against ours, version by version, up and down; then `leaders` and `job_lists`.

Builds `rivermigrate/` with the machine's Go. With `--write`, also writes tests/data/river_catalogue.json, the
description that tests/test_migrate.py compares with. Exits 1 at a difference, 2 where Go is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import EVERYTHING, Migrator
from tests import catalogue
from tests.interop import job_lists, leaders, rows

HERE = Path(__file__).parent
NEWEST = 8


class River:
    """River's migrator, as a program of ours that is linked with it."""

    def __init__(self, folder: Path, dsn: str, release: str | None) -> None:
        go = shutil.which("go")
        if go is None:
            print("interop: Go is not on PATH; River's own migrator is built with it", file=sys.stderr)
            sys.exit(2)
        shutil.copytree(HERE / "rivermigrate", folder / "source")
        if release:
            modules = ("river", "river/riverdriver/riverpgxv5")
            self._go(go, folder, "get", *(f"github.com/riverqueue/{module}@{release}" for module in modules))
            self._go(go, folder, "mod", "tidy")
        (folder / "bin").mkdir()
        self._go(go, folder, "build", "-o", f"{folder / 'bin'}/", "./...")
        self._folder = folder
        self.dsn = dsn

    def program(self, name: str) -> Path:
        return self._folder / "bin" / name

    @staticmethod
    def _go(go: str, folder: Path, *args: str) -> None:
        subprocess.run([go, *args], cwd=folder / "source", check=True)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program("interop"), *args],
            env={**os.environ, "DATABASE_URL": self.dsn},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def __call__(self, *args: str) -> str:
        done = self.run(*args)
        if done.returncode != 0:
            raise RuntimeError(f"River's migrator: {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout.strip()


class Differences:
    """Counts cases, and prints those that fail."""

    def __init__(self) -> None:
        self.cases = 0
        self.failed = 0

    def compare(self, case: str, ours: Any, rivers: Any) -> None:
        self.cases += 1
        ours, rivers = (json.loads(json.dumps(value)) for value in (ours, rivers))
        if ours != rivers:
            self.failed += 1
            print(f"  {case} differs:")
            for path, a, b in _leaves(ours, rivers, ()):
                print(f"    {' / '.join(path)}\n      ours:    {a}\n      River's: {b}")


def _leaves(ours: Any, rivers: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(ours, dict) and isinstance(rivers, dict):
        for key in sorted({*ours, *rivers}):
            yield from _leaves(ours.get(key), rivers.get(key), (*path, key))
    elif ours != rivers:
        yield path, ours, rivers


@contextlib.contextmanager
def fresh_schema(conn: psycopg.Connection[Any], label: str, space: str = " ") -> Iterator[str]:
    """`space`: River's migrator takes any name, its client only letters, digits and underscores."""
    name = space.join(("Interop", label, uuid.uuid4().hex[:8]))
    quoted = psycopg.sql.Identifier(name)
    conn.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(quoted))
    try:
        yield name
    finally:
        conn.execute(psycopg.sql.SQL("DROP SCHEMA {} CASCADE").format(quoted))


@contextlib.contextmanager
def our_migrator(dsn: str, schema: str) -> Iterator[Migrator]:
    driver = PsycopgDriver(dsn, schema)
    try:
        yield Migrator(driver)
    finally:
        driver.close()


def our_step(migrator: Migrator, way: str, version: int) -> None:
    if way == "up":
        migrator.migrate_up(target_version=version)
    else:
        migrator.migrate_down(target_version=version or EVERYTHING)


def every_version(conn: psycopg.Connection[Any], dsn: str, river: River, differences: Differences) -> dict[str, Any]:
    """Both walk all the way up and down, empty and with rows; River's description by step."""
    described: dict[str, Any] = {}
    for filled in (False, True):
        with contextlib.ExitStack() as stack:
            ours, theirs = (stack.enter_context(fresh_schema(conn, whose)) for whose in ("ours", "river"))
            migrator = stack.enter_context(our_migrator(dsn, ours))
            for way, version in catalogue.STEPS:
                river(way, theirs, str(version))
                our_step(migrator, way, version)
                label = f"{way} to {version}, {'with rows' if filled else 'empty'}"
                rivers = catalogue.describe(conn, theirs)
                differences.compare(f"catalogue, {label}", catalogue.describe(conn, ours), rivers)
                described.setdefault(f"{way} {version}", rivers)
                if filled:
                    differences.compare(f"rows, {label}", rows.read(conn, ours), rows.read(conn, theirs))
                    if way == "up":
                        rows.write(conn, ours, version)
                        rows.write(conn, theirs, version)
    return described


def hand_over(conn: psycopg.Connection[Any], dsn: str, river: River, differences: Differences) -> None:
    """Each continues, takes back and validates what the other began."""
    for version in range(1, NEWEST + 1):
        with fresh_schema(conn, "shared") as schema, our_migrator(dsn, schema) as migrator:
            our_step(migrator, "up", version)
            differences.compare(
                f"River validates ours at {version}", river.run("validate", schema).returncode == 0, version == NEWEST
            )
            river("up", schema, str(NEWEST))
            differences.compare(f"we validate River's from our {version}", migrator.validate().ok, True)
            our_step(migrator, "down", version)
            river("down", schema, "0")
            left = catalogue.describe(conn, schema)["relations"]
            differences.compare(f"River takes ours back from {version}", left, {})
            river("up", schema, str(version))
            differences.compare(f"we validate River's at {version}", migrator.validate().ok, version == NEWEST)
            migrator.migrate_up()
            differences.compare(f"River validates ours from its {version}", river.run("validate", schema).returncode, 0)
            migrator.migrate_down(target_version=EVERYTHING)
            left = catalogue.describe(conn, schema)["relations"]
            differences.compare(f"we take River's back from {version}", left, {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--river", help="another release of River than go.mod's: v0.50.0, latest")
    parser.add_argument("--write", action="store_true", help="write the description of River's catalogue")
    options = parser.parse_args()
    dsn = os.environ.get("DATABASE_URL") or _embedded()
    differences = Differences()
    with tempfile.TemporaryDirectory() as folder, psycopg.connect(dsn, autocommit=True) as conn:
        river = River(Path(folder), dsn, options.river)
        release = river("version")
        described = every_version(conn, dsn, river, differences)
        hand_over(conn, dsn, river, differences)
        with fresh_schema(conn, "leaders", "_") as schema:
            leaders.check(conn, dsn, schema, river, differences)
        with fresh_schema(conn, "lists", "_") as schema:
            job_lists.check(conn, dsn, schema, river, differences)
    if options.write:
        catalogue.save(release, described)
    print(f"interop with River {release}: {differences.cases} cases, {differences.failed} differ")
    return 1 if differences.failed else 0


def _embedded() -> str:
    from river_fast import embedded

    return embedded.start(stop_at_exit=True).url


if __name__ == "__main__":
    sys.exit(main())
