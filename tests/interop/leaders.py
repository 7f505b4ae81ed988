"""`make interop`, second part: River's leader and ours, in one schema, taking over from each other.

Each hand-over must come by notification, far sooner than the next election.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.elector import Elector
from river_fast.maintenance.job_scheduler import JobScheduler
from river_fast.maintenance.queue_maintainer import QueueMaintainer
from river_fast.migrate import Migrator
from river_fast.notifier import Notifier

if TYPE_CHECKING:
    from tests.interop.migrations import Differences, River

BY_NOTIFICATION = 3.0  # seconds; by polling it would be 5 or 6
BY_ANY_MEANS = 30.0


@contextlib.contextmanager
def our_leader(dsn: str, schema: str) -> Iterator[Elector]:
    """Elector, notifier and scheduler of one client, as a client has them."""
    driver = PsycopgDriver(dsn, schema)
    notifier = Notifier(driver)
    elector = Elector(driver, "ours", notifier)
    services = (notifier, QueueMaintainer(elector, [JobScheduler(driver)], stagger=False), elector)
    try:
        for service in services:
            service.start()
        yield elector
    finally:
        for service in reversed(services):
            service.stop(20)
        driver.close()


@contextlib.contextmanager
def rivers_leader(river: River, schema: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [river.program("leader"), schema, "river"],
        env={**os.environ, "DATABASE_URL": river.dsn},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "started\n":
            raise RuntimeError("River's client did not start")
        yield process
    finally:
        process.communicate()


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def check(conn: psycopg.Connection[Any], dsn: str, schema: str, river: River, differences: Differences) -> None:
    driver = PsycopgDriver(dsn, schema)
    Migrator(driver).migrate_up()
    driver.close()
    table = psycopg.sql.Identifier(schema, "river_job")

    def leads(who: str) -> Callable[[], bool]:
        query = psycopg.sql.SQL("SELECT leader_id FROM {}").format(psycopg.sql.Identifier(schema, "river_leader"))
        return lambda: conn.execute(query).fetchone() == (who,)

    def done(count: int) -> Callable[[], bool]:
        query = psycopg.sql.SQL("SELECT count(*) FROM {} WHERE state = 'completed'").format(table)
        return lambda: conn.execute(query).fetchone() == (count,)

    def schedule() -> None:
        insert = psycopg.sql.SQL("INSERT INTO {} (kind, args, state) VALUES ('noop', '{{}}', 'scheduled')")
        conn.execute(insert.format(table))

    with contextlib.ExitStack() as ours:
        with rivers_leader(river, schema):
            differences.compare("River leads alone", within(BY_ANY_MEANS, leads("river")), True)
            elector = ours.enter_context(our_leader(dsn, schema))
            schedule()
            differences.compare("River's scheduler beside ours", within(BY_ANY_MEANS, done(1)), True)
            differences.compare("we follow River", (elector.term, leads("river")()), (None, True))
        differences.compare("we follow at once when River resigns", within(BY_NOTIFICATION, leads("ours")), True)
        with rivers_leader(river, schema):
            schedule()
            differences.compare("our scheduler, River's worker", within(BY_ANY_MEANS, done(2)), True)
            differences.compare("River follows us", leads("ours")(), True)
            ours.close()
            differences.compare("River follows at once when we resign", within(BY_NOTIFICATION, leads("river")), True)
