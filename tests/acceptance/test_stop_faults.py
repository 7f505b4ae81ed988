"""The stop in bad company: servers that hang, steps that fail, jobs that do not listen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import river_fast as river
from river_fast.client_services import ClientServices
from river_fast.job_executor import FULL
from tests.fix_client import LATE, Args, eventually, workers_of
from tests.fix_proxy import Proxy

pytestmark = pytest.mark.usefixtures("busy_machine")


@pytest.fixture
def proxy(dsn: str, schema: str) -> Iterator[Proxy]:
    """Cut before the schema is dropped: a session that is frozen in mid-transaction holds locks on it."""
    made = Proxy(dsn)
    yield made
    made.frozen = made.refusing = False
    made.cut()
    made.close()


def client_on(proxy: Proxy, schema: str, workers: river.Workers, max_workers: int = 20, **config: Any) -> river.Client:
    queues = {"default": river.QueueConfig(max_workers=max_workers)}
    return river.Client(proxy.conninfo, river.Config(schema=schema, workers=workers, queues=queues, **config))


@pytest.mark.parametrize("fault", ["frozen", "refusing"])
@pytest.mark.parametrize("timeout", [0, 1])
@pytest.mark.parametrize("completer", ["batch", "inline"])
def test_stop_without_a_server_returns_in_time_and_tells_every_outcome(
    proxy: Proxy, schema: str, fault: str, timeout: float, completer: str
) -> None:
    """Scenario F08."""
    count, inside, gate = 20, threading.Semaphore(0), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.release()
        assert gate.wait(30)

    client = client_on(proxy, schema, workers_of(work), completer=completer)
    ids = {result.job.id for result in client.insert_many([Args(n) for n in range(count)])}
    client.start()
    for _ in range(count):
        assert inside.acquire(timeout=20)
    if fault == "frozen":
        proxy.frozen = True
    else:
        proxy.refusing = True
        proxy.cut()
    gate.set()
    eventually(lambda: not client._services.awaited())
    began = time.monotonic()
    report = client.stop(timeout)
    took = time.monotonic() - began
    assert took <= timeout + LATE
    assert report.finished, took
    assert not report.graceful
    assert {outcome.job_id for outcome in report.unrecorded} == ids
    assert {outcome.outcome for outcome in report.unrecorded} == {"completed"}
    assert report.abandoned == ()


def test_stop_that_finds_no_room_for_what_it_abandons_returns_in_time_and_says_so(
    make_client: Any, monkeypatch: Any
) -> None:
    inside, gate = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.set()
        gate.wait(30)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    monkeypatch.setattr(client._services.completer, "try_push", lambda claim, outcome: FULL)
    try:
        began = time.monotonic()
        report = client.stop(0.2)
        assert time.monotonic() - began <= LATE
    finally:
        gate.set()
    assert report.finished
    assert report.abandoned == (job.id,)
    assert [(outcome.job_id, outcome.outcome) for outcome in report.unrecorded] == [(job.id, "interrupted")]


@pytest.mark.parametrize("step", ["stop_fetching", "awaited", "abandon", "close_completer", "close_services"])
def test_step_of_the_stop_that_fails_does_not_keep_the_others_from_their_work(
    make_client: Any, monkeypatch: Any, caplog: Any, step: str
) -> None:
    before = set(threading.enumerate())
    client = make_client(workers_of(lambda job: None))
    client.start()
    job = client.wait(client.insert(Args(1)).job, 20)
    services = client._services
    whole = getattr(services, step)

    def fail(*args: Any) -> Any:
        whole(*args)
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(services, step, fail)
    report = client.stop(20)
    assert report.finished
    assert not report.graceful
    assert "a step of the stop failed" in caplog.text
    assert client.job_get(job.id).state == "completed"
    eventually(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("river_fast.")])


def test_stop_without_limit_is_hurried_by_a_later_one(make_client: Any) -> None:
    inside, gate = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.set()
        gate.wait(30)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    reports: list[river.StopReport] = []
    patient = threading.Thread(target=lambda: reports.append(client.stop()))
    patient.start()
    try:
        began = time.monotonic()
        report = client.stop(0.3)
        assert time.monotonic() - began <= LATE
        patient.join(20)
        assert reports == [report]
        assert report.abandoned == (job.id,)
    finally:
        gate.set()


def test_stop_that_waits_for_the_completer_is_hurried_by_a_later_one(proxy: Proxy, schema: str) -> None:
    inside, gate = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.set()
        gate.wait(30)

    client = client_on(proxy, schema, workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    proxy.refusing = True
    proxy.cut()
    closing = threading.Event()
    whole = client._services.close_completer
    client._services.close_completer = lambda *args: (closing.set(), whole(*args))[1]  # type: ignore[method-assign]
    gate.set()
    client.request_stop()
    assert closing.wait(20)
    began = time.monotonic()
    report = client.stop(0.2)
    assert time.monotonic() - began <= LATE
    assert report.finished
    assert [outcome.job_id for outcome in report.unrecorded] == [job.id]


def test_job_that_ends_at_the_very_moment_it_is_abandoned_is_recorded_once(
    make_client: Any, slow_disk: None, monkeypatch: Any, caplog: Any
) -> None:
    """Both outcomes are pushed; one is recorded, and the other is nobody's loss."""
    inside, gate = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        inside.set()
        gate.wait(30)

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    assert inside.wait(20)
    services: ClientServices = client._services
    give_up = services.completer.give_up

    def first_the_job(row: Any, outcome: Any) -> int:
        gate.set()
        eventually(lambda: not services.producer.running(), what="the job's own outcome pushed")
        return give_up(row, outcome)

    monkeypatch.setattr(services.completer, "give_up", first_the_job)
    report = client.stop(0)
    assert report.finished
    assert report.unrecorded == ()
    row = client.job_get(job.id)
    assert (row.state, row.attempt) in {("completed", 1), ("available", 0)}
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_waiting_threads_are_told_each_and_outlive_a_restart(make_client: Any) -> None:
    gate = threading.Event()

    def work(job: river.Job[Args]) -> None:
        if not gate.is_set():
            job.wait_cancelled(30)
            job.raise_if_cancelled()

    client = make_client(workers_of(work))
    job = client.insert(Args(1)).job
    client.start()
    states: list[Any] = []

    def wait() -> None:
        try:
            states.append(client.wait(job, 90).state)
        except BaseException as error:
            states.append(error)

    waiting = [threading.Thread(target=wait) for _ in range(10)]
    for thread in waiting:
        thread.start()
    for _ in range(5):
        assert client.stop_and_cancel(20).graceful
        client.start()
    events = client.subscribe("job_completed")
    gate.set()
    client.stop_and_cancel(20)
    client.start()
    for thread in waiting:
        thread.join(100)
    assert states == ["completed"] * 10
    assert len(list(events)) <= 1  # it ended with the run in which it was made, whatever that saw
    assert client.stop(20).graceful
