"""Runs durable periodic jobs that are due: inserts each run in the transaction that moves its row on. Ours.

For the enqueuer's thread; owns only what it knows of rows that cannot run. Two leaders at once do no harm: a row moves
on from the run it was read at, or the whole transaction is rolled back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from river_fast.driver import Executor, RawRow, Statement
from river_fast.durable_periodic_admin import durable_jobs
from river_fast.durable_periodic_job import DurablePeriodicJob
from river_fast.errors import DatabaseError, InsertOutcomeUnknownError
from river_fast.job_row import decode_timestamptz
from river_fast.maintenance.periodic_insert import InsertThen, NotInsertedError, insert_apart

TOGETHER: Final = 100  # jobs of one transaction
FAILED_AGAIN_AFTER: Final = 60.0  # seconds; whoever mends the row, or the machine's zones, need not wait for a term
EVERYTHING: Final = 10_000
Session = Callable[[], AbstractContextManager[Executor]]  # each statement its own transaction; a stop cancels it

TABLE_GONE: Final = ("42P01", "42501")  # the line was taken back, or a right


@dataclass(frozen=True, slots=True, eq=False)
class DurableRun:
    """One job and its runs that are due; none where all were due while it was paused. `then`: its next run."""

    job: DurablePeriodicJob
    times: Sequence[datetime]
    then: datetime | None


class DurablePeriodicRuns:
    """As of the last look, `present`: whether the schema has the table; `next_at`: when the first of them is due."""

    def __init__(self, schema: Callable[[], str], session: Session, insert: InsertThen, logger: logging.Logger) -> None:
        self._schema = schema
        self._session = session
        self._insert = insert
        self._logger = logger
        self._failed: dict[str, float] = {}  # id: when it is tried again
        self.present = False
        self.next_at: datetime | None = None

    def load(self) -> list[DurablePeriodicJob]:
        """All there are, paused ones too."""
        if not self.present:
            return []
        statement = Statement("durable_periodic_job_list", {"limit": EVERYTHING, "after": ""}, durable_jobs)
        with self._session() as executor:
            return executor.run(statement)

    def look(self, executor: Executor) -> datetime:
        """The server's clock, and with it what is asked of the table: one statement where nothing is due."""
        if self.present:
            try:
                return self._look_at_table(executor)
            except DatabaseError as error:
                if error.sqlstate not in TABLE_GONE:
                    raise
        self.next_at = None
        now, self.present = executor.run(Statement("periodic_look", {"schema": self._schema()}, _found))
        return self._look_at_table(executor) if self.present else now

    def _look_at_table(self, executor: Executor) -> datetime:
        look = Statement("durable_periodic_job_look", {"except_ids": self._except()}, _looked)
        now, self.next_at = executor.run(look)
        return now

    def run_due(self, now: datetime, may_work: Callable[[], bool]) -> None:
        """Inserts what is due at `now`, which the look gave."""
        while self.next_at is not None and self.next_at <= now and may_work():
            runs = self._due(now)
            if runs:
                insert_apart(runs, self._send, self._lost)
            if len(runs) < TOGETHER:
                return

    def _due(self, now: datetime) -> list[DurableRun]:
        params = {"now": now, "except_ids": self._except(), "limit": TOGETHER}
        with self._session() as executor:
            jobs = executor.run(Statement("durable_periodic_job_due", params, durable_jobs))
        runs = []
        for job in jobs:
            try:
                runs.append(DurableRun(job, *job.due(now)))
            except Exception as error:  # a zone that this machine does not know, a row by somebody else's hand
                self._fail(job, error)
        return runs

    def _send(self, runs: Sequence[DurableRun]) -> None:
        params = [run.job.run(at) for run in runs for at in run.times]
        advance = Statement("durable_periodic_job_advance", _advance_params(runs), _all_of(len(runs)))
        try:
            if params:
                self._insert(params, [advance])
            else:
                with self._session() as executor:
                    executor.run(advance)
        except InsertOutcomeUnknownError as error:
            self._logger.warning("durable periodic jobs are looked at anew, as their rows tell: %s", error)

    def _lost(self, run: DurableRun, error: BaseException) -> None:
        self._fail(run.job, error)

    def _fail(self, job: DurablePeriodicJob, error: BaseException) -> None:
        """It stays due, is tried again after a while, and holds up no other."""
        self._logger.error("durable periodic job %r cannot run: %s", job.id, error)
        self._failed[job.id] = time.monotonic() + FAILED_AGAIN_AFTER
        params = {"id": job.id, "seen_at": job.updated_at, "error": f"{type(error).__name__}: {error}"[:2000]}
        with self._session() as executor:
            executor.run(Statement("durable_periodic_job_fail", params))

    def _except(self) -> list[str]:
        now = time.monotonic()
        self._failed = {id: again for id, again in self._failed.items() if again > now}
        return list(self._failed)


def _advance_params(runs: Sequence[DurableRun]) -> dict[str, Any]:
    return {
        "ids": [run.job.id for run in runs],
        "seen_at": [run.job.updated_at for run in runs],
        "due_at": [run.job.next_run_at for run in runs],
        "next_run_at": [run.then for run in runs],
        "last_run_at": [run.times[-1] if run.times else None for run in runs],
    }


def _all_of(expected: int) -> Callable[[list[RawRow], int], None]:
    def parse(rows: list[RawRow], count: int) -> None:
        if count != expected:
            raise NotInsertedError("a durable periodic job was changed, or run by another leader, meanwhile")

    return parse


def _looked(rows: list[RawRow], count: int) -> tuple[datetime, datetime | None]:
    now = decode_timestamptz(rows[0][0])
    assert now is not None, "clock_timestamp"
    return now, decode_timestamptz(rows[0][1])


def _found(rows: list[RawRow], count: int) -> tuple[datetime, bool]:
    now = decode_timestamptz(rows[0][0])
    assert now is not None, "clock_timestamp"
    return now, rows[0][1] == b"\x01"
