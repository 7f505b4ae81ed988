"""Holds the jobs of a client's first claim: they are `running`, and their work has not begun, until a barrier opens.

On the worker threads. A job's claim is known by its `attempted_at`, the moment of the claiming transaction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import river_fast as river

DELIVERY_MOST = 5.0  # seconds that a cancellation which stands in the row may take to reach the job


class ClaimBarrier:
    """`cancel_requested(job_id)` reads the row: a cancel that was asked for while the claim was held must have reached
    the job before it starts, and its notification may still be on its way when the barrier opens."""

    def __init__(self, barrier: threading.Event, cancel_requested: Callable[[int], bool]) -> None:
        self._barrier = barrier
        self._cancel_requested = cancel_requested
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._first: datetime | None = None

    def hold(self, job: river.Job[Any]) -> None:
        """Waits where the job is one of the first claim."""
        with self._lock:
            if self._first is None:
                self._first = job.attempted_at
        if job.attempted_at != self._first or self._stopped.is_set():
            return
        while not self._barrier.wait(0.005) and not self._stopped.is_set():
            pass
        if not job.cancelled and self._cancel_requested(job.id):
            job.wait_cancelled(DELIVERY_MOST)

    def stop(self) -> None:
        """The client stops: nobody is held any more."""
        self._stopped.set()
