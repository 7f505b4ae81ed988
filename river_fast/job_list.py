"""A page of jobs: filtered, ordered, and continued where another ended. River: Client.JobList.

Pure, any thread: it makes the statement that `JobAdmin` runs. One statement reads a page, so a page is consistent in
itself; a job that changes between two pages may be on both, or on neither, as in River.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Unpack, get_args

from river_fast.driver import RawRow, Statement
from river_fast.errors import ValidationError
from river_fast.job import FINAL_STATES, Job, JobState
from river_fast.job_filters import JobListFilters, check_filters, check_limit, filter_forms
from river_fast.job_list_cursor import JobListCursor
from river_fast.job_row import ATTEMPTED_AT, FINALIZED_AT, SCHEDULED_AT, Row, StoredRow
from river_fast.pg_binary import TIMESTAMPTZ, BinaryParam, int8_element, param

OrderBy = Literal["id", "time", "scheduled_at", "finalized_at"]

_COLUMNS = {"scheduled_at": SCHEDULED_AT, "attempted_at": ATTEMPTED_AT, "finalized_at": FINALIZED_AT}


@dataclass(frozen=True, slots=True)
class JobListResult:
    """`jobs`, and where they end: `job_list(after=last_cursor)` gives those behind; None where there are no jobs.

    River: JobListResult.
    """

    jobs: list[Job[Any]]
    last_cursor: JobListCursor | None


class JobListOptions(JobListFilters, total=False):
    """What a job list may be asked; all of it is optional. Filters: see `JobListFilters`; None sets no filter.

    `order_by`: "id" (the default), "scheduled_at", "finalized_at" (final states alone, and they are the default then),
    or "time": one column for all jobs, which the *first* state listed decides. That is `attempted_at` for running,
    `finalized_at` for a final state, else `scheduled_at`. Equal times are ordered by id; jobs without a time come last.
    `descending`: the other way round. `after`: a cursor of a list in the same order, its text (ours or River's), or a
    job. `limit`: 1 to 10,000 jobs (default: 100).
    """

    order_by: OrderBy
    descending: bool
    after: JobListCursor | Job[Any] | str | None
    limit: int


def job_list_statement(
    order_by: OrderBy = "id",
    descending: bool = False,
    after: JobListCursor | Job[Any] | str | None = None,
    limit: int = 100,
    **filters: Unpack[JobListFilters],
) -> Statement[JobListResult]:
    """`ValidationError`, naming the option, for what cannot be listed."""
    checked = check_filters(filters)
    if order_by not in get_args(OrderBy):
        raise ValidationError("order_by", f"must be one of {', '.join(get_args(OrderBy))}, got {order_by!r}"[:120])
    if order_by == "finalized_at":
        _check_final(checked)
    column = _column(order_by, checked.get("states"))
    forms, params = filter_forms(checked)
    params["limit"] = check_limit(limit)
    way = "descending" if descending else "ascending"
    if after is not None:
        cursor = _cursor(after, order_by, column)
        params["after_id"], params["after_time"] = cursor.id, _timestamptz(cursor.time)
        forms.append(f"after_{_place(column, cursor.time, 'final' in forms)}_{way}")
    forms.append(f"by_{column}_{way}")

    def parse(rows: list[RawRow], count: int) -> JobListResult:
        jobs: list[Job[Any]] = [Job(StoredRow(row)) for row in rows]
        return JobListResult(jobs, _cursor_of(jobs[-1]._row, order_by, column) if jobs else None)

    return Statement("job_list", params, parse, forms=tuple(forms))


def _check_final(checked: dict[str, Any]) -> None:
    states = checked.setdefault("states", sorted(FINAL_STATES))
    other = [state for state in states if state not in FINAL_STATES]
    if other or not states:
        got = ", ".join(other) if other else "none"
        raise ValidationError(
            "order_by", f"finalized_at orders only jobs in a final state ({', '.join(sorted(FINAL_STATES))}), got {got}"
        )


def _column(order_by: OrderBy, states: list[JobState] | None) -> str:
    if order_by != "time":
        return order_by
    first = states[0] if states else JobState.AVAILABLE
    if first is JobState.RUNNING:
        return "attempted_at"
    return "finalized_at" if first in FINAL_STATES else "scheduled_at"


def _place(column: str, time: int | None, all_final: bool) -> str:
    """Where in the order the cursor stands: `id` alone counts, or behind a time, or among the rows without one."""
    may_be_null = column == "attempted_at" or (column == "finalized_at" and not all_final)
    if column == "id" or (time is None and not may_be_null):
        return "id"
    if time is None:
        return f"{column}_null"
    return f"{column}_or_null" if may_be_null else column


def _cursor(after: object, order_by: OrderBy, column: str) -> JobListCursor:
    if isinstance(after, Job):
        return _cursor_of(after._row, order_by, column)
    cursor = after if isinstance(after, JobListCursor) else JobListCursor.parse(after)  # type: ignore[arg-type]
    if cursor.sort_field not in ("", order_by):
        other = f"{cursor.sort_field!a:.40}"
        raise ValidationError("after", f"is the cursor of a list by {other}, not of one by {order_by!r}")
    return cursor


def _cursor_of(row: Row, order_by: OrderBy, column: str) -> JobListCursor:
    raw = None if column == "id" else row.field(_COLUMNS[column])
    time = None if raw is None else int.from_bytes(raw, "big", signed=True)
    return JobListCursor(row.id, row.kind, row.queue, order_by, time)


def _timestamptz(microseconds: int | None) -> BinaryParam:
    return param(TIMESTAMPTZ, int8_element(microseconds))
