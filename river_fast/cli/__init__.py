"""The command line, `river-fast`: one file a command, each with `add_parser` and `run(args) -> exit status`.

Exit status: 0 done, 1 failed or refused, 2 used wrongly, 3 stopped but not gracefully, 130 interrupted, 141 nobody
reads what it prints. Results go to stdout, everything else to stderr; no traceback unless `--verbose` asks for one.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from river_fast.cli.database import add_options, name_database
from river_fast.errors import ConfigError, RiverError, ValidationError
from river_fast.version import __version__

FAILED, USAGE, INTERRUPTED, NOBODY_READS = 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    verbose = not {"--verbose", "-v", "--debug"}.isdisjoint(sys.argv[1:] if argv is None else argv)
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack what a job's kind has
        status = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SystemExit as leaving:  # argparse: --help, or a usage error already told
        return leaving.code if isinstance(leaving.code, int) else USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return NOBODY_READS
    except Exception as error:  # the last frame: whatever it is, the user gets one line and a status
        if verbose:
            traceback.print_exc()
        else:
            _complain(_one_line(error))
        _drop_output()
        return USAGE if isinstance(error, ConfigError | ValidationError) else FAILED


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if not hasattr(args, "run"):
        raise ConfigError("no command given; see river-fast --help")
    name_database(args)
    status: int = args.run(args)
    return status


def _parser() -> argparse.ArgumentParser:
    # late: what they import must not fail, nor take its time, before there is a frame to tell of it
    from river_fast.cli import bench, completion, demo, job, migrate, periodic, queue, validate, version, work

    parser = argparse.ArgumentParser(
        prog="river-fast",
        description="River's job queue on PostgreSQL, for Python services that need throughput.",
        epilog="No database named: a PostgreSQL of your own is started, and stays (see `river_fast.embedded`).",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"river-fast {__version__}")
    add_options(parser)
    commands = parser.add_subparsers(title="commands", metavar="command")
    for command in (demo, work, bench, job, queue, periodic, migrate, validate, version):
        command.add_parser(commands)
    completion.add_parser(commands, parser)
    for each in _below(commands):
        each.allow_abbrev = False
        add_options(each)
    return parser


def _below(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> Iterator[argparse.ArgumentParser]:
    """Every command's parser, and those of the commands below it."""
    for each in commands.choices.values():
        yield each
        for action in each._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from _below(action)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, RiverError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return f"{type(error).__name__}: {text} (--verbose shows where)"


def _complain(text: str) -> None:
    if sys.stderr is not None:
        print(f"river-fast: {text}", file=sys.stderr)


def _drop_output() -> None:
    """The interpreter flushes stdout once more when it ends: what cannot be written must not fail again there."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
