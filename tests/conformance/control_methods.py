"""Methods that let the suite decide: barriers, the clock, and what our own rules compute from values it gives.

The request loop's thread.
"""

from __future__ import annotations

from typing import Any

from river_fast.canonical_json import sort_paths
from river_fast.cron_schedule import cron
from river_fast.retry_policy import FIRST_CAPPED_FAILURE, DefaultRetryPolicy
from river_fast.unique import UniqueRule, states_mask, unique_key
from tests.conformance.contract import INT64_MAX, timestamp
from tests.conformance.errors import rejected
from tests.conformance.exact_json import raw_member
from tests.conformance.session import Session
from tests.conformance.values import time_text


def barrier_create(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.barriers.create(params["name"])
    return {}


def barrier_release(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.barriers.release(params["name"])
    return {}


def clock_set(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.clock = timestamp(params["now"], "now")
    return {}


def rng_seed(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """Our retry policy's jitter has no seed."""
    return {}


def retry_delay(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    if session.clock is None:
        raise rejected("clock_set comes first")
    # The policy counts the failure that has just happened as one more than the recorded ones.
    failures = params["error_count"]
    if failures >= FIRST_CAPPED_FAILURE:
        return {"delay_ns": INT64_MAX}
    return {"delay_ns": min(int(DefaultRetryPolicy.delay_seconds(failures) * 1e9), INT64_MAX)}


def cron_next(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    schedule = cron(params["expression"])
    at = timestamp(params["from"], "from")
    found: list[str] = []
    while len(found) < params["count"] and (following := schedule.next(at)) is not None:
        at = following
        found.append(_in_zone(at))
    return {"next": found}


def _in_zone(at: Any) -> str:
    """In the fixed offset that `from` has."""
    return time_text(at) if not at.utcoffset() else at.isoformat()


def unique_key_of(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """`params["args"]` comes as the text in which the request has it."""
    options = params["options"]
    mask = states_mask(options.get("by_state"))
    rule = UniqueRule(
        options["by_args"], options["by_period_nanos"], options["by_queue"], mask, options["exclude_kind"]
    )
    key = unique_key(
        rule,
        kind=params["kind"],
        queue=params["queue"],
        args=params["args"].encode(),
        at=timestamp(params.get("scheduled_at") or params["now"], "scheduled_at"),
        paths=sort_paths([tuple(path) for path in params.get("selected_unique_components", [])]),
    )
    return {"sha256": key.hex(), "state_mask": mask}


def with_raw_args(params: dict[str, Any], line: str) -> dict[str, Any]:
    """For `unique_key`: a key covers the text of the args, not their value."""
    raw = raw_member(line, "params", "args")
    assert raw is not None, "required"
    return {**params, "args": raw}


METHODS = {
    "barrier_create": barrier_create,
    "barrier_release": barrier_release,
    "clock_set": clock_set,
    "rng_seed": rng_seed,
    "retry_delay": retry_delay,
    "cron_next": cron_next,
    "unique_key": unique_key_of,
}
