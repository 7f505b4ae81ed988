"""`river-fast migrate-up`, `migrate-down`, `migrate-list`, `migrate-get`: the schema's migrations. River: the same.

Runs on the main thread; owns its driver while it runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from river_fast.cli.database import count, driver_of
from river_fast.migrate import EVERYTHING, MAIN, Migration, MigrationResult, Migrator


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The four `migrate-` commands."""
    for way, what in (("up", "apply what is pending"), ("down", "take back the newest version, data and all")):
        step = commands.add_parser(f"migrate-{way}", help=what)
        _add_line(step)
        step.add_argument("--target-version", type=int, metavar="N", help=f"migrate {way} to version N")
        step.add_argument("--max-steps", type=count, metavar="N", help="at most N versions")
        step.add_argument("--dry-run", action="store_true", help="only say what would be done")
        step.add_argument("--show-sql", action="store_true", help="print the SQL of each version")
        step.set_defaults(run=run_step, way=way)

    listing = commands.add_parser("migrate-list", help="the versions of a line, the current one marked")
    _add_line(listing)
    listing.set_defaults(run=run_list)

    get = commands.add_parser("migrate-get", help="print the SQL of some versions, for another migration tool")
    _add_line(get)
    way_group = get.add_mutually_exclusive_group(required=True)
    way_group.add_argument("--up", action="store_const", const="up", dest="way")
    way_group.add_argument("--down", action="store_const", const="down", dest="way")
    which = get.add_mutually_exclusive_group(required=True)
    which.add_argument("--version", type=_versions, metavar="N[,N...]", dest="versions")
    which.add_argument("--all", action="store_true")
    get.add_argument("--exclude-version", type=_versions, metavar="N[,N...]", default=[])
    get.set_defaults(run=run_get)


def run_step(args: argparse.Namespace) -> int:
    """0: the schema is where it was asked to be."""
    with driver_of(args) as driver:
        migrator = Migrator(driver, args.line)
        step = migrator.migrate_up if args.way == "up" else migrator.migrate_down
        everything = args.way == "down" and args.target_version == 0  # River's other word for it
        target = EVERYTHING if everything else args.target_version
        done = step(target_version=target, max_steps=args.max_steps, dry_run=args.dry_run)
        if args.json:
            print(json.dumps(_report(args, driver.schema, done)))
            return 0
        for result in done:
            would = "would migrate" if args.dry_run else "migrated"
            took = "" if args.dry_run else f" in {result.duration * 1e3:.0f} ms"
            print(f"{would} {args.line} {args.way} {result.version:03} {result.name}{took}")
            if args.show_sql:
                print(_sql(migrator.get_version(result.version), args.way))
        if not done:
            print(f"nothing to do: line {args.line} of schema {driver.schema} is where it was asked to be")
    return 0


def run_list(args: argparse.Namespace) -> int:
    """Always 0."""
    with driver_of(args) as driver:
        migrator = Migrator(driver, args.line)
        existing = migrator.existing_versions()
        current = max(existing, default=0)
        versions = [
            {"version": each.version, "name": each.name, "applied": each.version in existing}
            for each in migrator.all_versions()
        ]
    if args.json:
        print(json.dumps({"line": args.line, "schema": driver.schema, "current": current, "versions": versions}))
    else:
        for each in versions:
            print(f"{'*' if each['version'] == current else ' '} {each['version']:03} {each['name']}")
    return 0


def run_get(args: argparse.Namespace) -> int:
    """0; `NotFoundError` for a version that this release does not know."""
    with driver_of(args) as driver:
        migrator = Migrator(driver, args.line)
        chosen = migrator.all_versions() if args.all else [migrator.get_version(number) for number in args.versions]
    chosen = [migration for migration in chosen if migration.version not in args.exclude_version]
    if args.way == "down":
        chosen.sort(key=lambda migration: migration.version, reverse=True)
    if args.json:
        told = [{"version": each.version, "name": each.name, "sql": _text(each, args.way)} for each in chosen]
        print(json.dumps(told))
    else:
        print("\n\n".join(_sql(migration, args.way) for migration in chosen))
    return 0


def _add_line(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--line", default=MAIN, metavar="NAME", help=f"the migration line (default: {MAIN})")


def _report(args: argparse.Namespace, schema: str, done: Sequence[MigrationResult]) -> dict[str, object]:
    return {
        "line": args.line,
        "schema": schema,
        "direction": args.way,
        "dry_run": args.dry_run,
        "versions": [{"version": each.version, "name": each.name, "seconds": each.duration} for each in done],
    }


def _text(migration: Migration, way: str) -> str:
    return migration.sql_up if way == "up" else migration.sql_down


def _sql(migration: Migration, way: str) -> str:
    title = f"-- River {migration.line} migration {migration.version:03} [{way}]: {migration.name}"
    return f"{title}\n{_text(migration, way)}"


def _versions(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
