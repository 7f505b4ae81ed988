"""The job rescuer: what becomes of jobs left running, as their workers, their kind and their client say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance.job_rescuer import JobRescuer
from tests.fix_client import make_client
from tests.fix_maintenance import driver, run_once
from tests.fix_rescuer import ERROR, Plain, due_in, make, rescuer, state, stuck
from tests.fix_rows import column
from tests.stress import hammer

__all__ = ["driver", "make_client", "rescuer"]


# River's decisions.


def test_a_job_left_running_is_retried_with_rivers_error(conn: psycopg.Connection, rescuer: JobRescuer) -> None:
    id = stuck(conn, attempt=3, metadata='{"river:rescue_count": 2, "mine": [1]}')
    before = conn.execute("SELECT attempt, attempted_at, attempted_by, args, queue FROM river_job").fetchone()
    assert run_once(rescuer) == 1
    assert state(conn, id) == "retryable"
    assert conn.execute("SELECT attempt, attempted_at, attempted_by, args, queue FROM river_job").fetchone() == before
    (error,) = column(conn, id, "errors")
    assert (error["error"], error["attempt"], error["trace"]) == (ERROR, 3, "")
    assert set(error) == {"at", "attempt", "error", "trace"}
    assert abs(datetime.fromisoformat(error["at"]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert column(conn, id, "metadata") == {"river:rescue_count": 3, "mine": [1]}
    assert column(conn, id, "finalized_at") is None
    assert run_once(rescuer) == 0


def test_the_delay_is_the_default_policys_by_failures_so_far(conn: psycopg.Connection, rescuer: JobRescuer) -> None:
    error = '{"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": "x", "trace": ""}'
    id = stuck(conn, errors=[error] * 9)
    run_once(rescuer)
    assert 0.89 * 10**4 < due_in(conn, id) < 1.11 * 10**4
    assert len(column(conn, id, "errors")) == 10


def test_at_its_last_attempt_it_is_discarded(conn: psycopg.Connection, rescuer: JobRescuer) -> None:
    id = stuck(conn, attempt=5, max_attempts=5)
    before = column(conn, id, "scheduled_at")
    run_once(rescuer)
    assert state(conn, id) == "discarded"
    assert abs(column(conn, id, "finalized_at") - datetime.now(UTC)) < timedelta(minutes=5)
    assert column(conn, id, "scheduled_at") == before
    assert column(conn, id, "errors")[0]["error"] == ERROR


@pytest.mark.parametrize(
    "value", ['"2026-01-02T03:04:05.123456789Z"', '"2026-01-02 03:04:05"', '"nonsense"', "17", "null", "{}"]
)
def test_a_job_whose_cancel_was_asked_for_is_cancelled_however_that_is_written(
    conn: psycopg.Connection, rescuer: JobRescuer, value: str
) -> None:
    """One row with another form than RFC 3339, and every pass of River's rescuer fails."""
    id = stuck(conn, metadata=f'{{"cancel_attempted_at": {value}}}')
    other = stuck(conn)
    unknown = stuck(conn, "nobody_knows_it", metadata='{"cancel_attempted_at": "2026-01-02T03:04:05Z"}')
    assert run_once(rescuer) == 3
    assert [state(conn, each) for each in (id, other, unknown)] == ["cancelled", "retryable", "cancelled"]
    assert column(conn, id, "finalized_at") is not None
    assert column(conn, id, "errors")[0]["error"] == ERROR


@pytest.mark.parametrize(
    ("choice", "expected"), [("retry", "retryable"), ("discard", "discarded"), ("ignore", "running")]
)
def test_a_kind_without_a_worker_here_is_treated_as_the_client_was_told(
    conn: psycopg.Connection, driver: PsycopgDriver, choice: str, expected: str
) -> None:
    rescuer = make(driver, rescue_unknown_kinds=choice)
    id, known = stuck(conn, "nobody_knows_it"), stuck(conn)
    last = stuck(conn, "nobody_knows_it", attempt=25)
    assert run_once(rescuer) == 3
    assert [state(conn, each) for each in (id, known)] == [expected, "retryable"]
    assert state(conn, last) == ("running" if choice == "ignore" else "discarded")


def test_by_default_a_kind_without_a_worker_is_never_lost(conn: psycopg.Connection, rescuer: JobRescuer) -> None:
    """River's leader discards jobs that only others can work (#1105)."""
    id = stuck(conn, "of_another_service")
    run_once(rescuer)
    assert state(conn, id) == "retryable"


def test_jobs_that_may_still_be_at_work_are_left_alone(conn: psycopg.Connection, rescuer: JobRescuer) -> None:
    """By their own timeout, aliases included (River: #350, #1288, #1331)."""
    left = [stuck(conn, "long"), stuck(conn, "endless", hours=9000), stuck(conn, "eternal")]
    left.append(stuck(conn, "plain", hours=0.9))
    left.append(stuck(conn, "per_job", args='{"timeout": 10000}'))
    left.append(stuck(conn, "per_job", args='{"timeout": -1}', hours=9000))
    taken = [stuck(conn, "long", hours=3.1), stuck(conn, "per_job", args='{"timeout": 7100}'), stuck(conn, "per_job")]
    assert run_once(rescuer) == 8
    assert [state(conn, id) for id in left] == ["running"] * len(left)
    assert [state(conn, id) for id in taken] == ["retryable"] * len(taken)


def test_where_the_client_has_no_timeout_only_workers_with_one_are_rescued(
    conn: psycopg.Connection, driver: PsycopgDriver
) -> None:
    rescuer = make(driver, job_timeout=river.NEVER)
    left, taken = stuck(conn, "plain", hours=9000), stuck(conn, "long", hours=4)
    run_once(rescuer)
    assert (state(conn, left), state(conn, taken)) == ("running", "retryable")


@pytest.mark.parametrize("kind", ["plain", "long", "endless"])
def test_args_that_cannot_be_decoded_are_no_reason_to_leave_it(
    conn: psycopg.Connection, driver: PsycopgDriver, kind: str
) -> None:
    """Such a job cannot be running, whatever its timeout says (River: #1324)."""
    rescuer = make(driver)
    id, last = stuck(conn, kind, args='{"n": {}}'), stuck(conn, kind, args="[1]", attempt=25)
    run_once(rescuer)
    assert (state(conn, id), state(conn, last)) == ("retryable", "discarded")


class Tomorrow:
    """A retry policy that notes whom it was asked about."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def next_retry(self, job: river.Job[Any]) -> datetime:
        self.asked.append(job.id)
        return datetime.now(UTC) + timedelta(days=1)


def test_the_workers_next_retry_goes_before_the_clients_policy(conn: psycopg.Connection, driver: PsycopgDriver) -> None:
    policy = Tomorrow()
    rescuer = make(driver, retry_policy=policy)
    own, none = stuck(conn, "per_job", args='{"days": 3}'), stuck(conn, "per_job")
    plain, unknown = stuck(conn), stuck(conn, "nobody_knows_it")
    undecodable, last = stuck(conn, "plain", args='{"n": "x"}'), stuck(conn, attempt=25)
    run_once(rescuer)
    days = [round(due_in(conn, id) / 86400) for id in (own, none, plain, unknown, undecodable)]
    assert days == [3, 1, 1, 1, 1]
    assert state(conn, last) == "discarded"
    assert sorted(policy.asked) == sorted([none, plain, unknown, undecodable]), "not of one that is discarded"


def test_user_code_that_raises_stops_nothing(conn: psycopg.Connection, rescuer: JobRescuer) -> None:
    ids = [stuck(conn, "per_job", args=args) for args in ('{"timeout": "raise"}', '{"days": "raise"}', '{"days": -1}')]
    ids.append(stuck(conn))
    assert run_once(rescuer) == 4
    assert [state(conn, id) for id in ids] == ["retryable"] * 4
    assert all(due_in(conn, id) < 5 for id in ids), "the default policy's"


def test_a_job_looked_at_here_is_not_running_here(conn: psycopg.Connection, driver: PsycopgDriver) -> None:
    seen: list[Exception] = []

    class Policy:
        def next_retry(self, job: river.Job[Any]) -> datetime:
            for verb in (lambda: job.record_output(1), lambda: job.complete_tx(None)):
                try:
                    verb()
                except RuntimeError as error:
                    seen.append(error)
            return datetime.now(UTC)

    stuck(conn)
    run_once(make(driver, retry_policy=Policy()))
    assert ["not running in this process" in str(error) for error in seen] == [True, True]


# A whole client.


def test_a_client_that_leads_runs_what_a_dead_one_left(
    make_client: Callable[..., river.Client], conn: psycopg.Connection
) -> None:
    ran = threading.Event()
    made = river.Workers()
    made.work(Plain)(lambda job: ran.set())
    policy = Tomorrow()
    policy.next_retry = lambda job: datetime.now(UTC)  # type: ignore[method-assign]
    client = make_client(made, test_only=True, retry_policy=policy, rescue_stuck_jobs_after=60)
    id = stuck(conn, args='{"n": 1}')
    client.start()
    assert ran.wait(30)
    job = client.wait(id, 30)
    assert (job.state, job.attempt, [error.error for error in job.errors]) == ("completed", 2, [ERROR])


def test_start_and_stop_from_many_threads(rescuer: JobRescuer) -> None:
    hammer(lambda: rescuer)
