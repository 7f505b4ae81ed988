"""What the services that only the leader runs have in common: an interval, batches, a term, and a careful end.

A maintenance service runs on its own thread while this client leads, and asks before each batch whether it still does.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator

from river_fast.config import NEVER
from river_fast.driver import Driver, Executor, Statement
from river_fast.errors import DatabaseError, UniqueConflictError
from river_fast.startstop import Service
from river_fast.testsignal import TestSignal

STAGGER = 1.0  # seconds: services of a new leader begin within this, at random, not all at once; River's
# Seconds between full batches: as long as the batch took, so that at most half of the time is ours, whatever the
# server's pace. River: at random within these, which caps a cleaner at some 20,000 rows a second.
BATCH_PAUSE_LEAST, BATCH_PAUSE_MOST = 0.05, 1.0
QUERY_TIMEOUT = 30.0  # seconds; River's
ANSWER_MARGIN = 5.0  # seconds: the server speaks first, and then the connection survives

QUERY_CANCELED = "57014"


class BatchSize:
    """How many rows a pass takes at a time: less for good once the database has shown that it cannot do so many.

    Three timeouts in a row within ten minutes do it, for the life of the object, which outlives a leadership. River:
    the same, its circuit breaker.
    """

    FULL = 10_000
    REDUCED = 1_000
    TIMEOUTS = 3
    WINDOW = 600.0

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._timeouts: list[float] = []
        self.current = self.FULL

    def timed_out(self) -> bool:
        """True if this one was the last straw."""
        now = self._clock()
        self._timeouts = [at for at in self._timeouts if now - at < self.WINDOW] + [now]
        if len(self._timeouts) < self.TIMEOUTS or self.current == self.REDUCED:
            return False
        self.current = self.REDUCED
        return True

    def succeeded(self) -> None:
        self._timeouts.clear()


class MaintenanceService(Service):
    """A subclass gives `name`, `interval` and `_work_batch`; `lead` tells it, before each start, of its term."""

    interval: float  # seconds between passes

    def __init__(
        self, driver: Driver, *, interval: float | None = None, logger: logging.Logger | None = None
    ) -> None:
        super().__init__()
        if interval is not None:
            self.interval = interval
        self._driver = driver
        self._logger = logger or logging.getLogger(f"river_fast.{self.name}")
        self._batch_size = BatchSize()
        self._leads: Callable[[], bool] = lambda: True
        self._stagger = STAGGER
        self._at_work = threading.Lock()  # guards _executor
        self._executor: Executor | None = None
        self._failing = False
        self.passed = TestSignal[int]()  # rows a whole pass has handled
        self.failed = TestSignal[DatabaseError]()

    def lead(self, leads: Callable[[], bool], *, stagger: bool = True) -> None:
        """`leads()` is asked before each batch; False ends the pass. `stagger` False: begin at once (for tests)."""
        self._leads = leads
        self._stagger = STAGGER if stagger else 0.0

    def _begin_pass(self) -> None:
        """Forget what was only of the pass before."""

    def _work_batch(self, limit: int) -> int:
        """Handle up to `limit` rows; how many there were: as many as `limit` means that more may wait."""
        raise NotImplementedError

    def _run(self) -> None:
        self._stopping.wait(random.uniform(0, self._stagger))
        while not self._stopping.is_set():
            begun = time.monotonic()
            self._try_pass()
            self._stopping.wait(max(begun + self.interval - time.monotonic(), 0.0))

    def _try_pass(self) -> None:
        try:
            handled = self._pass()
            self._failing = False
            self.passed.signal(handled)
        except DatabaseError as error:
            self._fail(error)
        except UniqueConflictError as error:
            self._logger.warning("a rival kept taking the same unique keys, trying again later: %s", error)
        except BaseException:  # a mistake of ours, or of the user's own classes: the next pass may do better
            self._logger.exception("%s failed", self.name)

    def _pass(self) -> int:
        self._begin_pass()
        total = 0
        while self._may_work():
            limit, begun = self._batch_size.current, time.monotonic()
            count = self._work_batch(limit)
            self._batch_size.succeeded()
            total += count
            pause = min(max(time.monotonic() - begun, BATCH_PAUSE_LEAST), BATCH_PAUSE_MOST)
            if count < limit or self._stopping.wait(pause):
                break
        return total

    def _may_work(self) -> bool:
        """Asked before each transaction."""
        return self._leads() and not self._stopping.is_set()

    def _fail(self, error: DatabaseError) -> None:
        if self._stopping.is_set():
            return  # cancelled by the stop
        if error.sqlstate == QUERY_CANCELED and self._batch_size.timed_out():
            self._logger.warning("%d rows at a time are too many, from now on %d", BatchSize.FULL, BatchSize.REDUCED)
        # The first failure in a row is a warning: an outage of an hour is not worth hundreds of lines.
        self._logger.log(logging.DEBUG if self._failing else logging.WARNING, "%s failed: %s", self.name, error)
        self._failing = True
        self.failed.signal(error)

    @contextlib.contextmanager
    def _transaction(self, timeout: float | None = None) -> Iterator[Executor]:
        """One transaction that a stop cancels. `timeout`: seconds a statement may take (None: 30), or `NEVER`."""
        self._raise_if_stopping()  # before a driver that is closed by now is asked for a connection
        limit = QUERY_TIMEOUT if timeout is None else timeout
        answer = None if limit == NEVER else limit + ANSWER_MARGIN
        with self._driver.transaction(answer_timeout=answer) as executor, self._interruptible(executor):
            milliseconds = 0 if limit == NEVER else max(int(limit * 1000), 1)
            executor.run(Statement("statement_timeout_set", {"milliseconds": str(milliseconds)}))
            yield executor

    @contextlib.contextmanager
    def _interruptible(self, executor: Executor) -> Iterator[None]:
        """A stop meanwhile cancels what the executor runs."""
        with self._at_work:
            self._raise_if_stopping()
            self._executor = executor
        try:
            yield
        finally:
            with self._at_work:
                self._executor = None

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise DatabaseError("the service is stopping", QUERY_CANCELED)

    def interrupt(self) -> None:
        """Cancel the statement that runs now, if one does; for a stop that takes too long. Any thread."""
        with self._at_work:
            if self._executor is not None:
                try:
                    self._executor.cancel()
                except DatabaseError as error:
                    self._logger.debug("the running statement could not be cancelled: %s", error)

    def _wake(self) -> None:
        self.interrupt()
