"""How an `AsyncClient` looks at jobs and queues, and steers them. River: Client.JobGet, JobList, QueuePause, ...

The caller's event loop; owns nothing. Coroutines on the client's own async pool; the `_tx` forms on the caller's
`AsyncConnection`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from river_fast.client import Client
from river_fast.client_admin import Metadata
from river_fast.errors import ConfigError
from river_fast.job import Job
from river_fast.job_admin import NOT_GIVEN
from river_fast.job_filters import JobFilters
from river_fast.job_list import JobListOptions, JobListResult
from river_fast.queue import Queue

if TYPE_CHECKING:
    from psycopg import AsyncConnection


class AsyncClientAdmin:
    """Mixed into `AsyncClient`."""

    _client: Client

    def _async(self, conn: AsyncConnection[Any]) -> AsyncConnection[Any]:
        """`ConfigError` for any other connection, before anything is done on it."""
        if not self._client._driver.is_async(conn):
            raise ConfigError(f"an AsyncClient needs a psycopg AsyncConnection here, got {type(conn).__name__}")
        return conn

    async def _ready(self) -> None:
        """The first contact is made without blocking the loop."""
        self._client._check_process()
        await self._client._driver.open_async()

    async def job_get(self, job_id: int) -> Job[Any]:
        """As `Client.job_get`."""
        await self._ready()
        return await self._client._jobs.job_get_async(job_id)

    async def job_get_tx(self, conn: AsyncConnection[Any], job_id: int) -> Job[Any]:
        """As `Client.job_get_tx`."""
        await self._ready()
        return await self._client.job_get_tx(self._async(conn), job_id)

    async def job_list(self, **options: Unpack[JobListOptions]) -> JobListResult:
        """As `Client.job_list`."""
        await self._ready()
        return await self._client._jobs.job_list_async(**options)

    async def job_list_tx(self, conn: AsyncConnection[Any], **options: Unpack[JobListOptions]) -> JobListResult:
        """As `Client.job_list_tx`."""
        await self._ready()
        return await self._client.job_list_tx(self._async(conn), **options)

    async def job_update(self, job: Job[Any] | int, *, output: Any = NOT_GIVEN, metadata: Metadata = None) -> Job[Any]:
        """As `Client.job_update`."""
        await self._ready()
        return await self._client._jobs.job_update_async(job, output=output, metadata=metadata)

    async def job_update_tx(
        self, conn: AsyncConnection[Any], job: Job[Any] | int, *, output: Any = NOT_GIVEN, metadata: Metadata = None
    ) -> Job[Any]:
        """As `Client.job_update_tx`."""
        await self._ready()
        return await self._client.job_update_tx(self._async(conn), job, output=output, metadata=metadata)

    async def job_cancel(self, job_id: int) -> Job[Any]:
        """As `Client.job_cancel`."""
        await self._ready()
        return await self._client._jobs.job_cancel_async(job_id)

    async def job_cancel_tx(self, conn: AsyncConnection[Any], job_id: int) -> Job[Any]:
        """As `Client.job_cancel_tx`."""
        await self._ready()
        return await self._client.job_cancel_tx(self._async(conn), job_id)

    async def job_retry(self, job_id: int) -> Job[Any]:
        """As `Client.job_retry`."""
        await self._ready()
        return await self._client._jobs.job_retry_async(job_id)

    async def job_retry_tx(self, conn: AsyncConnection[Any], job_id: int) -> Job[Any]:
        """As `Client.job_retry_tx`."""
        await self._ready()
        return await self._client.job_retry_tx(self._async(conn), job_id)

    async def job_delete(self, job_id: int) -> Job[Any]:
        """As `Client.job_delete`."""
        await self._ready()
        return await self._client._jobs.job_delete_async(job_id)

    async def job_delete_tx(self, conn: AsyncConnection[Any], job_id: int) -> Job[Any]:
        """As `Client.job_delete_tx`."""
        await self._ready()
        return await self._client.job_delete_tx(self._async(conn), job_id)

    async def job_delete_many(
        self, *, limit: int = 100, unsafe_all: bool = False, **filters: Unpack[JobFilters]
    ) -> list[Job[Any]]:
        """As `Client.job_delete_many`."""
        await self._ready()
        return await self._client._jobs.job_delete_many_async(limit=limit, unsafe_all=unsafe_all, **filters)

    async def job_delete_many_tx(
        self, conn: AsyncConnection[Any], *, limit: int = 100, unsafe_all: bool = False, **filters: Unpack[JobFilters]
    ) -> list[Job[Any]]:
        """As `Client.job_delete_many_tx`."""
        await self._ready()
        return await self._client.job_delete_many_tx(self._async(conn), limit=limit, unsafe_all=unsafe_all, **filters)

    async def queue_get(self, name: str) -> Queue:
        """As `Client.queue_get`."""
        await self._ready()
        return await self._client._queue_rows.queue_get_async(name)

    async def queue_get_tx(self, conn: AsyncConnection[Any], name: str) -> Queue:
        """As `Client.queue_get_tx`."""
        await self._ready()
        return await self._client.queue_get_tx(self._async(conn), name)

    async def queue_list(self, limit: int = 100) -> list[Queue]:
        """As `Client.queue_list`."""
        await self._ready()
        return await self._client._queue_rows.queue_list_async(limit)

    async def queue_list_tx(self, conn: AsyncConnection[Any], limit: int = 100) -> list[Queue]:
        """As `Client.queue_list_tx`."""
        await self._ready()
        return await self._client.queue_list_tx(self._async(conn), limit)

    async def queue_update(self, name: str, metadata: Metadata = None) -> Queue:
        """As `Client.queue_update`."""
        await self._ready()
        return await self._client._queue_rows.queue_update_async(name, metadata)

    async def queue_update_tx(self, conn: AsyncConnection[Any], name: str, metadata: Metadata = None) -> Queue:
        """As `Client.queue_update_tx`."""
        await self._ready()
        return await self._client.queue_update_tx(self._async(conn), name, metadata)

    async def queue_pause(self, name: str) -> None:
        """As `Client.queue_pause`."""
        await self._ready()
        await self._client._queue_rows.queue_pause_async(name)

    async def queue_pause_tx(self, conn: AsyncConnection[Any], name: str) -> None:
        """As `Client.queue_pause_tx`."""
        await self._ready()
        await self._client.queue_pause_tx(self._async(conn), name)

    async def queue_resume(self, name: str) -> None:
        """As `Client.queue_resume`."""
        await self._ready()
        await self._client._queue_rows.queue_resume_async(name)

    async def queue_resume_tx(self, conn: AsyncConnection[Any], name: str) -> None:
        """As `Client.queue_resume_tx`."""
        await self._ready()
        await self._client.queue_resume_tx(self._async(conn), name)
