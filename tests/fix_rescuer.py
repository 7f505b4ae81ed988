"""A job rescuer that leads, workers with timeouts of every kind, and jobs that were left running."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance.job_rescuer import JobRescuer
from tests.fix_maintenance import set_up
from tests.fix_rows import column, insert

ERROR = "Stuck job rescued by JobRescuer"


@dataclass
class Plain(river.JobArgs, kind="plain"):
    """No timeout of its own."""

    n: int = 0


@dataclass
class Long(river.JobArgs, kind="long"):
    """May run for three hours."""

    n: int = 0


@dataclass
class Endless(river.JobArgs, kind="endless", aliases=("eternal",)):
    """May run for ever."""

    n: int = 0


class PerJob(river.Worker):  # type: ignore[type-arg]  # a kind without a type of args
    """Says for each job how long it may run, and when it is retried: its args have the answers."""

    kind = "per_job"

    def work(self, job: river.Job[Any]) -> None:
        raise NotImplementedError

    def timeout(self, job: river.Job[Any]) -> Any:
        return said(job.args.get("timeout"))

    def next_retry(self, job: river.Job[Any]) -> Any:
        days = said(job.args.get("days"))
        return None if days is None else datetime.now(UTC) + timedelta(days=days)


def said(value: Any) -> Any:
    if value == "raise":
        raise SystemExit("user code that exits")
    return value


def workers() -> river.Workers:
    made = river.Workers()
    made.work(Plain)(lambda job: None)
    made.work(Long, timeout=3 * 3600)(lambda job: None)
    made.work(Endless, timeout=river.NEVER)(lambda job: None)
    made.add(PerJob())
    return made


def make(driver: PsycopgDriver, **config: Any) -> JobRescuer:
    rescuer = JobRescuer(driver, river.Config(workers=workers(), **config).checked())
    set_up(rescuer)
    rescuer.rescued.activate()
    return rescuer


@pytest.fixture
def rescuer(driver: PsycopgDriver) -> Iterator[JobRescuer]:
    rescuer = make(driver)
    yield rescuer
    assert rescuer.stop(20)


def stuck(conn: psycopg.Connection, kind: str = "plain", *, hours: float = 2.0, **columns: Any) -> int:
    """A row that a client of whatever language claimed so long ago and left."""
    at = datetime.now(UTC) - timedelta(hours=hours)
    return insert(conn, "running", **{"kind": kind, "attempted_at": at, "attempted_by": ["gone"], **columns})


def state(conn: psycopg.Connection, job_id: int) -> str:
    return str(column(conn, job_id, "state::text"))


def due_in(conn: psycopg.Connection, job_id: int) -> float:
    return float(column(conn, job_id, "extract(epoch FROM scheduled_at - now())"))
