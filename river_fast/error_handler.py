"""Who is told of each failed attempt, and may cancel the job for it. River: ErrorHandler.

Values and types; the handler runs where the job ran.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from river_fast.job import Job


@dataclass(frozen=True, slots=True)
class ErrorHandlerResult:
    """`set_cancelled`: the job is cancelled, its error kept, rather than retried. River: ErrorHandlerResult."""

    set_cancelled: bool = False


class ErrorHandler(Protocol):
    """`Config.error_handler`: an object with this method, or a function with its parameters. River: HandleError,
    HandlePanic (an exception is both here: it always has its trace)."""

    def handle_error(self, job: Job[Any], error: BaseException) -> ErrorHandlerResult | None:
        """After an attempt failed, before it is decided what becomes of the job; None changes nothing.

        Not called for a snooze, a cancel, or a job that a stop interrupted. Written with `def`: on the job's thread,
        for an async job on the event loop, which it must not block. What it raises is logged, and changes nothing.
        """
