"""What may be asked of durable periodic jobs, as statements: define, change, get, list, pause, resume, delete.

Any thread; owns nothing. Every question is one statement, so it runs on the pool, on an event loop and in a caller's
transaction alike. All need version 2 of line `fast`, and say so where it is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from river_fast.driver import Driver, RawRow, Statement
from river_fast.durable_periodic_job import (
    DurablePeriodicJob,
    checked_catch_up,
    checked_id,
    definition_of,
    schedule_of,
    schedule_text,
)
from river_fast.errors import DatabaseError, MigrationError, NotFoundError, ValidationError
from river_fast.insert_opts import InsertOpts
from river_fast.insert_params import InsertBatch

LIST_MAX: Final = 10_000
FAST_VERSION: Final = 2
UNDEFINED = ("42P01", "42703")  # table, column
UNSET: Final[Any] = object()
_NO_SCHEDULE: Final = {"has_schedule": False, "schedule": None, "zone": None, "next_run_at": None}
_NO_JOB: Final = {"has_job": False, "kind": None, "args": None, "metadata": None, "opts": None}


class DurablePeriodicAdmin:
    """`checked(args, opts)` gives a batch of one job, its options resolved and everything checked."""

    def __init__(self, driver: Driver, checked: Callable[[Any, InsertOpts | None], InsertBatch]) -> None:
        self._driver = driver
        self._checked = checked

    def define(
        self, id: str, schedule: Any, args: Any, opts: InsertOpts | None, zone: str | None, catch_up: int
    ) -> Statement[DurablePeriodicJob]:
        """`ValidationError` for what cannot be kept; `UnknownJobKindError` as for an insert."""
        params = {
            "id": checked_id(id),
            "catch_up": checked_catch_up(catch_up),
            **self._schedule(schedule, zone),
            **definition_of(self._checked(args, opts)),
        }
        return Statement("durable_periodic_job_define", params, self._one(id))

    def change(
        self, id: str, schedule: Any, args: Any, opts: InsertOpts | None, zone: Any, catch_up: int | None
    ) -> Statement[DurablePeriodicJob]:
        """What is `UNSET` or None stays."""
        if schedule is UNSET and zone is not UNSET:
            raise ValidationError("zone", "is changed with the schedule it belongs to: give both")
        if args is UNSET and opts is not None:
            raise ValidationError("opts", "are changed with the args they belong to: give both")
        params = {
            "id": checked_id(id),
            "catch_up": None if catch_up is None else checked_catch_up(catch_up),
            **_NO_SCHEDULE,
            **_NO_JOB,
        }
        if schedule is not UNSET:
            params |= {"has_schedule": True, **self._schedule(schedule, None if zone is UNSET else zone)}
        if args is not UNSET:
            params |= {"has_job": True, **definition_of(self._checked(args, opts))}
        return Statement("durable_periodic_job_change", params, self._one(id))

    def some(self, limit: int, after: str) -> Statement[list[DurablePeriodicJob]]:
        """The first of those behind `after`, by id."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIST_MAX:
            raise ValidationError("limit", f"must be 1 to {LIST_MAX}, got {limit!r:.80}")
        if not isinstance(after, str) or "\0" in after:
            raise ValidationError("after", f"must be the id of a periodic job, or '', got {after!r:.80}")
        return Statement("durable_periodic_job_list", {"limit": limit, "after": after}, durable_jobs)

    def named(self, verb: str, id: str) -> Statement[DurablePeriodicJob]:
        """`verb`: get, pause, resume, delete; the job as it is then (was, if deleted). `NotFoundError`."""
        return Statement(f"durable_periodic_job_{verb}", {"id": checked_id(id)}, self._one(id))

    def ran(self, id: str, at: datetime) -> Statement[int]:
        """It was run by hand at that time."""
        return Statement("durable_periodic_job_ran", {"id": id, "at": at})

    def now(self) -> datetime:
        """The server's clock, as corrected at connect."""
        return datetime.now(UTC) + timedelta(seconds=self._driver.open().clock_offset)

    @contextlib.contextmanager
    def line_named(self) -> Iterator[None]:
        """A missing table leaves as `MigrationError` with the command to run."""
        try:
            yield
        except DatabaseError as error:
            if error.sqlstate not in UNDEFINED:
                raise
            schema = self._driver.schema
            raise MigrationError(
                f'durable periodic jobs need version {FAST_VERSION} of line fast, which schema "{schema}" does not'
                f" have; run: river-fast migrate-up --line fast --schema {schema}"
            ) from error

    def _schedule(self, schedule: Any, zone: Any) -> dict[str, Any]:
        text, zone = schedule_text(schedule, zone)
        return {"schedule": text, "zone": zone, "next_run_at": schedule_of(text, zone).next(self.now())}

    def _one(self, id: str) -> Callable[[list[RawRow], int], DurablePeriodicJob]:
        def parse(rows: list[RawRow], count: int) -> DurablePeriodicJob:
            if not rows:
                raise NotFoundError(f"durable periodic job {id!r} does not exist; list tells those that do")
            return DurablePeriodicJob.stored(rows[0])

        return parse


def durable_jobs(rows: list[RawRow], count: int) -> list[DurablePeriodicJob]:
    """Rows of a statement that returns several."""
    return [DurablePeriodicJob.stored(row) for row in rows]
