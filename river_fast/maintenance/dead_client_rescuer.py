"""Frees the jobs of river_fast clients that died, whoever leads. River: none, such rows wait an hour for the rescuer.

A service of every client that works; one of a schema's clients at a time watches, on its own thread and a connection of
its own that holds the watcher's lock. Where sessions are shared there are no such locks: all look at the heartbeats,
and the one that comes first among the living acts. A dead client's lock, or row, is held while its jobs are freed.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from river_fast.config import GENERATED_ID
from river_fast.driver import Driver, Executor, RawRow, Statement
from river_fast.errors import DatabaseError
from river_fast.registration import lock_key, watcher_key
from river_fast.startstop import Service
from river_fast.stranded import EPOCH, Claim, Freeing, available, integer, running_under
from river_fast.testsignal import TestSignal

T = TypeVar("T")

INTERVAL = 2.0  # seconds between looks, and between tries at watching
DEAD_AFTER = 10.0  # seconds for which nobody has held a client's lock: what a live one needs to connect again, and more
SILENT_AFTER = 20.0  # seconds without a heartbeat, of which there is one every five
GAP_MOST = 2 * INTERVAL  # what a pause between two looks counts for at most: an outage is nobody's silence
LOAD_SHARE = 20  # a look that takes long is not repeated before this many times its duration has passed ...
PAUSE_MOST = 3.0  # ... but after so many seconds it is
ANSWER_TIMEOUT = 10.0  # seconds
FROZEN_AFTER = 10.0  # seconds without a look after which a watcher's session is ended, and another client may watch
IDLE_SESSION_SINCE = 140000  # PostgreSQL's version that can do that
MISSING = ("42P01", "42501")  # line `fast` was taken back, or this role has no right to it


@dataclass(frozen=True, slots=True)
class Watched:
    """One start of a client. `locks`: its key is that of a lock, which it holds as long as it lives; else it says by
    heartbeats that it does. `created_at`: microseconds since 2000, of its registration; None: it has none."""

    id: str
    key: int
    locks: bool
    created_at: int | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look saw: the advisory locks that are held, and each client with its newest heartbeat (None: it is not
    told by one)."""

    held: frozenset[int]
    clients: dict[Watched, int | None]


class Vigil:
    """For how long, by looks that followed each other, clients have given no sign of life. One thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at: float | None = None
        self._silent: dict[Watched, tuple[int | None, float]] = {}
        self.dead: dict[Watched, int | None] = {}  # silent too long, and their last heartbeats
        self.living: set[Watched] = set()  # the others

    def look(self, sight: Sight) -> None:
        """Take in what was seen just now."""
        now = self._clock()
        elapsed = 0.0 if self._at is None else min(now - self._at, GAP_MOST)
        before, self._at, self._silent, self.dead, self.living = self._silent, now, {}, {}, set()
        for client, heartbeat in sight.clients.items():
            if client.locks and client.key in sight.held:
                self.living.add(client)
                continue
            sign, silent_for = before.get(client, (None, 0.0))
            silent_for = silent_for + elapsed if client in before and sign == heartbeat else 0.0
            self._silent[client] = heartbeat, silent_for
            if silent_for >= (DEAD_AFTER if client.locks else SILENT_AFTER):
                self.dead[client] = heartbeat
            else:
                self.living.add(client)


class DeadClientRescuer(Service):
    """`key`: of this client's own registration, 0 without one. `migrated`: the schema has the table of such. `freed`
    hears of the queues that have work again."""

    name = "dead_client_rescuer"

    def __init__(
        self,
        driver: Driver,
        client_id: str,
        key: int = 0,
        *,
        migrated: bool = False,
        freed: Callable[[list[str]], None] = lambda queues: None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__()
        self._driver = driver
        self._me = (client_id, key)
        self._lock_key = 0
        self._migrated = migrated
        self._freed = freed
        self._logger = logger or logging.getLogger("river_fast.dead_client_rescuer")
        self._failing = False
        self._stagger = INTERVAL
        self._session: Executor | None = None  # of the one that watches, where sessions are its own
        self._rescued = 0  # written by the thread alone
        self.watching = TestSignal[bool]()  # this client began, or ended, to watch
        self.looked = TestSignal[int]()  # how many clients were dead
        self.rescued = TestSignal[str]()  # the client whose jobs were freed

    def stats(self) -> dict[str, int]:
        """Jobs freed since it was made."""
        return {"dead_clients_rescued": self._rescued}

    # The service.

    def _start(self) -> None:
        capabilities = self._driver.open()
        self._session_locks, self._locks = capabilities.session_locks, not capabilities.is_yugabyte
        self._ends_idle = capabilities.server_version >= IDLE_SESSION_SINCE
        self._freeing = Freeing(self._driver, self._logger)
        self._lock_key = lock_key(self._me[0], self._driver.schema)
        self._watcher = {"key": watcher_key(self._driver.schema)}

    def _run(self) -> None:
        self._stopping.wait(random.uniform(0, self._stagger))  # a fleet that was started together does not try as one
        while not self._stopping.is_set():
            if not self._session_locks and not self._migrated:
                self._stopping.wait()  # there is nothing by which the living could be told from the dead
                return
            try:
                if not self._session_locks:
                    self._watch_shared()
                elif self._vacant():
                    with self._driver.session("watcher", ANSWER_TIMEOUT) as executor:
                        self._watch(executor)
            except DatabaseError as error:
                # the first failure in a row: an outage of an hour is not worth hundreds of lines
                level = logging.DEBUG if self._failing else logging.WARNING
                self._logger.log(level, "cannot look for dead clients, trying again: %s", error)
                self._failing = True
            self._stopping.wait(INTERVAL)

    def _vacant(self) -> bool:
        with self._driver.autocommit(ANSWER_TIMEOUT) as executor:
            vacant = executor.run(Statement("advisory_lock_tx", self._watcher, _flag))
        self._failing = self._failing and vacant  # over when this client has looked, or another does
        return vacant

    def _watch(self, executor: Executor) -> None:
        """As long as this session, and with it the lock, lasts. What was seen before it counts for nothing. All is done
        on it: a pool that the client's own inserts have emptied holds up no rescue."""
        frozen = {"milliseconds": str(int(FROZEN_AFTER * 1000))}
        executor.run(Statement("watcher_session", {"name": "idle_in_transaction_session_timeout", **frozen}))
        if self._ends_idle:
            executor.run(Statement("watcher_session", {"name": "idle_session_timeout", **frozen}))
        if not executor.run(Statement("advisory_lock", self._watcher, _flag)):
            return
        self._session = executor
        vigil = Vigil()
        self.watching.signal(True)
        try:
            while not self._stopping.is_set():
                begun = time.monotonic()
                vigil.look(self._look(executor))
                took = time.monotonic() - begun
                self._act(vigil)
                self._stopping.wait(min(max(INTERVAL, LOAD_SHARE * took), PAUSE_MOST))
        finally:
            self._session = None
            self.watching.signal(False)

    def _watch_shared(self) -> None:
        """Until a look fails: what was seen before that counts for nothing either."""
        vigil = Vigil()
        while not self._stopping.is_set() and self._migrated:
            begun = time.monotonic()
            with self._alone() as executor:
                sight = self._look(executor)
            took = time.monotonic() - begun
            vigil.look(sight)
            first = min(((other.id, other.key) for other in vigil.living if not other.locks), default=None)
            if self._watcher["key"] not in sight.held and first == self._me:
                self._act(vigil)
            self._stopping.wait(min(max(INTERVAL, LOAD_SHARE * took), PAUSE_MOST))

    def _look(self, executor: Executor) -> Sight:
        if self._migrated:
            try:
                sight = executor.run(Statement("client_watch_registered", {"locks": self._locks}, _sight))
                self._failing = False
                return sight
            except DatabaseError as error:
                if error.sqlstate not in MISSING:
                    raise
                self._logger.warning("cannot look for dead clients that are registered: %s", error)
                self._migrated = False
        sight = executor.run(Statement("client_watch", {}, _sight))
        self._failing = False
        return sight

    # Rescuing.

    def _act(self, vigil: Vigil) -> None:
        own = (self._me, (self._me[0], self._lock_key))  # not dead, whatever became of its fetcher's connection
        dead = [(client, sign) for client, sign in vigil.dead.items() if (client.id, client.key) not in own]
        for client, sign in dead:
            if not self._stopping.is_set():
                # a given id may have been started anew, or twice: what that one claimed is not the dead one's
                others = [other.created_at for other in vigil.living if other.id == client.id]
                self._rescue(client, sign, min((at for at in others if at is not None), default=None))
        self.looked.signal(len(dead))

    def _rescue(self, client: Watched, sign: int | None, before: int | None) -> None:
        left = self._left(client, before)
        freed = self._freeing.free(
            "job_reclaim_rescue", left, lambda statement: self._holding(client, sign, statement) or []
        )
        if freed:
            self._rescued += len(freed)
            self._logger.warning("client %s is dead: freed %d jobs that it had left running", client.id, len(freed))
            self._freed(available(freed))
            self.rescued.signal(client.id)
        if client.created_at is not None and not self._left(client, before):
            self._holding(client, sign, Statement("client_forget", {"id": client.id, "key": client.key}))

    def _left(self, client: Watched, before: int | None) -> list[Claim]:
        with self._alone() as executor:
            running = executor.run(running_under(client.id, 0.0))
        return [
            claim for claim in running
            if claim not in self._freeing.refused and (before is None or claim.attempted_at < before)
        ]

    def _holding(self, client: Watched, sign: int | None, statement: Statement[T]) -> T | None:
        """Run it while the client cannot come back; None: it has."""
        if client.locks:
            taking = Statement("advisory_lock_tx", {"key": client.key}, _flag)
        else:
            at = EPOCH + timedelta(microseconds=sign or 0)
            taking = Statement("client_take_silent", {"id": client.id, "key": client.key, "heartbeat_at": at}, _flag)
        with self._together() as executor:
            return executor.run(statement) if executor.run(taking) else None

    def _alone(self) -> AbstractContextManager[Executor]:
        """Each statement its own transaction."""
        session = self._session
        return self._driver.autocommit(ANSWER_TIMEOUT) if session is None else contextlib.nullcontext(session)

    @contextlib.contextmanager
    def _together(self) -> Iterator[Executor]:
        session = self._session
        if session is None:
            with self._driver.transaction(ANSWER_TIMEOUT) as executor:
                yield executor
        else:
            with session.transaction():
                yield session


def _flag(rows: list[RawRow], count: int) -> bool:
    return bool(rows) and rows[0][0] == b"\x01"


def _sight(rows: list[RawRow], count: int) -> Sight:
    held: set[int] = set()
    clients: dict[Watched, int | None] = {}
    for row in rows:
        name, key = (row[0] or b"").decode("utf-8", "replace"), row[1]
        if key is None:
            generated = GENERATED_ID.match(name)
            if generated and generated["form"] == "rf":
                clients[Watched(name, lock_key(name, ""), locks=True)] = None
        elif row[0] is None:
            held.add(integer(key))
        else:
            locks = row[2] == b"\x01"
            clients[Watched(name, integer(key), locks, integer(row[3]))] = None if locks else integer(row[4])
    return Sight(frozenset(held), clients)
