"""How a job is inserted: options, unique options, and what an insert gives back. River: InsertOpts.

Pure values, any thread; `unique.py` computes keys from them and `inserter.py` checks and writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from river_fast.job import Job, JobState


@dataclass(frozen=True, slots=True)
class UniqueOpts:
    """What makes two jobs the same job. River: UniqueOpts.

    `by_period`: seconds or timedelta, at least 1 s (None: no period). `by_state`: None means River's default set
    (all but cancelled and discarded); plain strings are taken.
    """

    by_args: bool = False
    by_period: float | timedelta | None = None
    by_queue: bool = False
    by_state: Sequence[JobState | str] | None = None
    exclude_kind: bool = False

    def is_empty(self) -> bool:
        """True when no field is set, so that options on the args apply instead."""
        return not (self.by_args or self.by_period or self.by_queue or self.exclude_kind) and self.by_state is None


@dataclass(frozen=True, slots=True)
class InsertOpts:
    """Options of one insert; None means "inherit": from the args' `insert_opts`, the client, then River's defaults.

    `priority` 1 (first) to 4, default 1; `max_attempts` default 25; `queue` default "default"; `scheduled_at` an aware
    datetime (set: the job is scheduled, even in the past); `tags` replace (an empty list means none), at most 256, no
    two alike; `metadata` a JSON object as a mapping or bytes; `pending` makes a pending job, which only outside writers
    move on. As in River, `metadata` and `pending` count only in the options of the insert itself.
    """

    max_attempts: int | None = None
    metadata: Mapping[str, Any] | bytes | None = None
    pending: bool = False
    priority: int | None = None
    queue: str | None = None
    scheduled_at: datetime | None = None
    tags: Sequence[str] | None = None
    unique: UniqueOpts | None = None


@dataclass(frozen=True, slots=True)
class InsertManyParams:
    """One item of an `insert_many`: args and, if wanted, options of its own."""

    args: Any
    opts: InsertOpts | None = None


class JobInsertResult(NamedTuple):
    """`job` as stored; `unique_skipped_as_duplicate`: an equal unique job existed, and `job` is that one."""

    job: Job[Any]
    unique_skipped_as_duplicate: bool = False
