"""Rebuilds River's indexes once a day, so that what grew with a backlog shrinks again. River: Reindexer.

A maintenance service on its own thread; a second one, while an index is built, only watches the time. A build that did
not end leaves its half behind: what is there before a build is somebody else's, and keeps the index from being built
(else one more half each day: River #1296); what a build of ours has left is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from river_fast.config import INDEX_NAME_MAX, NEVER, Config, ReindexerSchedule
from river_fast.driver import Driver, Executor, RawRow, Statement
from river_fast.errors import DatabaseError
from river_fast.maintenance import MaintenanceService
from river_fast.testsignal import TestSignal

ARTIFACT = re.compile(r"\A(.+)(_cc(?:new|old)\d*)\Z", re.DOTALL)
DROP_TIMEOUT = 15.0  # seconds for what one build left; River's
CANCEL_AGAIN = 0.5  # seconds
CLOCK_LOOK = 60.0  # seconds after which the clock is read again: machines are suspended, and clocks set


class Midnight:
    """Each day at midnight UTC."""

    def next(self, after: datetime, /) -> datetime:
        return after.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


class Every:
    """So many seconds after the last one."""

    def __init__(self, interval: float) -> None:
        self._interval = timedelta(seconds=interval)

    def next(self, after: datetime, /) -> datetime:
        return after + self._interval


class Reindexer(MaintenanceService):
    """`config`, checked: names, schedule, timeout. `interval`: seconds, instead of the schedule."""

    name = "reindexer"

    def __init__(
        self,
        driver: Driver,
        config: Config,
        *,
        interval: float | None = None,
        logger: logging.Logger | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(driver, interval=interval, logger=logger)
        self._names = tuple(config.reindexer_index_names or ())
        self._timeout = float(config.reindexer_timeout)  # type: ignore[arg-type]  # `checked` made it seconds
        schedule = config.reindexer_schedule
        if interval is not None:
            schedule = Every(interval)
        self._schedule: ReindexerSchedule | None = None
        if schedule is None:
            self._schedule = Midnight()
        elif not isinstance(schedule, int | float):  # that would be NEVER
            self._schedule = schedule
        self._clock = clock
        self._unfinished: set[str] = set()  # indexes of which a build of ours may have left something
        self.built = TestSignal[str]()
        self.skipped = TestSignal[str]()
        self.gave_up = TestSignal[str]()

    def _run(self) -> None:
        while not self._stopping.is_set():
            at = self._next_run() if self._names else None
            if at is None:
                self._stopping.wait()
            elif self._wait_until(at):
                self._try_pass()

    def _next_run(self) -> datetime | None:
        """None: there is none any more."""
        if self._schedule is None:
            return None
        try:
            at = self._schedule.next(self._clock())
            if at is None or (isinstance(at, datetime) and at.tzinfo is not None):
                return at
            self._logger.error("reindexer_schedule gave %r, not an aware datetime; nothing is rebuilt", at)
        except BaseException:  # the user's own class
            self._logger.exception("reindexer_schedule failed; nothing is rebuilt")
        return None

    def _wait_until(self, at: datetime) -> bool:
        """False: the service is to stop."""
        while (left := (at - self._clock()).total_seconds()) > 0:
            if self._stopping.wait(min(left, CLOCK_LOOK)):
                return False
        return not self._stopping.is_set()

    def _work_batch(self, limit: int) -> int:
        """All of them, on a connection that nobody else waits for; one that fails keeps none of the others."""
        with self._driver.session("reindexer") as executor:
            if not self._driver.open().shared_sessions:
                executor.run(Statement("session_limits_lift"))
            return sum(self._handle(executor, name) for name in self._names if self._may_work())

    def _handle(self, executor: Executor, name: str) -> bool:
        """Whether the index was rebuilt."""
        there = self._indexes(executor)
        if name in self._unfinished:
            self._clear_away(executor, name, there)
            there = self._indexes(executor)
        artifacts = artifacts_of(name, there)
        if name not in there:
            self._logger.debug("there is no index %s to rebuild", name)
        elif artifacts:
            self._logger.warning(
                "index %s is not rebuilt, %s is left of an earlier build: unless that still goes on, drop it with"
                " DROP INDEX CONCURRENTLY",
                name, ", ".join(sorted(artifacts)),
            )
        else:
            return self._rebuild(executor, name)
        self.skipped.signal(name)
        return False

    def _rebuild(self, executor: Executor, name: str) -> bool:
        try:
            with self._interruptible(executor), _within(executor, self._timeout):
                executor.run_alone("index_reindex", name)
        except DatabaseError as error:
            if not self._stopping.is_set():
                self._logger.warning("index %s was not rebuilt within %g s: %s", name, self._timeout, error)
            self._unfinished.add(name)
            self.gave_up.signal(name)
            self._clear_away(executor, name, self._indexes(executor))
            return False
        self._logger.info("rebuilt index %s", name)
        self.built.signal(name)
        return True

    def _clear_away(self, executor: Executor, name: str, there: Mapping[str, bool]) -> None:
        """Drop what a build of ours left; what cannot be dropped now, before the next build."""
        try:
            for artifact in sorted(artifacts_of(name, there)):
                if not there[artifact]:  # a valid one serves somebody
                    with _within(executor, DROP_TIMEOUT):
                        executor.run_alone("index_drop", artifact)
            self._unfinished.discard(name)
        except DatabaseError as error:
            self._logger.warning("what is left of a build of index %s could not be dropped yet: %s", name, error)

    def _indexes(self, executor: Executor) -> dict[str, bool]:
        """By name, whether they are valid."""
        return executor.run(Statement("index_get_all", {}, _validity))


@contextlib.contextmanager
def _within(executor: Executor, timeout: float) -> Iterator[None]:
    """Cancels what the executor runs after so many seconds (`NEVER`: not): no setting would bind a shared session."""
    over = threading.Event()

    def watch() -> None:
        wait = timeout
        while not over.wait(wait):
            with contextlib.suppress(DatabaseError):
                executor.cancel()
            wait = CANCEL_AGAIN

    if timeout == NEVER:
        yield
        return
    thread = threading.Thread(target=watch, name="river_fast.reindexer.watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def artifacts_of(name: str, names: Mapping[str, object]) -> set[str]:
    """Of `names`, those that a build of the index by that name may have left, shortened as PostgreSQL does it."""
    found = set()
    for other in names:
        match = ARTIFACT.match(other)
        if match is not None:
            room = INDEX_NAME_MAX - len(match[2])
            if match[1] == name.encode()[:room].decode("utf-8", "ignore"):
                found.add(other)
    return found


def _validity(rows: list[RawRow], count: int) -> dict[str, bool]:
    return {(name or b"").decode(): valid == b"\x01" for name, valid in rows}
