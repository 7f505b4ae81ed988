"""Renews the attempted_at of jobs that run for long, so that a leader that rescues by age alone leaves them alone.

Only with `Config.refresh_long_jobs`. Its thread does all of it; the runs are the producer's. The fence follows in the
same step: the completer is told before a renewal is sent, the row's own copy once it is committed. River: none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from river_fast.driver import ConnectionLostError, Driver, RawRow, Statement
from river_fast.errors import DatabaseError
from river_fast.job import Job
from river_fast.startstop import Service
from river_fast.stranded import BATCH, EPOCH, Claim, Run, claims, integer
from river_fast.testsignal import TestSignal

SHARE = 3  # of rescue_stuck_jobs_after: what a run's attempted_at may be old before it is renewed ...
LOOKS = 4  # ... looked at so often within that
LOOK_LEAST = 0.05  # seconds between looks
RETRY = 1.0  # seconds after the database refused, if no look comes before
Move = tuple[int, int, int]  # job id, attempted_at before and after


class LongJobRefresher(Service):
    """`running()` are this client's jobs, `pending()` the runs whose outcome is not acknowledged yet (None: not known
    now), `moved(moves)` hears of every renewal before it is sent."""

    name = "long_job_refresher"

    def __init__(
        self,
        driver: Driver,
        client_id: str,
        rescue_after: float,
        running: Callable[[], Sequence[Job[Any]]],
        pending: Callable[[], Iterable[Run] | None],
        moved: Callable[[Iterable[Move]], None],
        *,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__()
        self._driver = driver
        self._client_id = client_id
        self._after = rescue_after / SHARE
        self._running = running
        self._pending = pending
        self._moved = moved
        self._logger = logger or logging.getLogger("river_fast.long_job_refresher")
        self._moves: dict[int, Move] = {}  # the last of each run that may still be on its way, by job id
        self._renewed_at: dict[int, tuple[Any, float]] = {}  # row and when (monotonic), by job id
        self._unknown: dict[int, Any] = {}  # rows whose renewal may or may not have been committed
        self.refreshed = TestSignal[list[int]]()

    def also(self, runs: Iterable[Run]) -> list[Run]:
        """Each run is its row's with the one attempted_at or the other, while it is renewed. Any thread."""
        moves = list(self._moves.values())
        known = set(runs) if moves else set()
        return [(job_id, after) for job_id, before, after in moves if (job_id, before) in known]

    # The service.

    def _run(self) -> None:
        pause = max(self._after / LOOKS, LOOK_LEAST)
        wait = pause
        while not self._stopping.wait(wait):
            wait = pause
            try:
                self._pass()
            except DatabaseError as error:
                wait = min(pause, RETRY)
                self._logger.warning("cannot renew the attempts of long jobs, next try in %g s: %s", wait, error)

    def _pass(self) -> None:
        if self._unknown:
            self._find_out()
        now = time.monotonic()
        rows = {job.id: job._row for job in self._running()}
        self._renewed_at = {i: held for i, held in self._renewed_at.items() if rows.get(i) is held[0]}
        due = [row for row in rows.values() if self._age(row, now) >= self._after]
        if due:
            self._forget(rows)
            at = self._server_time()
            for start in range(0, len(due), BATCH):
                self._renew(due[start : start + BATCH], at)
        self.refreshed.signal([row.id for row in due])

    def _age(self, row: Any, now: float) -> float:
        held = self._renewed_at.get(row.id)
        return now - (row.fetched_ns / 1e9 if held is None else held[1])

    def _renew(self, rows: list[Any], at: int) -> None:
        """Each has its own lead over what it was: a server's clock may have been set back."""
        for row in rows:
            before = row.attempted_at_us
            self._moves[row.id] = (row.id, before, max(at, before + 1))
        self._moved(self._moves.values())  # before anything is sent: an outcome with the old time may find the new one
        moves = [self._moves[row.id] for row in rows]
        for row, (_, _, after) in zip(rows, moves, strict=True):
            row.renew(after)
        params = {
            "ids": [row.id for row in rows],
            "attempts": [row.attempt for row in rows],
            "attempted_ats": [_time(before) for _, before, _ in moves],
            "renewed_ats": [_time(after) for _, _, after in moves],
        }
        done: set[int] = set()
        try:
            with self._driver.autocommit() as executor:
                done = executor.run(Statement("job_renew_many", params, _ids))
        except ConnectionLostError:
            self._unknown.update({row.id: row for row in rows})
            raise
        finally:
            for row in rows:
                if row.id not in self._unknown:
                    self._settle(row, row.id in done)

    def _settle(self, row: Any, renewed: bool) -> None:
        row.renewed(renewed)
        if renewed:
            self._renewed_at[row.id] = (row, time.monotonic())

    def _find_out(self) -> None:
        """What became of the renewals whose answer was lost."""
        ids = sorted(self._unknown)
        with self._driver.autocommit() as executor:
            params = {"ids": ids, "client_id": self._client_id}
            found = set(executor.run(Statement("job_get_still_running", params, claims)))
        for row in self._unknown.values():
            self._settle(row, Claim(row.id, row.attempt, row.renewing_us) in found)
        self._unknown = {}

    def _forget(self, running: dict[int, Any]) -> None:
        """Renewals of runs that have ended, and whose outcome is recorded."""
        pending = self._pending()
        if pending is not None:
            known = {job_id for job_id, _ in pending}.union(running)
            self._moves = {job_id: move for job_id, move in self._moves.items() if job_id in known}

    def _server_time(self) -> int:
        with self._driver.autocommit() as executor:
            return executor.run(Statement("server_time", {}, lambda rows, count: integer(rows[0][0])))


def _time(microseconds: int) -> Any:
    return EPOCH + timedelta(microseconds=microseconds)


def _ids(rows: list[RawRow], count: int) -> set[int]:
    return {integer(row[0]) for row in rows}
