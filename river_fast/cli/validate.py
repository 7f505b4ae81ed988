"""`river-fast validate`: whether a schema is at the newest version, for a deployment's gate. River: the same.

Runs on the main thread; owns its driver while it runs.
"""

from __future__ import annotations

import argparse
import json

from river_fast.cli.database import driver_of
from river_fast.migrate import MAIN, Migrator


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The `validate` command."""
    parser = commands.add_parser("validate", help="whether all migrations are applied (status 1: not all)")
    parser.add_argument("--line", default=MAIN, metavar="NAME", help=f"the migration line (default: {MAIN})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: all applied; 1: some are pending."""
    with driver_of(args) as driver:
        result = Migrator(driver, args.line).validate()
        schema = driver.schema
    if args.json:
        print(json.dumps({"line": args.line, "schema": schema, "ok": result.ok, "messages": list(result.messages)}))
    elif result.ok:
        print(f"schema {schema} has all migrations of line {args.line}")
    else:
        print("\n".join(result.messages))
    return 0 if result.ok else 1
