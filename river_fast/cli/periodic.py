"""`river-fast periodic list|pause|resume|run`: look at durable periodic jobs and steer them. Ours; River has none.

Runs on the main thread; owns its client, an insert-only one, while it runs. JSON is `{"periodic_jobs": [...]}` of the
rows as they are then; of `run`, `{"jobs": [...]}` of what was inserted.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

from river_fast.cli.database import positive, url_of, warn
from river_fast.cli.each import do_each
from river_fast.cli.job import job_json
from river_fast.cli.output import print_json, print_table, printable, raw, time_text
from river_fast.client import Client
from river_fast.client_durable_periodic_jobs import ClientDurablePeriodicJobs
from river_fast.config import Config
from river_fast.durable_periodic_job import DurablePeriodicJob
from river_fast.insert_opts import JobInsertResult

HEADERS = ("ID", "KIND", "SCHEDULE", "NEXT RUN AT", "LAST RUN AT", "STATE")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The `periodic` commands."""
    periodic = commands.add_parser("periodic", help="list, pause, resume and run durable periodic jobs")
    verbs = periodic.add_subparsers(title="commands", metavar="command", required=True)

    listing = verbs.add_parser("list", help="the durable periodic jobs, by id")
    listing.add_argument("--limit", type=positive, default=100, metavar="N", help="so many, at most 10,000 (100)")
    listing.add_argument("--after", default="", metavar="ID", help="those behind this id")
    listing.set_defaults(run=run_list)

    helps = {
        "pause": "insert no more jobs of these; those there are, run on",
        "resume": "insert jobs of these again; what was missed meanwhile is not made up for",
    }
    for verb, what in helps.items():
        parser = verbs.add_parser(verb, help=what)
        parser.add_argument("ids", nargs="+", metavar="ID")
        parser.set_defaults(run=run_switch, verb=verb)

    run = verbs.add_parser("run", help="insert a job of each now, paused or not; their schedules go on")
    run.add_argument("ids", nargs="+", metavar="ID")
    run.set_defaults(run=run_now)


def run_list(args: argparse.Namespace) -> int:
    """Always 0."""
    with periodic_jobs_of(args) as periodic_jobs:
        jobs = periodic_jobs.list(args.limit, args.after)
    if args.json:
        print_json({"periodic_jobs": [periodic_job_json(job) for job in jobs]})
        return 0
    print_table(HEADERS, map(_row, jobs))
    if len(jobs) == args.limit:
        warn("as many as --limit allows: there may be more")
    return 0


def run_switch(args: argparse.Namespace) -> int:
    """1 where one of them does not exist."""

    def show(jobs: list[DurablePeriodicJob]) -> None:
        if args.json:
            print_json({"periodic_jobs": [periodic_job_json(job) for job in jobs]})
            return
        for job in jobs:
            print(f"periodic job {printable(job.id)}: {'paused' if args.verb == 'pause' else 'resumed'}")

    with periodic_jobs_of(args) as periodic_jobs:
        return do_each(args.ids, getattr(periodic_jobs, args.verb), show)


def run_now(args: argparse.Namespace) -> int:
    """1 where one of them does not exist."""

    def show(results: list[tuple[str, JobInsertResult]]) -> None:
        if args.json:
            print_json({"jobs": [job_json(result.job) for _, result in results]})
            return
        for id, result in results:
            what = "is there already" if result.unique_skipped_as_duplicate else "inserted"
            print(f"periodic job {printable(id)}: job {result.job.id} {what}")

    with periodic_jobs_of(args) as periodic_jobs:
        return do_each(args.ids, lambda id: (id, periodic_jobs.run_now(id)), show)


@contextlib.contextmanager
def periodic_jobs_of(args: argparse.Namespace) -> Iterator[ClientDurablePeriodicJobs]:
    """On the database and schema that the command was asked for."""
    client = Client(url_of(args), Config(schema=args.schema))
    try:
        yield client.durable_periodic_jobs
    finally:
        client.stop()


def periodic_job_json(job: DurablePeriodicJob) -> dict[str, Any]:
    """All that is stored of it; args and metadata with the very digits that are stored."""
    metadata = job.opts.metadata
    return {
        "id": job.id,
        "schedule": job.schedule,
        "zone": job.zone,
        "kind": job.kind,
        "args": raw(job.encoded_args),
        "metadata": raw(metadata if isinstance(metadata, bytes) else b"{}"),
        "queue": job.opts.queue,
        "priority": job.opts.priority,
        "max_attempts": job.opts.max_attempts,
        "tags": list(job.opts.tags or ()),
        "unique": job.opts.unique is not None,
        "catch_up": job.catch_up,
        "next_run_at": time_text(job.next_run_at),
        "last_run_at": time_text(job.last_run_at),
        "last_error": job.last_error,
        "paused_at": time_text(job.paused_at),
        "created_at": time_text(job.created_at),
        "updated_at": time_text(job.updated_at),
    }


def _row(job: DurablePeriodicJob) -> tuple[object, ...]:
    state = "paused" if job.paused_at else "failing" if job.last_error else "active" if job.next_run_at else "over"
    schedule = job.schedule if job.zone is None else f"{job.schedule} ({job.zone})"
    return (job.id, job.kind, schedule, time_text(job.next_run_at), time_text(job.last_run_at), state)
