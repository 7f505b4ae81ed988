"""Takes back jobs that were left running: by a client that died, or that never hears of them again. River: JobRescuer.

A maintenance service on its own thread, which also runs what the user's workers say of retries and timeouts. What is
judged here may have moved on meanwhile: each row is written only if it is still the same run.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from river_fast import pg_binary
from river_fast.config import NEVER, Config, seconds
from river_fast.driver import Driver, RawRow, Statement, stored_rows
from river_fast.errors import DatabaseError
from river_fast.job import Job, JobState
from river_fast.maintenance import QUERY_CANCELED, MaintenanceService
from river_fast.retry_policy import DefaultRetryPolicy, retry_delay
from river_fast.testsignal import TestSignal
from river_fast.worker import WorkUnit

WRITTEN_AT_ONCE = 1_000  # rows whose locks one transaction holds
READ_AT_ONCE = 100  # whole rows, args and all, in memory at once
LOCK_TIMEOUT = 2.0  # seconds for rows that somebody had locked, once all others are rescued
KINDS_LOGGED = 20


@dataclass(frozen=True, slots=True)
class Stuck:
    """A row that has been running for long. `attempted_at`: microseconds since 2000; `age`: seconds since then."""

    id: int
    attempt: int
    max_attempts: int
    attempted_at: int
    kind: str
    cancel_requested: bool
    errors: int
    age: float

    @property
    def run(self) -> tuple[int, int]:
        """No other run of any job has it."""
        return self.id, self.attempted_at


@dataclass(frozen=True, slots=True)
class Rescue:
    """What becomes of it; `delay` seconds until a retry."""

    stuck: Stuck
    state: JobState
    delay: float | None = None


class _Unit:
    """What a job needs whose worker is asked about it here: it does not run in this thread."""

    def __init__(self, unit: WorkUnit) -> None:
        self.decode_args = unit.decode_args

    def run_of(self, job: Job[Any]) -> Any:
        raise RuntimeError(f"job {job.id} is not running in this process")


class JobRescuer(MaintenanceService):
    """`config`, checked: workers, retry policy, job timeout, after how long, and what of kinds without a worker."""

    name = "job_rescuer"
    interval = 30.0

    def __init__(
        self,
        driver: Driver,
        config: Config,
        *,
        interval: float | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(driver, interval=interval, logger=logger)
        self._units: dict[str, WorkUnit] = {}
        if config.workers is not None:
            self._units = {kind: unit for kind in config.workers.kinds() if (unit := config.workers.get(kind))}
        self._policy = config.retry_policy
        self._rescue_after = float(config.rescue_stuck_jobs_after)  # type: ignore[arg-type]  # `checked` made it seconds
        self._job_timeout = float(config.job_timeout)  # type: ignore[arg-type]
        self._unknown_kinds = config.rescue_unknown_kinds
        self._after = -(2**63)  # the id up to which this pass has looked
        self._refused: set[tuple[int, int]] = set()  # runs whose rescue the database refused: each is tried by itself
        self._told: set[str] = set()  # kinds without a worker
        self.rescued = TestSignal[dict[int, str]]()  # ids and their new states, of each transaction

    def _begin_pass(self) -> None:
        self._after = -(2**63)

    def _work_batch(self, limit: int) -> int:
        params = {"age": self._rescue_after, "after": self._after, "limit": limit}
        with self._transaction() as executor:
            batch = executor.run(Statement("job_get_stuck", params, _stuck))
        if not batch:
            return 0
        rescues = self._judge(batch)
        self._write_all(rescues)
        self._after = batch[-1].id
        return len(batch)

    # What becomes of a row. River's decisions (river.md 8.3), in its order, but for kinds without a worker.

    def _judge(self, batch: Sequence[Stuck]) -> list[Rescue]:
        rescues, unread, unknown = [], [], set()
        for stuck in batch:
            unit = self._units.get(stuck.kind)
            if unit is None and not stuck.cancel_requested:
                unknown.add(stuck.kind)
            if stuck.cancel_requested:
                rescues.append(Rescue(stuck, JobState.CANCELLED))
            elif unit is None and self._unknown_kinds == "discard":
                rescues.append(Rescue(stuck, JobState.DISCARDED))
            elif unit is None and self._unknown_kinds == "ignore":
                continue
            elif self._must_be_read(stuck, unit):
                unread.append(stuck)
            else:
                rescues.append(self._rescue(stuck))
        self._tell_unknown(unknown)
        for start in range(0, len(unread), READ_AT_ONCE):
            if not self._may_work():
                break
            rescues += self._judge_read(unread[start : start + READ_AT_ONCE])
        return rescues

    def _tell_unknown(self, kinds: set[str]) -> None:
        """Once for each kind."""
        new = sorted(kinds - self._told)
        self._told.update(new)
        if new:
            self._logger.warning(
                "stuck jobs of kinds that have no worker here, treated as rescue_unknown_kinds=%r says: %s%s",
                self._unknown_kinds, ", ".join(new[:KINDS_LOGGED]), ", ..." if len(new) > KINDS_LOGGED else "",
            )

    def _must_be_read(self, stuck: Stuck, unit: WorkUnit | None) -> bool:
        """Whether its args, or user code that may look at them, have a say."""
        if unit is not None and (unit.timeout_of is not None or self._keeps(stuck, unit.timeout)):
            return True
        asks = type(self._policy) is not DefaultRetryPolicy or (unit is not None and unit.next_retry is not None)
        return asks and stuck.attempt < stuck.max_attempts

    def _judge_read(self, batch: Sequence[Stuck]) -> list[Rescue]:
        with self._transaction() as executor:
            rows = executor.run(Statement("job_get_by_id_many", {"ids": [stuck.id for stuck in batch]}, stored_rows))
        by_id = {row.id: row for row in rows}
        rescues = []
        for stuck in batch:
            row, unit = by_id.get(stuck.id), self._units.get(stuck.kind)
            if row is None or self._stopping.is_set():
                continue  # deleted meanwhile
            job: Job[Any] = Job(row, None if unit is None else _Unit(unit))
            if unit is None or not self._can_be_decoded(job):
                rescues.append(self._rescue(stuck, job))
            elif not self._keeps(stuck, self._timeout_of(job, unit)):
                rescues.append(self._rescue(stuck, job, unit))
        return rescues

    def _rescue(self, stuck: Stuck, job: Job[Any] | None = None, unit: WorkUnit | None = None) -> Rescue:
        """`job`: where the client's own policy, or with a `unit` the worker, is to be asked."""
        if stuck.attempt >= stuck.max_attempts:
            return Rescue(stuck, JobState.DISCARDED)
        if job is None:
            return Rescue(stuck, JobState.RETRYABLE, DefaultRetryPolicy.delay_seconds(stuck.errors + 1))
        next_retry = None if unit is None else unit.next_retry
        delay = retry_delay(job, stuck.errors, self._policy, self._logger, next_retry)
        return Rescue(stuck, JobState.RETRYABLE, delay)

    def _can_be_decoded(self, job: Job[Any]) -> bool:
        try:
            _ = job.args
        except BaseException:  # the user's classes: whatever they raise, the job cannot be running
            return False
        return True

    def _timeout_of(self, job: Job[Any], unit: WorkUnit) -> float | None:
        """The worker's for this job, None to inherit; where it cannot say, no job of its can be running."""
        if unit.timeout_of is None:
            return unit.timeout
        try:
            limit = unit.timeout_of(job)
            return None if limit is None else seconds("timeout", limit, never=True)
        except BaseException:
            self._logger.warning("the worker's timeout raised for job %d; it is rescued", job.id, exc_info=True)
            return self._rescue_after

    def _keeps(self, stuck: Stuck, timeout: float | None) -> bool:
        """Whether the job may still be at work, by its timeout (None or 0: the client's)."""
        limit = timeout or self._job_timeout
        return limit == NEVER or stuck.age < limit

    # Writing.

    def _write_all(self, rescues: Sequence[Rescue]) -> None:
        known_bad = [rescue for rescue in rescues if rescue.stuck.run in self._refused]
        others = [rescue for rescue in rescues if rescue.stuck.run not in self._refused]
        done: dict[int, str] = {}
        for batch in _batches(others):
            done.update(self._write(batch) if self._may_work() else {})
        left = [rescue for rescue in others if rescue.stuck.id not in done and rescue.stuck.run not in self._refused]
        for batch in _batches(left):
            done.update(self._write_locked(batch) if self._may_work() else {})
        if known_bad and self._may_work():
            done.update(self._write_each(known_bad))
        if done:
            states = Counter(done.values())
            self._logger.info(
                "rescued %d jobs that had been running for %g s or more: %s",
                len(done), self._rescue_after, ", ".join(f"{states[state]} now {state}" for state in sorted(states)),
            )

    def _write(self, rescues: Sequence[Rescue]) -> dict[int, str]:
        """Those that were rescued, by id; the others are locked, or another run by now, or gone."""
        try:
            return self._write_at_once(rescues)
        except DatabaseError as error:
            if not _is_the_datas_fault(error):
                raise
        return self._write_each(rescues)

    def _write_each(self, rescues: Sequence[Rescue]) -> dict[int, str]:
        """One bad row must not keep the others."""
        done: dict[int, str] = {}
        for rescue in rescues:
            try:
                done.update(self._write_at_once([rescue]))
            except DatabaseError as error:
                if not _is_the_datas_fault(error):
                    raise
                if rescue.stuck.run not in self._refused:
                    self._logger.error("job %d is stuck and cannot be rescued: %s", rescue.stuck.id, error)
                self._refused.add(rescue.stuck.run)
        return done

    def _write_locked(self, rescues: Sequence[Rescue]) -> dict[int, str]:
        """Those whose rows were locked: waited for, but not for long, nor with anybody else's in hand."""
        try:
            return self._write_at_once(rescues, LOCK_TIMEOUT)
        except DatabaseError as error:
            if self._stopping.is_set() or not (error.sqlstate == QUERY_CANCELED or _is_the_datas_fault(error)):
                raise
            self._logger.debug("some stuck jobs are locked, leaving them for the next pass: %s", error)
            return {}

    def _write_at_once(self, rescues: Sequence[Rescue], lock_timeout: float | None = None) -> dict[int, str]:
        ids = [rescue.stuck.id for rescue in rescues]
        times = [pg_binary.int8_element(rescue.stuck.attempted_at) for rescue in rescues]
        params = {
            "ids": ids,
            "attempts": [rescue.stuck.attempt for rescue in rescues],
            "attempted_ats": pg_binary.array(pg_binary.TIMESTAMPTZ, times),
            "states": [rescue.state.value for rescue in rescues],
            "delays": [rescue.delay for rescue in rescues],
        }
        with self._transaction(lock_timeout) as executor:
            if lock_timeout is not None:
                executor.run(Statement("job_lock_many", {"ids": ids}))
            done = executor.run(Statement("job_rescue_many", params, _states))
        if done:
            self.rescued.signal(done)
        return done


def _batches(rescues: Sequence[Rescue]) -> Iterator[Sequence[Rescue]]:
    for start in range(0, len(rescues), WRITTEN_AT_ONCE):
        yield rescues[start : start + WRITTEN_AT_ONCE]


def _is_the_datas_fault(error: DatabaseError) -> bool:
    """A value, or an index, that does not have it; not the server's, the connection's or the permissions' state."""
    return error.sqlstate is not None and error.sqlstate[:2] in ("22", "23")


def _stuck(rows: list[RawRow], count: int) -> list[Stuck]:
    return [_one_stuck(*row) for row in rows]


def _one_stuck(*columns: bytes | None) -> Stuck:
    numbers = [int.from_bytes(columns[n] or b"", "big", signed=True) for n in (0, 1, 2, 3, 6, 7)]
    id, attempt, max_attempts, attempted_at, errors, now = numbers
    kind = (columns[4] or b"").decode()
    age = (now - attempted_at) / 1e6
    return Stuck(id, attempt, max_attempts, attempted_at, kind, columns[5] == b"\x01", errors, age)


def _states(rows: list[RawRow], count: int) -> dict[int, str]:
    return {int.from_bytes(id or b"", "big", signed=True): (state or b"").decode() for id, state in rows}
