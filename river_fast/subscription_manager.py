"""Events: tells subscribers, and who waits for a job, what the completer has recorded. River: SubscriptionManager.

Its thread exists only while somebody listens; it takes recorded rows from the completer, never the other way round, so
no reader can hold up a completion. Owns the subscriptions, whose bounded buffers drop their oldest event when full.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from river_fast.errors import ConfigError
from river_fast.event import Event, EventKind, JobStats
from river_fast.job import Job, JobState
from river_fast.job_row import ATTEMPTED_AT, SCHEDULED_AT, StoredRow
from river_fast.job_set_state import Reason

if TYPE_CHECKING:
    from river_fast.completer import Recorded

TAKE_TIMEOUT = 1.0  # how long one look for recorded rows waits
DETACH_TIMEOUT = 1.0  # for the rows that the completer recorded last


class RecordedSource(Protocol):
    """The completer, as the manager sees it."""

    def want_rows(self, on: bool) -> None: ...
    def take_recorded(self, timeout: float) -> list[Recorded] | None: ...


class Subscription:
    """Events of the kinds asked for, oldest first. Iterate it (sync or async), or `get`; ends when it is closed.

    Any thread or loop; several readers share the events. `dropped` counts those that a full buffer pushed out.
    """

    def __init__(self, manager: SubscriptionManager, kinds: frozenset[EventKind], buffer_size: int) -> None:
        self._manager = manager
        self._kinds = kinds
        self._size = buffer_size
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()  # guards all fields below it, and _events
        self._loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._closed = False
        self.dropped = 0

    def get(self, timeout: float | None = None) -> Event:
        """The next event. `TimeoutError` after `timeout` seconds; `StopIteration`'s place at the end is `EOFError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._events or self._closed, timeout):
                raise TimeoutError(f"no event within {timeout:g} s")
            if not self._events:
                raise EOFError("the subscription is closed")
            return self._events.popleft()

    def close(self) -> None:
        """No more events; readers get what is buffered, then the end. Idempotent."""
        self._manager.remove(self)
        self.end()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        while True:
            try:
                yield self.get()
            except EOFError:
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                event = self._events.popleft() if self._events else None
                if event is None and self._closed:
                    return
                if event is None:
                    news: asyncio.Future[None] = loop.create_future()
                    self._loops.append((loop, news))
            if event is not None:
                yield event
            else:
                await news

    # The manager's side; never waits.

    def wants(self, kind: EventKind) -> bool:
        """Whether events of this kind were asked for."""
        """Whether events of the kind are to be put."""
        return kind in self._kinds

    def put(self, event: Event) -> bool:
        """False: the buffer was full, and its oldest event was dropped."""
        with self._changed:
            if self._closed:
                return True
            full = len(self._events) >= self._size
            if full:
                self._events.popleft()
                self.dropped += 1
            self._events.append(event)
            self._tell()
        return not full

    def end(self) -> None:
        """Nothing comes any more; readers get what is buffered first."""
        """The client stopped: readers get what is buffered, then the end."""
        with self._changed:
            self._closed = True
            self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        loops, self._loops = self._loops, []
        for loop, news in loops:
            with contextlib.suppress(RuntimeError):  # a loop that was closed has no readers
                loop.call_soon_threadsafe(_settle, news)


def _settle(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)


class Waiter:
    """Somebody who waits for one job: `wait`, look at the row, `clear`, again. Told of every outcome of that job."""

    def __init__(self, notify: Callable[[], object] | None) -> None:
        self._event = threading.Event()
        self._notify = notify

    def tell(self) -> None:
        self._event.set()
        if self._notify is not None:
            with contextlib.suppress(RuntimeError):  # its event loop was closed meanwhile
                self._notify()

    def wait(self, timeout: float | None = None) -> bool:
        return self._event.wait(timeout)

    def clear(self) -> None:
        self._event.clear()


class SubscriptionManager:
    """The client's: outlives starts and stops. `attach` at each start, `detach` at each stop."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("river_fast.subscription_manager")
        self._lock = threading.Lock()  # guards what follows; never held while anybody is waited for
        self._subscriptions: tuple[Subscription, ...] = ()
        self._waiters: dict[int, list[Waiter]] = {}
        self._source: RecordedSource | None = None
        self._reader: tuple[threading.Thread, RecordedSource] | None = None

    # Listening: any thread.

    def subscribe(self, *kinds: EventKind | str, buffer_size: int = 1000) -> Subscription:
        """`ConfigError` for an unknown kind or a buffer below 1. No kinds: all of them."""
        if isinstance(buffer_size, bool) or not isinstance(buffer_size, int) or buffer_size < 1:
            raise ConfigError(f"buffer_size must be an int of at least 1, got {buffer_size!r}")
        wanted = set()
        for kind in kinds or EventKind:
            try:
                wanted.add(EventKind(kind))
            except ValueError:
                known = ", ".join(EventKind)
                raise ConfigError(f"unknown event kind {kind!r}; there are: {known}") from None
        subscription = Subscription(self, frozenset(wanted), buffer_size)
        with self._lock:
            self._subscriptions += (subscription,)
            self._listen()
        return subscription

    def remove(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = tuple(one for one in self._subscriptions if one is not subscription)
            self._listen()

    @contextlib.contextmanager
    def waiting_for(self, job_id: int, notify: Callable[[], object] | None = None) -> Iterator[Waiter]:
        """While inside, the waiter (and `notify`, on the manager's thread) is told of each outcome of the job."""
        waiter = Waiter(notify)
        with self._lock:
            self._waiters.setdefault(job_id, []).append(waiter)
            self._listen()
        try:
            yield waiter
        finally:
            with self._lock:
                waiters = self._waiters[job_id]
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[job_id]
                self._listen()

    # Starts and stops of the client.

    def attach(self, source: RecordedSource) -> None:
        """The completer of a start, before it starts."""
        with self._lock:
            self._source = source
            self._listen()

    def detach(self) -> None:
        """After the completer was closed: its last events are handed out, then every subscription ends."""
        with self._lock:
            reader = self._reader
        if reader is not None and reader[0] is not threading.current_thread():
            reader[0].join(DETACH_TIMEOUT)
        with self._lock:
            self._source = None
            subscriptions, self._subscriptions = self._subscriptions, ()
        for subscription in subscriptions:
            subscription.end()

    def distribute(self, event: Event) -> None:
        """Hand an event to those who want it. Any thread; never waits for a reader."""
        for subscription in self._subscriptions:
            if subscription.wants(event.kind) and not subscription.put(event) and subscription.dropped == 1:
                self._logger.warning(
                    "a subscriber lags: its buffer is full, its oldest events are dropped (counted in `dropped`)"
                )

    def _listen(self) -> None:
        """With the lock held: rows are read back, and a thread takes them, exactly while somebody listens."""
        listening = bool(self._subscriptions or self._waiters)
        if self._source is None:
            return
        self._source.want_rows(listening)
        if listening and (self._reader is None or self._reader[1] is not self._source):
            thread = threading.Thread(
                target=self._run, args=(self._source,), name="river_fast.subscription_manager", daemon=True
            )
            self._reader = (thread, self._source)
            thread.start()

    # The manager's thread.

    def _run(self, source: RecordedSource) -> None:
        while True:
            recorded = source.take_recorded(TAKE_TIMEOUT)
            for fields, reason, run_ns, complete_ns, waited_us in recorded or ():
                self._told(StoredRow(fields), Reason(reason), run_ns, complete_ns, waited_us)
            with self._lock:
                idle = not recorded and (self._source is not source or not (self._subscriptions or self._waiters))
                if recorded is None or idle:
                    if self._reader is not None and self._reader[0] is threading.current_thread():
                        self._reader = None
                    return

    def _told(self, row: StoredRow, reason: Reason, run_ns: int, complete_ns: int, waited_us: int) -> None:
        for waiter in self._waiters.get(row.id, ()):
            waiter.tell()
        kind = event_kind(row.state, reason)
        if kind is None or not any(subscription.wants(kind) for subscription in self._subscriptions):
            return
        job: Job[Any] = Job(row)
        self.distribute(Event(kind, job, stats=_stats(row, run_ns, complete_ns, waited_us)))


def event_kind(state: str, reason: Reason) -> EventKind | None:
    """River's rule: the row as it was stored decides, the reason only where two lead to `available` (river.md 6.5)."""
    if state == JobState.CANCELLED:
        return EventKind.JOB_CANCELLED
    if state == JobState.COMPLETED:
        return EventKind.JOB_COMPLETED
    if state in (JobState.DISCARDED, JobState.RETRYABLE):
        return EventKind.JOB_FAILED
    if state == JobState.SCHEDULED:
        return EventKind.JOB_SNOOZED
    if state == JobState.AVAILABLE:
        if reason is Reason.SNOOZED:
            return EventKind.JOB_SNOOZED
        return EventKind.JOB_INTERRUPTED if reason is Reason.INTERRUPTED else EventKind.JOB_FAILED
    return None


def _stats(row: StoredRow, run_ns: int, complete_ns: int, waited_us: int) -> JobStats:
    if waited_us < 0:  # a bare completion leaves scheduled_at alone: the row tells
        attempted, scheduled = row.field(ATTEMPTED_AT), row.field(SCHEDULED_AT)
        if attempted is not None and scheduled is not None:
            waited_us = int.from_bytes(attempted, "big", signed=True) - int.from_bytes(scheduled, "big", signed=True)
    return JobStats(complete_ns / 1e9, max(waited_us, 0) / 1e6, run_ns / 1e9)
