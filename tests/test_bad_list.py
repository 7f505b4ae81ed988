"""Bad lists of jobs: empty, endless, broken half-way, with one key twice; none of their jobs is inserted.

Rows 58 to 61 of the corpus of bad inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from river_fast.errors import EncodeError, UniqueConflictError, ValidationError
from river_fast.insert_opts import InsertManyParams, InsertOpts, UniqueOpts
from river_fast.inserter import Inserter
from tests.fix_bad_input import GOOD
from tests.fix_inserter import EmailArgs, count, driver, inserter

__all__ = ["count", "driver", "inserter"]


@pytest.mark.parametrize("name", ["insert_many", "insert_many_fast"])
def test_bad_lists_are_refused(inserter: Inserter, count: Callable[[], int], name: str) -> None:
    insert = getattr(inserter, name)
    for given in ([], (), iter(()), None, 7, "abc", b"abc", {"a": 1}):
        with pytest.raises(ValidationError) as caught:
            insert(given)
        assert caught.value.field == "params"
    jobs = [GOOD] * 10_000
    jobs[7342] = EmailArgs(math.nan)
    with pytest.raises(EncodeError, match=r"params\[7342\]\.args"):
        insert(jobs)
    assert count() == 0


@pytest.mark.parametrize("name", ["insert_many", "insert_many_fast"])
def test_endless_list_is_refused_before_memory_is(
    inserter: Inserter, count: Callable[[], int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import itertools

    import river_fast.insert_params as insert_params

    monkeypatch.setattr(insert_params, "MAX_JOBS", 2_000)
    with pytest.raises(ValidationError, match="more than 2000 jobs"):
        getattr(inserter, name)(itertools.repeat(GOOD))
    monkeypatch.setattr(insert_params, "MAX_BATCH_BYTES", 10_000)
    with pytest.raises(ValidationError, match="more than 10000 bytes"):
        getattr(inserter, name)(itertools.repeat(GOOD))
    assert count() == 0


@pytest.mark.parametrize("name", ["insert_many", "insert_many_fast"])
def test_list_that_raises_half_way_inserts_nothing(inserter: Inserter, count: Callable[[], int], name: str) -> None:
    def broken() -> Iterator[Any]:
        yield GOOD
        raise LookupError("half-way")

    def recursive() -> Iterator[Any]:
        yield GOOD
        inserter.insert(GOOD)
        yield GOOD

    insert = getattr(inserter, name)
    with pytest.raises(LookupError, match="half-way"):
        insert(broken())
    assert count() == 0
    insert(recursive())
    assert count() == 3


@pytest.mark.parametrize("name", ["insert_many", "insert_many_fast"])
def test_same_unique_key_twice_in_one_call(inserter: Inserter, count: Callable[[], int], name: str) -> None:
    """Row 56: arrays tell the second, COPY refuses all."""
    twice = [InsertManyParams(GOOD, InsertOpts(unique=UniqueOpts(by_args=True)))] * 2
    if name == "insert_many":
        assert [result.unique_skipped_as_duplicate for result in inserter.insert_many(twice)] == [False, True]
        assert count() == 1
    else:
        with pytest.raises(UniqueConflictError):
            inserter.insert_many_fast(twice)
        assert count() == 0
