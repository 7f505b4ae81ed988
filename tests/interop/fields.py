"""Jobs and queues as both peers answer with them: JSON as the text that is stored, times in microseconds since 1970."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import river_fast as river

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime | None) -> int | None:
    return None if at is None else (at - EPOCH) // MICROSECOND


def at_micros(at: int) -> datetime:
    return EPOCH + at * MICROSECOND


def job_fields(job: river.Job[Any]) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "state": str(job.state),
        "priority": job.priority,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "attempted_by": job.attempted_by,
        "args": job.encoded_args.decode(),
        "metadata": job.encoded_metadata.decode(),
        "tags": job.tags,
        "errors": [
            {"at": micros(one.at), "attempt": one.attempt, "error": one.error, "trace": one.trace} for one in job.errors
        ],
        "attempted_at": micros(job.attempted_at),
        "created_at": micros(job.created_at),
        "finalized_at": micros(job.finalized_at),
        "scheduled_at": micros(job.scheduled_at),
    }


def queue_fields(queue: river.Queue) -> dict[str, Any]:
    return {
        "name": queue.name,
        "metadata": json.dumps(queue.metadata),
        "paused_at": micros(queue.paused_at),
        "created_at": micros(queue.created_at),
        "updated_at": micros(queue.updated_at),
    }
