"""Which database, schema and output form a command was asked for.

Order: `--database-url`, `RIVER_FAST_DSN`, `DATABASE_URL`, libpq's own `PG*` variables, else the embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from river_fast.config import check_schema
from river_fast.driver import Driver
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import ConfigError

NAMING_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
PASSWORD = re.compile(r"password\s*=|://[^/?#@]*:[^@/]*@", re.IGNORECASE)


class Once(argparse.Action):
    """An option that may be given once: the second is a mistake, not a correction."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if hasattr(namespace, f"_{self.dest}_given"):
            parser.error(f"{option_string} was given twice")
        setattr(namespace, f"_{self.dest}_given", True)
        setattr(namespace, self.dest, values)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command has, before or after its name."""
    common = parser.add_argument_group("options of every command")
    hidden: dict[str, Any] = {"default": argparse.SUPPRESS}
    common.add_argument(
        "--database-url", metavar="URL", action=Once, type=_database_url, help="a PostgreSQL URL or conninfo", **hidden
    )
    common.add_argument("--schema", metavar="NAME", action=Once, type=_schema, help="River's schema in it", **hidden)
    common.add_argument("--json", action="store_true", help="the result as JSON on stdout", **hidden)
    common.add_argument(
        "-v", "--verbose", "--debug", action="store_true", help="tell more; a traceback when something fails", **hidden
    )


def name_database(args: argparse.Namespace) -> None:
    """Fill in what was not given. `args.database_url` None: the embedded PostgreSQL."""
    given = getattr(args, "database_url", None)
    if given is not None and PASSWORD.search(given):
        warn("a password on the command line is seen by every user of this machine; better: DATABASE_URL or PGPASSFILE")
    if given is None and not getattr(args, "ignores_environment", False):
        given = os.environ.get("RIVER_FAST_DSN") or os.environ.get("DATABASE_URL")
        if not given and any(os.environ.get(name) for name in NAMING_VARIABLES):
            given = ""  # libpq's variables say it all
        given = None if given is None else _database_url(given)
    args.database_url = given
    args.schema = getattr(args, "schema", None)
    args.json = getattr(args, "json", False)
    args.verbose = getattr(args, "verbose", False)


def url_of(args: argparse.Namespace) -> str:
    """The database named, or the embedded one, started if need be."""
    if args.database_url is not None:
        return str(args.database_url)
    from river_fast import embedded

    server = embedded.start()
    warn(f"no database named: using the embedded PostgreSQL {server.version} in {server.data_dir}")
    return server.url


def warn(text: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        print(text, file=sys.stderr)


def _database_url(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError("the database URL is not valid UTF-8") from None
    return text


def _schema(text: str) -> str:
    try:
        return check_schema(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@contextlib.contextmanager
def driver_of(args: argparse.Namespace) -> Iterator[Driver]:
    """A driver on the database and schema that the command was asked for."""
    driver = PsycopgDriver(url_of(args), args.schema)
    try:
        driver.open()
        yield driver
    finally:
        driver.close()


def add_statement_timeout(parser: argparse.ArgumentParser) -> None:
    """River's option, for commands whose statement may have much to read."""
    parser.add_argument(
        "--statement-timeout",
        type=_timeout,
        default=None,
        metavar="S",
        help="seconds that a statement may take, 0: any time (10)",
    )


def _timeout(text: str) -> float:
    seconds = float(text.removesuffix("s"))
    if not 0 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 1e6")
    return seconds


def count(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return number


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number
