"""The long job refresher: a running job's attempted_at is renewed, its fence follows, and nothing of it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver import ConnectionLostError, Statement
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.driver.psycopg_executor import PsycopgExecutor
from river_fast.long_job_refresher import LongJobRefresher
from tests.fix_client import Args, eventually, make_client, workers_of
from tests.fix_rows import column, states
from tests.stress import hammer

__all__ = ["make_client"]

AFTER = 0.3  # seconds: rescue_stuck_jobs_after


class Long:
    """A job that runs until it is told to end, and then does what it is told to."""

    def __init__(self, make: Callable[..., river.Client], **options: Any) -> None:
        self.inside, self.gate = threading.Event(), threading.Event()
        self.then: Callable[[river.Job[Args]], Any] = lambda job: None
        self.jobs: list[river.Job[Args]] = []
        workers = workers_of(self.work, timeout=river.NEVER)
        self.client = make(workers, refresh_long_jobs=True, rescue_stuck_jobs_after=AFTER, job_timeout=AFTER, **options)
        self.job_id = self.client.insert(Args(), river.InsertOpts(max_attempts=1)).job.id
        self.client.start()
        assert self.inside.wait(20)

    def work(self, job: river.Job[Args]) -> Any:
        self.jobs.append(job)
        self.inside.set()
        assert self.gate.wait(60)
        return self.then(job)

    @property
    def refresher(self) -> LongJobRefresher:
        services = self.client._services
        assert services is not None
        assert services._refresher is not None
        return services._refresher

    def renewed(self, conn: psycopg.Connection, times: int = 1) -> None:
        for _ in range(times):
            before = column(conn, self.job_id, "attempted_at")
            eventually(lambda: column(conn, self.job_id, "attempted_at") > before)  # noqa: B023
        eventually(lambda: self.jobs[0].attempted_at == column(conn, self.job_id, "attempted_at"))


@pytest.fixture
def long(make_client: Callable[..., river.Client]) -> Iterator[Callable[..., Long]]:
    made: list[Long] = []

    def make(**options: Any) -> Long:
        made.append(Long(make_client, **options))
        return made[-1]

    yield make
    for each in made:
        each.gate.set()


def ends(long: Long, conn: psycopg.Connection, state: str = "completed") -> None:
    long.gate.set()
    eventually(lambda: states(conn) == {state: 1})
    assert long.client.stats()["completer_fenced"] == 0


@pytest.mark.parametrize("completer", ["batch", "inline", "async"])
def test_a_long_job_is_renewed_again_and_again_and_completes(
    long: Callable[..., Long], conn: psycopg.Connection, completer: str
) -> None:
    running = long(completer=completer)
    running.renewed(conn, 3)
    assert column(conn, running.job_id, "attempt") == 1
    ends(running, conn)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("no"), "discarded"),
        (river.JobCancelError("no"), "cancelled"),
        (river.JobSnoozeError(600), "scheduled"),
    ],
)
def test_any_outcome_follows(
    long: Callable[..., Long], conn: psycopg.Connection, error: Exception, state: str
) -> None:
    def fail(job: Any) -> None:
        raise error

    running = long()
    running.then = fail
    running.renewed(conn)
    ends(running, conn, state)


def test_complete_tx_follows_before_and_in_the_middle_of_a_renewal(
    long: Callable[..., Long], conn: psycopg.Connection, dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: the renewal is committed, and this client has not heard of it yet."""
    held, let = threading.Event(), threading.Event()
    settle = LongJobRefresher._settle

    def late(self: LongJobRefresher, row: Any, renewed: bool) -> None:
        held.set()
        assert let.wait(60)
        settle(self, row, renewed)

    running = long()
    running.renewed(conn)
    monkeypatch.setattr(LongJobRefresher, "_settle", late)
    assert held.wait(20)
    assert running.jobs[0].attempted_at != column(conn, running.job_id, "attempted_at")

    def complete(job: river.Job[Args]) -> None:
        with psycopg.connect(dsn, options=f"-c search_path={schema}") as own:
            job.complete_tx(own)

    running.then = complete
    running.gate.set()
    eventually(lambda: states(conn) == {"completed": 1})
    let.set()


def test_an_outcome_pushed_in_the_middle_of_a_renewal_follows(
    long: Callable[..., Long], conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, let = threading.Event(), threading.Event()
    settle = LongJobRefresher._settle

    def late(self: LongJobRefresher, row: Any, renewed: bool) -> None:
        held.set()
        assert let.wait(60)
        settle(self, row, renewed)

    monkeypatch.setattr(LongJobRefresher, "_settle", late)
    running = long()
    assert held.wait(20)
    ends(running, conn)
    let.set()


@pytest.mark.parametrize("committed", [True, False])
def test_a_renewal_whose_answer_was_lost_is_found_out(
    long: Callable[..., Long], conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    run, lost = PsycopgExecutor.run, threading.Event()

    def losing(self: PsycopgExecutor, statement: Statement[Any]) -> Any:
        if statement.name != "job_renew_many" or lost.is_set():
            return run(self, statement)
        if committed:
            run(self, statement)
        lost.set()
        raise ConnectionLostError("the test lost it")

    monkeypatch.setattr(PsycopgExecutor, "run", losing)
    running = long()
    assert lost.wait(20)
    row: Any = running.jobs[0]._row
    eventually(lambda: row.renewing_us == 0)
    running.renewed(conn)
    ends(running, conn)


def test_liveness_knows_a_run_by_either_time(long: Callable[..., Long], conn: psycopg.Connection) -> None:
    running = long()
    running.renewed(conn)
    (job_id, before, after), = running.refresher._moves.values()
    assert job_id == running.job_id
    assert running.refresher.also([(job_id, before)]) == [(job_id, after)]
    assert running.refresher.also([(job_id, before + 1), (job_id + 1, before)]) == []
    services: Any = running.client._services
    held = services._held()
    assert (job_id, running.jobs[0]._row.attempted_at_us) in held  # type: ignore[attr-defined]


def test_a_row_that_is_not_this_runs_any_more_is_left_alone(
    long: Callable[..., Long], conn: psycopg.Connection
) -> None:
    running = long()
    conn.execute("UPDATE river_job SET attempt = 2, attempted_at = '2020-01-01T00:00:00Z'")
    refreshed = running.refresher.refreshed.activate()
    for _ in range(4):
        refreshed.wait()
    assert column(conn, running.job_id, "attempted_at").year == 2020


def test_what_has_ended_is_forgotten(long: Callable[..., Long], conn: psycopg.Connection) -> None:
    running = long()
    running.renewed(conn)
    ends(running, conn)
    running.inside.clear()
    running.gate.clear()
    running.client.insert(Args())
    eventually(lambda: running.job_id not in running.refresher._moves and running.refresher._moves)


def test_short_jobs_are_never_written(make_client: Callable[..., river.Client], conn: psycopg.Connection) -> None:
    client = make_client(workers_of(lambda job: None), refresh_long_jobs=True, rescue_stuck_jobs_after=3600)
    client.insert_many_fast([Args(n) for n in range(500)])
    client.start()
    eventually(lambda: states(conn) == {"completed": 500})
    services: Any = client._services
    assert services._refresher._moves == {}


def test_without_the_setting_there_is_no_such_service(make_client: Callable[..., river.Client]) -> None:
    client = make_client(workers_of(lambda job: None))
    client.start()
    services: Any = client._services
    assert services._refresher is None
    assert not [thread for thread in threading.enumerate() if "refresher" in thread.name]


def test_the_setting_is_true_or_false(make_client: Callable[..., river.Client]) -> None:
    with pytest.raises(river.ConfigError, match="refresh_long_jobs must be True or False, got 'yes'"):
        make_client(workers_of(lambda job: None), refresh_long_jobs="yes")


def test_the_long_job_refresher_stands_starts_and_stops_from_many_threads(dsn: str, schema: str) -> None:
    driver = PsycopgDriver(dsn, schema)
    hammer(lambda: LongJobRefresher(driver, "me", 0.01, list, list, lambda moves: None))
    driver.close()
