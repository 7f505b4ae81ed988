"""Inserts periodic jobs when they are due, while this client leads. River: PeriodicJobEnqueuer.

A maintenance service on its own thread. Times are the server's: each pass begins by asking for it, so no clock of this
machine, set right or wrong, moves a run. What it inserts is fenced by its term: the leader's row is held until the
commit, and whoever leads next begins after it, so no time comes twice.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from river_fast.driver import Driver, Executor, RawRow, Statement
from river_fast.errors import DatabaseError, InsertOutcomeUnknownError, RiverError
from river_fast.insert_opts import InsertManyParams, InsertOpts, JobInsertResult
from river_fast.job_args import args_info
from river_fast.maintenance import MaintenanceService
from river_fast.maintenance.durable_periodic_runs import DurablePeriodicRuns
from river_fast.maintenance.periodic_insert import Insert, NotInsertedError, insert_apart
from river_fast.maintenance.periodic_runs import PeriodicRun, PeriodicRuns, name_of
from river_fast.periodic_job import periodic_opts
from river_fast.periodic_job_bundle import PeriodicJobBundle
from river_fast.plugin import PeriodicJobsStartParams
from river_fast.testsignal import TestSignal

if TYPE_CHECKING:
    from river_fast.elector import Term

LOOK_AFTER: Final = 60.0  # seconds at most between two looks at the server's clock
DURABLE_LOOK_AFTER: Final = 5.0  # the same where durable jobs may be defined by others
RETRY_AFTER: Final = 1.0  # after a pass that failed
ANSWER_TIMEOUT: Final = 15.0  # seconds; the server's own limit is 10, and who is silent for longer will not answer
CLOCK_SET: Final = 60.0  # a server's clock that goes so many seconds more or less than ours was set
WAKE_AFTER: Final = 0.001  # the due time is met, not missed by the rounding of a wait


class PeriodicJobEnqueuer(MaintenanceService):
    """`insert(params, then)` inserts as the client does, with River's own metadata, and runs the statements `then` in
    the same transaction. `term()`: the one in which this client leads now. `start_hooks` are called once in each term,
    before anything is inserted; what they raise keeps the service from starting."""

    name = "periodic_job_enqueuer"
    interval = LOOK_AFTER

    def __init__(
        self,
        driver: Driver,
        bundle: PeriodicJobBundle,
        insert: Insert,
        term: Callable[[], Term | None],
        *,
        start_hooks: Callable[[PeriodicJobsStartParams], None] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(driver, logger=logger)
        self._bundle = bundle
        self._insert = insert
        self._term_now = term
        self._start_hooks = start_hooks
        self._durable = DurablePeriodicRuns(
            lambda: driver.schema, self._session, self._insert_interruptibly, self._logger
        )
        self._poke = threading.Event()
        self._term: Term | None = None
        self._hooked: Term | None = None
        self._started: set[int] = set()  # handles whose run on start this term has had
        self._runs = PeriodicRuns(self._started, self._logger)
        self._clock: tuple[datetime, float] | None = None  # the server's and ours, at the last look
        self.inserted = TestSignal[list[JobInsertResult]]()
        self.waiting = TestSignal[float]()

    def _start(self) -> None:
        """A term's services may be started more than once, if one of them would not: its hooks run once all the same,
        and so do its runs on start."""
        super()._start()
        term = self._term_now()
        if term != self._term:
            self._term, self._started = term, set()
        self._runs = PeriodicRuns(self._started, self._logger)
        self._clock = None
        if self._start_hooks is not None and term is not None and self._hooked != term:
            try:
                self._look()
                self._start_hooks(PeriodicJobsStartParams(durable_jobs=tuple(self._durable.load())))
            except BaseException as error:  # whatever it is, this term must end
                self._logger.exception("a periodic_jobs_start hook failed")
                raise RiverError(f"a periodic_jobs_start hook failed: {error!r}") from error
            self._hooked = term

    def _run(self) -> None:
        self._stopping.wait(random.uniform(0, self._stagger))
        forget = self._bundle.on_change(self._poke.set)
        try:
            while self._may_work():
                pause = self._pass_once()
                self.waiting.signal(pause)
                self._poke.wait(pause)
                self._poke.clear()
        finally:
            forget()

    def _wake(self) -> None:
        super()._wake()
        self._poke.set()

    def _pass_once(self) -> float:
        """Everything that is due now; seconds until something may be due again."""
        begun = time.monotonic()
        try:
            now = self._look()
            self._runs.adopt(self._bundle.jobs, now)
            self._insert_due(self._runs.due(now))
            self._durable.run_due(now, self._may_work)
        except NotInsertedError as over:
            self._logger.info("nothing was inserted: %s", over)
            return RETRY_AFTER
        except DatabaseError as error:
            self._fail(error)
            return RETRY_AFTER
        except BaseException:  # middleware, hooks, schedules: others' code
            self._logger.exception("periodic jobs could not be inserted, trying again")
            return RETRY_AFTER
        self._failing = False
        most = DURABLE_LOOK_AFTER if self._durable.present else LOOK_AFTER
        nearest = min((at for at in (self._runs.next_at(), self._durable.next_at) if at is not None), default=None)
        if nearest is None:
            return most
        left = (nearest - now).total_seconds() - (time.monotonic() - begun) + WAKE_AFTER
        return min(max(left, 0.0), most)

    def _look(self) -> datetime:
        """The server's time. Where its clock was set, schedules begin anew, as in a new term: the runs between are
        neither made up, nor waited for a second time."""
        with self._session() as executor:
            asked = time.monotonic()
            now = self._durable.look(executor)
        if self._clock is not None:
            expected = self._clock[0] + timedelta(seconds=asked - self._clock[1])
            if abs((now - expected).total_seconds()) > CLOCK_SET:
                self._logger.warning(
                    "the server's clock was set from %s to %s: periodic jobs are scheduled anew", expected, now
                )
                self._runs.begin_anew(now)
        self._clock = (now, asked)
        return now

    def _insert_due(self, runs: Sequence[PeriodicRun]) -> None:
        made = [(run, params) for run in runs if (params := self._constructed(run)) is not None]
        if made and self._may_work():
            insert_apart(made, self._send, self._lost)

    def _constructed(self, run: PeriodicRun) -> InsertManyParams | None:
        """None: nothing to insert, and the run is settled."""
        try:
            params = run.job.construct()
            if params is not None:
                return InsertManyParams(params.args, _timed(params, run))
        except BaseException:  # the user's, which may exit; the other jobs are inserted all the same
            self._logger.exception("%s was not inserted: its constructor failed", name_of(run.job))
        self._runs.settle(run)
        return None

    def _send(self, made: Sequence[tuple[PeriodicRun, InsertManyParams]]) -> None:
        if self._term is None:
            raise NotInsertedError("this client does not lead")
        held = {"leader_id": self._term.leader_id, "elected_at": self._term.elected_at}
        then = [Statement("leader_hold", held, _hold)]
        try:
            results = self._insert_interruptibly([params for _, params in made], then)
        except InsertOutcomeUnknownError as error:
            # again, it might come twice: a time that may have been missed is the lesser evil
            names = ", ".join([name_of(run.job) for run, _ in made])
            self._logger.warning("%s may or may not have been inserted: %s", names, error)
            results = []
        for run, _ in made:
            self._runs.settle(run)
        self.inserted.signal(results)

    @contextlib.contextmanager
    def _session(self) -> Iterator[Executor]:
        """Each statement its own transaction. It ends when a stop comes, or when nobody answers."""
        self._raise_if_stopping()
        with self._driver.autocommit(ANSWER_TIMEOUT) as executor, self._interruptible(executor):
            yield executor

    def _insert_interruptibly(
        self, params: Sequence[InsertManyParams], then: Sequence[Statement[Any]]
    ) -> list[JobInsertResult]:
        """A stop meanwhile cancels it."""
        self._raise_if_stopping()
        return self._insert(params, then, self._interruptible)

    def _fail(self, error: DatabaseError) -> None:
        """Without the batches of other services."""
        if not self._stopping.is_set():
            self._logger.log(logging.DEBUG if self._failing else logging.WARNING, "%s failed: %s", self.name, error)
            self._failing = True
            self.failed.signal(error)

    def _lost(self, made: tuple[PeriodicRun, InsertManyParams], error: BaseException) -> None:
        run, _ = made
        trace = None if isinstance(error, RiverError) else error  # of middleware, or a hook
        self._logger.error("%s was not inserted: %s", name_of(run.job), error, exc_info=trace)
        self._runs.settle(run)


def _timed(params: InsertManyParams, run: PeriodicRun) -> InsertOpts:
    """Scheduled at the nominal time, which unique periods count by, unless the constructor gave a time."""
    opts = periodic_opts(params.opts, run.job.id)
    base: Any = args_info(params.args).insert_opts
    base = base(params.args) if callable(base) else base
    if opts.scheduled_at is not None or (isinstance(base, InsertOpts) and base.scheduled_at is not None):
        return opts
    return replace(opts, scheduled_at=run.nominal)


def _hold(rows: list[RawRow], count: int) -> None:
    if not rows:
        raise NotInsertedError("another client leads by now, or nobody")
