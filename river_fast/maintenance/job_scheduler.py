"""Makes retryable and scheduled jobs available when their time comes. River: JobScheduler.

A maintenance service on its own thread. Two at once, of whatever language, do no harm: rows are locked, and uniqueness
is the index's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from river_fast.config import SCHEDULER_INTERVAL
from river_fast.control import INSERT_TOPIC, channel
from river_fast.driver import Driver, RawRow, Statement
from river_fast.errors import DatabaseError, UniqueConflictError
from river_fast.maintenance import MaintenanceService
from river_fast.testsignal import TestSignal

UNIQUE_VIOLATION = "23505"
DUE_WITHIN = 0.005  # seconds: producers are told of jobs that may be fetched by the time they have heard of it; River's
# Tries of one batch while rivals take unique keys under it; the last ones are small, so that others are not held up.
LIMITS_AFTER_CONFLICT = (10_000, 1_000, 100, 10, 1)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What one batch did: rows looked at; of those, discarded for a unique key that another job holds."""

    handled: int
    discarded: int


class JobScheduler(MaintenanceService):
    """`notify` False: the server has no NOTIFY, producers poll."""

    name = "job_scheduler"
    # Also how far it looks ahead: a job is available, with its time unchanged, up to so many seconds early, and the
    # fetch holds it back until then. So no job waits for the scheduler.
    interval = SCHEDULER_INTERVAL

    def __init__(
        self,
        driver: Driver,
        *,
        notify: bool = True,
        interval: float | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(driver, interval=interval, logger=logger)
        self._notify = notify
        self.scheduled = TestSignal[Scheduled]()

    def _work_batch(self, limit: int) -> int:
        for attempt_limit in (limit, *LIMITS_AFTER_CONFLICT):
            try:
                result = self._schedule(min(attempt_limit, limit))
            except DatabaseError as error:
                if error.sqlstate != UNIQUE_VIOLATION:
                    raise
                self._logger.debug("a rival took a unique key meanwhile, looking again")
                continue
            if result.discarded:
                self._logger.info("discarded %d jobs whose unique key another job holds", result.discarded)
            self.scheduled.signal(result)
            return limit if result.handled == min(attempt_limit, limit) else result.handled
        raise UniqueConflictError("no due job could be made available in 6 tries (SQLSTATE 23505)")

    def _schedule(self, limit: int) -> Scheduled:
        params = {
            "limit": limit,
            "look_ahead": self.interval,
            "due_within": DUE_WITHIN,
            "notify": self._notify,
            "channel": channel(self._driver.schema, INSERT_TOPIC),
        }
        with self._transaction() as executor:
            return executor.run(Statement("job_schedule", params, _scheduled))


def _scheduled(rows: list[RawRow], count: int) -> Scheduled:
    handled, discarded = (int.from_bytes(value or b"") for value in rows[0][:2])
    return Scheduled(handled, discarded)
