"""The legal transitions out of `running`: one named constructor each. River: JobSetStateIfRunningParams.

Pure values, any thread. The completer turns them into statements: ages and delays travel, never
client clock readings, so the server's clock decides (design, decision 10).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from typing import Any

from river_fast.job import JobState

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)


class Reason(IntEnum):
    """Why the outcome was made: two roads may lead to one state (River derives the event from it)."""

    COMPLETED = 0
    CANCELLED = 1
    FAILED = 2
    SNOOZED = 3
    INTERRUPTED = 4


@dataclass(frozen=True, slots=True)
class JobSetState:
    """One requested transition; use the constructors below, never the class.

    `delay` seconds until the job is due again, counted from the end of the attempt (None: scheduled_at is left);
    `error` one AttemptError object as JSON bytes, appended; `metadata` a JSON object as bytes, merged on the server;
    `restore_attempt` gives the attempt back (never below 0).
    """

    state: JobState
    reason: Reason
    delay: float | None = None
    error: bytes | None = None
    metadata: bytes | None = None
    restore_attempt: bool = False

    @classmethod
    def completed(cls, metadata: bytes | None = None) -> JobSetState:
        return cls(JobState.COMPLETED, Reason.COMPLETED, metadata=metadata)

    @classmethod
    def cancelled(cls, error: bytes, metadata: bytes | None = None) -> JobSetState:
        return cls(JobState.CANCELLED, Reason.CANCELLED, error=error, metadata=metadata)

    @classmethod
    def discarded(cls, error: bytes, metadata: bytes | None = None) -> JobSetState:
        return cls(JobState.DISCARDED, Reason.FAILED, error=error, metadata=metadata)

    @classmethod
    def error_retryable(cls, delay: float, error: bytes, metadata: bytes | None = None) -> JobSetState:
        return cls(JobState.RETRYABLE, Reason.FAILED, delay=delay, error=error, metadata=metadata)

    @classmethod
    def error_available(cls, delay: float, error: bytes, metadata: bytes | None = None) -> JobSetState:
        return cls(JobState.AVAILABLE, Reason.FAILED, delay=delay, error=error, metadata=metadata)

    @classmethod
    def snoozed(cls, delay: float, metadata: bytes) -> JobSetState:
        return cls(JobState.SCHEDULED, Reason.SNOOZED, delay=delay, metadata=metadata, restore_attempt=True)

    @classmethod
    def snoozed_available(cls, delay: float, metadata: bytes) -> JobSetState:
        return cls(JobState.AVAILABLE, Reason.SNOOZED, delay=delay, metadata=metadata, restore_attempt=True)

    @classmethod
    def interrupted(cls, metadata: bytes | None = None) -> JobSetState:
        return cls(JobState.AVAILABLE, Reason.INTERRUPTED, delay=0.0, metadata=metadata, restore_attempt=True)


def snooze_count(stored: Any) -> int:
    """What `snoozes` in a job's metadata becomes by one snooze more, whatever stands there now. As River reads it:
    numbers without their fraction, texts that are whole numbers, true as 1, all else as 0."""
    if isinstance(stored, str):
        stored = int(stored) if WHOLE_NUMBER.fullmatch(stored) else 0
    if not isinstance(stored, int | float | Decimal) or not -(2**63) <= stored < 2**63:
        return 1
    return int(stored) + 1
