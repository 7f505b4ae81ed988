"""What a `Client` may be asked besides running: insert, look at and steer jobs and queues. River: Client's methods.

Any thread; owns nothing. Each verb checks that the process is still the one that made the client, and delegates. The
`_tx` forms run in the caller's transaction: on a psycopg `AsyncConnection` they return an awaitable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, overload

from river_fast.insert_opts import InsertOpts, JobInsertResult
from river_fast.inserter import Inserter
from river_fast.job import Job
from river_fast.job_admin import JobAdmin
from river_fast.queue import Queue
from river_fast.queue_admin import QueueAdmin

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection


class ClientVerbs:
    """Mixed into `Client`, which sets the three delegates."""

    _inserter: Inserter
    _jobs: JobAdmin
    _queue_rows: QueueAdmin

    def _check_process(self) -> None:
        raise NotImplementedError

    # Inserting.

    def insert(self, args: Any, opts: InsertOpts | None = None) -> JobInsertResult:
        """Insert one job and tell the workers of its queue, in one transaction. River: Insert.

        `args`: an args value (`JobArgs`, `@job_args`, `RawArgs`). Raises `ValidationError` (`EncodeError`) before
        anything is written, `UnknownJobKindError` where the client has workers and none for the kind, `DatabaseError`,
        and `InsertOutcomeUnknownError` where the connection was lost before the answer.
        """
        self._check_process()
        return self._inserter.insert(args, opts)

    def insert_many(self, params: Iterable[Any]) -> list[JobInsertResult]:
        """Insert jobs, all or none; results in input order. Items are args or `InsertManyParams`. River: InsertMany."""
        self._check_process()
        return self._inserter.insert_many(params)

    def insert_many_fast(self, params: Iterable[Any]) -> int:
        """Insert jobs by COPY, all or none; how many. `UniqueConflictError` for a duplicate. River: InsertManyFast."""
        self._check_process()
        return self._inserter.insert_many_fast(params)

    @overload
    def insert_tx(self, conn: Connection[Any], args: Any, opts: InsertOpts | None = None) -> JobInsertResult: ...
    @overload
    def insert_tx(
        self, conn: AsyncConnection[Any], args: Any, opts: InsertOpts | None = None
    ) -> Awaitable[JobInsertResult]: ...
    def insert_tx(self, conn: Any, args: Any, opts: InsertOpts | None = None) -> Any:
        """`insert` in the caller's transaction: when that commits, the job exists and workers hear. River: InsertTx."""
        self._check_process()
        return self._inserter.insert_tx(conn, args, opts)

    @overload
    def insert_many_tx(self, conn: Connection[Any], params: Iterable[Any]) -> list[JobInsertResult]: ...
    @overload
    def insert_many_tx(self, conn: AsyncConnection[Any], params: Iterable[Any]) -> Awaitable[list[JobInsertResult]]: ...
    def insert_many_tx(self, conn: Any, params: Iterable[Any]) -> Any:
        """`insert_many` in the caller's transaction. River: InsertManyTx."""
        self._check_process()
        return self._inserter.insert_many_tx(conn, params)

    @overload
    def insert_many_fast_tx(self, conn: Connection[Any], params: Iterable[Any]) -> int: ...
    @overload
    def insert_many_fast_tx(self, conn: AsyncConnection[Any], params: Iterable[Any]) -> Awaitable[int]: ...
    def insert_many_fast_tx(self, conn: Any, params: Iterable[Any]) -> Any:
        """`insert_many_fast` in the caller's transaction. River: InsertManyFastTx."""
        self._check_process()
        return self._inserter.insert_many_fast_tx(conn, params)

    # Jobs.

    def job_get(self, job_id: int) -> Job[Any]:
        """The job as stored now; `NotFoundError`. River: JobGet."""
        self._check_process()
        return self._jobs.job_get(job_id)

    def job_get_tx(self, conn: Any, job_id: int) -> Any:
        """`job_get` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_get_tx(conn, job_id)

    def job_cancel(self, job_id: int) -> Job[Any]:
        """Cancel a job: at once if it waits, by telling it if it runs; `NotFoundError`. River: JobCancel."""
        self._check_process()
        return self._jobs.job_cancel(job_id)

    def job_cancel_tx(self, conn: Any, job_id: int) -> Any:
        """`job_cancel` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_cancel_tx(conn, job_id)

    def job_retry(self, job_id: int) -> Job[Any]:
        """Make a job available now; `NotFoundError`, `UniqueConflictError`. River: JobRetry."""
        self._check_process()
        return self._jobs.job_retry(job_id)

    def job_retry_tx(self, conn: Any, job_id: int) -> Any:
        """`job_retry` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_retry_tx(conn, job_id)

    def job_delete(self, job_id: int) -> Job[Any]:
        """Delete a job that does not run; `NotFoundError`, `JobRunningError`. River: JobDelete."""
        self._check_process()
        return self._jobs.job_delete(job_id)

    def job_delete_tx(self, conn: Any, job_id: int) -> Any:
        """`job_delete` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_delete_tx(conn, job_id)

    # Queues.

    def queue_get(self, name: str) -> Queue:
        """The queue as stored now; `NotFoundError`. River: QueueGet."""
        self._check_process()
        return self._queue_rows.queue_get(name)

    def queue_get_tx(self, conn: Any, name: str) -> Any:
        """`queue_get` in the caller's transaction."""
        self._check_process()
        return self._queue_rows.queue_get_tx(conn, name)

    def queue_list(self, limit: int = 100) -> list[Queue]:
        """The first `limit` (1 to 10,000) queues by name. River: QueueList."""
        self._check_process()
        return self._queue_rows.queue_list(limit)

    def queue_list_tx(self, conn: Any, limit: int = 100) -> Any:
        """`queue_list` in the caller's transaction."""
        self._check_process()
        return self._queue_rows.queue_list_tx(conn, limit)

    def queue_pause(self, name: str) -> None:
        """No client fetches from the queue (`"*"`: any) until it is resumed; `NotFoundError`. River: QueuePause."""
        self._check_process()
        self._queue_rows.queue_pause(name)

    def queue_pause_tx(self, conn: Any, name: str) -> Any:
        """`queue_pause` in the caller's transaction."""
        self._check_process()
        return self._queue_rows.queue_pause_tx(conn, name)

    def queue_resume(self, name: str) -> None:
        """The reverse of `queue_pause`. River: QueueResume."""
        self._check_process()
        self._queue_rows.queue_resume(name)

    def queue_resume_tx(self, conn: Any, name: str) -> Any:
        """`queue_resume` in the caller's transaction."""
        self._check_process()
        return self._queue_rows.queue_resume_tx(conn, name)
