"""Deletes jobs that ended long enough ago, each final state after its own retention period. River: JobCleaner.

A maintenance service on its own thread. It goes by the time of the end, oldest first, along the index that has it: a
batch costs the same however many rows wait, and however many others lie among them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from river_fast.config import NEVER, Config
from river_fast.driver import Driver, Statement
from river_fast.job import JobState
from river_fast.maintenance import MaintenanceService


class JobCleaner(MaintenanceService):
    """`config`, checked: the three retention periods and the timeout of a statement."""

    name = "job_cleaner"
    interval = 30.0

    def __init__(
        self,
        driver: Driver,
        config: Config,
        *,
        interval: float | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(driver, interval=interval, logger=logger)
        kept = {
            JobState.COMPLETED: config.completed_job_retention_period,
            JobState.CANCELLED: config.cancelled_job_retention_period,
            JobState.DISCARDED: config.discarded_job_retention_period,
        }
        self._kept = {state: float(age) for state, age in kept.items() if age != NEVER}  # type: ignore[arg-type]
        self._timeout = float(config.job_cleaner_timeout)  # type: ignore[arg-type]  # `checked` made it seconds

    def _work_batch(self, limit: int) -> int:
        # So many of each: a state whose jobs end faster than they can be deleted keeps none of the others waiting.
        total = sum(self._delete(state, age, limit) for state, age in self._kept.items() if self._may_work())
        if total:
            self._logger.debug("deleted %d jobs that had ended", total)
        return total

    def _delete(self, state: JobState, age: float, limit: int) -> int:
        params = {"state": state.value, "age": age, "limit": limit}
        with self._transaction(self._timeout) as executor:
            return executor.run(Statement("job_delete_before", params))


def delete_finalized(
    driver: Driver,
    before: datetime,
    limit: int,
    *,
    queues_excluded: Sequence[str] = (),
    queues_included: Sequence[str] | None = None,
) -> int:
    """One batch of a cleaner with rules of its own: at most `limit` jobs that ended before `before`, lowest ids first;
    how many. Of `queues_included` alone (None: all queues, [] none), and never of `queues_excluded`."""
    params = {
        "before": before,
        "limit": limit,
        "queues_excluded": list(queues_excluded),
        "queues_included": None if queues_included is None else list(queues_included),
    }
    with driver.transaction() as executor:
        return executor.run(Statement("job_delete_finalized", params))
