"""The plans of the hot statements, as the hot connections get them, on tables that have misled the planner before.

What is asserted keeps a statement's cost proportional to its batch: never a scan of the whole table, never a sort of a
whole backlog. `RIVER_FAST_PLAN_ROWS` makes the large table larger (`make bench-plans`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fix_plans import FETCHING_INDEX, PRIMARY_KEY, STATES, HotConnection, Plan, Table, drop_table, make_table

LARGE = int(os.environ.get("RIVER_FAST_PLAN_ROWS", "200000"))
COPY_BATCHES = (1, 10, 64, 500, 1000, 5000)  # to RF_BATCH_MAX, which is RF_FETCH_MAX too
ARRAY_BATCHES = (1, 10, 64, 500)             # to RF_RICH_MAX
MODES = ("custom", "settled", "generic")
BY_PRIMARY_KEY = {f"Index Scan using {PRIMARY_KEY}", f"Bitmap Index Scan using {PRIMARY_KEY}"}

every_state = pytest.mark.parametrize("state", STATES)
every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def tables(dsn: str) -> Iterator[dict[str, Table]]:
    made: dict[str, Table] = {}
    try:
        for state in STATES:
            made[state] = make_table(dsn, state, LARGE)
        yield made
    finally:
        for table in made.values():
            drop_table(table)


@pytest.fixture
def growing(dsn: str) -> Iterator[Table]:
    """A small table; `grow` makes it large without the server's statistics being told."""
    table = make_table(dsn, "small", 0)
    yield table
    drop_table(table)


def grow(table: Table) -> None:
    table.execute(
        "INSERT INTO @schema@river_job (args, kind, max_attempts)"
        " SELECT jsonb_build_object('num', n), 'noop', 25 FROM generate_series(1, 20000) n"
    )


# ---- the fetcher's statements ----


def assert_fetch(plan: Plan) -> None:
    assert plan.scans() == [f"Index Scan using {FETCHING_INDEX}", "Tid Scan"], plan
    assert not plan.has("Sort"), f"the whole backlog is sorted: {plan}"


@every_mode
@every_state
def test_fetch_finds_jobs_by_the_fetching_index_and_claims_them_by_tid(
    tables: dict[str, Table], state: str, mode: str
) -> None:
    with tables[state].connect("fetcher") as fetcher:
        for batch in COPY_BATCHES:
            assert_fetch(fetcher.plans("job_get_available", "default", batch, "client", mode=mode))


@every_state
def test_fetch_reads_no_more_rows_than_it_claims(tables: dict[str, Table], state: str) -> None:
    with tables[state].connect("fetcher") as fetcher:
        fetcher.prepare("job_get_available")
        for batch in (1, 1000):
            with fetcher.conn.transaction(force_rollback=True):
                plan = fetcher.analyze("job_get_available", "default", batch, "client")
            assert plan.rows_read() <= 2 * batch, plan
            assert plan.root["Actual Rows"] > 0


def test_fetch_plan_settled_on_a_small_table_holds_when_the_table_has_grown(growing: Table) -> None:
    with growing.connect("fetcher") as fetcher:
        fetcher.prepare("job_get_available")
        for _ in range(10):
            fetcher.explain("job_get_available", "default", 100, "client")
        grow(growing)
        plan = fetcher.analyze("job_get_available", "default", 100, "client")
        assert_fetch(plan)
        assert plan.rows_read() <= 200


KINDS = {"ours": ["noop"], "both": ["noop", "other"], "nobody's": ["other"]}


@pytest.mark.parametrize("kinds", KINDS)
@every_mode
@every_state
def test_fetch_of_known_kinds_goes_by_the_fetching_index_however_rare_they_seem(
    tables: dict[str, Table], state: str, mode: str, kinds: str
) -> None:
    """By the index on kind, all their jobs would be read and sorted for each fetch."""
    with tables[state].connect("fetcher") as fetcher:
        for batch in (1, 64, 1000):
            fetched = ("default", batch, "client", KINDS[kinds])
            assert_fetch(fetcher.plans("job_get_available+known", *fetched, mode=mode))
        plan = fetcher.plans("queue_poll+known", ["empty", "default"], KINDS[kinds], mode=mode)
        assert plan.scans() == [f"Index Scan using {FETCHING_INDEX}"], plan


@every_state
def test_fetch_of_known_kinds_reads_no_more_rows_than_it_claims_where_all_are_ours(
    tables: dict[str, Table], state: str
) -> None:
    with tables[state].connect("fetcher") as fetcher:
        fetcher.prepare("job_get_available+known")
        with fetcher.conn.transaction(force_rollback=True):
            plan = fetcher.analyze("job_get_available+known", "default", 100, "client", ["noop"])
        assert plan.rows_read() <= 200, plan


@every_mode
@every_state
def test_giving_back_finds_jobs_by_the_primary_key(tables: dict[str, Table], state: str, mode: str) -> None:
    with tables[state].connect("fetcher") as fetcher:
        for batch in COPY_BATCHES:
            ids = fetcher.rows(f"SELECT id FROM @schema@river_job ORDER BY id LIMIT {batch}")
            given = (ids, [1] * len(ids), ["2026-01-01 00:00:00+00"] * len(ids), "default")
            plan = fetcher.plans("job_give_back", *given, mode=mode)
            assert_by_primary_key(plan, scans=2)


@every_mode
@every_state
def test_queue_poll_probes_the_fetching_index_once_a_queue(tables: dict[str, Table], state: str, mode: str) -> None:
    with tables[state].connect("fetcher") as fetcher:
        for count in (1, 10, 1000):
            queues = [*(f"empty_{n}" for n in range(count - 1)), "default"]
            plan = fetcher.plans("queue_poll", queues, mode=mode)
            assert plan.scans() in (
                [f"Index Scan using {FETCHING_INDEX}"],
                [f"Index Only Scan using {FETCHING_INDEX}"],
            ), plan
        fetcher.prepare("queue_poll")
        plan = fetcher.analyze("queue_poll", queues)
        assert plan.root["Actual Rows"] == 1
        assert plan.rows_read() <= 1, plan


# ---- the completer's statements ----


def assert_by_primary_key(plan: Plan, scans: int = 1) -> None:
    found = plan.scans()
    assert len(found) == scans, plan
    assert set(found) <= BY_PRIMARY_KEY, plan


def completer_of(table: Table) -> HotConnection:
    completer = table.connect("completer", "completer_session")
    completer.conn.execute(completer.statement("outcome_staging"))
    return completer


def stage(completer: HotConnection, batch: int) -> None:
    """The first rows of the table, claimed and in the staging table as `outcome_copy.sql` puts them there."""
    claim(completer, batch)
    completer.conn.execute(
        completer.text(
            "INSERT INTO pg_temp.river_fast_outcome (id, attempt, attempted_at, age)"
            " SELECT id, attempt, attempted_at, interval '1 microsecond'"
            f" FROM @schema@river_job ORDER BY id LIMIT {batch}"
        )
    )


def claim(completer: HotConnection, batch: int) -> list[int]:
    return completer.rows(
        "UPDATE @schema@river_job SET state = 'running', finalized_at = NULL, attempted_at = '2026-01-01', attempt = 1"
        f" WHERE id = ANY (ARRAY(SELECT id FROM @schema@river_job ORDER BY id LIMIT {batch})) RETURNING id"
    )


def outcomes(ids: list[int], state: str = "retryable") -> tuple[Any, ...]:
    """The parameters of `job_set_state_many` for jobs claimed by `claim`."""
    count = len(ids)
    error = '{"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": "no", "trace": ""}'
    return (
        ids, [1] * count, ["2026-01-01"] * count, [state] * count, [1] * count, [1_000_000] * count, [False] * count,
        [error] * count, [None] * count,
    )  # fmt: skip


@pytest.mark.parametrize("statement", ["job_complete_many", "job_complete_many+unlocked"])
@every_mode
@every_state
def test_completion_finds_jobs_by_the_primary_key(
    tables: dict[str, Table], state: str, mode: str, statement: str
) -> None:
    with completer_of(tables[state]) as completer:
        for batch in COPY_BATCHES:
            with completer.conn.transaction(force_rollback=True):
                stage(completer, batch)
                plan = completer.plans(statement, mode=mode)
            assert_by_primary_key(plan, scans=2 if "+unlocked" in statement else 1)
            assert not plan.has("Nested Loop"), f"a batch may be looked at once for each of its rows: {plan}"


@every_state
def test_completion_reads_no_more_rows_than_it_completes(tables: dict[str, Table], state: str) -> None:
    with completer_of(tables[state]) as completer:
        completer.prepare("job_complete_many")
        for batch in (1, 1000):
            with completer.conn.transaction(force_rollback=True):
                stage(completer, batch)
                plan = completer.analyze("job_complete_many")
                left = completer.rows("SELECT count(*) FROM @schema@river_job WHERE state = 'running'")
            assert plan.rows_read() <= batch, plan
            assert left == [0], "the batch was not completed: nothing was shown"


def test_completion_plan_settled_on_a_small_table_holds_when_table_and_batch_have_grown(growing: Table) -> None:
    with completer_of(growing) as completer:
        completer.prepare("job_complete_many")
        for _ in range(10):
            with completer.conn.transaction(force_rollback=True):
                stage(completer, 1)
                completer.explain("job_complete_many")
        grow(growing)
        for batch in (1, 5000):
            with completer.conn.transaction(force_rollback=True):
                stage(completer, batch)
                plan = completer.analyze("job_complete_many")
            assert_by_primary_key(plan)
            assert plan.rows_read() == batch, plan


@pytest.mark.parametrize("statement", ["job_set_state_many", "job_set_state_many+unlocked", "job_set_state_many+rows"])
@every_mode
@every_state
def test_array_form_finds_jobs_by_the_primary_key(
    tables: dict[str, Table], state: str, mode: str, statement: str
) -> None:
    with completer_of(tables[state]) as completer:
        for batch in ARRAY_BATCHES:
            ids = completer.rows(f"SELECT id FROM @schema@river_job ORDER BY id LIMIT {batch}")
            plan = completer.plans(statement, *outcomes(ids), mode=mode)
            assert_by_primary_key(plan, scans=2 if "+unlocked" in statement else 1)
            assert not plan.has("Nested Loop"), f"a batch may be looked at once for each of its rows: {plan}"


@every_state
def test_array_form_reads_no_more_rows_than_it_records(tables: dict[str, Table], state: str) -> None:
    with completer_of(tables[state]) as completer:
        completer.prepare("job_set_state_many")
        for batch in (1, 500):
            with completer.conn.transaction(force_rollback=True):
                plan = completer.analyze("job_set_state_many", *outcomes(claim(completer, batch)))
                left = completer.rows("SELECT count(*) FROM @schema@river_job WHERE state = 'running'")
            assert plan.rows_read() <= batch, plan
            assert left == [0], "the batch was not recorded: nothing was shown"


def test_array_plan_settled_on_a_small_table_holds_when_table_and_batch_have_grown(growing: Table) -> None:
    with completer_of(growing) as completer:
        completer.prepare("job_set_state_many")
        ids = completer.rows("SELECT id FROM @schema@river_job LIMIT 1")
        for _ in range(10):
            completer.explain("job_set_state_many", *outcomes(ids))
        grow(growing)
        for batch in (1, 500):
            with completer.conn.transaction(force_rollback=True):
                plan = completer.analyze("job_set_state_many", *outcomes(claim(completer, batch)))
            assert_by_primary_key(plan)
            assert plan.rows_read() == batch, plan


@every_mode
@every_state
def test_looking_after_refused_outcomes_goes_by_the_primary_key(
    tables: dict[str, Table], state: str, mode: str
) -> None:
    with completer_of(tables[state]) as completer:
        for batch in ARRAY_BATCHES:
            ids = completer.rows(f"SELECT id FROM @schema@river_job ORDER BY id LIMIT {batch}")
            assert_by_primary_key(completer.plans("job_outcome_read", ids, mode=mode))

# ---- statements that services run now and then, by the pool's connections ----

SERVICES = {
    "job_schedule": {
        "look_ahead": 5.0, "limit": 1000, "due_within": 0.0, "notify": True, "channel": "s.river_insert",
    },
    "job_get_running_by_client": {"client_id": "client", "age": 1.0},
    "job_get_still_running": {"ids": [1, 2, 3], "client_id": "client"},
    "job_renew_many": {
        "ids": [1, 2], "attempts": [1, 1], "attempted_ats": ["2026-01-01"] * 2, "renewed_ats": ["2026-01-02"] * 2,
    },
    "client_watch": {},
    "job_get_cancel_requested": {"ids": [1, 2, 3]},
    "job_delete_before": {"state": "completed", "age": 86400.0, "limit": 10_000},
    "job_get_by_id": {"id": 1},
    "job_get_by_id_many": {"ids": [1, 2, 3]},
    "job_get_stuck": {"age": 3600.0, "after": 0, "limit": 10_000},
    "job_lock_many": {"ids": [1, 2, 3]},
    "job_rescue_many": {
        "ids": [1], "attempts": [1], "attempted_ats": ["2026-01-01"], "states": ["retryable"], "delays": [1.0],
    },
    "job_cancel": {"id": 1, "channel": "s.river_control", "notify": True},
}  # fmt: skip
LARGE_STATES = [state for state in STATES if state != "small"]


@pytest.mark.parametrize("statement", SERVICES)
@pytest.mark.parametrize("state", LARGE_STATES)
def test_services_statements_never_read_the_whole_table(tables: dict[str, Table], state: str, statement: str) -> None:
    plan = tables[state].pool_plan(statement, SERVICES[statement])
    assert plan.scans(), "the statement does not read river_job at all"
    assert "Seq Scan" not in plan.scans(), plan
