"""When a failed job runs again. River: ClientRetryPolicy, DefaultClientRetryPolicy.

Pure; any thread.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from river_fast.job import Job

# River caps the delay at the largest Go duration, 2**63 - 1 ns; its 310th failure and later get exactly that.
MAX_DELAY_SECONDS = (2**63 - 1) / 1e9
FIRST_CAPPED_FAILURE = 310


class RetryPolicy(Protocol):
    """Says when the job that just failed is due again: an aware datetime, not in the past."""

    def next_retry(self, job: Job[Any]) -> datetime:
        """When `job`, whose attempt just failed, runs again."""
        ...


class DefaultRetryPolicy:
    """River's: failures ** 4 seconds, times a factor from [0.9, 1.1); failures counts the one that just happened."""

    def next_retry(self, job: Job[Any]) -> datetime:
        """As River's policy; past the year 9999: that year's end."""
        seconds = min(self.delay_seconds(len(job.errors) + 1), 3.1e10)  # datetime ends in the year 9999
        now = datetime.now(UTC)
        try:
            return now + timedelta(seconds=seconds)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)

    @staticmethod
    def delay_seconds(failures: int) -> float:
        """Seconds after the `failures`-th failure, jitter included, at most `MAX_DELAY_SECONDS`."""
        if failures >= FIRST_CAPPED_FAILURE:
            return MAX_DELAY_SECONDS
        return min(failures**4 * (0.9 + random.random() * 0.2), MAX_DELAY_SECONDS)
