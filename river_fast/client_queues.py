"""`client.queues`: which queues a client works, changed while it runs. River: Client.Queues().

Any thread, or the caller's event loop; owns nothing: the client keeps the queues it was told, its services those that
are worked now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from river_fast.config import Duration, QueueConfig, check_queue_name, seconds
from river_fast.errors import ConfigError, QueueAlreadyAddedError, QueueNotFoundError

if TYPE_CHECKING:
    from river_fast.client import Client

POLL_FIRST = 0.002  # a removed queue's jobs are looked at from so often ...
POLL_LAST = 0.1  # ... to so seldom


class ClientQueues:
    """`Client.queues`: what the client works, changed while it runs. River: QueueBundle."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(self, name: str, config: QueueConfig) -> None:
        """Work one more queue from now on (or from the start). `QueueAlreadyAddedError`, `ConfigError`. River: Add."""
        client = self._client
        client._check_process()
        checked = config.checked(check_queue_name(name), client._config)
        if client._config.workers is None:
            raise ConfigError("this client has no workers and cannot work queues; make it with Config(workers=...)")
        with client._queues_lock:
            if name in client._queues:
                raise QueueAlreadyAddedError(f"queue {name!r} is worked by this client already")
            if (services := client._working_services()) is not None:
                services.add_queue(name, checked)
            client._queues[name] = checked

    def remove(self, name: str, timeout: Duration | None = None) -> None:
        """Fetch from the queue no more, give back what has not started, and wait for the jobs that run. River: Remove.

        `timeout`: seconds or timedelta, None: any time. `TimeoutError` after it: the queue is fetched from no more, but
        counts as added until a further `remove` has seen its jobs end. Called from a job of this client it does not
        wait. To give a queue another configuration, remove it and add it. `QueueNotFoundError`.
        """
        limit = None if timeout is None else seconds("timeout", timeout)
        removed = self._begin(name)
        for pause in self._pauses(name, limit):
            self._client.wait_stopped(pause)
        self._end(name, removed)

    def _begin(self, name: str) -> QueueConfig:
        client = self._client
        client._check_process()
        with client._queues_lock:
            if name not in client._queues:
                raise QueueNotFoundError(f"queue {name!r} is not worked by this client")
            if (services := client._working_services()) is not None:
                services.remove_queue(name)
            return client._queues[name]

    def _pauses(self, name: str, limit: float | None) -> Iterator[float]:
        """How long to wait before the next look, until the jobs have ended. `TimeoutError`."""
        deadline = None if limit is None else time.monotonic() + limit
        pause = POLL_FIRST
        while not self._has_ended(name):
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(
                    f"jobs of queue {name!r} still run after {limit:g} s; it is fetched from no more: call remove again"
                )
            yield left
            pause = min(pause * 1.5, POLL_LAST)

    def _has_ended(self, name: str) -> bool:
        services = self._client._working_services()
        return services is None or self._client.would_wait_for_itself() or services.queue_has_ended(name)

    def _end(self, name: str, removed: QueueConfig) -> None:
        client = self._client
        with client._queues_lock:
            if client._queues.get(name) is removed:  # else another remove was first, and it was added again
                del client._queues[name]


class AsyncClientQueues:
    """`AsyncClient.queues`: the same, awaited."""

    def __init__(self, queues: ClientQueues) -> None:
        self._queues = queues

    async def add(self, name: str, config: QueueConfig) -> None:
        """As `ClientQueues.add`."""
        await asyncio.to_thread(self._queues.add, name, config)

    async def remove(self, name: str, timeout: Duration | None = None) -> None:
        """As `ClientQueues.remove`. A cancelled caller stops waiting; then as after a `TimeoutError`."""
        limit = None if timeout is None else seconds("timeout", timeout)
        removed = await asyncio.to_thread(self._queues._begin, name)
        for pause in self._queues._pauses(name, limit):
            await asyncio.sleep(pause)
        self._queues._end(name, removed)
