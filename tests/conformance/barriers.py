"""Named barriers that jobs wait at until the suite opens them.

Any thread. Generation A creates them by request and forgets them when they are released; B makes them at first use.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import river_fast as river
from tests.conformance.errors import not_found, rejected

LOOK_EVERY = 0.01  # seconds between looks whether the job that waits was cancelled


class Barriers:
    """`made_at_use`: as generation B has it."""

    def __init__(self, *, made_at_use: bool = False) -> None:
        self._made_at_use = made_at_use
        self._lock = threading.Lock()
        self._barriers: dict[str, threading.Event] = {}
        self._released: dict[str, datetime] = {}

    def create(self, name: str) -> None:
        with self._lock:
            if name in self._barriers:
                raise rejected(f"barrier {name!r} exists")
            self._barriers[name] = threading.Event()

    def release(self, name: str) -> None:
        """Wakes everybody who waits; generation A forgets the name."""
        with self._lock:
            if self._made_at_use:
                self._barriers.setdefault(name, threading.Event()).set()
                return
            if name not in self._barriers:
                raise not_found(f"barrier {name!r} does not exist")
            self._barriers.pop(name).set()
            self._released[name] = datetime.now(UTC)

    def forget_all(self) -> None:
        """Wakes everybody, at whatever barrier."""
        with self._lock:
            for barrier in self._barriers.values():
                barrier.set()
            self._barriers.clear()
            self._released.clear()

    def get(self, name: str) -> threading.Event | None:
        with self._lock:
            if self._made_at_use:
                return self._barriers.setdefault(name, threading.Event())
            return self._barriers.get(name)

    def wait(self, name: str, job: river.Job[Any]) -> None:
        """Until the barrier is released; raises the cancellation of a job that is cancelled before.

        A job whose row was `running` before the release counts as one that waited, though it comes here after it.
        """
        barrier = self.get(name)
        if barrier is None:
            released = self._released.get(name)
            if released is not None and job.attempted_at is not None and job.attempted_at <= released:
                return
            raise ValueError(f"unknown barrier {name!r}")
        while not barrier.wait(LOOK_EVERY):
            job.raise_if_cancelled()
