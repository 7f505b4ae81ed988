"""A queue as `river_queue` holds it. River: Queue. A pure value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from river_fast.job_row import FAR_PAST, decode_jsonb, decode_timestamptz, loads_exact


@dataclass(frozen=True, slots=True)
class Queue:
    """`paused_at` None: not paused. `updated_at`: the last sign of a client that works it; a day later the row goes.
    `encoded_metadata`: the metadata's JSON text, exactly as stored."""

    name: str
    created_at: datetime
    metadata: Mapping[str, Any]
    paused_at: datetime | None
    updated_at: datetime
    encoded_metadata: bytes = b"{}"

    @property
    def paused(self) -> bool:
        """Whether clients leave its jobs alone."""
        return self.paused_at is not None

    @classmethod
    def stored(cls, row: Sequence[bytes | None]) -> Queue:
        """From (name, created_at, metadata, paused_at, updated_at), binary, as all statements of ours return it."""
        name, created_at, metadata, paused_at, updated_at = row
        value = loads_exact(metadata[1:]) if metadata else {}
        return cls(
            (name or b"").decode(),
            decode_timestamptz(created_at) or FAR_PAST,
            value if isinstance(value, dict) else {},
            decode_timestamptz(paused_at),
            decode_timestamptz(updated_at) or FAR_PAST,
            decode_jsonb(metadata) or b"{}",
        )


def stored_queues(rows: Sequence[Sequence[bytes | None]], count: int) -> list[Queue]:
    """`parse` of statements that return rows of `river_queue`."""
    return [Queue.stored(row) for row in rows]
