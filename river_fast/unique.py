"""What makes a unique job unique: the key, the states, and the rules of `UniqueOpts`. River: dbunique.

Pure functions, any thread. A key is River's to the bit, so clients of all languages refuse each other's duplicates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from river_fast.canonical_json import Path, canonical_args
from river_fast.errors import ValidationError
from river_fast.insert_opts import UniqueOpts
from river_fast.job import JobState

# One bit a state; stored as bit(8), whose leftmost bit is `scheduled`.
STATE_BITS: Final = {
    JobState.AVAILABLE: 1,
    JobState.CANCELLED: 2,
    JobState.COMPLETED: 4,
    JobState.DISCARDED: 8,
    JobState.PENDING: 16,
    JobState.RETRYABLE: 32,
    JobState.RUNNING: 64,
    JobState.SCHEDULED: 128,
}
REQUIRED_STATES: Final = (JobState.AVAILABLE, JobState.PENDING, JobState.RUNNING, JobState.SCHEDULED)
DEFAULT_STATES: Final = sum(STATE_BITS.values()) - STATE_BITS[JobState.CANCELLED] - STATE_BITS[JobState.DISCARDED]

MIN_PERIOD_S = 1
MAX_PERIOD_S = 10 * 366 * 86400  # ten years: longer is a mistake in units


@dataclass(frozen=True, slots=True)
class UniqueRule:
    """`UniqueOpts` checked and ready: the period in nanoseconds (0: none) and the states as a mask."""

    by_args: bool
    period_ns: int
    by_queue: bool
    states: int
    exclude_kind: bool


def unique_rule(opts: UniqueOpts) -> UniqueRule:
    """`ValidationError` for what River refuses."""
    if not isinstance(opts, UniqueOpts):
        raise ValidationError("unique", f"must be UniqueOpts, got {type(opts).__name__}")
    for name in ("by_args", "by_queue", "exclude_kind"):
        if not isinstance(getattr(opts, name), bool):
            raise ValidationError("unique", f"{name} must be a bool, got {getattr(opts, name)!r}")
    period_ns = _period_ns(opts.by_period)
    if opts.exclude_kind and not (opts.by_args or period_ns or opts.by_queue):
        raise ValidationError("unique", "exclude_kind requires by_args, by_queue or by_period")
    return UniqueRule(opts.by_args, period_ns, opts.by_queue, states_mask(opts.by_state), opts.exclude_kind)


def unique_key(
    rule: UniqueRule,
    *,
    kind: str,
    queue: str,
    args: bytes,
    at: datetime,
    paths: Sequence[Path] = (),
    go_floats: bool = False,
) -> bytes:
    """The 32 bytes of `river_job.unique_key`. `at`: the effective scheduled_at, else now."""
    digest = hashlib.sha256()
    if not rule.exclude_kind:
        digest.update(f"&kind={kind}".encode())
    if rule.by_args:
        digest.update(b"&args=")
        digest.update(canonical_args(args, paths, go_floats=go_floats).encode())
    if rule.period_ns:
        digest.update(f"&period={period_start(at, rule.period_ns)}".encode())
    if rule.by_queue:
        digest.update(f"&queue={queue}".encode())
    return digest.digest()


def period_start(at: datetime, period_ns: int) -> str:
    """`at` rounded down to a whole number of periods since year 1, in UTC, to the second."""
    since = at.astimezone(UTC) - datetime(1, 1, 1, tzinfo=UTC)
    nanoseconds = (since // timedelta(microseconds=1)) * 1000
    start = nanoseconds // period_ns * period_ns // 1_000_000_000
    return (datetime(1, 1, 1, tzinfo=UTC) + timedelta(seconds=start)).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def states_mask(states: Sequence[JobState | str] | None) -> int:
    """The states in which a job blocks its duplicates, as bits; None or empty: River's default, all but cancelled and
    discarded."""
    if states is None:
        return DEFAULT_STATES
    if isinstance(states, str) or not isinstance(states, Sequence | set | frozenset):
        raise ValidationError("unique", f"by_state must be a list of states, got {states!r:.80}")
    mask = 0
    for state in states:
        if not isinstance(state, str) or state not in STATE_BITS:
            raise ValidationError("unique", f"by_state contains invalid state {state!r:.80}")
        bit = STATE_BITS[JobState(state)]
        if mask & bit:
            raise ValidationError("unique", f"by_state names {state!r} twice")
        mask |= bit
    missing = [state.value for state in REQUIRED_STATES if not mask & STATE_BITS[state]]
    if mask and missing:
        raise ValidationError("unique", f"by_state must contain all required states, missing: {', '.join(missing)}")
    return mask or DEFAULT_STATES


def _period_ns(period: float | timedelta | None) -> int:
    if period is None:
        return 0
    if isinstance(period, timedelta):
        if not timedelta(seconds=MIN_PERIOD_S) <= period <= timedelta(seconds=MAX_PERIOD_S):
            raise _bad_period(period)
        return (period // timedelta(microseconds=1)) * 1000
    if isinstance(period, bool) or not isinstance(period, int | float) or not math.isfinite(period):
        raise _bad_period(period)
    if period == 0:
        return 0
    if not MIN_PERIOD_S <= period <= MAX_PERIOD_S:
        raise _bad_period(period)
    return round(period * 1_000_000_000)


def _bad_period(period: object) -> ValidationError:
    return ValidationError("unique", f"by_period must be 1 second to ten years, got {period!r:.80}")
