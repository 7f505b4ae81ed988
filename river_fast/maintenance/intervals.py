"""How often the leader's services look: `MaintenanceIntervals`, River's unless a test says otherwise.

A frozen value; any thread reads. No setting of `Config`, as in River: whoever needs others (tests, the conformance
adapter) puts one at `client._intervals` before `start`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from river_fast.config import SCHEDULER_INTERVAL, seconds


@dataclass(frozen=True, slots=True)
class MaintenanceIntervals:
    """Seconds; `ConfigError` for what is no positive number. `elector`: at most 10, the lease stays 15 s.
    `job_scheduler` is also the delay up to which retries and snoozes stay available. `reindexer`: None for
    `Config.reindexer_schedule`."""

    elector: float = 5.0
    job_cleaner: float = 30.0
    job_rescuer: float = 30.0
    job_scheduler: float = SCHEDULER_INTERVAL
    queue_cleaner: float = 3600.0
    reindexer: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.name != "reindexer":
                seconds(field.name, value, minimum=0.001)
