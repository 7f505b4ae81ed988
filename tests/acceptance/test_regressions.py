"""The failures this project was born from, each by its name. Each guards against its failure coming back."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import psycopg
import pytest

import river_fast as river
from river_fast._ext.completer import CLOSED
from river_fast.client_services import ClientServices
from river_fast.completer import Completer
from river_fast.job_set_state import JobSetState
from tests.fix_client import WAIT_MOST, Args, eventually, workers_of
from tests.fix_rows import states

HANGS = 20.0  # what has not come by then never will; test_guards.py, where it never does, waits less
BOTH_COMPLETERS = pytest.mark.parametrize("completer", ["batch", "async"])


@contextlib.contextmanager
def thread_failures() -> Iterator[list[str]]:
    """What threads raise meanwhile, and nobody catches."""
    failures: list[str] = []
    hook, threading.excepthook = threading.excepthook, lambda args: failures.append(repr(args.exc_value))
    try:
        yield failures
    finally:
        threading.excepthook = hook


@BOTH_COMPLETERS
@pytest.mark.timeout(300)
def test_regression_send_on_closed_channel(make_client: Any, conn: psycopg.Connection, completer: str) -> None:
    """River 0.7 closed the completer's channel while jobs still sent to it (#400, #401). Here: stop or cancel a loaded
    client at 200 random points; every outcome that was accepted is written, nothing raises, nothing stays running."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    ran = threading.Semaphore(0)

    def work(job: river.Job[Args]) -> None:
        ran.release()
        if job.args.n % 5 == 0:
            time.sleep(0.003)  # still running when the stop comes: only these meet a completer that closes too soon
        if job.args.n % 7 == 0:
            raise ValueError("every seventh fails")

    client = make_client(workers_of(work), max_workers=50, completer=completer)
    with thread_failures() as failures:
        for point in range(200):
            client.insert_many_fast([Args(n) for n in range(300)])
            client.start()
            for _ in range(rng.randrange(0, 120)):
                ran.acquire(timeout=20)
            report = client.stop(30) if rng.random() < 0.5 else client.stop_and_cancel(30)
            assert report.graceful, (seed, point, report)
            running = conn.execute("SELECT count(*) FROM river_job WHERE state = 'running'").fetchone()
            assert running == (0,), (seed, point)
    assert failures == [], seed
    odd = conn.execute(
        "SELECT id, state, attempt, errors FROM river_job"
        " WHERE (state = 'completed' AND attempt <> coalesce(cardinality(errors), 0) + 1)"
        " OR (state <> 'completed' AND attempt <> coalesce(cardinality(errors), 0))"
    ).fetchall()
    assert odd == [], seed


@BOTH_COMPLETERS
def test_regression_send_on_closed_channel_by_a_job_that_still_runs(
    make_client: Any, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, completer: str
) -> None:
    """The one moment that matters, met each time: the jobs end when the stop waits for them, or closes the completer,
    whichever it does first."""
    inside, stopping = threading.Semaphore(0), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.release()
        assert stopping.wait(60)

    client = make_client(workers_of(work), completer=completer)
    client.insert_many_fast([Args(n) for n in range(10)])
    client.start()
    for _ in range(10):
        assert inside.acquire(timeout=WAIT_MOST)
    for step in ("awaited", "close_completer"):
        whole = getattr(client._services, step)
        monkeypatch.setattr(client._services, step, lambda *args, whole=whole: (whole(*args), stopping.set())[0])
    assert client.stop(30).graceful
    assert states(conn) == {"completed": 10}


def send(completer: Completer, jobs: list[Any], answers: list[int]) -> None:
    """By every way there is, for each job."""
    for claim in [job._row.claim for job in jobs]:
        answers += [completer.push_completed(claim), completer.try_push_completed(claim)]
        answers += [push(claim, JobSetState.interrupted()) for push in (completer.push, completer.try_push)]


@BOTH_COMPLETERS
def test_regression_send_on_closed_channel_by_a_job_that_outlives_its_stop(
    make_client: Any, conn: psycopg.Connection, completer: str
) -> None:
    """Abandoned, it has nobody to send to: every way to the completer is closed, and its row is as the stop left it."""
    inside, gate = threading.Semaphore(0), threading.Event()
    jobs: list[Any] = []
    answers: list[int] = []

    def work(job: river.Job[Args]) -> None:
        jobs.append(job)
        inside.release()
        assert gate.wait(60)
        if job.args.n % 2:
            raise ValueError("every second fails")

    client = make_client(workers_of(work), completer=completer)
    client.insert_many_fast([Args(n) for n in range(10)])
    client.start()
    with thread_failures() as failures:
        try:
            for _ in range(10):
                assert inside.acquire(timeout=WAIT_MOST)
            assert len(client.stop(0).abandoned) == 10
            left = states(conn)
            # as one that ended while it was being abandoned; on a thread, for a push that never returns
            sender = threading.Thread(target=send, args=(client._services.completer, jobs, answers), daemon=True)
            sender.start()
            sender.join(WAIT_MOST)
            assert answers == [CLOSED] * 40
        finally:
            gate.set()
        eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("river_fast.worker")])
    assert failures == []
    assert client._services.completer.pending() == [], "an outcome was accepted that nobody will write"
    assert states(conn) == left
    assert "completed" not in left


def test_regression_completer_blocked_by_a_subscriber_that_never_reads(
    make_client: Any, conn: psycopg.Connection
) -> None:
    """River's completers send unconditionally to a channel; with no reader, Stop hung for ever (#601)."""
    client = make_client(workers_of(lambda job: None), max_workers=50)
    deaf = client.subscribe(buffer_size=1)
    client.insert_many_fast([Args(n) for n in range(3000)])
    client.start()
    eventually(lambda: states(conn) == {"completed": 3000})
    eventually(lambda: deaf.dropped == 2999, HANGS, "an event dropped for each that found no room")
    assert client.stop(30).graceful


def test_regression_completer_blocked_by_a_subscription_that_hangs(
    make_client: Any, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same one floor up: were handing out events ever to wait, neither the completer nor the stop would."""
    hung, release = threading.Event(), threading.Event()
    client = make_client(workers_of(lambda job: None), max_workers=50)
    monkeypatch.setattr(client.subscribe(), "put", lambda event: hung.set() or release.wait(60))
    try:
        client.insert_many_fast([Args(n) for n in range(300)])
        client.start()
        assert hung.wait(WAIT_MOST)
        eventually(lambda: states(conn) == {"completed": 300})
        client.request_stop()
        assert client.wait_stopped(HANGS), "the stop waits for a subscription"
        assert client.stop().graceful
    finally:
        release.set()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the services of a client were started, and how often each step of the stop that closes was made."""
    counts = dict.fromkeys(("start", "stop_fetching", "close_services", "close_connections"), 0)
    lock = threading.Lock()

    def counting(step: str, whole: Any) -> Any:
        def counted(*args: Any) -> Any:
            with lock:
                counts[step] += 1
            return whole(*args)

        return counted

    for step in counts:
        monkeypatch.setattr(ClientServices, step, counting(step, getattr(ClientServices, step)))
    return counts


def test_regression_double_close(make_client: Any, steps: dict[str, int]) -> None:
    """Wakapi's aggregation service closed a channel twice (#754): ten threads stop, start and stop one client."""
    client = make_client(workers_of(lambda job: None))
    failures: list[BaseException] = []

    def hammer() -> None:
        try:
            for _ in range(50):
                client.start()
                client.stop(5)
                client.stop_and_cancel(5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(110)
        assert not thread.is_alive()
    client.stop(5)
    assert failures == []
    assert not [t for t in threading.enumerate() if t.name.startswith("river_fast")]
    assert steps["start"] > 1
    assert set(steps.values()) == {steps["start"]}, "each start has one stop, and each stop each step once"


def test_regression_double_close_of_a_client_that_runs(make_client: Any, steps: dict[str, int]) -> None:
    client = make_client(workers_of(lambda job: None))
    client.start()
    gate = threading.Barrier(10)
    reports: list[river.StopReport] = []

    def stop() -> None:
        gate.wait(WAIT_MOST)
        reports.append(client.stop(30))

    threads = [threading.Thread(target=stop) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(steps.values()) == {1}, steps
    assert len(reports) == 10
    assert all(report is reports[0] and report.graceful for report in reports)


@dataclass
class Report(river.JobArgs, kind="unique_report"):
    """A unique job."""

    account: Annotated[str, river.unique]


def test_regression_unique_scheduled_job_discarded_as_its_own_duplicate(
    make_client: Any, conn: psycopg.Connection, dsn: str, schema: str
) -> None:
    """River 0.12.0's scheduler took each unique job for its own rival (#590, #618, #619)."""
    workers = river.Workers()
    workers.work(Report)(lambda job: None)
    client = make_client(workers)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as own:
        due = datetime.now(UTC) + timedelta(seconds=3)
        opts = river.InsertOpts(scheduled_at=due, unique=river.UniqueOpts(by_args=True))
        first = client.insert_tx(own, Report("a"), opts)
        again = client.insert_tx(own, Report("a"), opts)
        own.commit()
    assert not first.unique_skipped_as_duplicate
    assert again.unique_skipped_as_duplicate
    assert again.job.id == first.job.id
    assert first.job.state == "scheduled"
    client.start()  # leads, since nobody else does: its scheduler runs
    job = client.wait(first.job, 30)
    assert job.state == "completed"
    assert "unique_key_conflict" not in job.metadata
    assert conn.execute("SELECT count(*) FROM river_job").fetchone() == (1,)


@pytest.mark.parametrize("workers", [None, workers_of(lambda job: None)], ids=["no workers", "workers, no queues"])
def test_regression_periodic_jobs_on_an_insert_only_client(
    dsn: str, schema: str, workers: river.Workers | None
) -> None:
    """River met a nil pointer there (#937), later a panic that says so (#938). Here: a typed error that says what to do
    instead, before there is a database, and a client that works on."""
    job = river.PeriodicJob(river.PeriodicInterval(60), lambda: Args(1))
    config = river.Config(schema=schema, workers=workers)
    for ask in (
        lambda: river.Client(dsn, config).periodic_jobs.add(job),
        lambda: river.AsyncClient(dsn, config).periodic_jobs,
        lambda: river.Client("host=nowhere.invalid", config).periodic_jobs.clear(),
        lambda: river.Client(dsn, river.Config(workers=workers, periodic_jobs=[job])),
    ):
        with pytest.raises(river.ConfigError, match=r"without queues.*durable_periodic_jobs\.define"):
            ask()
    client = river.Client(dsn, config)
    with pytest.raises(river.ConfigError):
        client.periodic_jobs.add(job)
    assert client.insert(Args(1)).job.state == "available"
    client.stop()
