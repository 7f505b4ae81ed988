"""What one started client did, as the suite asks: events, the trace of its extensions, counters.

Jobs count on their threads; the request loop's thread reads. Begins at zero with each client.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import river_fast as river

EVENTS_MOST = 1_000_000
COUNTERS = (
    "cancelled_at_start",
    "error_handler_calls",
    "periodic_starts",
    "resumable_first_runs",
    "resumable_second_runs",
    "stuck_jobs",
)


class RuntimeStats:
    """`read` gives it in the contract's form."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._trace: list[str] = []
        self._events: list[str] = []
        self._subscription: river.Subscription | None = None

    def watch(self, client: river.Client) -> None:
        self._subscription = client.subscribe(buffer_size=EVENTS_MOST)

    def count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def trace(self, name: str) -> None:
        with self._lock:
            self._trace.append(name)

    def events(self) -> list[str]:
        """The kinds, in the order in which they came."""
        subscription = self._subscription
        while subscription is not None:
            try:
                self._events.append(subscription.get(0).kind.value)
            except (TimeoutError, EOFError):
                break
        return list(self._events)

    def read(self, names: Iterable[str] = COUNTERS) -> dict[str, Any]:
        events = self.events()
        with self._lock:
            return {**{name: self._counts[name] for name in names}, "events": events, "trace": list(self._trace)}
