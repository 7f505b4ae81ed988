"""An enqueuer of periodic jobs that leads by a row of its own, on a clock that a test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.elector import Term
from river_fast.inserter import Inserter
from river_fast.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from river_fast.migrate import FAST, Migrator
from river_fast.periodic_job_bundle import PeriodicJobBundle

NOON = datetime(2024, 3, 4, 12, 0, 0, tzinfo=UTC)


@dataclass
class Ping(river.JobArgs, kind="periodic_ping"):
    """What most of them insert."""

    name: str = ""


def every(period: float, name: str = "a", **options: Any) -> river.PeriodicJob:
    opts = options.pop("opts", None)
    return river.PeriodicJob(river.PeriodicInterval(period), lambda: (Ping(name), opts), **options)


class Rig:
    """`enqueuer` as in the term `term`; `at(time)` is one pass at that time of the server's clock."""

    def __init__(self, driver: PsycopgDriver, conn: psycopg.Connection[Any], *, durable: bool, **config: Any) -> None:
        self.driver = driver
        self.conn = conn
        self.bundle = PeriodicJobBundle()
        self.inserter = Inserter(driver, river.Config(**config).checked())
        self.insert: Callable[..., Any] = self.inserter.insert_internal
        self.term: Term | None = None
        self.now: datetime | None = None
        self._durable = durable
        self.enqueuer = self.made()

    def made(self, **options: Any) -> PeriodicJobEnqueuer:
        """Another leader of the same term."""
        enqueuer = PeriodicJobEnqueuer(
            self.driver, self.bundle, lambda *asked: self.insert(*asked), lambda: self.term, **options
        )
        enqueuer.lead(lambda: True, stagger=False)
        enqueuer.inserted.activate()
        enqueuer.waiting.activate()
        enqueuer.failed.activate()
        look = enqueuer._durable.look

        def looked(executor: Any) -> datetime:
            now = look(executor) if self._durable or self.now is None else self.now
            return now if self.now is None else self.now

        enqueuer._durable.look = looked  # type: ignore[method-assign]
        return enqueuer

    def elect(self, leader_id: str = "me") -> Term:
        """A new term, in the database too."""
        row = self.conn.execute(
            "INSERT INTO river_leader (leader_id, elected_at, expires_at)"
            " VALUES (%s, clock_timestamp(), now() + interval '1 hour')"
            " ON CONFLICT (name) DO UPDATE SET leader_id = excluded.leader_id, elected_at = excluded.elected_at"
            " RETURNING elected_at",
            (leader_id,),
        ).fetchone()
        assert row is not None
        self.term = Term(leader_id, row[0])
        return self.term

    def begin(self) -> None:
        """As the service starts in a term."""
        self.elect()
        self.enqueuer._start()

    def at(self, now: datetime, enqueuer: PeriodicJobEnqueuer | None = None) -> float:
        """One pass; the seconds it would wait."""
        enqueuer = enqueuer or self.enqueuer
        self.now = now
        if enqueuer._clock is not None:  # the clock goes on as ours did: it was not set
            enqueuer._clock = (now, enqueuer._clock[1])
        return enqueuer._pass_once()

    def jobs(self) -> list[tuple[str, datetime, str]]:
        """Name, scheduled_at and state of what was inserted."""
        return [
            (name, at.astimezone(UTC), state)
            for name, at, state in self.conn.execute(
                "SELECT args ->> 'name', scheduled_at, state::text FROM river_job ORDER BY id"
            ).fetchall()
        ]

    def names(self) -> list[str]:
        return [name for name, _, _ in self.jobs()]


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def rig(driver: PsycopgDriver, conn: psycopg.Connection[Any]) -> Rig:
    """Without the table of durable jobs."""
    return Rig(driver, conn, durable=False)


@pytest.fixture
def fast(driver: PsycopgDriver) -> None:
    """The line that durable periodic jobs need."""
    Migrator(driver, FAST).migrate_up()


@pytest.fixture
def durable(fast: None, driver: PsycopgDriver, conn: psycopg.Connection[Any]) -> Rig:
    """With it."""
    return Rig(driver, conn, durable=True)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)
