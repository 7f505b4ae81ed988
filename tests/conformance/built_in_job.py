"""The job that the suite inserts: its args, and what each behavior does.

The worker threads of a running client. Texts are the contract's: the suite finds them in the rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import river_fast as river
from tests.conformance.barriers import Barriers
from tests.conformance.claim_barrier import ClaimBarrier
from tests.conformance.runtime_stats import RuntimeStats

KIND = "conformance_echo"
KIND_PEER = "conformance_echo_peer"
KIND_RENAMED = "conformance_echo_renamed"

MILLISECOND = 0.001


class ConformancePanic(BaseException):
    """What Go's panic is here: nothing that a job's own `except Exception` could catch."""


@dataclass
class EchoArgs(river.JobArgs, kind=KIND):
    """Stored args hold exactly these."""

    behavior: str = ""
    duration_ms: int = 0
    message: str = ""


@dataclass
class PeerArgs(river.JobArgs, kind=KIND_PEER):
    """Another kind that does the same (generation B)."""

    behavior: str = ""
    duration_ms: int = 0
    message: str = ""


@dataclass
class RenamedArgs(river.JobArgs, kind=KIND_RENAMED, aliases=(KIND,)):
    """The kind's new name; its worker works jobs under the old one too (generation B)."""

    behavior: str = ""
    duration_ms: int = 0
    message: str = ""


ARGS: dict[str, type[Any]] = {KIND: EchoArgs, KIND_PEER: PeerArgs, KIND_RENAMED: RenamedArgs}


class BuiltInJob:
    """`connect` gives a connection in autocommit mode for the job's own transaction."""

    def __init__(
        self,
        barriers: Barriers,
        stats: RuntimeStats,
        connect: Callable[[], AbstractContextManager[Any]],
        claim_barrier: ClaimBarrier | None = None,
        *,
        interruptible_sleep: bool = False,
    ) -> None:
        self._interruptible_sleep = interruptible_sleep
        self._barriers = barriers
        self._stats = stats
        self._connect = connect
        self._claim_barrier = claim_barrier
        self._behaviors: dict[str, Callable[[river.Job[Any]], None]] = {
            "barrier_wait": self._barrier_wait,
            "barrier_output": self._barrier_output,
            "output": self._output,
            "sleep": self._sleep,
            "error": self._error,
            "discard": self._discard,
            "panic": self._panic,
            "cancel": self._cancel,
            "cooperative_cancel": self._cooperative_cancel,
            "cancel_error": self._cancel_error,
            "cancel_panic": self._cancel_panic,
            "ignored_cancel": self._ignored_cancel,
            "snooze_once": self._snooze_once,
            "snooze_then_cancel": self._snooze_then_cancel,
            "resumable": self._resumable,
            "resumable_duplicate": self._resumable_duplicate,
            "resumable_cursor": self._resumable_cursor,
            "transactional_complete": self._transactional_complete,
        }

    def workers(self, kinds: tuple[str, ...] = (KIND,)) -> river.Workers:
        """`conformance_echo_renamed` answers to the old kind as well, so the two are not registered together."""
        workers = river.Workers()
        for kind in kinds:
            if kind != KIND or KIND_RENAMED not in kinds:
                workers.work(ARGS[kind])(self.work)
        return workers

    def work(self, job: river.Job[Any]) -> None:
        if self._claim_barrier is not None:
            self._claim_barrier.hold(job)
        behavior = job.args.behavior
        if behavior:
            self._behaviors[behavior](job)

    def _barrier_wait(self, job: river.Job[Any]) -> None:
        self._barriers.wait(job.args.message, job)

    def _barrier_output(self, job: river.Job[Any]) -> None:
        self._barrier_wait(job)
        job.record_output({"race": "worker"})

    def _output(self, job: river.Job[Any]) -> None:
        job.record_output({"message": job.args.message})

    def _sleep(self, job: river.Job[Any]) -> None:
        if self._interruptible_sleep:
            job.wait_cancelled(job.args.duration_ms * MILLISECOND)
            job.raise_if_cancelled()
        else:
            time.sleep(job.args.duration_ms * MILLISECOND)

    def _error(self, job: river.Job[Any]) -> None:
        raise RuntimeError("conformance retryable error")

    def _discard(self, job: river.Job[Any]) -> None:
        raise RuntimeError("conformance discard")

    def _panic(self, job: river.Job[Any]) -> None:
        raise ConformancePanic("conformance worker panic")

    def _cancel(self, job: river.Job[Any]) -> None:
        raise river.JobCancelError("cancelled by conformance worker")

    def _cooperative_cancel(self, job: river.Job[Any]) -> None:
        if job.cancelled:
            self._stats.count("cancelled_at_start")
        job.wait_cancelled()
        job.raise_if_cancelled()

    def _cancel_error(self, job: river.Job[Any]) -> None:
        job.wait_cancelled()
        raise RuntimeError("conformance failure after cancellation")

    def _cancel_panic(self, job: river.Job[Any]) -> None:
        job.wait_cancelled()
        raise ConformancePanic("conformance panic after cancellation")

    def _ignored_cancel(self, job: river.Job[Any]) -> None:
        threading.Event().wait()

    def _snooze_once(self, job: river.Job[Any]) -> None:
        if "snoozes" not in job.metadata:
            raise river.JobSnoozeError(max(job.args.duration_ms, 1) * MILLISECOND)

    def _snooze_then_cancel(self, job: river.Job[Any]) -> None:
        self._snooze_once(job)
        job.wait_cancelled()
        job.raise_if_cancelled()

    def _resumable(self, job: river.Job[Any]) -> None:
        self._two_steps(job, "second")

    def _resumable_duplicate(self, job: river.Job[Any]) -> None:
        self._two_steps(job, "first")

    def _two_steps(self, job: river.Job[Any], second_name: str) -> None:
        def second() -> None:
            self._stats.count("resumable_second_runs")
            if job.attempt == 1:
                raise RuntimeError("fail second resumable step once")

        job.step("first", lambda: self._stats.count("resumable_first_runs"))
        job.step(second_name, second)

    def _resumable_cursor(self, job: river.Job[Any]) -> None:
        def second(cursor: Any) -> None:
            if job.attempt == 1:
                job.set_cursor(7)
                raise RuntimeError("retry with cursor")
            if cursor != 7:
                raise RuntimeError(f"the cursor is {cursor!r}, not 7")
            job.set_metadata("cursor_observed", cursor)

        def third() -> None:
            if job.attempt == 2:
                raise RuntimeError("retry after consuming cursor")

        job.step("first", lambda: job.set_metadata("first_attempt", job.attempt))
        job.step_cursor("second", second)
        job.step("third", third)

    def _transactional_complete(self, job: river.Job[Any]) -> None:
        job.set_metadata("transactional_completion", True)
        with self._connect() as conn, conn.transaction():
            job.complete_tx(conn)
