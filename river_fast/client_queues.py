"""`client.queues`: which queues a client works, changed while it runs. River: Client.Queues().

Any thread; owns nothing: the client keeps the queues it was told, its services those that are worked now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from river_fast.config import QueueConfig, check_queue_name
from river_fast.errors import ConfigError, QueueAlreadyAddedError, QueueNotFoundError

if TYPE_CHECKING:
    from river_fast.client import Client


class ClientQueues:
    """`client.queues`: what the client works, changed while it runs. River: Queues()."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(self, name: str, config: QueueConfig) -> None:
        """Work one more queue from now on (or from the start). `QueueAlreadyAddedError`, `ConfigError`."""
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

    def remove(self, name: str) -> None:
        """Fetch from the queue no more; its running jobs go on. `QueueNotFoundError`."""
        client = self._client
        client._check_process()
        with client._queues_lock:
            if name not in client._queues:
                raise QueueNotFoundError(f"queue {name!r} is not worked by this client")
            if (services := client._working_services()) is not None:
                services.remove_queue(name)
            del client._queues[name]
