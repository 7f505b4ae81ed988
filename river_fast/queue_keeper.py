"""Keeps this client's rows of `river_queue`: made at start, touched while worked, watched for pauses. River: producer.

Its thread does all of it and calls `on_change`, one change after the other. Control messages come through `handle`,
from any thread; the rows are read again now and then: soon by whoever cannot hear them, or could not for a while.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from river_fast.control import ControlAction, ControlMessage
from river_fast.driver import Driver, Statement
from river_fast.errors import DatabaseError
from river_fast.queue import stored_queues
from river_fast.startstop import Service
from river_fast.testsignal import TestSignal

TOUCH_INTERVAL = 600.0  # seconds; River's. A row untouched for 24 h is taken for a queue that nobody works
FIRST_TOUCH_WITHIN = 1.0  # seconds; River's
TOUCH_JITTER = 60.0  # added at random, so that a fleet started together does not touch together
REREAD_INTERVAL = 60.0  # seconds; a message may be lost on a way that fell silent. River's, since 0.51.1
REREAD_INTERVAL_POLL_ONLY = 2.0  # River's
RETRY_INTERVAL = 2.0  # seconds after the database refused


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What a producer needs of a queue's row."""

    paused: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Kept:
    """`known` is the newest that was read or told, `reported` what `on_change` heard last (None: nothing yet);
    `told` counts messages, so that a row read before one came does not undo it."""

    known: QueueRow = field(default_factory=QueueRow)
    reported: QueueRow | None = None
    told: int = 0


class QueueKeeper(Service):
    """`on_change(queue, paused, metadata)` is called from the keeper's thread with what changed since `register`."""

    name = "queue_keeper"

    def __init__(
        self,
        driver: Driver,
        on_change: Callable[[str, bool, Mapping[str, Any]], None],
        *,
        poll_only: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__()
        self._driver = driver
        self._on_change = on_change
        self._reread_interval = REREAD_INTERVAL_POLL_ONLY if poll_only else REREAD_INTERVAL
        self._logger = logger or logging.getLogger("river_fast.queue_keeper")
        self._lock = threading.Lock()  # guards _kept
        self._kept: dict[str, _Kept] = {}
        self._poke = threading.Event()
        self._reread_wanted = False
        self._touch_interval = TOUCH_INTERVAL
        self.touched = TestSignal[list[str]]()
        self.reread = TestSignal[list[str]]()

    def register(self, name: str, adopt: Callable[[QueueRow], None] = lambda row: None) -> QueueRow:
        """Make or touch the queue's row and keep it from now on; the row's state now. Any thread. `DatabaseError`.

        `adopt` is called with that state, and changes after it are passed on only when it has returned: none is lost
        while the caller takes the queue up. Where it raises, the queue is kept no more than before.
        """
        with self._lock:
            before = self._kept.get(name)
            kept = self._kept[name] = _Kept()
        try:
            self._update([name], "queue_create_or_set_updated_at")
            with self._lock:
                row = kept.known
            adopt(row)
        except BaseException:
            with self._lock:
                if before is None:
                    self._kept.pop(name, None)
                else:
                    self._kept[name] = before
            self.check_soon()
            raise
        with self._lock:
            kept.reported = row
        self._poke.set()
        return row

    def unregister(self, name: str) -> None:
        """Leave the row alone from now on. Any thread."""
        with self._lock:
            self._kept.pop(name, None)

    def handle(self, message: ControlMessage) -> None:
        """A control message: pauses, resumes and new metadata are passed on by the keeper's thread. Any thread."""
        with self._lock:
            for name, kept in self._kept.items():
                if not message.concerns(name):
                    continue
                kept.told += 1
                if message.action is ControlAction.METADATA_CHANGED:
                    kept.known = QueueRow(kept.known.paused, message.metadata or {})
                elif message.action in (ControlAction.PAUSE, ControlAction.RESUME):
                    kept.known = QueueRow(message.action is ControlAction.PAUSE, kept.known.metadata)
        self._poke.set()

    def check_soon(self) -> None:
        """Read the rows again now: something may have been told while nobody listened. Any thread."""
        self._reread_wanted = True
        self._poke.set()

    # The service.

    def _run(self) -> None:
        touch_at = time.monotonic() + random.uniform(0.0, FIRST_TOUCH_WITHIN)
        reread_at = time.monotonic() + self._reread_interval
        while not self._stopping.is_set():
            self._poke.wait(max(min(touch_at, reread_at) - time.monotonic(), 0.0))
            self._poke.clear()
            self._report()
            if self._reread_wanted:
                self._reread_wanted = False
                reread_at = 0.0
            try:
                if time.monotonic() >= touch_at:
                    touch_at = time.monotonic() + RETRY_INTERVAL
                    self._touch()
                    touch_at += self._touch_interval + random.uniform(0.0, TOUCH_JITTER)
                if time.monotonic() >= reread_at:
                    reread_at = time.monotonic() + RETRY_INTERVAL
                    self._reread()
                    reread_at = time.monotonic() + self._reread_interval
            except DatabaseError as error:
                self._logger.warning("cannot keep the rows of river_queue, next try in %g s: %s", RETRY_INTERVAL, error)
            self._report()

    def _wake(self) -> None:
        self._poke.set()

    def _touch(self) -> None:
        names = self._names()
        if names:
            self._update(names, "queue_create_or_set_updated_at")
        self.touched.signal(names)

    def _reread(self) -> None:
        names = self._names()
        if names and (missing := set(names) - self._update(names, "queue_get_many")):
            self._update(sorted(missing), "queue_create_or_set_updated_at")  # the row was deleted beneath us
        self.reread.signal(names)

    def _update(self, names: list[str], statement: str) -> set[str]:
        """Run the statement and take over what it returns; the names that have a row."""
        with self._lock:
            before = {name: (kept, kept.told) for name in names if (kept := self._kept.get(name)) is not None}
        with self._driver.autocommit() as executor:
            rows = executor.run(Statement(statement, {"names": names}, stored_queues))
        with self._lock:
            for row in rows:
                kept, told = before.get(row.name, (None, 0))
                if kept is None:
                    continue
                if kept.told == told:
                    kept.known = QueueRow(row.paused, row.metadata)
                else:  # the row may be older than what was told meanwhile
                    self._reread_wanted = True
                    self._poke.set()
        return {row.name for row in rows}

    def _report(self) -> None:
        """Pass on what differs from what was passed on before."""
        with self._lock:
            changed = [(name, kept) for name, kept in self._kept.items() if kept.reported not in (None, kept.known)]
            for _, kept in changed:
                kept.reported = kept.known
            changes = [(name, kept.known) for name, kept in changed]
        for name, row in changes:
            try:
                self._on_change(name, row.paused, row.metadata)
            except Exception:
                self._logger.exception("a change of queue %s could not be passed on", name)

    def _names(self) -> list[str]:
        with self._lock:
            return sorted(self._kept)
