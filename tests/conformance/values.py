"""Jobs, queues and times as the contract writes them.

Pure but for `unique_of`, which asks the database; any thread. A `Job` of ours does not carry its unique key, so that is
read beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg
from psycopg import sql

import river_fast as river
from river_fast.attempt_error import RFC_3339, decode_attempt_error
from river_fast.job_row import ERRORS, decode_jsonb_array
from river_fast.unique import STATE_BITS
from tests.conformance.exact_json import compact, dump, exact, fits_a_float, parse

ZERO_TIME = "0001-01-01T00:00:00Z"
NONCE = "river:unique_nonce"

Unique = tuple[str, list[str]]  # the key in hex, and the states' names


def time_text(at: datetime) -> str:
    """UTC, `Z`, no zeros at the fraction's end."""
    text = at.astimezone(UTC).replace(tzinfo=None).isoformat()
    return (text.rstrip("0") if "." in text else text) + "Z"


def _optional_time(at: datetime | None) -> str | None:
    return None if at is None else time_text(at)


def attempt_error(raw: bytes) -> dict[str, Any]:
    """As River reads it; the time to the nanosecond, as Go writes and tells it."""
    read = decode_attempt_error(raw)
    at = time_text(read.at)
    if at != ZERO_TIME and "." in (text := json.loads(raw)["at"]) and RFC_3339.match(text):
        fraction = text.partition(".")[2].rstrip("Z")
        digits = fraction.partition("+")[0].partition("-")[0][:9].rstrip("0")
        at = at.partition(".")[0].rstrip("Z") + (f".{digits}" if digits else "") + "Z"
    return {"at": at, "attempt": read.attempt, "error": read.error, "trace": read.trace}


def metadata(raw: bytes, *, all_digits: bool = False) -> Any:
    """Without the nonce. None where a number fits no double, unless `all_digits`."""
    if not all_digits and not fits_a_float(raw):
        return None
    if not raw.startswith(b"{"):
        return {}
    if NONCE.encode() not in raw:
        return compact(raw)
    value = parse(raw)
    value.pop(NONCE, None)
    return orjson.Fragment(dump(value))


def states_of(mask: str) -> list[str]:
    """`bit(8)` as text, its leftmost bit `scheduled`, as names in their order."""
    bits = int(mask, 2)
    return sorted(state.value for state, bit in STATE_BITS.items() if bits & bit)


def job(stored: river.Job[Any], unique: Unique | None, *, all_digits: bool = False) -> dict[str, Any]:
    """All 18 members."""
    return {
        "args": compact(stored.encoded_args),
        "attempt": stored.attempt,
        "attempted_at": _optional_time(stored.attempted_at),
        "attempted_by": stored.attempted_by,
        "created_at": time_text(stored.created_at),
        "errors": [attempt_error(raw) for raw in decode_jsonb_array(stored._row.field(ERRORS))],
        "finalized_at": _optional_time(stored.finalized_at),
        "id": stored.id,
        "kind": stored.kind,
        "max_attempts": stored.max_attempts,
        "metadata": metadata(stored.encoded_metadata, all_digits=all_digits),
        "priority": stored.priority,
        "queue": stored.queue,
        "scheduled_at": time_text(stored.scheduled_at),
        "state": stored.state.value,
        "tags": stored.tags,
        "unique_key": None if unique is None else unique[0],
        "unique_states": None if unique is None else unique[1],
    }


def queue(stored: river.Queue) -> dict[str, Any]:
    return {
        "created_at": time_text(stored.created_at),
        "metadata": exact(dict(stored.metadata)),
        "name": stored.name,
        "paused_at": _optional_time(stored.paused_at),
        "updated_at": time_text(stored.updated_at),
    }


def unique_of(conn: psycopg.Connection[Any], table: sql.Composable, ids: Iterable[int]) -> Mapping[int, Unique]:
    """The unique keys of those of the jobs that have one."""
    query = sql.SQL(
        "SELECT id, encode(unique_key, 'hex'), coalesce(unique_states::text, '0') FROM {}"
        " WHERE id = ANY(%s) AND unique_key IS NOT NULL"
    ).format(table)
    return {row[0]: (row[1], states_of(row[2])) for row in conn.execute(query, [list(ids)])}
