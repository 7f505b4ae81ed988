"""Makes one of a schema's clients the leader, by a lease that it renews. River: Elector.

Its thread talks to the database and calls the listeners; it owns this client's term. Whether the client leads *now*
(`leads`) is answered on any thread from a clock of this machine alone: a leader that was frozen, or lost its database,
stops trusting itself a second before its lease is over, whoever tells it or not.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from river_fast.control import LEADERSHIP_TOPIC, channel
from river_fast.driver import Driver, Executor, RawRow, Statement
from river_fast.errors import DatabaseError
from river_fast.job_row import decode_timestamptz
from river_fast.startstop import Service
from river_fast.testsignal import TestSignal

INTERVAL = 5.0  # seconds between attempts, whether to be elected or re-elected; River's, as all of these
INTERVAL_JITTER = 1.0  # added at random, so that followers do not try as one
LEASE = INTERVAL + 10.0
TRUST_MARGIN = 1.0  # how long before its lease is over a leader stops trusting itself
ATTEMPT_TIMEOUT = 5.0
ANSWER_MARGIN = 1.0
RESIGN_TIMEOUTS = (1.0, 2.0, 3.0)  # of the tries at resigning
RESIGNED_JITTER = 0.05  # followers that hear of a resignation try within this
RETRY_BACKOFF = (0.5, 1.0, 2.0, 4.0)  # after a failed re-election, while trust lasts

Listener = Callable[[bool, "Term"], None]
T = TypeVar("T")


class LeadershipTopic(Protocol):
    """What the elector needs of the notifier."""

    def subscribe(self, topic: str, callback: Callable[[dict[str, Any]], None]) -> Callable[[], None]: ...


@dataclass(frozen=True, slots=True)
class Term:
    """One leadership: the same client elected again has another. `elected_at` is the server's time."""

    leader_id: str
    elected_at: datetime


@dataclass(frozen=True, slots=True)
class _Held:
    term: Term
    trusted_until: float


def suspend_aware_clock() -> float:
    """Monotonic, and goes on while the machine is suspended where the system has such a clock: leases do so too."""
    return time.clock_gettime(_BOOT_CLOCK) if _BOOT_CLOCK is not None else time.monotonic()


_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Elector(Service):
    """`notifier` None: resignations are not heard, and found out at the next attempt. `notify`: whether the server has
    NOTIFY. The first attempt is made at once; the service runs whether or not it leads."""

    name = "elector"

    def __init__(
        self,
        driver: Driver,
        client_id: str,
        notifier: LeadershipTopic | None = None,
        *,
        interval: float = INTERVAL,
        logger: logging.Logger | None = None,
        clock: Callable[[], float] = suspend_aware_clock,
    ) -> None:
        super().__init__()
        self._driver = driver
        self._client_id = client_id
        self._notifier = notifier
        self._logger = logger or logging.getLogger("river_fast.elector")
        self._clock = clock
        self._lock = threading.Lock()  # guards _listeners and _resign_wanted
        self._listeners: list[list[Listener]] = []
        self._resign_wanted: Term | None = None
        self._held: _Held | None = None  # written by the thread alone
        self._others_resigned = False
        self._failures = 0
        self._poke = threading.Event()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._interval = interval
        self.gained = TestSignal[Term]()
        self.lost = TestSignal[Term]()
        self.denied = TestSignal[None]()
        self.kept = TestSignal[Term]()

    @property
    def term(self) -> Term | None:
        """The term in which this client leads now; None if it does not, or may not trust that it does. Any thread."""
        held = self._held
        return held.term if held is not None and self._clock() < held.trusted_until else None

    def leads(self, term: Term) -> bool:
        """Whether this client still leads in that very term. Ask before each act as leader. Any thread."""
        return self.term == term

    def trusted_for(self) -> float:
        """Seconds for which this client may think itself leader if nothing renews that; 0 if it is not. Any thread."""
        held = self._held
        return 0.0 if held is None else max(held.trusted_until - self._clock(), 0.0)

    def add_listener(self, callback: Listener) -> Callable[[], None]:
        """Call `callback(is_leader, term)` at each change, from the elector's thread; returns its removal. Any thread.

        A callback must be quick. One added while this client leads is called at once, and perhaps once more.
        """
        entry = [callback]
        with self._lock:
            self._listeners.append(entry)
            term = self.term
            if term is not None:
                callback(True, term)

        def remove() -> None:
            with self._lock:
                self._listeners[:] = [other for other in self._listeners if other is not entry]

        return remove

    def request_resign(self, term: Term | None = None) -> None:
        """Give the leadership up, if this client has it (in that `term`), and compete again. At once; any thread."""
        held = self._held
        if held is not None and term in (None, held.term):
            with self._lock:
                self._resign_wanted = held.term
            self._poke.set()

    # The service.

    def _start(self) -> None:
        self._driver.open()
        self._poke.clear()
        self._others_resigned = False
        self._failures = 0
        if self._notifier is not None:
            self._unsubscribe = self._notifier.subscribe(LEADERSHIP_TOPIC, self._told)

    def _run(self) -> None:
        while not self._stopping.is_set():
            delay = self._compete() if self._held is None else self._keep(self._held)
            self._poke.wait(min(delay, self.trusted_for()) if self._held is not None else delay)
            self._poke.clear()
            if self._others_resigned and self._held is None:
                self._stopping.wait(random.uniform(0, RESIGNED_JITTER))
            self._others_resigned = False
        if self._held is not None:
            self._step_down(self._held.term, "the client is stopping", logging.INFO)

    def _wake(self) -> None:
        self._poke.set()

    def _finish(self) -> None:
        self._unsubscribe()
        self._unsubscribe = lambda: None
        self._held = None

    def _compete(self) -> float:
        """One attempt at being elected; the seconds until the next one."""
        begun = self._clock()
        try:
            elected_at = self._elect()
        except DatabaseError as error:
            self._failed("cannot take part in the election", error)
            return self._pause()
        self._failures = 0
        if elected_at is None:
            self.denied.signal(None)
            return self._pause()
        term = Term(self._client_id, elected_at)
        self._held = _Held(term, begun + LEASE - TRUST_MARGIN)
        self._logger.info("this client is the leader")
        self._tell(True, term)
        self.gained.signal(term)
        return self._pause()

    def _keep(self, held: _Held) -> float:
        """One attempt at staying leader, or the end of it; the seconds until the next step."""
        with self._lock:
            wanted, self._resign_wanted = self._resign_wanted, None
        if wanted == held.term:
            self._step_down(held.term, "it was asked to resign", logging.INFO)
            return 0.0
        begun = self._clock()
        if begun >= held.trusted_until:
            self._step_down(held.term, "its lease could not be renewed in time")
            return 0.0
        try:
            kept = self._reelect(held.term)
        except DatabaseError as error:
            delay = RETRY_BACKOFF[min(self._failures, len(RETRY_BACKOFF) - 1)]
            self._failed("cannot renew the leader's lease", error)
            return delay
        self._failures = 0
        if not kept:
            self._step_down(held.term, "its lease is gone", resign=False)
            return 0.0
        # An answer that comes after trust has ended does not bring it back: services may have stopped by then.
        if self._clock() < held.trusted_until:
            self._held = _Held(held.term, begun + LEASE - TRUST_MARGIN)
            self.kept.signal(held.term)
        return self._pause()

    def _step_down(self, term: Term, why: str, level: int = logging.WARNING, *, resign: bool = True) -> None:
        """Leader no more, first of all for this client's own services; then in the database, as well as that can be."""
        self._held = None
        self._logger.log(level, "this client is no longer the leader: %s", why)
        self._tell(False, term)
        if resign:
            self._resign(term)
        self.lost.signal(term)

    def _resign(self, term: Term) -> None:
        for timeout in RESIGN_TIMEOUTS:
            try:
                params = {
                    "leader_id": term.leader_id,
                    "elected_at": term.elected_at,
                    "notify": self._driver.open().notify,
                    "channel": channel(self._driver.schema, LEADERSHIP_TOPIC),
                }
                self._run_within(timeout, Statement("leader_resign", params))
                return
            except DatabaseError as error:
                self._failed("cannot resign; the lease ends by itself", error)

    def _elect(self) -> datetime | None:
        with self._driver.transaction(ATTEMPT_TIMEOUT + ANSWER_MARGIN, reserved=True) as executor:
            if executor.run(Statement("leader_look", {}, lambda rows, _: bool(rows))):
                return None  # of an idle fleet's followers this is all there is
            params = {"leader_id": self._client_id, "lease": LEASE}
            return _within(ATTEMPT_TIMEOUT, executor, Statement("leader_attempt_elect", params, _elected_at))

    def _reelect(self, term: Term) -> bool:
        params = {"leader_id": term.leader_id, "elected_at": term.elected_at, "lease": LEASE}
        statement = Statement("leader_attempt_reelect", params, lambda _, count: count == 1)
        # the session's own limit will do: a lease counts from the transaction's start, however late it is renewed
        with self._driver.transaction(ATTEMPT_TIMEOUT + ANSWER_MARGIN, reserved=True) as executor:
            return executor.run(statement)

    def _run_within(self, timeout: float, statement: Statement[T]) -> T:
        with self._driver.transaction(timeout + ANSWER_MARGIN, reserved=True) as executor:
            return _within(timeout, executor, statement)

    def _pause(self) -> float:
        return self._interval + random.uniform(0, min(INTERVAL_JITTER, self._interval))

    def _failed(self, what: str, error: DatabaseError) -> None:
        """The first failure in a row is a warning, the rest are for debugging."""
        self._logger.log(logging.DEBUG if self._failures else logging.WARNING, "%s: %s", what, error)
        self._failures += 1

    def _tell(self, is_leader: bool, term: Term) -> None:
        with self._lock:
            callbacks = [callback for (callback,) in self._listeners]
        for callback in callbacks:
            try:
                callback(is_leader, term)
            except Exception:
                self._logger.exception("a listener to the elector failed")

    def _told(self, told: dict[str, Any]) -> None:
        """From the notifier's thread."""
        action = told.get("action")
        if action == "request_resign":
            self.request_resign()
        elif action == "resigned" and told.get("leader_id") != self._client_id and self._held is None:
            self._others_resigned = True
            self._poke.set()


def _within(timeout: float, executor: Executor, statement: Statement[T]) -> T:
    """The server gives up first: a statement that nobody waits for any more could still win an election, and then
    nobody would lead until that lease is over."""
    executor.run(Statement("statement_timeout_set", {"milliseconds": str(int(timeout * 1000))}))
    return executor.run(statement)


def _elected_at(rows: list[RawRow], count: int) -> datetime | None:
    return decode_timestamptz(rows[0][0]) if rows else None
