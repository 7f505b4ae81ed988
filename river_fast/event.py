"""What a subscriber is told: one event per outcome recorded or queue changed. River: Event."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from river_fast.job import Job


class EventKind(StrEnum):
    """River's words for what happened."""

    JOB_CANCELLED = "job_cancelled"
    JOB_COMPLETED = "job_completed"
    JOB_FAILED = "job_failed"
    JOB_INTERRUPTED = "job_interrupted"
    JOB_SNOOZED = "job_snoozed"
    QUEUE_PAUSED = "queue_paused"
    QUEUE_RESUMED = "queue_resumed"


@dataclass(frozen=True, slots=True)
class JobStats:
    """How long a job took, in seconds: in the completer, waiting since it was due, and running."""

    complete_duration: float
    queue_wait_duration: float
    run_duration: float


@dataclass(frozen=True, slots=True)
class Event:
    """`job` is the row as it was stored, with `stats`, for a job's event; `queue` is set for a queue's."""

    kind: EventKind
    job: Job[Any] | None = None
    queue: str | None = None
    stats: JobStats | None = None
