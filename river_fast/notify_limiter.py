"""Which single-row inserts notify: enough to wake a worker at once, not so many that the commits queue up.

Any thread; owns one small record a queue. Every NOTIFY takes one database-wide lock at commit and wakes every listener,
so under a stream of inserts most are left unsaid: the fetcher that heard one looks again by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MAX_WINDOW_S = 0.1  # River's window, and what the fetcher's own further looks are made for
FAST_INSERTS_PER_S = 400.0
_NARROWEST_S = 0.002  # the first step of a window that widens
_MEASURED_S = 0.05  # the window takes one step, up or down, each time this has passed
_FORGET_S = 60.0


class _Queue:
    __slots__ = ("count", "last", "since", "window")

    def __init__(self, window: float, now: float) -> None:
        self.window = window
        self.last = float("-inf")  # when this client's last notification was acknowledged
        self.since = now  # the inserts counted are those since then
        self.count = 0


class NotifyLimiter:
    """`wants` before the insert; `acknowledged` once the commit of one that notified has returned, and only then."""

    def __init__(self, window: float, *, widens: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """`window` seconds; 0, growing while inserts are fast, for one that `widens`."""
        self._window = 0.0 if widens else window
        self._widens = widens
        self._clock = clock
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}

    def wants(self, queue: str) -> bool:
        """Whether an insert of one job into `queue` should notify."""
        now = self._clock()
        with self._lock:
            state = self._queues.get(queue)
            if state is None:
                self._forget(now)
                state = self._queues[queue] = _Queue(self._window, now)
            state.count += 1
            if self._widens and now - state.since >= _MEASURED_S:
                self._step(state, now)
            return now - state.last >= state.window

    def acknowledged(self, queue: str) -> None:
        """A notification for `queue` was committed."""
        now = self._clock()
        with self._lock:
            state = self._queues.get(queue)
            if state is None:
                state = self._queues[queue] = _Queue(self._window, now)
            state.last = now

    def window(self, queue: str) -> float:
        """Seconds for which a notification of `queue` silences the next ones."""
        with self._lock:
            state = self._queues.get(queue)
            return self._window if state is None else state.window

    def _step(self, state: _Queue, now: float) -> None:
        fast = state.count / (now - state.since) > FAST_INSERTS_PER_S
        if fast:
            state.window = min(max(state.window * 2, _NARROWEST_S), MAX_WINDOW_S)
        else:
            state.window = state.window / 2 if state.window > _NARROWEST_S else 0.0
        state.since = now
        state.count = 0

    def _forget(self, now: float) -> None:
        """Queues may be named at will: those long silent are dropped when a new one comes."""
        for queue in [name for name, state in self._queues.items() if now - max(state.since, state.last) > _FORGET_S]:
            del self._queues[queue]
