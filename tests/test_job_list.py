"""Job lists, against PostgreSQL: filters, orders, pages. River's own client beside ours: tests/interop/job_lists.py."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver, sql_text
from river_fast.errors import ValidationError
from river_fast.job_admin import JobAdmin
from river_fast.job_list import job_list_statement
from river_fast.job_list_cursor import JobListCursor
from tests.fix_rows import insert

AT = "2026-01-02T03:04:05Z"
LATER = "2026-01-02T03:04:05.5Z"


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def admin(driver: PsycopgDriver) -> JobAdmin:
    return JobAdmin(driver)


def ids(admin: JobAdmin, **options: Any) -> list[int]:
    return [job.id for job in admin.job_list(**options).jobs]


def paged(admin: JobAdmin, limit: int, **options: Any) -> list[int]:
    """All pages, each continued by the last one's cursor, its text or its last job."""
    found: list[int] = []
    after: Any = None
    for page in itertools.count():
        result = admin.job_list(limit=limit, after=after, **options)
        if not result.jobs:
            assert result.last_cursor is None
            return found
        found += [job.id for job in result.jobs]
        after = (result.last_cursor, str(result.last_cursor), result.jobs[-1])[page % 3]
    raise AssertionError


def test_each_filter_means_what_it_says(admin: JobAdmin, conn: psycopg.Connection) -> None:
    first = insert(conn, kind="k1", queue="q1", priority=1, tags=["a", "b"], metadata='{"x": {"y": [1, 2]}, "n": 1.50}')
    second = insert(conn, "running", kind="k2", queue="q2", priority=2, tags=["b"])
    third = insert(conn, "completed", kind="k3", queue="q1", priority=2, tags=[], metadata="[1]")
    assert ids(admin) == [first, second, third]
    assert ids(admin, ids=[third, first, 4242]) == [first, third]
    assert ids(admin, kinds=["k1", "k2"]) == [first, second]
    assert ids(admin, queues=["q1"]) == [first, third]
    assert ids(admin, priorities=[2]) == [second, third]
    assert ids(admin, states=["running", "completed"]) == [second, third]
    assert ids(admin, states=["completed"]) == [third]
    assert ids(admin, tags_all=["a", "b"]) == [first]
    assert ids(admin, tags_any=["a", "b"]) == [first, second]
    assert ids(admin, metadata={"x": {"y": [2]}}) == [first]
    assert ids(admin, metadata=b'{"n": 1.5}') == [first]
    assert ids(admin, metadata={}) == [first, second]
    assert ids(admin, queues=["q1"], priorities=[2], states=["completed"]) == [third]


@pytest.mark.parametrize("name", ["ids", "kinds", "priorities", "queues", "states", "tags_any"])
def test_an_empty_list_lists_nothing(admin: JobAdmin, conn: psycopg.Connection, name: str) -> None:
    insert(conn)
    assert ids(admin, **{name: []}) == []


def test_every_job_has_all_of_no_tags(admin: JobAdmin, conn: psycopg.Connection) -> None:
    job_id = insert(conn)
    assert ids(admin, tags_all=[]) == [job_id]


def test_a_tag_is_not_cut_to_the_columns_width(admin: JobAdmin, conn: psycopg.Connection) -> None:
    insert(conn, tags=["t" * 255])
    assert ids(admin, tags_any=["t" * 256]) == []


def test_time_is_the_first_listed_states(admin: JobAdmin, conn: psycopg.Connection) -> None:
    done = insert(conn, "completed", scheduled_at=LATER, finalized_at=AT, attempted_at=LATER)
    run = insert(conn, "running", scheduled_at=AT, attempted_at=AT)
    assert ids(admin, order_by="time") == [run, done]  # scheduled_at
    assert ids(admin, order_by="time", states=["running", "completed"]) == [run, done]  # attempted_at
    assert ids(admin, order_by="time", states=["completed", "running"]) == [done, run]  # finalized_at, NULL last
    assert ids(admin, order_by="time", states=["completed", "running"], descending=True) == [run, done]
    assert ids(admin, order_by="finalized_at") == [done]
    assert ids(admin, order_by="scheduled_at", descending=True) == [done, run]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 5, 100])
@pytest.mark.parametrize(
    "options",
    [
        {"order_by": "id"},
        {"order_by": "time"},
        {"order_by": "scheduled_at"},
        {"order_by": "time", "states": ["running", "available", "retryable"]},
        {"order_by": "time", "states": ["completed", "running", "cancelled"]},
        {"order_by": "finalized_at"},
    ],
    ids=lambda options: "-".join([options["order_by"], *options.get("states", [])]),
)
def test_pages_put_together_are_the_list(
    admin: JobAdmin, conn: psycopg.Connection, options: dict[str, Any], limit: int, descending: bool
) -> None:
    for state, at in itertools.product(("available", "running", "retryable"), (AT, AT, LATER)):
        insert(conn, state, scheduled_at=at, attempted_at=None if state == "available" else at)
    for state, at in itertools.product(("completed", "cancelled"), (AT, LATER, LATER)):
        insert(conn, state, finalized_at=at, scheduled_at=AT)
    whole = ids(admin, descending=descending, **options)
    assert whole
    assert paged(admin, limit, descending=descending, **options) == whole


@pytest.mark.parametrize("descending", [False, True])
def test_times_beyond_pythons_page_as_others_do(admin: JobAdmin, conn: psycopg.Connection, descending: bool) -> None:
    for at in ("-infinity", "4713-01-01 BC", "0001-01-01T00:00:01Z", AT, "20000-01-01", "infinity"):
        for _ in range(2):
            insert(conn, scheduled_at=at)
    whole = ids(admin, order_by="scheduled_at", descending=descending)
    assert len(whole) == 12
    assert paged(admin, 1, order_by="scheduled_at", descending=descending) == whole


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("order_by", {"order_by": "kind"}),
        ("order_by", {"order_by": None}),
        ("order_by", {"order_by": "id; DROP TABLE river_job"}),
        ("order_by", {"order_by": "finalized_at", "states": ["completed", "running"]}),
        ("order_by", {"order_by": "finalized_at", "states": []}),
        ("limit", {"limit": 0}),
        ("limit", {"limit": 10_001}),
        ("after", {"after": "nonsense"}),
        ("after", {"after": 5}),
        ("after", {"after": JobListCursor(1, "", "", "scheduled_at")}),
        ("states", {"states": ["nonsense"]}),
    ],
)
def test_what_cannot_be_listed_is_refused_before_a_database_is_needed(field: str, options: dict[str, Any]) -> None:
    admin = JobAdmin(PsycopgDriver("host=127.0.0.1 port=1"))
    with pytest.raises(ValidationError) as caught:
        admin.job_list(**options)
    assert caught.value.field == field


def test_lists_read_the_callers_transaction(admin: JobAdmin, conn: psycopg.Connection, dsn: str, schema: str) -> None:
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as theirs:
        job_id = insert(theirs)
        assert [job.id for job in admin.job_list_tx(theirs).jobs] == [job_id]
        assert ids(admin) == []
        theirs.rollback()

    async def work() -> list[int]:
        async with await psycopg.AsyncConnection.connect(dsn) as theirs:
            return [job.id for job in (await admin.job_list_tx(theirs, states=["available"])).jobs]

    job_id = insert(conn)
    assert asyncio.run(work()) == [job_id]


@pytest.mark.parametrize("after", [None, JobListCursor(5, "k", "q", "finalized_at", 800_000_000_000_000)])
@pytest.mark.parametrize("descending", [False, True])
def test_a_page_of_one_final_state_is_read_by_its_index(
    conn: psycopg.Connection, schema: str, after: JobListCursor | None, descending: bool
) -> None:
    """What people ask for most, and of the most rows: a hundred of millions must not cost a look at each."""
    conn.execute(
        "INSERT INTO river_job (args, kind, state, finalized_at) SELECT '{}', 'k', 'completed',"
        " timestamptz '2025-05-01' + n * interval '1 second' FROM generate_series(1, 20000) n"
    )
    conn.execute("ANALYZE river_job")
    statement = job_list_statement(order_by="finalized_at", descending=descending, after=after, states=["completed"])
    text = sql_text(statement.name, schema, statement.forms)
    params = {**statement.params, "after_time": "2025-05-08T00:00:00Z"}
    plan = "\n".join(line for (line,) in conn.execute(f"EXPLAIN {text}", params).fetchall())
    assert "river_job_state_and_finalized_at_index" in plan, plan
    assert "Seq Scan" not in plan, plan
