"""The schema's migrations, up and down, by line. River: rivermigrate.

Runs on the caller's thread; owns nothing but what it has read of `migration/<line>/`. Each migration is one transaction
that also writes or deletes its row in `river_migration`, and holds an advisory lock keyed by the schema while it does:
so a schema is always at a whole version, and two migrators at once do the work of one.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from river_fast.driver import Driver, Executor, RawRow, Statement
from river_fast.errors import DatabaseError, MigrationError, NotFoundError

MAIN: Final = "main"
FAST: Final = "fast"  # tables that are ours alone
EVERYTHING: Final = -1  # migrate_down(target_version=EVERYTHING)
LINES_SINCE: Final = 5  # the version of main that gave the book its column `line`
_FILE = re.compile(r"(\d{3})_(\w+)\.up\.sql")
_ROOT = Path(__file__).parent / "migration"

INSUFFICIENT_PRIVILEGE = "42501"
READ_ONLY_TRANSACTION = "25006"
CONNECTION_CLASSES = ("08", "53", "57")


@dataclass(frozen=True, slots=True)
class Migration:
    """One version of a line. `sql_up` and `sql_down` are its text, the schema filled in."""

    line: str
    version: int
    name: str
    sql_up: str
    sql_down: str


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What one step did; `duration` in seconds, 0 in a dry run. River: MigrateVersion."""

    version: int
    name: str
    duration: float


@dataclass(frozen=True, slots=True)
class ValidateResult:
    """`ok`, or `messages` that say what is missing. River: ValidateResult."""

    ok: bool
    messages: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def lines() -> Mapping[str, Mapping[int, str]]:
    """The lines there are; of each, its versions in order and the beginning of their files' names."""
    found: dict[str, dict[int, str]] = {}
    for path in sorted(_ROOT.glob("*/*.up.sql")):
        match = _FILE.fullmatch(path.name)
        assert match, path
        found.setdefault(path.parent.name, {})[int(match[1])] = f"{match[1]}_{match[2]}"
    for line, versions in found.items():
        assert list(versions) == list(range(1, len(versions) + 1)), (line, versions)
    return found


def require_migrated(driver: Driver) -> None:
    """`MigrationError` naming the command to run, unless all of line `main` is applied."""
    result = Migrator(driver).validate()
    if not result.ok:
        raise MigrationError(
            f'schema "{driver.schema}" is not migrated ({"; ".join(result.messages)}); '
            f"run: river-fast migrate-up --schema {driver.schema}"
        )


def has_version(driver: Driver, line: str, version: int) -> bool:
    """Whether that version of a line other than main is applied: what needs it asks before it relies on it."""
    return version in Migrator(driver, line).existing_versions()


def require_version(driver: Driver, line: str, version: int, what: str) -> None:
    """`MigrationError` that says what needs the version, and the command to run, where it is missing."""
    if not has_version(driver, line, version):
        raise MigrationError(
            f'{what} needs version {version} of line {line}, which schema "{driver.schema}" does not have; '
            f"run: river-fast migrate-up --line {line} --schema {driver.schema}"
        )


class Migrator:
    """Brings one line of one schema to a version. River: rivermigrate.Migrator.

    Errors: `MigrationError` where the line, the version or the schema is not as it must be, or PostgreSQL refuses (then
    the schema is as before that step); `DatabaseError` where the database cannot be reached.
    """

    def __init__(self, driver: Driver, line: str = MAIN) -> None:
        if line not in lines():
            near = difflib.get_close_matches(line, lines(), n=1)
            hint = f'; did you mean "{near[0]}"?' if near else f"; there are: {', '.join(lines())}"
            raise MigrationError(f'migration line "{line}" does not exist{hint}')
        self._driver = driver
        self._line = line
        self._files = lines()[line]

    @property
    def newest_version(self) -> int:
        """The newest version of the line that this release knows."""
        return len(self._files)

    def all_versions(self) -> list[Migration]:
        """Every version of the line this release knows, in order."""
        return [self.get_version(version) for version in self._files]

    def get_version(self, version: int) -> Migration:
        """One version with its SQL; `NotFoundError` if this release does not know it."""
        if version not in self._files:
            raise NotFoundError(f"line {self._line} has no migration {version}; its newest is {self.newest_version}")
        self._driver.open()
        up, down = (self._driver.statement_text(self._script(version, way)).decode() for way in ("up", "down"))
        return Migration(self._line, version, self._name(version), up, down)

    def existing_versions(self) -> list[int]:
        """The versions applied, in order, those that only a newer release knows included."""
        with self._errors_named("look at the migrations"):
            return sorted(self._look().get(self._line, ()))

    def validate(self, target_version: int | None = None) -> ValidateResult:
        """Whether everything (up to `target_version`) is applied."""
        if target_version is not None:
            self._check_known(target_version)
        missing = sorted(set(self._files) - set(self.existing_versions()))
        missing = [version for version in missing if target_version is None or version <= target_version]
        if not missing:
            return ValidateResult(ok=True)
        return ValidateResult(ok=False, messages=(f"Unapplied migrations: [{' '.join(map(str, missing))}]",))

    def migrate_up(
        self, target_version: int | None = None, max_steps: int | None = None, dry_run: bool = False
    ) -> list[MigrationResult]:
        """Applies what is pending, up to and with `target_version`; nothing if that is applied already.

        `max_steps`: at most so many (None: no limit). `dry_run`: only says what would be done. What was done by this
        call is returned: less than expected if another migrator did it meanwhile.
        """
        if target_version is not None:
            self._check_known(target_version)
        with self._errors_named("look at the migrations"):
            book = self._look()
        self._require_lines(book)
        applied = book.get(self._line, frozenset())
        if target_version in applied:
            return []
        plan = [v for v in self._files if v not in applied and (target_version is None or v <= target_version)]
        return self._walk("up", plan[: _steps(max_steps, len(plan))], dry_run)

    def migrate_down(
        self, target_version: int | None = None, max_steps: int | None = None, dry_run: bool = False
    ) -> list[MigrationResult]:
        """Takes the newest version back; with `target_version` all after that one; with -1 everything.

        `max_steps`, `dry_run` and what is returned as in `migrate_up`. Data goes with the tables it is in.
        """
        if target_version is not None and target_version != EVERYTHING:
            self._check_known(target_version)
        with self._errors_named("look at the migrations"):
            book = self._look()
        applied = book.get(self._line, frozenset())
        if target_version not in (None, EVERYTHING) and target_version not in applied:
            raise MigrationError(
                f"version {target_version} of line {self._line} is not applied, so nothing can go back to it"
            )
        unknown = sorted(applied - set(self._files))
        floor = EVERYTHING if target_version is None else target_version
        plan = [version for version in sorted(self._files, reverse=True) if version in applied and version > floor]
        plan = plan[: _steps(max_steps, 1 if target_version is None else len(plan))]
        if plan and unknown:
            raise MigrationError(
                f"versions {unknown} of line {self._line} were applied by a newer release; go back with that one first"
            )
        self._check_other_lines(book, plan)
        return self._walk("down", plan, dry_run)

    def _walk(self, way: Literal["up", "down"], plan: Sequence[int], dry_run: bool) -> list[MigrationResult]:
        done = []
        for version in plan:
            started = time.monotonic()
            if dry_run:
                started = float("inf")
            elif not self._step(way, version):
                continue
            done.append(MigrationResult(version, self._name(version), max(time.monotonic() - started, 0.0)))
        return done

    def _step(self, way: Literal["up", "down"], version: int) -> bool:
        """One migration with its row, in one transaction; False if another migrator was here first."""
        locks = not self._driver.open().is_yugabyte  # for the transaction alone: a shared session may have them
        doing = f"migrate {way} version {version} of line {self._line}"
        with self._errors_named(doing), self._driver.transaction() as executor:
            executor.run(Statement("statement_timeout_set", {"milliseconds": "0"}))
            if locks:
                executor.run(Statement("migration_lock", {"schema": self._driver.schema}))
            applied = self._look(executor).get(self._line, frozenset())
            if (version in applied) == (way == "up"):
                return False
            below, above = set(range(1, version)), {v for v in applied if v > version}
            if (way == "up" and not below <= applied) or (way == "down" and above):
                raise MigrationError(
                    f"cannot {doing}: versions {sorted(applied)} are applied; is another migrator going the other way?"
                )
            executor.run_script(self._script(version, way))
            self._write_down(executor, way, version)
            return True

    def _write_down(self, executor: Executor, way: Literal["up", "down"], version: int) -> None:
        if way == "down" and (self._line, version) == (MAIN, 1):
            return  # the book itself is gone
        has_lines = self._line != MAIN or version > LINES_SINCE or (way, version) == ("up", LINES_SINCE)
        name = f"migration_{'insert' if way == 'up' else 'delete'}{'' if has_lines else '_before_lines'}"
        params = {"line": self._line, "version": version} if has_lines else {"version": version}
        count: int = executor.run(Statement(name, params))
        assert count == 1, (name, params, count)

    def _look(self, executor: Executor | None = None) -> Mapping[str, frozenset[int]]:
        """The versions applied, by line."""
        if executor is None:
            with self._driver.autocommit() as executor:
                return self._look(executor)
        schema = self._driver.schema
        if "$river$" in schema:  # it would end the dollar-quoted parts of our scripts
            raise MigrationError(f'a schema named "{schema}" cannot be migrated: its name holds "$river$"')
        exists, usable, booked = executor.run(Statement("migration_look", {"schema": schema}, _flags))
        if not exists:
            raise MigrationError(
                f'schema "{schema}" does not exist; create it (CREATE SCHEMA "{schema}"), then run: {self._command()}'
            )
        if not usable:
            raise MigrationError(f'this role may not use schema "{schema}"; GRANT USAGE ON SCHEMA "{schema}" to it')
        return executor.run(Statement("migration_get_all", {}, _versions_by_line)) if booked else {}

    def _require_lines(self, book: Mapping[str, frozenset[int]]) -> None:
        if self._line != MAIN and LINES_SINCE not in book.get(MAIN, ()):
            raise MigrationError(
                f"line {self._line} needs version {LINES_SINCE} of line {MAIN}; "
                f"run: river-fast migrate-up --schema {self._driver.schema}"
            )

    def _check_other_lines(self, book: Mapping[str, frozenset[int]], plan: Sequence[int]) -> None:
        others = sorted(line for line in book if line != self._line)
        if self._line == MAIN and others and any(version <= LINES_SINCE for version in plan):
            raise MigrationError(
                f"line {MAIN} cannot go below version {LINES_SINCE} while others are applied ({', '.join(others)}); "
                f"first run: river-fast migrate-down --line {others[0]} --target-version -1"
            )

    def _check_known(self, version: int) -> None:
        if version not in self._files:
            raise MigrationError(f"line {self._line} has no version {version!r}; there are 1 to {self.newest_version}")

    @contextlib.contextmanager
    def _errors_named(self, doing: str) -> Iterator[None]:
        """What PostgreSQL refuses leaves as `MigrationError`; that it cannot be reached stays a `DatabaseError`."""
        try:
            yield
        except DatabaseError as error:
            if error.sqlstate is None or error.sqlstate[:2] in CONNECTION_CLASSES:
                raise
            remedy = ""
            if error.sqlstate in (INSUFFICIENT_PRIVILEGE, READ_ONLY_TRANSACTION):
                remedy = f'; migrate as the owner of schema "{self._driver.schema}" and its tables'
            raise MigrationError(f'cannot {doing} in schema "{self._driver.schema}": {error}{remedy}') from error

    def _command(self) -> str:
        line = "" if self._line == MAIN else f" --line {self._line}"
        return f"river-fast migrate-up --schema {self._driver.schema}{line}"

    def _script(self, version: int, way: str) -> str:
        return f"migration/{self._line}/{self._files[version]}.{way}"

    def _name(self, version: int) -> str:
        return self._files[version][4:].replace("_", " ")


def _steps(max_steps: int | None, default: int) -> int:
    if max_steps is None:
        return default
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < -1:
        raise MigrationError(f"max_steps must be 0 or more, got {max_steps!r}")
    return max(max_steps, 0)  # River writes "none" as -1


def _flags(rows: list[RawRow], count: int) -> list[bool]:
    return [value == b"\x01" for value in rows[0]]


def _versions_by_line(rows: list[RawRow], count: int) -> Mapping[str, frozenset[int]]:
    book: dict[str, set[int]] = {}
    for line, version in rows:
        assert line is not None, "coalesced"
        assert version is not None, "NOT NULL"
        book.setdefault(line.decode(), set()).add(int.from_bytes(version, signed=True))
    return {line: frozenset(versions) for line, versions in book.items()}
