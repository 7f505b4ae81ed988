"""The stop: one order, a deadline at each step, asked for from anywhere any number of times.

Its thread is started with the client and sleeps until the first request. A request is one put into a SimpleQueue, which
is safe in a signal handler, a job, a callback, an `atexit` function: nobody who asks takes a lock.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from river_fast.job import Job
from river_fast.stop_report import StopReport, UnrecordedOutcome


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a step of the stop may take, in seconds: until `by` after the deadline (negative: before it), though
    `least` where that has passed, and `most` where the caller gave plenty, or no limit at all."""

    by: float
    least: float
    most: float


# All of them end within a second of the deadline (promise P7), with the margins that each step has of its own: a fetch
# that was cut short takes up to half a second to be understood, threads up to a quarter to see their end.
FETCH = Allowance(-0.5, 0.1, 10.0)
ABANDON = Allowance(0.1, 0.05, 5.0)
COMPLETER = Allowance(0.5, 0.1, 30.0)
SERVICES = Allowance(0.6, 0.05, 5.0)
CONNECTIONS = Allowance(0.7, 0.05, 5.0)
SOFT_STOP_SHARE = 0.8  # of the timeout: then running jobs are cancelled (design, section 4)
TICK = 0.002
COMPLETER_LOOK = 0.05  # how often the wait for the completer looks whether the stop was made nearer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StopRequest:
    """`deadline` monotonic seconds, infinite for none; `hard` cancels running jobs at once; `asked_at` likewise."""

    asked_at: float
    deadline: float
    hard: bool = False


class Stoppable(Protocol):
    """What the stop needs of the running client; each wait is bounded by its argument."""

    def stop_fetching(self, timeout: float) -> bool:
        """False: a fetch's outcome stayed unknown."""

    def awaited(self) -> list[Job[object]]:
        """Jobs that run and may still end."""

    def cancel_running(self) -> None:
        """Tell every running job, once."""

    def abandon(self, timeout: float) -> tuple[list[Job[object]], list[UnrecordedOutcome]]:
        """Give up on what still runs; and those of them whose row could not even be handed to the completer."""

    def close_completer(self, timeout: float, patience: float) -> list[UnrecordedOutcome] | None:
        """Waits `patience` at most; None: it goes on."""

    def close_services(self, timeout: float) -> None: ...
    def close_connections(self, timeout: float) -> None: ...


class Shutdown:
    """One run's stop. `request` any time, `wait` for the report; the thread ends with the report."""

    def __init__(self, running: Stoppable, soft_stop_timeout: float | None, logger: logging.Logger) -> None:
        self._running = running
        self._soft_stop_timeout = soft_stop_timeout
        self._logger = logger
        self._requests: queue.SimpleQueue[StopRequest] = queue.SimpleQueue()
        self._done = threading.Event()
        self._callbacks: deque[Callable[[], object]] = deque()
        self._begun = False
        self._failed = False
        self._report: StopReport | None = None
        self._deadline = math.inf
        self._hard = False
        self._asked_at = math.inf
        self._thread = threading.Thread(target=self._run, name="river_fast.shutdown", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def report(self) -> StopReport | None:
        """None until the stop is over."""
        return self._report

    @property
    def begun(self) -> bool:
        """Whether a stop was asked for."""
        return self._begun

    def request(self, timeout: float | None, hard: bool) -> None:
        """Begin to stop, or make a stop that is under way nearer or harder. Never blocks."""
        self._begun = True
        now = time.monotonic()
        self._requests.put(StopRequest(now, math.inf if timeout is None else now + max(timeout, 0.0), hard))

    def duration(self) -> float:
        """Seconds since the first request; 0 before it."""
        return max(time.monotonic() - self._asked_at, 0.0)

    def wait(self, timeout: float | None) -> bool:
        """True once the report is there."""
        return self._done.wait(timeout)

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, when the report is there: at once, or later on the shutdown's thread."""
        self._callbacks.append(callback)
        if self._done.is_set():
            self._tell()

    def forget(self, callback: Callable[[], object]) -> None:
        """The reverse of `when_done`; fine on one that was called already."""
        with contextlib.suppress(ValueError):
            self._callbacks.remove(callback)

    def _tell(self) -> None:
        while True:
            try:
                callback = self._callbacks.popleft()  # whoever gets it calls it
            except IndexError:
                return
            callback()

    def _run(self) -> None:
        self._take(self._requests.get())
        try:
            self._report = self._stop()
            self._logger.info(
                "stopped %s in %.2f s", "gracefully" if self._report.graceful else "with loss", self._report.duration
            )
        finally:
            self._done.set()
            self._tell()

    def _stop(self) -> StopReport:
        running = self._running
        resolved = self._step(lambda: running.stop_fetching(self._allow(FETCH)), False)
        self._step(self._wait_for_jobs, None)
        abandoned: list[Job[object]] = []
        unrecorded: list[UnrecordedOutcome] = []
        self._step(lambda: self._abandon(abandoned, unrecorded), None)
        self._step(lambda: self._close_completer(unrecorded), None)
        self._step(lambda: running.close_services(self._allow(SERVICES)), None)
        self._step(lambda: running.close_connections(self._allow(CONNECTIONS)), None)
        if abandoned:
            self._logger.warning("stop left %d jobs behind that would not end: %s", len(abandoned), abandoned[:20])
        if unrecorded:
            self._logger.error("stop could not record %d outcomes; the first: %s", len(unrecorded), unrecorded[0])
        return StopReport(
            graceful=not abandoned and not unrecorded and resolved and not self._failed,
            duration=time.monotonic() - self._asked_at,
            abandoned=tuple(job.id for job in abandoned),
            unrecorded=tuple(unrecorded),
            unresolved_fetch=not resolved,
        )

    def _step(self, work: Callable[[], T], otherwise: T) -> T:
        """One step; a bug of ours in it must not keep the next ones from closing what is theirs."""
        try:
            return work()
        except Exception:
            self._failed = True
            self._logger.exception("a step of the stop failed; the others follow")
            return otherwise

    def _abandon(self, abandoned: list[Job[object]], unrecorded: list[UnrecordedOutcome]) -> None:
        jobs, lost = self._running.abandon(self._allow(ABANDON))
        abandoned.extend(jobs)
        unrecorded.extend(lost)

    def _close_completer(self, unrecorded: list[UnrecordedOutcome]) -> None:
        lost = None
        while lost is None:
            lost = self._running.close_completer(self._allow(COMPLETER), COMPLETER_LOOK)
        unrecorded.extend(lost)

    def _wait_for_jobs(self) -> None:
        """Until no job runs, or the deadline; cancelling them when the time for it has come."""
        pause = threading.Event()
        cancelled = 0.0
        while self._running.awaited():
            self._take_all()
            now = time.monotonic()
            if now >= self._deadline:
                return
            if (self._hard or now >= self._soft_deadline()) and now - cancelled > 0.05:
                self._running.cancel_running()  # again and again: a job may have begun since
                cancelled = now
            pause.wait(TICK)  # there is no signal per job: it would cost every job that ever runs

    def _soft_deadline(self) -> float:
        if self._soft_stop_timeout is not None:
            return self._asked_at + self._soft_stop_timeout
        if math.isinf(self._deadline):
            return math.inf
        return self._asked_at + SOFT_STOP_SHARE * (self._deadline - self._asked_at)

    def _allow(self, step: Allowance) -> float:
        """What the next step may take; requests that came meanwhile count."""
        self._take_all()
        return min(max(self._deadline + step.by - time.monotonic(), step.least), step.most)

    def _take_all(self) -> None:
        while True:
            try:
                self._take(self._requests.get_nowait())
            except queue.Empty:
                return

    def _take(self, request: StopRequest) -> None:
        self._asked_at = min(self._asked_at, request.asked_at)
        self._deadline = min(self._deadline, request.deadline)
        self._hard = self._hard or request.hard
