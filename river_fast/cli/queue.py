"""`river-fast queue list|get|pause|resume`: look at queues and steer them, as River's client does.

Runs on the main thread; owns its driver while it runs. JSON is `{"queues": [...]}` of the rows as they are then.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

from river_fast.cli.database import add_statement_timeout, driver_of, positive, warn
from river_fast.cli.each import do_each
from river_fast.cli.output import print_fields, print_json, print_table, printable, raw, time_text
from river_fast.control import ALL_QUEUES
from river_fast.migrate import require_migrated
from river_fast.queue import Queue
from river_fast.queue_admin import LIST_MAX, QueueAdmin

HEADERS = ("NAME", "PAUSED AT", "CREATED AT", "UPDATED AT")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The `queue` commands."""
    queue = commands.add_parser("queue", help="list, get, pause and resume queues")
    verbs = queue.add_subparsers(title="commands", metavar="command", required=True)

    listing = verbs.add_parser("list", help="the queues that clients have worked, by name")
    listing.add_argument("--limit", type=positive, default=100, metavar="N", help="so many, at most 10,000 (100)")
    listing.set_defaults(run=run_list)

    get = verbs.add_parser("get", help="all that is stored of some queues")
    get.add_argument("names", nargs="+", metavar="NAME")
    get.set_defaults(run=run_get)

    helps = {
        "pause": "have no client fetch from these queues; running jobs go on",
        "resume": "have clients fetch from these queues again",
    }
    for verb, what in helps.items():
        parser = verbs.add_parser(verb, help=what)
        parser.add_argument("names", nargs="+", metavar="NAME", help="a queue, or '*': every queue there is")
        parser.set_defaults(run=run_switch, verb=verb)
    for each in verbs.choices.values():
        add_statement_timeout(each)


def run_list(args: argparse.Namespace) -> int:
    """Always 0."""
    with admin_of(args) as admin:
        queues = admin.queue_list(args.limit)
    if args.json:
        print_json({"queues": [queue_json(queue) for queue in queues]})
        return 0
    print_table(HEADERS, map(_row, queues))
    if len(queues) == args.limit:
        warn("as many as --limit allows: there may be more")
    return 0


def run_get(args: argparse.Namespace) -> int:
    """1 where one of them does not exist."""

    def show(queues: list[Queue]) -> None:
        if args.json:
            print_json({"queues": [queue_json(queue) for queue in queues]})
            return
        for number, queue in enumerate(queues):
            if number:
                print()
            print_fields({**queue_json(queue), "metadata": queue.encoded_metadata.decode("utf-8", "replace")}.items())

    with admin_of(args) as admin:
        return do_each(args.names, admin.queue_get, show)


def run_switch(args: argparse.Namespace) -> int:
    """1 where one of them does not exist."""
    with admin_of(args) as admin:

        def switch(name: str) -> str:
            getattr(admin, f"queue_{args.verb}")(name)
            return name

        def show(names: list[str]) -> None:
            if args.json:
                queues = admin.queue_list(LIST_MAX) if ALL_QUEUES in names else map(admin.queue_get, names)
                print_json({"queues": [queue_json(queue) for queue in queues]})
                return
            for name in names:
                which = "every queue" if name == ALL_QUEUES else f"queue {printable(name)}"
                print(f"{which}: {'paused' if args.verb == 'pause' else 'resumed'}")

        return do_each(args.names, switch, show)


@contextlib.contextmanager
def admin_of(args: argparse.Namespace) -> Iterator[QueueAdmin]:
    """On the database and schema that the command was asked for."""
    with driver_of(args) as driver:
        require_migrated(driver)
        yield QueueAdmin(driver, statement_timeout=args.statement_timeout)


def queue_json(queue: Queue) -> dict[str, Any]:
    """All that is stored of a queue; its metadata with the very digits that are stored."""
    return {
        "name": queue.name,
        "paused_at": time_text(queue.paused_at),
        "metadata": raw(queue.encoded_metadata),
        "created_at": time_text(queue.created_at),
        "updated_at": time_text(queue.updated_at),
    }


def _row(queue: Queue) -> tuple[object, ...]:
    return (queue.name, *(time_text(at) for at in (queue.paused_at, queue.created_at, queue.updated_at)))
