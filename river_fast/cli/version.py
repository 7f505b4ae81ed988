"""`river-fast version`: what is installed, for a bug report."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version

from river_fast.version import __version__


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The `version` command."""
    parser = commands.add_parser("version", help="versions of river_fast, Python, psycopg and libpq")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Always 0."""
    from river_fast.driver.psycopg import libpq_version

    found = {
        "river_fast": __version__,
        "python": platform.python_version(),
        "psycopg": version("psycopg"),
        "libpq": libpq_version(),
        "platform": platform.platform(),
    }
    print(json.dumps(found) if args.json else "\n".join(f"{name:<12}{value}" for name, value in found.items()))
    return 0
