"""Frees rows that this client has claimed and nobody works: what a lost fetch reply, or its own crash, left running.

Its thread looks every 5 s, and at once when the fetcher's connection was lost or made again. It owns nothing; the lock
that tells others that this client lives is the fetcher's. River: none, such rows wait an hour for the rescuer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime

from river_fast.config import GENERATED_ID
from river_fast.driver import Driver, Statement
from river_fast.errors import DatabaseError
from river_fast.startstop import Service
from river_fast.stranded import Claim, Freed, Freeing, Run, available, claims, integer, microseconds, running_under
from river_fast.testsignal import TestSignal

LOOK_INTERVAL = 5.0  # seconds
SECOND_LOOK_AFTER = 1.0  # a run that moved from one holder to the next, or ended, at the first look has settled by then
SETTLED_AFTER = 1.0  # younger claims are not asked for where nothing was lost: under load they are thousands
WATCH_AFTER_CHANGE = 5.0  # a statement whose connection was lost may still commit: for so long, a look every second
HELD_RETRY = 0.5  # seconds, where the holders could not tell
LOAD_SHARE = 20  # a look that takes long is not repeated before this many times its duration has passed


class Liveness(Service):
    """Start it before the fetcher. `held()` names every run this client has in its hands (None: not to be had now),
    asked in the order in which a job moves: rings, running, completer. `freed(queues)` hears what has work again.

    Rows claimed since this client took its lock never started: their attempt is given back. Older ones, a predecessor's
    under the same id, are rescued. Without session locks a predecessor cannot be told from a living namesake: then only
    a client with a generated id looks, and only at what it claimed since `start`.
    """

    name = "liveness"

    def __init__(
        self,
        driver: Driver,
        client_id: str,
        held: Callable[[], Iterable[Run] | None],
        freed: Callable[[list[str]], None] = lambda queues: None,
        *,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__()
        self._driver = driver
        self._client_id = client_id
        self._generated = GENERATED_ID.match(client_id) is not None
        self._held = held
        self._freed = freed
        self._logger = logger or logging.getLogger("river_fast.liveness")
        self._poke = threading.Event()
        self._changed_at = 0.0  # monotonic; when the connection was last lost or made
        self._alarmed_at = 0.0  # the same, when there was last a reason to fear that something was lost
        self._locked = False  # the fetcher has the lock now
        self._told_time: datetime | None = None  # the server's, when the lock was had, if the fetcher knows it
        self._since: int | None = None  # runs from here on are this incarnation's; None: the lock was never had yet
        self._times: deque[int] = deque(maxlen=2)  # the server's, while waiting for the lock
        self._suspects: dict[Claim, float] = {}  # not held at a look, and when (monotonic) that was first so
        self._asked = False  # for a full look, since the last one began
        self._full_look_at = 0.0  # monotonic; when the next is due
        self._look_took = 0.0  # seconds, the last full look's statement
        self._counts = {"reclaimed": 0, "rescued": 0}  # written by the thread alone
        self.looked = TestSignal[int]()

    def lock_taken(self, server_time: datetime | None = None) -> None:
        """The fetcher's connection holds the lock; `server_time`: since when, by the server's clock. Any thread."""
        if server_time is not None and self._told_time is None:
            self._told_time = server_time
        self._locked = True
        self._look_soon()

    def lock_lost(self) -> None:
        """The fetcher's connection was lost, and what it had asked for may be lost too. Any thread."""
        self._locked = False
        self.check_soon()

    def check_soon(self) -> None:
        """Look now, and every second for a while. Any thread."""
        self._alarmed_at = time.monotonic()
        self._look_soon()

    def stats(self) -> dict[str, int]:
        """Counters since it was made: reclaimed (attempt given back), rescued (attempt kept)."""
        return dict(self._counts)

    def _look_soon(self) -> None:
        self._changed_at = time.monotonic()
        self._asked = True
        self._poke.set()

    # The service.

    def _start(self) -> None:
        capabilities = self._driver.open()
        self._session_locks = capabilities.session_locks
        self._freeing = Freeing(self._driver, self._logger)
        self._times.clear()
        self._times.append(self._server_time())
        self._since = None if self._session_locks else self._times[0]
        self._suspects, self._full_look_at = {}, 0.0

    def _run(self) -> None:
        if not self._session_locks and not self._generated:
            self._stopping.wait()
            return
        pause = 0.0
        while not self._stopping.is_set():
            self._poke.wait(pause)
            self._poke.clear()
            if self._stopping.is_set():
                return
            try:
                pause = self._pass()
            except DatabaseError as error:
                pause = SECOND_LOOK_AFTER
                self._logger.warning("cannot look for stranded jobs, next try in %g s: %s", pause, error)

    def _wake(self) -> None:
        self._poke.set()

    def _finish(self) -> None:
        self._locked, self._told_time = False, None

    def _pass(self) -> float:
        """One look, if one may be had now; seconds to the next."""
        if self._since is None:
            if not self._locked:
                self._times.append(self._server_time())
                return SECOND_LOOK_AFTER
            # Untold, it is the server's time at a moment before: rather an attempt given back than one charged in vain.
            self._since = self._times[0] if self._told_time is None else microseconds(self._told_time)
        if self._session_locks and not self._locked and not self._generated:
            return LOOK_INTERVAL  # a namesake may have the lock, and rows, by now
        if not self._look():
            return HELD_RETRY
        if self._suspects:
            return SECOND_LOOK_AFTER + 0.01
        return max(self._full_look_at - time.monotonic(), 0.0)

    def _look(self) -> bool:
        """Free what nobody held a while ago, and nobody holds now. False: the holders could not tell."""
        full = self._asked or time.monotonic() >= self._full_look_at
        # The database is asked first: whatever is claimed by then is in somebody's hands when they are asked after.
        if full:
            self._asked, self._full_look_at = False, 0.0  # a look that is asked for from here on is one more
        running = self._running() if full else self._still_running({claim.id for claim in self._suspects})
        held = self._held() if running else ()  # a list of thousands, for nothing, where all is as it should be
        if held is None:
            return False
        runs, now = set(held), time.monotonic()
        unheld = [claim for claim in running if claim.run not in runs and claim not in self._freeing.refused]
        stranded = [claim for claim in unheld if now - self._suspects.get(claim, now) >= SECOND_LOOK_AFTER]
        self._suspects = {claim: self._suspects.get(claim, now) for claim in unheld}
        if full:
            changing = now - self._changed_at < WATCH_AFTER_CHANGE
            usual = SECOND_LOOK_AFTER if changing else LOOK_INTERVAL
            self._full_look_at = now + max(usual, LOAD_SHARE * self._look_took)
        if stranded:
            self._free(stranded)
        self.looked.signal(len(unheld))
        return True

    def _free(self, stranded: list[Claim]) -> None:
        since = self._since
        assert since is not None
        ours = [claim for claim in stranded if claim.attempted_at >= since]
        older = [claim for claim in stranded if claim.attempted_at < since]
        if not self._session_locks:
            self._freeing.refused.update(older)
            older = []
        reclaimed = self._freeing.free("job_reclaim", ours, self._write)
        rescued = self._freeing.free("job_reclaim_rescue", older, self._write)
        self._counts["reclaimed"] += len(reclaimed)
        self._counts["rescued"] += len(rescued)
        if reclaimed or rescued:
            self._logger.warning(
                "freed %d jobs that a lost fetch, and %d that an earlier client of this id, had left running",
                len(reclaimed), len(rescued),
            )
            self._freed(available(reclaimed + rescued))

    # Statements.

    def _write(self, statement: Statement[list[Freed]]) -> list[Freed]:
        with self._driver.autocommit() as executor:
            return executor.run(statement)

    def _running(self) -> list[Claim]:
        with self._driver.autocommit() as executor:
            asked = time.monotonic()  # not before: a connection that has to be made is no load
            alarmed = asked - self._alarmed_at < WATCH_AFTER_CHANGE
            running = executor.run(running_under(self._client_id, 0.0 if alarmed else SETTLED_AFTER))
            self._look_took = time.monotonic() - asked
        return running

    def _still_running(self, ids: set[int]) -> list[Claim]:
        if not ids:
            return []
        params = {"ids": sorted(ids), "client_id": self._client_id}
        with self._driver.autocommit() as executor:
            return executor.run(Statement("job_get_still_running", params, claims))

    def _server_time(self) -> int:
        with self._driver.autocommit() as executor:
            return executor.run(Statement("server_time", {}, lambda rows, count: integer(rows[0][0])))
