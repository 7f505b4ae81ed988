"""One attempt of one job while it runs here: how it is cancelled, and what it wants stored with its outcome.

Made at first use (most jobs never need one). The worker that runs the job stages metadata and output; any thread may
cancel, once: the first cause stays.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from river_fast.driver import Driver, RawRow, Statement
from river_fast.encoding import encode_object
from river_fast.errors import (
    EncodeError,
    JobCancelledRemotelyError,
    JobInterruptedError,
    JobLostError,
    JobTimeoutError,
    ValidationError,
)
from river_fast.job import Job
from river_fast.job_log import JobLog, JobLogger, JobLogHandler, working_handler
from river_fast.job_row import PG_EPOCH, StoredRow
from river_fast.resumable import Resumable, encode_cursor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CancelCause = Literal["remote", "timeout", "stop"]

OUTPUT_MAX_BYTES = 32 * 1024 * 1024  # River's limit
METADATA_MAX_BYTES = 64 * 1024 * 1024  # staged in all; jsonb itself ends at 256 MB
_SLOTS = threading.Lock()  # of stuck jobs: few ever ask for it


class JobRun:
    """What `Job` delegates to while it runs."""

    def __init__(self, job: Job[Any], driver: Driver) -> None:
        self._job = job
        self._driver = driver
        self._cancelled = threading.Event()
        self._causes: set[CancelCause] = set()
        self._metadata: dict[str, bytes] = {}  # by key, each the member's whole JSON text
        self._limit: float | None = None
        self.cancel_cause: CancelCause | None = None
        self.abandoned = False  # a stop gave the row back: this attempt's outcome is nobody's any more
        self.stuck = False
        self._slot_freed = self._ended = False
        self.timeout: float | None = None  # of a class worker that decides by job
        self._resumable: Resumable | None = None
        self._log: JobLog | None = None

    # Cancelling: any thread.

    def cancel(self, cause: CancelCause, limit: float | None = None) -> bool:
        """Tell the job to end. The first cause stays; `limit`: the seconds that a "timeout" allowed.

        False: it was told this before; what it does in its `finally` is to be left in peace.
        """
        if cause in self._causes:
            return False
        self._causes.add(cause)
        if self.cancel_cause is None:
            self._limit = limit
            self.cancel_cause = cause
        self._cancelled.set()
        return True

    def wait_cancelled(self, timeout: float | timedelta | None) -> bool:
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        return self._cancelled.wait(timeout)

    def raise_if_cancelled(self) -> None:
        if self.cancel_cause is not None:
            raise self.cancel_error()

    def cancel_error(self) -> Exception:
        """The error that stands for the cause."""
        if self.cancel_cause == "remote":
            return JobCancelledRemotelyError()
        if self.cancel_cause == "timeout":
            return JobTimeoutError("job timed out" if self._limit is None else f"job timed out after {self._limit:g} s")
        return JobInterruptedError()

    # The slot of a stuck job.

    def free_slot(self) -> bool:
        """Whether it is to be freed now, for others: not once the job has ended, nor a second time."""
        with _SLOTS:
            freed = not (self._ended or self._slot_freed)
            self._slot_freed = self._slot_freed or freed
            return freed

    def ended(self) -> bool:
        """The job has ended; whether its slot had been freed before."""
        self._ended = True  # first: whoever finds it stuck from here on frees nothing
        if not self.stuck:
            return False
        with _SLOTS:
            return self._slot_freed

    # Staging: the worker that runs the job.

    def record_output(self, value: Any) -> None:
        self._metadata["output"] = encode_object({"output": value}, field="output", limit=OUTPUT_MAX_BYTES)[1:-1]

    def set_metadata(self, key: str, value: Any) -> None:
        check_metadata_key(key)
        self.stage(key, value)

    def stage(self, key: str, value: Any) -> None:
        """As `set_metadata`, for keys of our own too."""
        member = encode_object({key: value}, field="metadata")[1:-1]
        if sum(map(len, self._metadata.values())) + len(member) > METADATA_MAX_BYTES:
            raise EncodeError("metadata", f"staged values exceed {METADATA_MAX_BYTES} bytes of JSON")
        self._metadata[key] = member

    def recorded_output(self) -> bytes:
        """What `record_output` staged, as the member of an object; empty where it staged nothing."""
        return self._metadata.get("output", b"")

    def staged(self, *, failed: bool) -> bytes | None:
        """All that was staged as one JSON object, None where nothing was. `failed`: with the progress through its
        steps, which an attempt that did not complete its job leaves to the next."""
        # one step under the GIL: a thread that the job left behind may stage meanwhile
        members = list(self._metadata.values())
        if failed and self._resumable is not None:
            members += self._resumable.progress().values()
        if self._log is not None and (log := self._log.member(self._job)) is not None:
            members.append(log)
        return b"{" + b",".join(members) + b"}" if members else None

    # Logging: whatever runs in the job's context.

    def log(self, handler: JobLogHandler) -> JobLog:
        """This attempt's log, made within the bounds of `handler` if there is none."""
        if self._log is None:
            self._log = JobLog(handler)
        return self._log

    @property
    def logger(self) -> JobLogger:
        return JobLogger(self._job, self.log(working_handler(self._job)))

    # Steps: the worker that runs the job.

    @property
    def resumable(self) -> Resumable:
        """The job's steps, made at the first; `DecodeError` where stored progress cannot be read."""
        if self._resumable is None:
            self._resumable = Resumable(self._job.encoded_metadata)
        return self._resumable

    def take_error(self) -> BaseException | None:
        """Why a job whose worker returned did not complete all the same."""
        return None if self._resumable is None else self._resumable.take_error()

    def set_step_tx(self, conn: Any) -> Job[Any] | Awaitable[Job[Any]]:
        return self._checkpoint(conn, *self.resumable.checkpoint())

    def set_cursor_tx(self, conn: Any, value: Any) -> Job[Any] | Awaitable[Job[Any]]:
        return self._checkpoint(conn, *self.resumable.checkpoint(encode_cursor(value)))

    def _checkpoint(self, conn: Any, metadata: str, written: Callable[[], None]) -> Job[Any] | Awaitable[Job[Any]]:
        return self._run_on(conn, "job_checkpoint_tx", metadata, written)

    # In the caller's transaction.

    def complete_tx(self, conn: Any) -> Job[Any] | Awaitable[Job[Any]]:
        staged = self.staged(failed=False)
        return self._run_on(conn, "job_complete_tx", None if staged is None else staged.decode())

    def _run_on(
        self, conn: Any, name: str, metadata: str | None, written: Callable[[], None] = lambda: None
    ) -> Job[Any] | Awaitable[Job[Any]]:
        """A statement that changes the row if it still is this attempt's; `written` is called once it did."""
        if self._driver.is_async(conn):
            return self._run_on_async(conn, name, metadata, written)
        executor, at = self._driver.on(conn), self._job.attempted_at
        try:
            return executor.run(self._fenced(name, at, metadata, written))
        except JobLostError:
            if (renewed := self._renewed_since(at)) is None:
                raise
            return executor.run(self._fenced(name, renewed, metadata, written))

    async def _run_on_async(
        self, conn: Any, name: str, metadata: str | None, written: Callable[[], None]
    ) -> Job[Any]:
        executor, at = self._driver.on_async(conn), self._job.attempted_at
        try:
            return await executor.run(self._fenced(name, at, metadata, written))
        except JobLostError:
            if (renewed := self._renewed_since(at)) is None:
                raise
            return await executor.run(self._fenced(name, renewed, metadata, written))

    def _renewed_since(self, at: datetime | None) -> datetime | None:
        """The attempt's time after a renewal that met us (`Config.refresh_long_jobs`); None: there was none."""
        renewing = getattr(self._job._row, "renewing_us", 0)
        if renewing:
            return PG_EPOCH + timedelta(microseconds=renewing)
        return None if self._job.attempted_at == at else self._job.attempted_at

    def _fenced(
        self, name: str, attempted_at: datetime | None, metadata: str | None, written: Callable[[], None]
    ) -> Statement[Job[Any]]:
        job = self._job
        params = {"id": job.id, "attempt": job.attempt, "attempted_at": attempted_at, "metadata": metadata}

        def parse(rows: list[RawRow], count: int) -> Job[Any]:
            if not rows:
                raise JobLostError(
                    f"job {job.id} is no longer this attempt's ({job.attempt}): it was finished, freed or deleted"
                    " meanwhile; roll the transaction back"
                )
            written()
            return Job(StoredRow(rows[0]), job._unit)

        return Statement(name, params, parse)


def check_metadata_key(key: str) -> None:
    """`ValidationError` for one that is not the user's to write."""
    if not isinstance(key, str) or not key:
        raise ValidationError("metadata", f"key must be a non-empty string, got {key!r}")
    if key.startswith("river:"):
        raise ValidationError("metadata", f"key {key!r} is reserved: choose one that does not start with 'river:'")
