"""Runs the maintenance services while this client leads, and only then. River: QueueMaintainer, QueueMaintainerLeader.

Its thread starts and stops the services it was given, at each change of leadership; it owns them between its own start
and stop. A leader whose services will not start is no leader: it resigns, so that another client may do better.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from river_fast.errors import RiverError
from river_fast.startstop import Phase, Service
from river_fast.testsignal import TestSignal

if TYPE_CHECKING:
    from river_fast.elector import Elector, Term
    from river_fast.maintenance import MaintenanceService

START_BACKOFF = (0.0, 1.0, 2.0)  # seconds before each of the three tries
STOP_TIMEOUT = 10.0  # seconds for the services together: a cancelled statement ends at once
INTERRUPT_AGAIN = 0.5  # seconds


class QueueMaintainer(Service):
    """`stagger` False: the services begin at once, not within a second at random (for tests)."""

    name = "queue_maintainer"

    def __init__(
        self,
        elector: Elector,
        services: Sequence[MaintenanceService],
        *,
        stagger: bool = True,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__()
        self._elector = elector
        self._services = tuple(services)
        self._stagger = stagger
        self._logger = logger or logging.getLogger("river_fast.queue_maintainer")
        self._poke = threading.Event()
        self._remove_listener: Callable[[], None] = lambda: None
        self._term: Term | None = None  # the one the services run under; the thread's alone
        self.started = TestSignal[object]()
        self.ended = TestSignal[object]()

    def _start(self) -> None:
        self._poke.clear()
        self._remove_listener = self._elector.add_listener(lambda is_leader, term: self._poke.set())

    def _run(self) -> None:
        while not self._stopping.is_set():
            term = self._elector.term
            if term != self._term:
                self._end()
                if term is not None:
                    self._begin(term)
                continue
            # A leader whose elector is stuck hears of nothing: its trust ends all the same.
            self._poke.wait(max(self._elector.trusted_for(), 0.001) if term is not None else None)
            self._poke.clear()
        self._end()

    def _begin(self, term: Term) -> None:
        self._term = term
        for pause in START_BACKOFF:
            if self._stopping.wait(pause) or not self._elector.leads(term):
                return
            try:
                for service in self._services:
                    service.lead(lambda: self._elector.leads(term), stagger=self._stagger)
                    service.start()
                    if service.phase is Phase.STOPPING:  # still: from an earlier term
                        raise RiverError(f"{service.name} has not ended yet")
            except BaseException as error:  # of the user's hooks too, which may exit: a term must not go on so
                expected = isinstance(error, RiverError | OSError | RuntimeError)  # RuntimeError: no thread to be had
                self._logger.warning(
                    "the maintenance services cannot be started: %s", error, exc_info=None if expected else error
                )
                self._stop_services()
            else:
                self.started.signal(term)
                return
        self._logger.error("the maintenance services cannot be started, resigning")
        self._elector.request_resign(term)

    def _end(self) -> None:
        term, self._term = self._term, None
        if term is not None:
            self._stop_services()
            self.ended.signal(term)

    def _stop_services(self) -> None:
        for service in self._services:
            service.request_stop()
        deadline = time.monotonic() + STOP_TIMEOUT
        for service in self._services:
            # A cancel that came between two statements hit neither.
            while not service.wait_stopped(INTERRUPT_AGAIN) and time.monotonic() < deadline:
                service.interrupt()
            if service.phase is Phase.STOPPING:
                self._logger.warning("%s did not stop in time", service.name)

    def _wake(self) -> None:
        self._poke.set()

    def _finish(self) -> None:
        self._remove_listener()
        self._remove_listener = lambda: None
