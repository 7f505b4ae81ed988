"""How a `Client` looks at jobs and queues, and steers them. River: Client.JobGet, JobList, QueuePause and their like.

Any thread; owns nothing. Each verb checks that the process is still the one that made the client, and delegates. The
`_tx` forms run in the caller's transaction, and nobody is told before its commit: on a psycopg `AsyncConnection` they
return an awaitable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Unpack, overload

from river_fast.job import Job
from river_fast.job_admin import NOT_GIVEN, JobAdmin
from river_fast.job_filters import JobFilters
from river_fast.job_list import JobListOptions, JobListResult
from river_fast.queue import Queue
from river_fast.queue_admin import QueueAdmin

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

Metadata = Mapping[str, Any] | bytes | None


class ClientAdmin:
    """Mixed into `Client`, which sets the two delegates."""

    _jobs: JobAdmin
    _queue_rows: QueueAdmin

    def _check_process(self) -> None:
        raise NotImplementedError

    # Jobs.

    def job_get(self, job_id: int) -> Job[Any]:
        """The job as stored now; `NotFoundError`. River: JobGet."""
        self._check_process()
        return self._jobs.job_get(job_id)

    @overload
    def job_get_tx(self, conn: Connection[Any], job_id: int) -> Job[Any]: ...
    @overload
    def job_get_tx(self, conn: AsyncConnection[Any], job_id: int) -> Awaitable[Job[Any]]: ...
    def job_get_tx(self, conn: Any, job_id: int) -> Any:
        """`job_get` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_get_tx(conn, job_id)

    def job_list(self, **options: Unpack[JobListOptions]) -> JobListResult:
        """A page of jobs, filtered and ordered, with the cursor of the next page. River: JobList.

        Filters: `ids`, `kinds`, `queues`, `states`, `priorities`, `tags_all`, `tags_any`, `metadata` (contained in the
        job's). `order_by`: "id", "time", "scheduled_at", "finalized_at"; `descending`; `after`: a cursor, its text or a
        job; `limit`: 1 to 10,000 (default: 100). See `JobListOptions`. `ValidationError`.
        """
        self._check_process()
        return self._jobs.job_list(**options)

    @overload
    def job_list_tx(self, conn: Connection[Any], **options: Unpack[JobListOptions]) -> JobListResult: ...
    @overload
    def job_list_tx(
        self, conn: AsyncConnection[Any], **options: Unpack[JobListOptions]
    ) -> Awaitable[JobListResult]: ...
    def job_list_tx(self, conn: Any, **options: Unpack[JobListOptions]) -> Any:
        """`job_list` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_list_tx(conn, **options)

    def job_update(self, job: Job[Any] | int, *, output: Any = NOT_GIVEN, metadata: Metadata = None) -> Job[Any]:
        """Merge an `output`, and keys of `metadata` of your own, into a job's metadata, in any state. River: JobUpdate.

        With neither, of a job that runs here: the output it has recorded so far. Returns the job as stored.
        `NotFoundError`; `ValidationError` for reserved keys and above 32 MB.
        """
        self._check_process()
        return self._jobs.job_update(job, output=output, metadata=metadata)

    @overload
    def job_update_tx(
        self, conn: Connection[Any], job: Job[Any] | int, *, output: Any = NOT_GIVEN, metadata: Metadata = None
    ) -> Job[Any]: ...
    @overload
    def job_update_tx(
        self, conn: AsyncConnection[Any], job: Job[Any] | int, *, output: Any = NOT_GIVEN, metadata: Metadata = None
    ) -> Awaitable[Job[Any]]: ...
    def job_update_tx(
        self, conn: Any, job: Job[Any] | int, *, output: Any = NOT_GIVEN, metadata: Metadata = None
    ) -> Any:
        """`job_update` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_update_tx(conn, job, output=output, metadata=metadata)

    def job_cancel(self, job_id: int) -> Job[Any]:
        """Cancel a job: at once if it waits, by telling it if it runs; `NotFoundError`. River: JobCancel."""
        self._check_process()
        return self._jobs.job_cancel(job_id)

    @overload
    def job_cancel_tx(self, conn: Connection[Any], job_id: int) -> Job[Any]: ...
    @overload
    def job_cancel_tx(self, conn: AsyncConnection[Any], job_id: int) -> Awaitable[Job[Any]]: ...
    def job_cancel_tx(self, conn: Any, job_id: int) -> Any:
        """`job_cancel` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_cancel_tx(conn, job_id)

    def job_retry(self, job_id: int) -> Job[Any]:
        """Make a job available now; `NotFoundError`, `UniqueConflictError`. River: JobRetry."""
        self._check_process()
        return self._jobs.job_retry(job_id)

    @overload
    def job_retry_tx(self, conn: Connection[Any], job_id: int) -> Job[Any]: ...
    @overload
    def job_retry_tx(self, conn: AsyncConnection[Any], job_id: int) -> Awaitable[Job[Any]]: ...
    def job_retry_tx(self, conn: Any, job_id: int) -> Any:
        """`job_retry` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_retry_tx(conn, job_id)

    def job_delete(self, job_id: int) -> Job[Any]:
        """Delete a job that does not run; `NotFoundError`, `JobRunningError`. River: JobDelete."""
        self._check_process()
        return self._jobs.job_delete(job_id)

    @overload
    def job_delete_tx(self, conn: Connection[Any], job_id: int) -> Job[Any]: ...
    @overload
    def job_delete_tx(self, conn: AsyncConnection[Any], job_id: int) -> Awaitable[Job[Any]]: ...
    def job_delete_tx(self, conn: Any, job_id: int) -> Any:
        """`job_delete` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_delete_tx(conn, job_id)

    def job_delete_many(
        self, *, limit: int = 100, unsafe_all: bool = False, **filters: Unpack[JobFilters]
    ) -> list[Job[Any]]:
        """Delete the first `limit` (1 to 10,000) jobs by id that pass all filters; the rows as they were.

        Filters: `ids`, `kinds`, `priorities`, `queues`, `states`. Running and locked jobs are left alone.
        `ValidationError` without any filter, unless `unsafe_all` says so. River: JobDeleteMany.
        """
        self._check_process()
        return self._jobs.job_delete_many(limit=limit, unsafe_all=unsafe_all, **filters)

    @overload
    def job_delete_many_tx(
        self, conn: Connection[Any], *, limit: int = 100, unsafe_all: bool = False, **filters: Unpack[JobFilters]
    ) -> list[Job[Any]]: ...
    @overload
    def job_delete_many_tx(
        self, conn: AsyncConnection[Any], *, limit: int = 100, unsafe_all: bool = False, **filters: Unpack[JobFilters]
    ) -> Awaitable[list[Job[Any]]]: ...
    def job_delete_many_tx(
        self, conn: Any, *, limit: int = 100, unsafe_all: bool = False, **filters: Unpack[JobFilters]
    ) -> Any:
        """`job_delete_many` in the caller's transaction."""
        self._check_process()
        return self._jobs.job_delete_many_tx(conn, limit=limit, unsafe_all=unsafe_all, **filters)

    # Queues.

    def queue_get(self, name: str) -> Queue:
        """The queue as stored now; `NotFoundError`. River: QueueGet."""
        self._check_process()
        return self._queue_rows.queue_get(name)

    @overload
    def queue_get_tx(self, conn: Connection[Any], name: str) -> Queue: ...
    @overload
    def queue_get_tx(self, conn: AsyncConnection[Any], name: str) -> Awaitable[Queue]: ...
    def queue_get_tx(self, conn: Any, name: str) -> Any:
        """`queue_get` in the caller's transaction."""
        self._check_process()
        return self._queue_rows.queue_get_tx(conn, name)

    def queue_list(self, limit: int = 100) -> list[Queue]:
        """The first `limit` (1 to 10,000) queues by name. River: QueueList."""
        self._check_process()
        return self._queue_rows.queue_list(limit)

    @overload
    def queue_list_tx(self, conn: Connection[Any], limit: int = 100) -> list[Queue]: ...
    @overload
    def queue_list_tx(self, conn: AsyncConnection[Any], limit: int = 100) -> Awaitable[list[Queue]]: ...
    def queue_list_tx(self, conn: Any, limit: int = 100) -> Any:
        """`queue_list` in the caller's transaction."""
        self._check_process()
        return self._queue_rows.queue_list_tx(conn, limit)

    def queue_update(self, name: str, metadata: Metadata = None) -> Queue:
        """Replace the queue's metadata (None: leave it) and tell the clients; `NotFoundError`. River: QueueUpdate."""
        self._check_process()
        return self._queue_rows.queue_update(name, metadata)

    @overload
    def queue_update_tx(self, conn: Connection[Any], name: str, metadata: Metadata = None) -> Queue: ...
    @overload
    def queue_update_tx(self, conn: AsyncConnection[Any], name: str, metadata: Metadata = None) -> Awaitable[Queue]: ...
    def queue_update_tx(self, conn: Any, name: str, metadata: Metadata = None) -> Any:
        """`queue_update` in the caller's transaction."""
        self._check_process()
        return self._queue_rows.queue_update_tx(conn, name, metadata)

    def queue_pause(self, name: str) -> None:
        """No client fetches from the queue (`"*"`: any) until it is resumed; `NotFoundError`. River: QueuePause."""
        self._check_process()
        self._queue_rows.queue_pause(name)

    @overload
    def queue_pause_tx(self, conn: Connection[Any], name: str) -> None: ...
    @overload
    def queue_pause_tx(self, conn: AsyncConnection[Any], name: str) -> Awaitable[None]: ...
    def queue_pause_tx(self, conn: Any, name: str) -> Any:
        """`queue_pause` in the caller's transaction."""
        self._check_process()
        return self._queue_rows.queue_pause_tx(conn, name)

    def queue_resume(self, name: str) -> None:
        """The reverse of `queue_pause`. River: QueueResume."""
        self._check_process()
        self._queue_rows.queue_resume(name)

    @overload
    def queue_resume_tx(self, conn: Connection[Any], name: str) -> None: ...
    @overload
    def queue_resume_tx(self, conn: AsyncConnection[Any], name: str) -> Awaitable[None]: ...
    def queue_resume_tx(self, conn: Any, name: str) -> Any:
        """`queue_resume` in the caller's transaction."""
        self._check_process()
        return self._queue_rows.queue_resume_tx(conn, name)
