"""What a stop did: the value `stop` returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnrecordedOutcome:
    """An attempt that ended and whose outcome could not be written; its row stays `running` until reclaimed."""

    job_id: int
    attempt: int
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class StopReport:
    """`graceful`: every job ended by itself or gave its attempt back, and every outcome is stored.

    `duration` seconds from the first request; `abandoned` ids of jobs that would not end (their rows were given back,
    so they may run elsewhere while their old threads still live; their later outcome is refused); `unrecorded` outcomes
    that could not be written; `unresolved_fetch`: a fetch was cut short and may have claimed rows that nobody holds,
    which are freed by reclaim. `finished` False: the stop goes on, this call would have waited for itself or ran out of
    patience.
    """

    graceful: bool
    duration: float
    abandoned: tuple[int, ...] = ()
    unrecorded: tuple[UnrecordedOutcome, ...] = ()
    unresolved_fetch: bool = False
    finished: bool = True
