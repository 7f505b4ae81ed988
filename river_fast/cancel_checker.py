"""Finds cancels of this client's running jobs that no notification told of. River: in the producer.

Its thread asks the database every 60 s beside a notifier, every 2 s without one, and at once after a reconnect; it owns
nothing, and asks nothing while nothing runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from river_fast.driver import Driver, RawRow, Statement
from river_fast.errors import DatabaseError
from river_fast.startstop import Service
from river_fast.testsignal import TestSignal

# What names one run: the job's id, and its attempted_at in microseconds since 2000.
Run = tuple[int, int]

CHECK_INTERVAL = 60.0  # seconds; River's
CHECK_INTERVAL_POLL_ONLY = 2.0
RETRY_INTERVAL = 2.0  # seconds after the database refused
BATCH = 1000  # ids a query; River's


class CancelChecker(Service):
    """`active_jobs()` are the runs of this client, `cancel(job_id)` cancels one; both for any thread."""

    name = "cancel_checker"

    def __init__(
        self,
        driver: Driver,
        active_jobs: Callable[[], Iterable[Run]],
        cancel: Callable[[int], None],
        *,
        poll_only: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__()
        self._driver = driver
        self._active_jobs = active_jobs
        self._cancel = cancel
        self._interval = CHECK_INTERVAL_POLL_ONLY if poll_only else CHECK_INTERVAL
        self._logger = logger or logging.getLogger("river_fast.cancel_checker")
        self._poke = threading.Event()
        self.checked = TestSignal[int]()

    def check_soon(self) -> None:
        """Ask now: a cancel may have been told while nobody listened. Any thread."""
        self._poke.set()

    def _run(self) -> None:
        pause = self._interval
        while not self._stopping.is_set():
            self._poke.wait(pause)
            self._poke.clear()
            if self._stopping.is_set():
                return
            pause = self._interval
            try:
                self._check()
            except DatabaseError as error:
                pause = min(RETRY_INTERVAL, self._interval)
                self._logger.warning("cannot look for cancels, next try in %g s: %s", pause, error)

    def _wake(self) -> None:
        self._poke.set()

    def _check(self) -> None:
        """Cancel the runs whose row asks for it, and that are still the ones that were asked about."""
        runs = sorted(self._active_jobs())
        requested: list[Run] = []
        for start in range(0, len(runs), BATCH):
            ids = [job_id for job_id, _ in runs[start : start + BATCH]]
            with self._driver.autocommit() as executor:
                requested += executor.run(Statement("job_get_cancel_requested", {"ids": ids}, _runs))
        if requested:
            for job_id, _ in set(requested) & set(self._active_jobs()):
                self._cancel(job_id)
        self.checked.signal(len(runs))


def _runs(rows: list[RawRow], count: int) -> list[Run]:
    return [(_integer(job_id), _integer(attempted_at)) for job_id, attempted_at in rows]


def _integer(raw: bytes | None) -> int:
    """A bigint, or a timestamp's microseconds; NULL is before all times."""
    return -(2**63) if raw is None else int.from_bytes(raw, "big", signed=True)
