"""The producer's lifecycle: one life, begun once and closed from anywhere any number of times, with nothing left."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator, Sequence

import pytest

import river_fast as river
from river_fast.completer import Completer
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.job_executor import JobExecutor
from river_fast.producer import Producer
from river_fast.startstop import Phase
from river_fast.worker import WorkUnit
from tests.fix_client import Args
from tests.stress import CYCLES, Lives, together

LIVES = 20


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


def make_producer(driver: PsycopgDriver, completer: Completer) -> Producer:
    """With a queue, and a worker of each sort: so with an event loop of its own."""
    workers = river.Workers()
    workers.work(Args)(lambda job: None)

    @workers.work("async_kind")
    async def work(job: object) -> None: ...

    queues = {"default": river.QueueConfig(max_workers=2)}
    config = river.Config(workers=workers, queues=queues).checked()
    logger = logging.getLogger("river_fast.producer")
    context = contextvars.copy_context()

    def executor(units: Sequence[WorkUnit], context: contextvars.Context) -> JobExecutor:
        return JobExecutor(
            units, driver, completer, job_timeout=60.0, retry_policy=config.retry_policy, context=context, logger=logger
        )

    producer = Producer(
        driver, config, workers, driver.open(), "me", 0, executor=executor, context=context, logger=logger
    )
    producer.add_queue("default", config.queues["default"])
    return producer


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("river_fast.")]


def hammer_life(producer: Producer) -> int:
    """Ten threads start and close it; how many of the starts were not refused."""
    begun: list[int] = []

    def cycle(number: int) -> None:
        for turn in range(CYCLES // LIVES):
            if (number + turn) % 3 == 0:
                producer.request_stop()
            with contextlib.suppress(RuntimeError):  # refused: it lives once
                producer.start()
                begun.append(number)
            assert producer.close(20), "close did not end in 20 s"

    together(cycle, name="producer")
    assert producer.close(20), "a second close is as good as the first"
    assert producer.phase is Phase.STOPPED
    return len(begun)


def test_start_and_close_from_many_threads(driver: PsycopgDriver) -> None:
    before = set(ours())
    for _ in range(LIVES):
        producer = make_producer(driver, Completer(driver))
        lives = Lives(producer)
        assert hammer_life(producer) >= 1
        assert (lives.begun, lives.ended, lives.most) == (1, 1, 1)
    assert not set(ours()) - before


def test_a_producer_lives_once(driver: PsycopgDriver) -> None:
    before = set(ours())
    producer = make_producer(driver, Completer(driver))
    producer.start()
    producer.start()
    assert producer.phase is Phase.STARTED
    assert producer.stop(20)
    with pytest.raises(RuntimeError, match="started once"):
        producer.start()
    assert producer.close(20)
    closed = make_producer(driver, Completer(driver))
    assert closed.close(20)
    with pytest.raises(RuntimeError, match="started once"):
        closed.start()
    assert closed.phase is Phase.NEW
    assert not set(ours()) - before
