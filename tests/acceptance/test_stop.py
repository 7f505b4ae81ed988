"""The orderly stop: one order, a deadline at each step, from anywhere, any number of times (design section 4)."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import river_fast as river
from river_fast.client_services import ClientServices
from tests.fix_client import LATE, Args, eventually, workers_of
from tests.fix_rows import states


def check_accounting(conn: psycopg.Connection) -> None:
    """Attempts are accounted: a finished job was started once, a waiting one never; nothing is left running."""
    odd = conn.execute(
        "SELECT id, state, attempt, attempted_by, errors FROM river_job WHERE state = 'running'"
        " OR (state = 'completed' AND (attempt <> 1 OR cardinality(attempted_by) <> 1))"
        " OR (state = 'available' AND (attempt <> 0 OR errors IS NOT NULL))"
    ).fetchall()
    assert odd == []


@pytest.mark.parametrize("completer", ["batch", "async", "inline"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_stop_in_mid_load_leaves_no_row_running_and_every_attempt_accounted(
    make_client: Any, conn: psycopg.Connection, completer: str, is_async: bool
) -> None:
    started = threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()

    async def work_async(job: river.Job[Args]) -> None:
        started.set()

    client = make_client(workers_of(work_async if is_async else work), max_workers=100, completer=completer)
    client.insert_many_fast([Args(n) for n in range(20_000)])
    client.start()
    assert started.wait(20)
    report = client.stop(60)
    assert report.graceful, report
    check_accounting(conn)
    assert sum(states(conn).values()) == 20_000


def test_stop_waits_for_running_jobs(make_client: Any) -> None:
    started, release = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        release.wait(30)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert started.wait(20)
    client.request_stop()
    assert not client.wait_stopped(0.1)
    release.set()
    assert client.wait_stopped(20)
    report = client.stop()
    assert report.graceful
    assert client.job_get(job.id).state == "completed"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_stop_and_cancel_interrupts_jobs_and_gives_the_attempt_back(make_client: Any, is_async: bool) -> None:
    import asyncio

    started = threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        assert job.wait_cancelled(30)
        assert job.cancel_cause == "stop"
        job.raise_if_cancelled()

    async def work_async(job: river.Job[Args]) -> None:
        started.set()
        await asyncio.sleep(30)

    client = make_client(workers_of(work_async if is_async else work))
    job = client.insert(Args(1)).job
    client.start()
    assert started.wait(20)
    report = client.stop_and_cancel(20)
    assert report.graceful, report
    job = client.job_get(job.id)
    assert job.state == "available"
    assert job.attempt == 0
    assert job.errors == []
    assert len(job.attempted_by) == 1


def test_job_that_fails_otherwise_during_a_stop_counts_as_what_it_is(make_client: Any) -> None:
    started = threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        job.wait_cancelled(30)
        raise ValueError("my own")

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert started.wait(20)
    assert client.stop_and_cancel(20).graceful
    job = client.job_get(job.id)
    assert job.attempt == 1
    assert job.errors[0].error == "my own"


def test_stop_cancels_at_four_fifths_of_its_timeout(make_client: Any, slow_disk: None) -> None:
    started = threading.Event()
    cancelled_after: list[float] = []

    def work(job: river.Job[Args]) -> None:
        started.set()
        job.wait_cancelled(30)
        cancelled_after.append(time.monotonic())
        job.raise_if_cancelled()

    client = make_client(workers_of(work))
    client.insert(Args(1))
    client.start()
    assert started.wait(20)
    began = time.monotonic()
    report = client.stop(4)
    assert report.graceful
    assert 3.2 <= cancelled_after[0] - began <= 4.0


@pytest.mark.parametrize("timeout", [0, 0.3])
def test_job_that_ignores_the_stop_is_abandoned_named_and_given_back(
    make_client: Any, slow_disk: None, timeout: float
) -> None:
    started, release = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        release.wait(60)

    client = make_client(workers_of(work))
    try:
        job = client.insert(Args(1)).job
        client.start()
        assert started.wait(20)
        began = time.monotonic()
        report = client.stop(timeout)
        assert time.monotonic() - began <= timeout + LATE
        assert report.abandoned == (job.id,)
        assert not report.graceful
        row = client.job_get(job.id)
        assert row.state == "available"
        assert row.attempt == 0
    finally:
        release.set()
    # its late outcome is nobody's: the row stays as it is
    eventually(lambda: not any(t.name.startswith("river_fast.worker") for t in threading.enumerate()))
    assert client.job_get(job.id).state == "available"


def test_second_stop_returns_the_same_report_at_once(make_client: Any) -> None:
    client = make_client(workers_of(lambda job: None))
    client.start()
    report = client.stop(20)
    assert client.stop() is report
    assert client.stop_and_cancel(1) is report


def test_stop_before_start_and_after_a_failed_start(make_client: Any, dsn: str) -> None:
    client = make_client(workers_of(lambda job: None))
    assert client.stop(1).graceful
    unreachable = river.Client(
        "host=127.0.0.1 port=1 connect_timeout=2",
        river.Config(queues={"default": river.QueueConfig(max_workers=1)}, workers=workers_of(lambda job: None)),
    )
    with pytest.raises(river.DatabaseError):
        unreachable.start()
    assert unreachable.stop(1).graceful
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("river_fast")])


def test_stopped_client_starts_again(make_client: Any) -> None:
    client = make_client(workers_of(lambda job: None))
    for _ in range(3):
        client.start()
        assert client.wait(client.insert(Args(1)).job, 20).state == "completed"
        assert client.stop(20).graceful


def test_stop_from_a_job_acts_as_a_request(make_client: Any) -> None:
    reports: list[river.StopReport] = []

    def work(job: river.Job[Args]) -> None:
        reports.append(river.client_from_context().stop(5))

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert client.wait_stopped(20)
    assert not reports[0].finished
    assert client.stop().graceful
    assert client.job_get(job.id).state == "completed"


def test_stop_from_an_async_job_acts_as_a_request(make_client: Any) -> None:
    reports: list[river.StopReport] = []

    async def work(job: river.Job[Args]) -> None:
        reports.append(river.client_from_context().stop(5))

    client = make_client(workers_of(work))
    client.insert(Args(1))
    client.start()
    assert client.wait_stopped(20)
    assert not reports[0].finished
    assert client.stop().graceful


def test_stop_from_a_job_that_runs_before_its_start_is_through(
    make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[river.StopReport] = []
    asked = threading.Event()
    start = ClientServices.start

    def start_and_wait(services: ClientServices, queues: Any) -> None:
        start(services, queues)
        assert asked.wait(20)

    def work(job: river.Job[Args]) -> None:
        reports.append(river.client_from_context().stop(5))
        asked.set()

    monkeypatch.setattr(ClientServices, "start", start_and_wait)
    client = make_client(workers_of(work))
    client.insert(Args(1))
    client.start()
    assert client.wait_stopped(20)
    assert not reports[0].finished
    assert client.stop().graceful


def test_stop_from_many_threads_at_once(make_client: Any) -> None:
    client = make_client(workers_of(lambda job: None))
    client.insert_many([Args(n) for n in range(1000)])
    client.start()
    reports: list[river.StopReport] = []
    threads = [threading.Thread(target=lambda: reports.append(client.stop(20))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert len(reports) == 10
    assert all(report is reports[0] for report in reports)
    assert reports[0].graceful


def test_stop_leaves_no_thread_connection_or_lock_behind(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    before = set(threading.enumerate())
    dsn = make_conninfo(dsn, application_name=f"rf_{schema}")
    ours = f"SELECT pid FROM pg_stat_activity WHERE application_name = 'rf_{schema}'"
    gc.collect()  # what other tests left behind
    descriptors = len(os.listdir("/proc/self/fd"))
    config = river.Config(
        schema=schema, workers=workers_of(lambda job: None), queues={"default": river.QueueConfig(max_workers=5)}
    )
    client = river.Client(dsn, config)
    client.start()
    assert client.wait(client.insert(Args(1)).job, 20)
    pids = {row[0] for row in conn.execute(ours)}
    assert len(pids) >= 3
    assert client.stop(20).graceful
    assert [t for t in set(threading.enumerate()) - before if t.name.startswith("river_fast")] == []
    eventually(
        lambda: not conn.execute("SELECT 1 FROM pg_stat_activity WHERE pid = ANY(%s)", [list(pids)]).fetchall()
    )
    locks = conn.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = ANY(%s)", [list(pids)])
    assert not locks.fetchall()
    del client
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def jobs_alive() -> int:
    """Errors of other tests may keep a few."""
    gc.collect()
    return sum(type(found) is river.Job for found in gc.get_objects())


def test_jobs_and_clients_do_not_outlive_their_run(dsn: str, schema: str) -> None:
    before = jobs_alive()
    client = river.Client(
        dsn,
        river.Config(
            schema=schema, workers=workers_of(lambda job: None), queues={"default": river.QueueConfig(max_workers=5)}
        ),
    )
    client.insert_many_fast([Args(n) for n in range(500)])
    client.start()
    assert client.wait(client.insert(Args(1)).job, 20).state == "completed"
    assert client.stop(20).graceful
    assert jobs_alive() <= before
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
