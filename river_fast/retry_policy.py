"""When a failed job runs again. River: ClientRetryPolicy, DefaultClientRetryPolicy.

Any thread; owns nothing. What a worker or a policy of the user's answers is checked here, for whoever asks.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
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


def retry_delay(
    job: Job[Any],
    errors: int,
    policy: RetryPolicy,
    logger: logging.Logger,
    next_retry: Callable[[Job[Any]], datetime | None] | None = None,
    now: datetime | None = None,
) -> float:
    """Seconds until the next attempt of a job that just failed, with `errors` failures before: the worker's
    `next_retry`, if it has one and that says so, else the client's policy, else River's default. `now`: None is now."""
    if next_retry is not None:
        delay = _asked(next_retry, job, "the worker's next_retry", logger, now)
        if delay is not None:
            return delay
    if type(policy) is not DefaultRetryPolicy:
        delay = _asked(policy.next_retry, job, "the retry policy", logger, now)
        if delay is not None:
            return delay
    return DefaultRetryPolicy.delay_seconds(errors + 1)


def _asked(
    next_retry: Callable[[Any], Any], job: Job[Any], who: str, logger: logging.Logger, now: datetime | None
) -> float | None:
    """What user code answered, as a delay; None (and a warning) where the answer cannot be used."""
    try:
        when = next_retry(job)
        if when is None:
            return None
        if not isinstance(when, datetime) or when.tzinfo is None:
            logger.warning("%s gave %r for job %d, not an aware datetime; using the default", who, when, job.id)
            return None
        delay = (when - (now or datetime.now(UTC))).total_seconds()
    except BaseException:  # a policy that exits must not take our thread along
        logger.warning("%s raised for job %d; using the default", who, job.id, exc_info=True)
        return None
    if not math.isfinite(delay) or delay < -1.0:  # a moment that just passed is "at once", as meant
        logger.warning("%s gave a time in the past for job %d; using the default", who, job.id)
        return None
    return max(delay, 0.0)
