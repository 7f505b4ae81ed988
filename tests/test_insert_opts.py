"""The option values themselves; `test_inserter.py` and `test_insert_unique.py` have what they do.

`test_bad_input.py` has what is refused.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

from river_fast.errors import ValidationError
from river_fast.insert_opts import InsertManyParams, InsertOpts, UniqueOpts
from river_fast.insert_params import InsertBuilder
from river_fast.job import JobState
from river_fast.job_args import RawArgs
from river_fast.resolved_opts import ResolvedOpts

EMPTY = InsertOpts()


@pytest.mark.parametrize(
    ("opts", "empty"),
    [
        (UniqueOpts(), True),
        (UniqueOpts(by_args=True), False),
        (UniqueOpts(by_queue=True), False),
        (UniqueOpts(by_period=60), False),
        (UniqueOpts(exclude_kind=True), False),
        (UniqueOpts(by_state=[]), False),  # River: a list that is there counts, even without states
    ],
    ids=repr,
)
def test_unique_options_are_empty_only_when_nothing_is_set(opts: UniqueOpts, empty: bool) -> None:
    assert opts.is_empty() is empty


def test_options_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        EMPTY.priority = 1  # type: ignore[misc]


def test_state_follows_pending_and_schedule() -> None:
    at = datetime(1999, 1, 1, tzinfo=UTC)

    def state(base: InsertOpts, opts: InsertOpts) -> JobState:
        return ResolvedOpts(base, opts, 25, 1000, internal=False).state

    assert state(EMPTY, EMPTY) is JobState.AVAILABLE
    assert state(EMPTY, InsertOpts(scheduled_at=at)) is JobState.SCHEDULED
    assert state(InsertOpts(scheduled_at=at), EMPTY) is JobState.SCHEDULED
    assert state(InsertOpts(scheduled_at=at), InsertOpts(pending=True)) is JobState.PENDING
    assert state(InsertOpts(pending=True), EMPTY) is JobState.AVAILABLE


def test_rivers_own_metadata_keys_are_for_river_alone() -> None:
    opts = InsertOpts(metadata={"river:periodic_job_id": "x"})
    with pytest.raises(ValidationError, match="reserved"):
        ResolvedOpts(EMPTY, opts, 25, 1000, internal=False)
    assert b"river:periodic_job_id" in ResolvedOpts(EMPTY, opts, 25, 1000, internal=True).metadata


def test_time_of_a_unique_period_is_the_builders_clock() -> None:
    now = datetime(2026, 1, 2, 3, 59, 59, tzinfo=UTC)
    builder = InsertBuilder(max_attempts=25, max_args_bytes=1000, known_kinds=lambda: None, now=lambda: now)
    opts = InsertOpts(unique=UniqueOpts(by_period=3600))

    def key() -> bytes | None:
        return builder.many([InsertManyParams(RawArgs("kind", {}), opts)]).keys[0]

    before = key()
    assert key() == before
    now = datetime(2026, 1, 2, 4, tzinfo=UTC)
    assert key() != before
