"""Which jobs a list or a delete means: checked before anything is sent, then lines and parameters of its statement.

Pure, any thread. What is None filters nothing; an empty list is a filter that no job passes (an empty `tags_all`: every
job does). River takes an empty list for no filter at all: of a list that somebody computed, that deletes too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from river_fast.encoding import encode_metadata, is_utf8
from river_fast.errors import ValidationError
from river_fast.job import FINAL_STATES, JobState

LIMIT_MAX = 10_000  # River's


class JobFilters(TypedDict, total=False):
    """`ids`, `kinds`, `priorities`, `queues`, `states`: the job's is one of them."""

    ids: Iterable[int] | None
    kinds: Iterable[str] | None
    priorities: Iterable[int] | None
    queues: Iterable[str] | None
    states: Iterable[JobState | str] | None


class JobListFilters(JobFilters, total=False):
    """Also `tags_all` (it has all of them), `tags_any` (one or more of them), and `metadata`, a dict or JSON text that
    the job's metadata contains (PostgreSQL's `@>`)."""

    tags_all: Iterable[str] | None
    tags_any: Iterable[str] | None
    metadata: Mapping[str, Any] | bytes | None


def check_filters(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are set, as their statement's parameters but for the states: those are a list of `JobState`.
    `ValidationError`; `TypeError` for a filter that there is not."""
    for name in filters:
        if name not in _CHECKS:
            raise TypeError(f"{name!r} is not a filter; there are {', '.join(_CHECKS)}")
    return {name: _CHECKS[name](name, given) for name, given in filters.items() if given is not None}


def filter_forms(checked: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The statement's lines for checked filters, and their parameters."""
    forms, params = list(checked), dict(checked)
    states = checked.get("states")
    if states is not None:  # one state is compared by equality, and final ones are said to be: an index serves that
        if len(states) == 1:
            forms[forms.index("states")] = "state"
        if states and FINAL_STATES.issuperset(states):
            forms.append("final")
        params["states"] = str(states[0]) if len(states) == 1 else "{" + ",".join(states) + "}"
    return forms, params


def check_limit(limit: int) -> int:
    """1 to 10,000; `ValidationError`."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIMIT_MAX:
        raise ValidationError("limit", f"must be 1 to {LIMIT_MAX}, got {limit!r}"[:120])
    return limit


def _listed(name: str, given: Any) -> list[Any]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ValidationError(name, f"must be a list, got {type(given).__name__}; for one, give [{given!r}]"[:160])
    return list(given)


def _integers(name: str, given: Any, most: int) -> list[int]:
    values = _listed(name, given)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValidationError(name, f"must be ints, got {type(value).__name__}")
    return [value for value in values if -most <= value <= most]  # no row has any other


def _texts(name: str, given: Any) -> list[str]:
    values = _listed(name, given)
    for value in values:
        if not isinstance(value, str):
            raise ValidationError(name, f"must be strings, got {type(value).__name__}")
        if "\0" in value or not is_utf8(value):
            raise ValidationError(name, f"{ascii(value)[:80]} holds NUL or half a character, which no stored text can")
    return [str.__str__(value) for value in values]


def _states(name: str, given: Any) -> list[JobState]:
    values = _listed(name, given)
    for value in values:
        if value not in list(JobState):
            raise ValidationError(name, f"{ascii(value)[:80]} is no state; there are {', '.join(JobState)}")
    return [JobState(value) for value in values]


_CHECKS = {
    "ids": lambda name, given: _integers(name, given, 2**63 - 1),
    "kinds": _texts,
    "metadata": lambda name, given: encode_metadata(given).decode(),
    "priorities": lambda name, given: _integers(name, given, 2**15 - 1),
    "queues": _texts,
    "states": _states,
    "tags_all": _texts,
    "tags_any": _texts,
}
