"""`river-fast job list|get|cancel|retry|delete`: look at jobs and steer them, as River's client does.

Runs on the main thread; owns its driver while it runs. JSON is `{"jobs": [...]}`, a list's with `last_cursor`.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, get_args

from river_fast.cli.database import add_statement_timeout, driver_of, positive, warn
from river_fast.cli.each import do_each
from river_fast.cli.output import print_fields, print_json, print_table, raw, time_text
from river_fast.errors import ConfigError, JobRunningError, NotFoundError, RiverError, UniqueConflictError
from river_fast.job import FINAL_STATES, Job, JobState
from river_fast.job_admin import JobAdmin
from river_fast.job_list import OrderBy
from river_fast.migrate import require_migrated

HEADERS = ("ID", "STATE", "KIND", "QUEUE", "PRIORITY", "ATTEMPT", "SCHEDULED AT", "ATTEMPTED AT", "FINALIZED AT")
REFUSALS = (NotFoundError, JobRunningError, UniqueConflictError)  # of one job: the others go on
DELETED_BY = ("ids", "kinds", "priorities", "queues", "states")
LISTED_BY = (*DELETED_BY, "tags_all", "tags_any", "metadata")
DONE = {"cancel": "cancelled", "retry": "available", "delete": "deleted"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The `job` commands."""
    job = commands.add_parser("job", help="list, get, cancel, retry and delete jobs")
    verbs = job.add_subparsers(title="commands", metavar="command", required=True)

    listing = verbs.add_parser("list", help="a page of jobs that pass all filters given")
    add_filters(listing)
    listing.add_argument("--tag-all", dest="tags_all", action="append", metavar="TAG", help="has all of these tags")
    listing.add_argument("--tag-any", dest="tags_any", action="append", metavar="TAG", help="has one of these tags")
    listing.add_argument("--metadata", type=str.encode, metavar="JSON", help="its metadata contains this object")
    listing.add_argument("--order-by", choices=get_args(OrderBy), default="id", help="default: id")
    listing.add_argument("--descending", action="store_true", help="the last ones first")
    listing.add_argument("--limit", type=positive, default=100, metavar="N", help="so many jobs, at most 10,000 (100)")
    listing.add_argument("--after", metavar="CURSOR", help="go on behind the page that gave this cursor")
    listing.set_defaults(run=run_list)

    helps = {
        "get": "all that is stored of some jobs",
        "cancel": "cancel jobs: at once those that wait, by telling them those that run",
        "retry": "make jobs available now, with one more attempt where all are used",
        "delete": "delete jobs that do not run: these, or the first that pass the filters",
    }
    for verb, what in helps.items():
        parser = verbs.add_parser(verb, help=what)
        many = "*" if verb == "delete" else "+"
        parser.add_argument("job_ids", type=int, nargs=many, metavar="ID")
        parser.set_defaults(run=run_get if verb == "get" else run_verb, verb=verb)
        if verb == "delete":
            add_filters(parser)
            parser.add_argument("--unsafe-all", action="store_true", help="no filter: every job that does not run")
            parser.add_argument("--limit", type=positive, default=100, metavar="N", help="at most so many (100)")
            parser.set_defaults(run=run_delete)
    for each in verbs.choices.values():
        add_statement_timeout(each)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Those that lists and deletes share; each may be given several times."""
    states = [state.value for state in JobState]
    for option, name, kind, metavar, choices in (
        ("--id", "ids", int, "ID", None),
        ("--kind", "kinds", str, "KIND", None),
        ("--priority", "priorities", int, "N", None),
        ("--queue", "queues", str, "NAME", None),
        ("--state", "states", str, None, states),
    ):
        parser.add_argument(
            option, dest=name, action="append", type=kind, metavar=metavar, choices=choices, help=f"one of the {name}"
        )


def run_list(args: argparse.Namespace) -> int:
    """Always 0."""
    filters = {name: getattr(args, name) for name in LISTED_BY}
    with admin_of(args) as admin:
        page = admin.job_list(
            order_by=args.order_by, descending=args.descending, after=args.after, limit=args.limit, **filters
        )
    if args.json:
        last = None if page.last_cursor is None else str(page.last_cursor)
        print_json({"jobs": [job_json(job) for job in page.jobs], "last_cursor": last})
        return 0
    print_table(HEADERS, map(_row, page.jobs))
    if len(page.jobs) == args.limit:
        warn(f"there may be more: --after {page.last_cursor}")
    return 0


def run_get(args: argparse.Namespace) -> int:
    """1 where one of them does not exist."""

    def show(jobs: list[Job[Any]]) -> None:
        for number, job in enumerate(jobs):
            if number:
                print()
            print_fields(_fields(job, args.verbose))

    return _each(args, "get", show)


def run_verb(args: argparse.Namespace) -> int:
    """1 where one of them was refused."""

    def show(jobs: list[Job[Any]]) -> None:
        for job in jobs:
            if args.verb == "delete" or job.state == DONE[args.verb]:
                print(f"job {job.id}: {DONE[args.verb]}")
            elif args.verb == "cancel" and job.state is JobState.RUNNING:
                print(f"job {job.id}: running, and told to end")
            else:
                print(f"job {job.id}: {job.state}, left as it is")

    return _each(args, args.verb, show)


def run_delete(args: argparse.Namespace) -> int:
    """1 where one of those named was refused."""
    filters = {name: getattr(args, name) for name in DELETED_BY if getattr(args, name) is not None}
    if args.job_ids:
        if filters or args.unsafe_all:
            raise ConfigError("give ids, or filters, or --unsafe-all; to delete by id and by more, use --id")
        return run_verb(args)
    if bool(filters) is args.unsafe_all:
        raise ConfigError("give ids, or filters, or, for every job that does not run, --unsafe-all and no filter")
    with admin_of(args) as admin:
        jobs = admin.job_delete_many(limit=args.limit, unsafe_all=args.unsafe_all, **filters)
    if args.json:
        _show_json(jobs)
        return 0
    print(f"deleted {len(jobs):,} job{'' if len(jobs) == 1 else 's'}")
    if len(jobs) == args.limit:
        warn("as many as --limit allows: there may be more")
    return 0


@contextlib.contextmanager
def admin_of(args: argparse.Namespace) -> Iterator[JobAdmin]:
    """On the database and schema that the command was asked for."""
    with driver_of(args) as driver:
        require_migrated(driver)
        yield JobAdmin(driver, statement_timeout=args.statement_timeout)


def job_json(job: Job[Any]) -> dict[str, Any]:
    """All that is stored of a job; args and metadata with the very digits that are stored."""
    return {
        "id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "state": job.state.value,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        "args": raw(job.encoded_args),
        "metadata": raw(job.encoded_metadata),
        "tags": job.tags,
        "created_at": time_text(job.created_at),
        "scheduled_at": time_text(job.scheduled_at),
        "attempted_at": time_text(job.attempted_at),
        "finalized_at": time_text(job.finalized_at),
        "attempted_by": job.attempted_by,
        "errors": [
            {"at": time_text(error.at), "attempt": error.attempt, "error": error.error, "trace": error.trace}
            for error in job.errors
        ],
    }


def _each(args: argparse.Namespace, verb: str, show: Callable[[list[Job[Any]]], None]) -> int:
    """The status; `show` is for people."""

    def told(job_id: Any, error: RiverError) -> str:
        return f"{f'job {job_id}: ' if isinstance(error, UniqueConflictError) else ''}{error}"

    if args.json:
        show = _show_json
    with admin_of(args) as admin:
        return do_each(args.job_ids, getattr(admin, f"job_{verb}"), show, refusals=REFUSALS, told=told)


def _show_json(jobs: list[Job[Any]]) -> None:
    print_json({"jobs": [job_json(job) for job in jobs]})


def _row(job: Job[Any]) -> tuple[object, ...]:
    attempt = f"{job.attempt}/{job.max_attempts}"
    times = (_seconds(job.scheduled_at), _seconds(job.attempted_at), _seconds(job.finalized_at))
    return (job.id, job.state, job.kind, job.queue, job.priority, attempt, *times)


def _seconds(at: datetime | None) -> str | None:
    return None if at is None else time_text(at.replace(microsecond=0))


def _fields(job: Job[Any], with_traces: bool) -> Iterator[tuple[str, object]]:
    shown = job_json(job)
    for name in ("id", "kind", "queue", "state", "priority"):
        yield name, shown[name]
    yield "attempt", f"{job.attempt} of {job.max_attempts}"
    yield "tags", ", ".join(job.tags)
    yield "args", job.encoded_args.decode("utf-8", "replace")
    yield "metadata", job.encoded_metadata.decode("utf-8", "replace")
    for name in ("created_at", "scheduled_at", "attempted_at"):
        yield name, shown[name]
    if job.state in FINAL_STATES:
        yield "finalized_at", shown["finalized_at"]
    yield "attempted_by", ", ".join(job.attempted_by)
    for error in job.errors:
        yield f"error {error.attempt}", f"{time_text(error.at)} {error.error}"
        if with_traces:
            for line in error.trace.splitlines():
                yield "", line
