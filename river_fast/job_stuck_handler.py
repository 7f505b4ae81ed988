"""Who is told of jobs that ignore their timeout, and says whether others may use their slot. River: JobStuckHandler.

Values and types; the handler runs on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobStuckHandlerParams:
    """The job, and `total_stuck_jobs`: how many of this client are stuck now, it included. River:
    JobStuckHandlerParams."""

    id: int
    kind: str
    queue: str
    total_stuck_jobs: int


@dataclass(frozen=True, slots=True)
class JobStuckHandlerResult:
    """`add_worker_slot`: another job may run in its place, while it runs on. River: JobStuckHandlerResult."""

    add_worker_slot: bool = True


# Called once a stuck job. None: a slot is added, as without a handler; so it is where the handler raises.
JobStuckHandler = Callable[[JobStuckHandlerParams], "JobStuckHandlerResult | None"]
