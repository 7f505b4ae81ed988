"""Filters of lists and deletes: what is refused before anything is sent, and what becomes of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from river_fast.errors import ValidationError
from river_fast.job_filters import check_filters, check_limit, filter_forms


def forms_of(**filters: Any) -> tuple[list[str], dict[str, Any]]:
    return filter_forms(check_filters(filters))


def test_what_is_not_set_filters_nothing() -> None:
    assert forms_of(ids=None, states=None, metadata=None) == ([], {})


def test_any_iterable_is_taken_once() -> None:
    given = {"ids": {3}, "kinds": (name for name in ("a", "b")), "queues": ("q",), "tags_any": iter(["t"])}
    assert forms_of(**given) == (
        ["ids", "kinds", "queues", "tags_any"],
        {"ids": [3], "kinds": ["a", "b"], "queues": ["q"], "tags_any": ["t"]},
    )


def test_one_state_is_compared_by_equality_and_final_ones_are_said_to_be() -> None:
    assert forms_of(states=["running"]) == (["state"], {"states": "running"})
    assert forms_of(states=["completed"]) == (["state", "final"], {"states": "completed"})
    assert forms_of(states=["completed", "cancelled"]) == (["states", "final"], {"states": "{completed,cancelled}"})
    assert forms_of(states=["completed", "running"]) == (["states"], {"states": "{completed,running}"})
    assert forms_of(states=[]) == (["states"], {"states": "{}"})


def test_numbers_that_no_row_can_have_match_none() -> None:
    assert forms_of(ids=[1, 2**63, -(2**70)], priorities=[1, 40_000]) == (
        ["ids", "priorities"],
        {"ids": [1], "priorities": [1]},
    )


WRONG: dict[str, list[Any]] = {
    "ids": ["1", 1, b"12", {"1": 1}, ["1"], [1.0], [True], [None], object()],
    "kinds": ["email", b"x", [1], [b"x"], ["a\0"], ["\ud800"], 5],
    "queues": ["default", [None], ["a\0b"]],
    "priorities": ["1", ["1"], [1.5], [False], 3],
    "states": ["running", ["nonsense"], [None], [1], ["RUNNING"], [["running"]]],
    "tags_all": ["tag", [1], ["x\0"]],
    "tags_any": ["tag", [1], ["\udfff"]],
    "metadata": ["{}", [1], 5, b"[1]", b"{", {"a": float("nan")}, {1: 2}, {"a": object()}, b'{"a":"\\u0000"}'],
}


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, all_of in WRONG.items() for given in all_of])
def test_what_cannot_be_a_filter_is_refused_by_its_name(name: str, given: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        check_filters({name: given})
    assert caught.value.field == name
    assert len(str(caught.value)) < 300


def test_a_filter_that_there_is_not_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="kinds"):
        check_filters({"kind": ["email"]})


@pytest.mark.parametrize("limit", [0, -1, 10_001, "5", 1.0, True, None, 10**30])
def test_a_limit_out_of_bounds_is_refused(limit: Any) -> None:
    with pytest.raises(ValidationError):
        check_limit(limit)
