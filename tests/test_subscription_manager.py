"""Events: River's rules for them, bounded buffers, and readers that hold up nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from river_fast.completer import Completer
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import ConfigError
from river_fast.event import Event, EventKind
from river_fast.job import JobState
from river_fast.job_set_state import JobSetState, Reason
from river_fast.subscription_manager import Subscription, SubscriptionManager, event_kind
from tests.ext.completer_rig import error_entry, start_jobs, states, until

Conn = psycopg.Connection[Any]


@pytest.fixture
def manager() -> SubscriptionManager:
    return SubscriptionManager()


@pytest.fixture
def completer(dsn: str, schema: str, manager: SubscriptionManager) -> Iterator[Completer]:
    driver = PsycopgDriver(dsn, schema)
    made = Completer(driver)
    manager.attach(made)
    made.start()
    yield made
    made.close(5)
    manager.detach()
    driver.close()
    until(lambda: not [one for one in threading.enumerate() if one.name == "river_fast.subscription_manager"])


def queue_event(number: int) -> Event:
    return Event(EventKind.QUEUE_PAUSED, queue=str(number))


# ---- kinds ----


@pytest.mark.parametrize(
    ("state", "reason", "kind"),
    [
        ("completed", Reason.COMPLETED, "job_completed"),
        ("completed", Reason.FAILED, "job_completed"),  # complete_tx, then an error
        ("cancelled", Reason.CANCELLED, "job_cancelled"),
        ("cancelled", Reason.SNOOZED, "job_cancelled"),  # a remote cancel overtook the snooze
        ("cancelled", Reason.INTERRUPTED, "job_cancelled"),
        ("discarded", Reason.FAILED, "job_failed"),
        ("retryable", Reason.FAILED, "job_failed"),
        ("scheduled", Reason.SNOOZED, "job_snoozed"),
        ("available", Reason.FAILED, "job_failed"),
        ("available", Reason.SNOOZED, "job_snoozed"),
        ("available", Reason.INTERRUPTED, "job_interrupted"),
        ("available", Reason.COMPLETED, "job_failed"),  # somebody retried it meanwhile: as River
        ("available", Reason.CANCELLED, "job_failed"),
        ("pending", Reason.FAILED, None),
        ("running", Reason.COMPLETED, None),
        ("of the future", Reason.COMPLETED, None),
    ],
)
def test_kind_of_an_event_is_rivers(state: str, reason: Reason, kind: str | None) -> None:
    assert event_kind(state, reason) == kind


def test_subscriber_hears_of_every_outcome_with_the_row_as_stored(
    manager: SubscriptionManager, completer: Completer, conn: Conn
) -> None:
    outcomes = [
        (JobSetState.completed(), EventKind.JOB_COMPLETED),
        (JobSetState.completed(b'{"output": 7}'), EventKind.JOB_COMPLETED),
        (JobSetState.cancelled(error_entry()), EventKind.JOB_CANCELLED),
        (JobSetState.discarded(error_entry()), EventKind.JOB_FAILED),
        (JobSetState.error_retryable(60, error_entry()), EventKind.JOB_FAILED),
        (JobSetState.snoozed(60, b'{"snoozes": 1}'), EventKind.JOB_SNOOZED),
        (JobSetState.interrupted(), EventKind.JOB_INTERRUPTED),
    ]
    claims = start_jobs(conn, len(outcomes), scheduled_at="now() - interval '3 seconds'")
    with manager.subscribe() as subscription:
        for claim, (outcome, _) in zip(claims, outcomes, strict=True):
            completer.push(claim.address, outcome)
        events = {event.job.id: event for event in (subscription.get(20) for _ in outcomes) if event.job is not None}
        assert len(events) == len(outcomes)
        for claim, (outcome, kind) in zip(claims, outcomes, strict=True):
            event = events[claim.id]
            assert event.kind is kind
            assert event.job is not None
            assert event.job.state is JobState(outcome.state)
            assert event.queue is None
            assert event.stats is not None
            assert 0 < event.stats.complete_duration < 20
            assert 0 <= event.stats.run_duration < 20
            assert abs(event.stats.queue_wait_duration - 3) < 1, outcome
        stored = events[claims[1].id].job
        assert stored is not None
        assert stored.output == 7
        assert stored.finalized_at is not None
        assert stored.args == {"n": 2}
        assert timedelta(0) <= stored.finalized_at - stored.created_at < timedelta(seconds=20)


def test_subscriber_hears_only_what_it_asked_for(
    manager: SubscriptionManager, completer: Completer, conn: Conn
) -> None:
    claims = start_jobs(conn, 40)
    failed = manager.subscribe(EventKind.JOB_FAILED, "queue_paused")
    everything = manager.subscribe()
    for n, claim in enumerate(claims):
        completer.push(claim.address, JobSetState.discarded(error_entry()) if n == 30 else JobSetState.completed())
    manager.distribute(queue_event(1))
    manager.distribute(Event(EventKind.QUEUE_RESUMED, queue="default"))
    assert {failed.get(20).kind, failed.get(20).kind} == {EventKind.JOB_FAILED, EventKind.QUEUE_PAUSED}
    for _ in range(42):
        everything.get(20)
    with pytest.raises(TimeoutError):
        failed.get(0)


def test_rows_are_read_back_only_while_somebody_listens(
    manager: SubscriptionManager, completer: Completer, conn: Conn
) -> None:
    def run(count: int) -> None:
        for claim in start_jobs(conn, count):
            completer.push_completed(claim.address)
        until(lambda: not completer.pending())

    run(500)
    assert completer.take_recorded(0) == []
    with manager.subscribe() as subscription:
        run(500)
        assert subscription.get(20).kind is EventKind.JOB_COMPLETED
    until(lambda: not [one for one in threading.enumerate() if one.name == "river_fast.subscription_manager"])
    assert completer.take_recorded(0) == []
    run(500)
    assert completer.take_recorded(0) == []


# ---- readers that lag ----


def test_subscriber_that_never_reads_holds_up_no_completion_and_no_stop(
    manager: SubscriptionManager, completer: Completer, conn: Conn
) -> None:
    """River's AsyncCompleter, and its batch completer at a stop, blocked for ever on such a subscriber."""
    count = 25_000
    claims = start_jobs(conn, count)
    silent = manager.subscribe(buffer_size=1)
    for claim in claims:
        completer.push_completed(claim.address)
    began = time.monotonic()
    assert completer.close(60) == []
    manager.detach()
    assert states(conn) == {"completed": count}
    assert time.monotonic() - began < 60
    assert silent.dropped > 0
    assert len(list(silent)) == 1


def test_full_buffer_drops_its_oldest_and_counts(manager: SubscriptionManager) -> None:
    subscription = manager.subscribe(buffer_size=3)
    for number in range(10):
        manager.distribute(queue_event(number))
    assert subscription.dropped == 7
    assert [subscription.get(0).queue for _ in range(3)] == ["7", "8", "9"]


def test_lagging_subscriber_is_warned_of_once(manager: SubscriptionManager, caplog: pytest.LogCaptureFixture) -> None:
    manager.subscribe(buffer_size=1)
    for number in range(10):
        manager.distribute(queue_event(number))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# ---- reading ----


def test_get_gives_up_after_its_timeout(manager: SubscriptionManager) -> None:
    subscription = manager.subscribe()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        subscription.get(0.05)
    assert 0.05 <= time.monotonic() - began < 5


def test_iteration_gives_what_is_buffered_then_waits_and_ends_with_the_close(manager: SubscriptionManager) -> None:
    subscription = manager.subscribe()
    manager.distribute(queue_event(0))
    seen: list[str | None] = []
    first = threading.Event()

    def read() -> None:
        for event in subscription:
            seen.append(event.queue)
            first.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(20)
    manager.distribute(queue_event(1))
    subscription.close()
    subscription.close()
    reader.join(20)
    assert seen == ["0", "1"]
    manager.distribute(queue_event(2))
    with pytest.raises(EOFError):
        subscription.get(0)


def test_async_iteration_wakes_for_events_of_other_threads_and_ends_with_the_close(
    manager: SubscriptionManager,
) -> None:
    async def main() -> list[str | None]:
        subscription = manager.subscribe()
        seen: list[str | None] = []
        waiting = asyncio.Event()

        async def read() -> None:
            waiting.set()
            async for event in subscription:
                seen.append(event.queue)

        reader = asyncio.create_task(read())
        await waiting.wait()
        for number in range(100):
            await asyncio.to_thread(manager.distribute, queue_event(number))
        await asyncio.to_thread(subscription.close)
        await asyncio.wait_for(reader, 20)
        return seen

    assert asyncio.run(main()) == [str(number) for number in range(100)]


def test_cancelled_async_reader_loses_no_event(manager: SubscriptionManager) -> None:
    async def main() -> str | None:
        subscription = manager.subscribe()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(aiter(subscription)), 0.001)
        manager.distribute(queue_event(5))
        async for event in subscription:
            return event.queue
        return None

    assert asyncio.run(main()) == "5"


def test_stop_of_the_client_ends_every_subscription(manager: SubscriptionManager) -> None:
    subscriptions = [manager.subscribe() for _ in range(3)]
    readers = [threading.Thread(target=list, args=(one,)) for one in subscriptions]
    for reader in readers:
        reader.start()
    manager.detach()
    for reader in readers:
        reader.join(20)
        assert not reader.is_alive()


def test_manager_serves_one_start_after_another(dsn: str, schema: str, conn: Conn) -> None:
    manager = SubscriptionManager()
    driver = PsycopgDriver(dsn, schema)
    early = manager.subscribe()  # before the first start
    for _ in range(3):
        completer = Completer(driver)
        manager.attach(completer)
        completer.start()
        (claim,) = start_jobs(conn, 1)
        completer.push_completed(claim.address)
        completer.close(20)
        manager.detach()
        assert [event.job.id for event in early if event.job is not None] == [claim.id]
        early = manager.subscribe()
    driver.close()


def test_subscribing_and_closing_from_many_threads_leaves_nothing_behind(
    manager: SubscriptionManager, completer: Completer, conn: Conn
) -> None:
    claims = start_jobs(conn, 2000)
    errors: list[BaseException] = []

    def churn() -> None:
        try:
            for _ in range(50):
                with manager.subscribe(buffer_size=2):
                    pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=churn) for _ in range(6)]
    for thread in threads:
        thread.start()
    for claim in claims:
        completer.push_completed(claim.address)
    for thread in threads:
        thread.join(30)
    assert not errors
    with manager.subscribe() as subscription:  # it still hears
        (claim,) = start_jobs(conn, 1)
        completer.push_completed(claim.address)
        until(lambda: subscription.get(20).job.id == claim.id)  # type: ignore[union-attr]
    assert completer.close(30) == []
    assert states(conn) == {"completed": 2001}


# ---- waiting for one job ----


def test_waiter_is_told_of_its_job_alone(manager: SubscriptionManager, completer: Completer, conn: Conn) -> None:
    mine, other = start_jobs(conn, 2)
    notified = threading.Event()
    with manager.waiting_for(mine.id, notified.set) as told:
        completer.push_completed(other.address)
        until(lambda: not completer.pending())
        with manager.subscribe() as subscription:  # the first outcome has been handed out when a later one arrives
            (third,) = start_jobs(conn, 1)
            completer.push_completed(third.address)
            until(lambda: subscription.get(20).job.id == third.id)  # type: ignore[union-attr]
        assert not told.wait(0)
        assert not notified.is_set()
        completer.push_completed(mine.address)
        assert told.wait(20)
        assert notified.wait(20)
        told.clear()
        assert not told.wait(0)


def test_waiter_whose_event_loop_is_gone_hurts_nobody(
    manager: SubscriptionManager, completer: Completer, conn: Conn
) -> None:
    claims = start_jobs(conn, 2)
    loop = asyncio.new_event_loop()
    loop.close()
    gone = manager.waiting_for(claims[0].id, lambda: loop.call_soon_threadsafe(print))
    with gone, manager.subscribe() as subscription:
        completer.push_completed(claims[0].address)
        completer.push_completed(claims[1].address)
        assert {subscription.get(20).kind, subscription.get(20).kind} == {EventKind.JOB_COMPLETED}


# ---- bad input ----


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "10", None])
def test_buffer_size_must_be_a_positive_int(manager: SubscriptionManager, size: Any) -> None:
    with pytest.raises(ConfigError, match="buffer_size"):
        manager.subscribe(buffer_size=size)


@pytest.mark.parametrize("kind", ["job_done", "", "JOB_COMPLETED", 7, None])
def test_unknown_kind_is_refused_with_the_known_ones(manager: SubscriptionManager, kind: Any) -> None:
    with pytest.raises(ConfigError, match="job_completed"):
        manager.subscribe(kind)


def test_subscription_is_a_context_manager(manager: SubscriptionManager) -> None:
    with manager.subscribe() as subscription:
        assert isinstance(subscription, Subscription)
    assert list(subscription) == []
