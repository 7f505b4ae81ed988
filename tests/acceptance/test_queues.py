"""Queues of a running client: paused, resumed, added, removed; heard by notification and by polling."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args, eventually, workers_of

POLLING = pytest.mark.parametrize("poll_only", [False, True], ids=["listening", "polling"])


@POLLING
def test_paused_queue_is_left_alone_until_resumed(make_client: Any, poll_only: bool) -> None:
    client = make_client(workers_of(lambda job: None), poll_only=poll_only)
    with client.subscribe("queue_paused", "queue_resumed") as events:
        client.start()
        other = make_client()  # says so from another client: no short cut inside one process
        other.queue_pause("default")
        event = events.get(20)
        assert event is not None
        assert (event.kind, event.queue) == ("queue_paused", "default")
        job = client.insert(Args(1)).job
        with pytest.raises(TimeoutError):
            client.wait(job, 0.5)
        assert client.job_get(job.id).state == "available"
        other.queue_resume("default")
        event = events.get(20)
        assert event is not None
        assert (event.kind, event.queue) == ("queue_resumed", "default")
        assert client.wait(job, 20).state == "completed"


def test_client_that_starts_on_a_paused_queue_stays_paused(make_client: Any) -> None:
    first = make_client(workers_of(lambda job: None))
    first.start()
    first.queue_pause("default")
    first.stop(5)
    second = make_client(workers_of(lambda job: None))
    job = second.insert(Args(1)).job
    second.start()
    with pytest.raises(TimeoutError):
        second.wait(job, 0.5)
    second.queue_resume("*")
    assert second.wait(job, 20).state == "completed"


@POLLING
def test_remote_cancel_is_heard(make_client: Any, poll_only: bool) -> None:
    started = threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        job.wait_cancelled(30)
        job.raise_if_cancelled()

    client = make_client(workers_of(work), poll_only=poll_only)
    job = client.insert(Args(1)).job
    client.start()
    assert started.wait(20)
    make_client().job_cancel(job.id)
    assert client.wait(job, 20).state == "cancelled"


def test_polling_client_works_inserts_it_never_heard_of(make_client: Any) -> None:
    client = make_client(workers_of(lambda job: None), poll_only=True, fetch_poll_interval=0.2)
    client.start()
    assert make_client().insert(Args(1)).job.state == "available"
    eventually(lambda: client.stats()["fetched"] == 1)


def test_queues_are_added_and_removed_while_running(make_client: Any) -> None:
    client = make_client(workers_of(lambda job: None))
    client.start()
    with pytest.raises(river.QueueAlreadyAddedError):
        client.queues.add("default", river.QueueConfig(max_workers=1))
    with pytest.raises(river.QueueNotFoundError):
        client.queues.remove("other")
    with pytest.raises(river.ConfigError):
        client.queues.add("Not A Queue", river.QueueConfig(max_workers=1))
    client.queues.add("other", river.QueueConfig(max_workers=1))
    job = client.insert(Args(1), river.InsertOpts(queue="other")).job
    assert client.wait(job, 20).state == "completed"
    client.queues.remove("other")
    job = client.insert(Args(1), river.InsertOpts(queue="other")).job
    with pytest.raises(TimeoutError):
        client.wait(job, 0.3)
    client.queues.add("other", river.QueueConfig(max_workers=1))
    assert client.wait(job, 20).state == "completed"


def test_insert_only_client_has_no_queues_to_add_and_no_events(make_client: Any) -> None:
    client = make_client()
    with pytest.raises(river.ConfigError):
        client.queues.add("default", river.QueueConfig(max_workers=1))
    with pytest.raises(river.ConfigError):
        client.subscribe()
    with pytest.raises(river.ConfigError):
        client.start()
    with client:
        assert client.insert(Args(1)).job.state == "available"


def test_paused_queue_gives_back_what_it_prefetched(make_client: Any, conn: psycopg.Connection) -> None:
    release = threading.Event()

    def work(job: river.Job[Args]) -> None:
        release.wait(30)

    client = make_client(workers_of(work), max_workers=2)
    client.insert_many([Args(n) for n in range(50)])
    client.start()
    try:
        eventually(lambda: conn.execute("SELECT count(*) FROM river_job WHERE state = 'running'").fetchone() == (2,))
        with client.subscribe("queue_paused") as events:
            client.queue_pause("default")
            assert events.get(20) is not None
        release.set()
        eventually(lambda: conn.execute("SELECT count(*) FROM river_job WHERE state = 'running'").fetchone() == (0,))
        rest = conn.execute("SELECT count(*) FROM river_job WHERE state = 'available' AND attempt = 0").fetchone()
        done = conn.execute("SELECT count(*) FROM river_job WHERE state = 'completed'").fetchone()
        assert rest[0] + done[0] == 50
    finally:
        release.set()


def test_scheduled_and_retried_jobs_run_when_due(make_client: Any) -> None:
    from datetime import UTC, datetime, timedelta

    seen: list[int] = []

    def work(job: river.Job[Args]) -> None:
        seen.append(job.args.n)
        if job.attempt == 1 and job.args.n == 1:
            raise ValueError("once")

    client = make_client(workers_of(work))
    client.start()
    retried = client.insert(Args(1)).job
    scheduled = client.insert(Args(2), river.InsertOpts(scheduled_at=datetime.now(UTC) + timedelta(seconds=2))).job
    assert client.wait(retried, 20).attempt == 2
    done = client.wait(scheduled, 20)
    assert done.state == "completed"
    assert done.attempted_at >= done.scheduled_at
