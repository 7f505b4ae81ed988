"""Verbs on one job: get, cancel, retry, delete. River: Client.JobGet, JobCancel, JobRetry, JobDelete.

Any thread; owns nothing. Each verb is one statement, run on a connection of the pool, on the caller's transaction
(`_tx`, sync or async: then the answer is awaitable), or in an async transaction (`_async`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from river_fast.control import BIGINT_MAX, CONTROL_TOPIC, INSERT_TOPIC, ControlAction, ControlMessage, channel
from river_fast.driver import Driver, RawRow, Statement
from river_fast.errors import JobRunningError, NotFoundError, ValidationError
from river_fast.job import Job, JobState
from river_fast.job_row import COLUMNS, StoredRow
from river_fast.statement_runner import StatementRunner


class JobAdmin:
    """`poke` hears of each cancel made here outside a caller's transaction: for clients that cannot LISTEN."""

    def __init__(self, driver: Driver, *, poke: Callable[[ControlMessage], None] | None = None) -> None:
        self._driver = driver
        self._runner = StatementRunner(driver)
        self._poke = poke

    def job_get(self, job_id: int) -> Job[Any]:
        """The job as stored now. `NotFoundError`. River: JobGet."""
        return self._runner.run(self._get(job_id))

    def job_get_tx(self, conn: Any, job_id: int) -> Any:
        return self._runner.run_tx(conn, self._get(job_id))

    async def job_get_async(self, job_id: int) -> Job[Any]:
        return await self._runner.run_async(self._get(job_id))

    def job_cancel(self, job_id: int) -> Job[Any]:
        """Cancel a job for good. River: JobCancel.

        One that waits is cancelled at once; one that runs is told, and becomes cancelled unless it completes or is
        discarded; one in a final state is returned unchanged. `NotFoundError`.
        """
        return self._poked(self._runner.run(self._cancel(job_id)))

    def job_cancel_tx(self, conn: Any, job_id: int) -> Any:
        """The same; nobody is told before the caller commits."""
        return self._runner.run_tx(conn, self._cancel(job_id))

    async def job_cancel_async(self, job_id: int) -> Job[Any]:
        return self._poked(await self._runner.run_async(self._cancel(job_id)))

    def job_retry(self, job_id: int) -> Job[Any]:
        """Make a job available now, with at least one more attempt; running and due ones stay. River: JobRetry.

        `NotFoundError`; `UniqueConflictError` where an equivalent unique job exists meanwhile.
        """
        return self._runner.run(self._retry(job_id))

    def job_retry_tx(self, conn: Any, job_id: int) -> Any:
        return self._runner.run_tx(conn, self._retry(job_id))

    async def job_retry_async(self, job_id: int) -> Job[Any]:
        return await self._runner.run_async(self._retry(job_id))

    def job_delete(self, job_id: int) -> Job[Any]:
        """Delete a job that is not running; the row as it was. `NotFoundError`, `JobRunningError`. River: JobDelete."""
        return self._runner.run(self._delete(job_id))

    def job_delete_tx(self, conn: Any, job_id: int) -> Any:
        return self._runner.run_tx(conn, self._delete(job_id))

    async def job_delete_async(self, job_id: int) -> Job[Any]:
        return await self._runner.run_async(self._delete(job_id))

    # The statements.

    def _get(self, job_id: int) -> Statement[Job[Any]]:
        return Statement("job_get_by_id", {"id": check_job_id(job_id)}, _one_job(job_id))

    def _cancel(self, job_id: int) -> Statement[Job[Any]]:
        return Statement("job_cancel", self._notifying(job_id, CONTROL_TOPIC), _one_job(job_id))

    def _retry(self, job_id: int) -> Statement[Job[Any]]:
        return Statement("job_retry", self._notifying(job_id, INSERT_TOPIC), _one_job(job_id))

    def _delete(self, job_id: int) -> Statement[Job[Any]]:
        def parse(rows: list[RawRow], count: int) -> Job[Any]:
            job = _one_job(job_id)(rows, count)
            if rows[0][len(COLUMNS)] != b"\x01":
                raise JobRunningError(f"job {job_id} is running and cannot be deleted; cancel it first")
            return job

        return Statement("job_delete", {"id": check_job_id(job_id)}, parse)

    def _notifying(self, job_id: int, topic: str) -> dict[str, Any]:
        checked = check_job_id(job_id)
        notify = self._driver.open().notify  # first: the schema may be known only after
        return {"id": checked, "notify": notify, "channel": channel(self._driver.schema, topic)}

    def _poked(self, job: Job[Any]) -> Job[Any]:
        if self._poke is not None and job.state is JobState.RUNNING:
            self._poke(ControlMessage(ControlAction.CANCEL, job.queue, job.id))
        return job


def check_job_id(job_id: int) -> int:
    """`ValidationError` for what is no int, `NotFoundError` for an int that no row can have."""
    if isinstance(job_id, bool) or not isinstance(job_id, int):
        raise ValidationError("job_id", f"must be an int, got {type(job_id).__name__}")
    if not 0 < job_id <= BIGINT_MAX:
        raise NotFoundError(f"job {job_id if abs(job_id) <= 2 * BIGINT_MAX else 'of that id'} does not exist")
    return job_id


def _one_job(job_id: int) -> Callable[[list[RawRow], int], Job[Any]]:
    def parse(rows: list[RawRow], count: int) -> Job[Any]:
        if not rows:
            raise NotFoundError(f"job {job_id} does not exist")
        return Job(StoredRow(rows[0]))

    return parse
