"""One job worked until its attempt is over, as a `def` or an `async def`."""

from __future__ import annotations

from typing import Any

import pytest

import river_fast as river
from tests.fix_client import Args, workers_of

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def worker_for(body: Any, is_async: bool, **options: Any) -> river.Workers:
    """`body(job)` as the one worker, as a `def` or inside an `async def`."""

    async def work_async(job: river.Job[Args]) -> None:
        body(job)

    return workers_of(work_async if is_async else body, **options)


def work_one(client: river.Client, opts: river.InsertOpts | None = None, *, row: int | None = None) -> river.Job[Any]:
    """Inserts one job before the start (or takes the `row` that is there), works it until its attempt is over, and
    returns the row as it was stored then: a job that failed is soon fetched again."""
    with client.subscribe() as events:
        job_id = client.insert(Args(1), opts).job.id if row is None else row
        client.start()
        event = events.get(20)
    assert event is not None
    assert event.job is not None
    assert event.job.id == job_id
    return event.job
