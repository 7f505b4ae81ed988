"""`AsyncClient.durable_periodic_jobs`: as the client's for threads, awaited.

For the event loops that use the client; owns nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from river_fast.client_durable_periodic_jobs import Jobs, durable_of
from river_fast.durable_periodic_admin import UNSET
from river_fast.durable_periodic_job import DurablePeriodicJob
from river_fast.insert_opts import InsertOpts, JobInsertResult

if TYPE_CHECKING:
    from river_fast.client import Client
    from river_fast.driver import Statement

T = TypeVar("T")


class AsyncClientDurablePeriodicJobs:
    """As `ClientDurablePeriodicJobs`; the `_tx` forms are for an `AsyncConnection`."""

    def __init__(self, client: Client) -> None:
        self._of = durable_of(client)
        self._sync = client.durable_periodic_jobs

    async def define(
        self,
        id: str,
        schedule: Any,
        args: Any,
        opts: InsertOpts | None = None,
        *,
        zone: str | None = None,
        catch_up: int = 1,
    ) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.define`."""
        await self._opened()
        return await self._run(self._of.admin.define(id, schedule, args, opts, zone, catch_up))

    async def define_tx(self, conn: Any, *args: Any, **options: Any) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.define_tx`."""
        await self._opened()
        result: DurablePeriodicJob = await self._sync.define_tx(conn, *args, **options)
        return result

    async def change(
        self,
        id: str,
        *,
        schedule: Any = UNSET,
        zone: str | None = UNSET,
        args: Any = UNSET,
        opts: InsertOpts | None = None,
        catch_up: int | None = None,
    ) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.change`."""
        await self._opened()
        return await self._run(self._of.admin.change(id, schedule, args, opts, zone, catch_up))

    async def change_tx(self, conn: Any, id: str, **changes: Any) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.change_tx`."""
        await self._opened()
        result: DurablePeriodicJob = await self._sync.change_tx(conn, id, **changes)
        return result

    async def get(self, id: str) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.get`."""
        return await self._run(self._of.admin.named("get", id))

    async def get_tx(self, conn: Any, id: str) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.get_tx`."""
        return await self._named_tx(conn, "get", id)

    async def list(self, limit: int = 100, after: str = "") -> Jobs:
        """As `ClientDurablePeriodicJobs.list`."""
        return await self._run(self._of.admin.some(limit, after))

    async def list_tx(self, conn: Any, limit: int = 100, after: str = "") -> Jobs:
        """As `ClientDurablePeriodicJobs.list_tx`."""
        result: Jobs = await self._sync.list_tx(conn, limit, after)
        return result

    async def pause(self, id: str) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.pause`."""
        return await self._run(self._of.admin.named("pause", id))

    async def pause_tx(self, conn: Any, id: str) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.pause_tx`."""
        return await self._named_tx(conn, "pause", id)

    async def resume(self, id: str) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.resume`."""
        return await self._run(self._of.admin.named("resume", id))

    async def resume_tx(self, conn: Any, id: str) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.resume_tx`."""
        return await self._named_tx(conn, "resume", id)

    async def delete(self, id: str) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.delete`."""
        return await self._run(self._of.admin.named("delete", id))

    async def delete_tx(self, conn: Any, id: str) -> DurablePeriodicJob:
        """As `ClientDurablePeriodicJobs.delete_tx`."""
        return await self._named_tx(conn, "delete", id)

    async def run_now(self, id: str) -> JobInsertResult:
        """As `ClientDurablePeriodicJobs.run_now`."""
        job, at = await self.get(id), self._of.admin.now()
        results = await self._of.inserter.insert_internal_async([job.run(at)], [self._of.admin.ran(id, at)])
        return results[0]

    async def run_now_tx(self, conn: Any, id: str) -> JobInsertResult:
        """As `ClientDurablePeriodicJobs.run_now_tx`."""
        await self._opened()
        result: JobInsertResult = await self._sync.run_now_tx(conn, id)
        return result

    async def _named_tx(self, conn: Any, verb: str, id: str) -> DurablePeriodicJob:
        await self._opened()
        result: DurablePeriodicJob = await getattr(self._sync, f"{verb}_tx")(conn, id)
        return result

    async def _run(self, statement: Statement[T]) -> T:
        await self._opened()
        with self._of.admin.line_named():
            return await self._of.runner.run_async(statement)

    async def _opened(self) -> None:
        """The first contact must not block the loop."""
        self._of.client._check_process()
        await self._of.driver.open_async()
