"""`client.durable_periodic_jobs`: periodic jobs whose schedule is a row of the database. Ours.

Any thread; owns nothing. Any client may define them, an insert-only one too; whichever river_fast client leads runs
them.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from river_fast.durable_periodic_admin import UNSET, DurablePeriodicAdmin
from river_fast.durable_periodic_job import DurablePeriodicJob
from river_fast.insert_opts import InsertOpts, JobInsertResult
from river_fast.inserter import Inserter
from river_fast.statement_runner import StatementRunner

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

    from river_fast.client import Client
    from river_fast.driver import Driver, Statement

T = TypeVar("T")
Jobs = list[DurablePeriodicJob]  # in the class below, `list` is a method


@dataclass(frozen=True, slots=True)
class _Durable:
    """What both faces need."""

    client: Client
    admin: DurablePeriodicAdmin
    runner: StatementRunner
    driver: Driver
    inserter: Inserter


def durable_of(client: Client) -> _Durable:
    driver, inserter = client._driver, client._inserter
    return _Durable(client, DurablePeriodicAdmin(driver, inserter.checked), StatementRunner(driver), driver, inserter)


class ClientDurablePeriodicJobs:
    """Durable periodic jobs: their schedule is a row of the database. Needs version 2 of line `fast`; without it raises
    `MigrationError`, which names the command. Each `_tx` form runs in the caller's transaction, and returns an
    awaitable on an `AsyncConnection`."""

    def __init__(self, client: Client) -> None:
        self._of = durable_of(client)

    def define(
        self,
        id: str,
        schedule: Any,
        args: Any,
        opts: InsertOpts | None = None,
        *,
        zone: str | None = None,
        catch_up: int = 1,
    ) -> DurablePeriodicJob:
        """Make the durable periodic job of that id, or make the one there is like this; as often as you like.

        `schedule`: a cron expression, `@every` with a duration, `PeriodicInterval`, or seconds (whole ones). `zone`: an
        IANA name; None is UTC, or what the expression says. `args`, `opts`: what each run inserts, as for `insert`, but
        no `scheduled_at`. `catch_up`: after a time without a leader so many missed runs are made up for, the newest (1
        to 1000). One that is paused stays so; when it runs next stays unless its schedule changes. `ValidationError`
        before anything is written, `UnknownJobKindError` as for `insert`.
        """
        return self._run(self._of.admin.define(id, schedule, args, opts, zone, catch_up))

    @overload
    def define_tx(
        self,
        conn: Connection[Any],
        id: str,
        schedule: Any,
        args: Any,
        opts: InsertOpts | None = None,
        *,
        zone: str | None = None,
        catch_up: int = 1,
    ) -> DurablePeriodicJob: ...
    @overload
    def define_tx(
        self,
        conn: AsyncConnection[Any],
        id: str,
        schedule: Any,
        args: Any,
        opts: InsertOpts | None = None,
        *,
        zone: str | None = None,
        catch_up: int = 1,
    ) -> Awaitable[DurablePeriodicJob]: ...
    def define_tx(
        self,
        conn: Any,
        id: str,
        schedule: Any,
        args: Any,
        opts: InsertOpts | None = None,
        *,
        zone: str | None = None,
        catch_up: int = 1,
    ) -> Any:
        """`define` in the caller's transaction."""
        return self._run_tx(conn, self._of.admin.define(id, schedule, args, opts, zone, catch_up))

    def change(
        self,
        id: str,
        *,
        schedule: Any = UNSET,
        zone: str | None = UNSET,
        args: Any = UNSET,
        opts: InsertOpts | None = None,
        catch_up: int | None = None,
    ) -> DurablePeriodicJob:
        """Change what is given of one that exists: the schedule (with its zone), the args (with their options), how
        much is made up for. `NotFoundError`, and what `define` raises."""
        return self._run(self._of.admin.change(id, schedule, args, opts, zone, catch_up))

    @overload
    def change_tx(
        self,
        conn: Connection[Any],
        id: str,
        *,
        schedule: Any = UNSET,
        zone: str | None = UNSET,
        args: Any = UNSET,
        opts: InsertOpts | None = None,
        catch_up: int | None = None,
    ) -> DurablePeriodicJob: ...
    @overload
    def change_tx(
        self,
        conn: AsyncConnection[Any],
        id: str,
        *,
        schedule: Any = UNSET,
        zone: str | None = UNSET,
        args: Any = UNSET,
        opts: InsertOpts | None = None,
        catch_up: int | None = None,
    ) -> Awaitable[DurablePeriodicJob]: ...
    def change_tx(
        self,
        conn: Any,
        id: str,
        *,
        schedule: Any = UNSET,
        zone: str | None = UNSET,
        args: Any = UNSET,
        opts: InsertOpts | None = None,
        catch_up: int | None = None,
    ) -> Any:
        """`change` in the caller's transaction."""
        return self._run_tx(conn, self._of.admin.change(id, schedule, args, opts, zone, catch_up))

    def get(self, id: str) -> DurablePeriodicJob:
        """As stored now; `NotFoundError`."""
        return self._run(self._of.admin.named("get", id))

    @overload
    def get_tx(self, conn: Connection[Any], id: str) -> DurablePeriodicJob: ...
    @overload
    def get_tx(self, conn: AsyncConnection[Any], id: str) -> Awaitable[DurablePeriodicJob]: ...
    def get_tx(self, conn: Any, id: str) -> Any:
        """`get` in the caller's transaction."""
        return self._run_tx(conn, self._of.admin.named("get", id))

    def list(self, limit: int = 100, after: str = "") -> Jobs:
        """The first `limit` (1 to 10,000) by id, behind the id `after`."""
        return self._run(self._of.admin.some(limit, after))

    @overload
    def list_tx(self, conn: Connection[Any], limit: int = 100, after: str = "") -> Jobs: ...
    @overload
    def list_tx(self, conn: AsyncConnection[Any], limit: int = 100, after: str = "") -> Awaitable[Jobs]: ...
    def list_tx(self, conn: Any, limit: int = 100, after: str = "") -> Any:
        """`list` in the caller's transaction."""
        return self._run_tx(conn, self._of.admin.some(limit, after))

    def pause(self, id: str) -> DurablePeriodicJob:
        """It runs no more until it is resumed; what runs, runs on. Twice is fine; `NotFoundError`."""
        return self._run(self._of.admin.named("pause", id))

    @overload
    def pause_tx(self, conn: Connection[Any], id: str) -> DurablePeriodicJob: ...
    @overload
    def pause_tx(self, conn: AsyncConnection[Any], id: str) -> Awaitable[DurablePeriodicJob]: ...
    def pause_tx(self, conn: Any, id: str) -> Any:
        """`pause` in the caller's transaction."""
        return self._run_tx(conn, self._of.admin.named("pause", id))

    def resume(self, id: str) -> DurablePeriodicJob:
        """It runs again from now on: what was due while it was paused is not made up for. `NotFoundError`."""
        return self._run(self._of.admin.named("resume", id))

    @overload
    def resume_tx(self, conn: Connection[Any], id: str) -> DurablePeriodicJob: ...
    @overload
    def resume_tx(self, conn: AsyncConnection[Any], id: str) -> Awaitable[DurablePeriodicJob]: ...
    def resume_tx(self, conn: Any, id: str) -> Any:
        """`resume` in the caller's transaction."""
        return self._run_tx(conn, self._of.admin.named("resume", id))

    def delete(self, id: str) -> DurablePeriodicJob:
        """It is no more, and comes back as it was; jobs it inserted stay. `NotFoundError`."""
        return self._run(self._of.admin.named("delete", id))

    @overload
    def delete_tx(self, conn: Connection[Any], id: str) -> DurablePeriodicJob: ...
    @overload
    def delete_tx(self, conn: AsyncConnection[Any], id: str) -> Awaitable[DurablePeriodicJob]: ...
    def delete_tx(self, conn: Any, id: str) -> Any:
        """`delete` in the caller's transaction."""
        return self._run_tx(conn, self._of.admin.named("delete", id))

    def run_now(self, id: str) -> JobInsertResult:
        """Insert its job now, paused or not; its schedule goes on as before. `NotFoundError`."""
        job, of = self.get(id), self._of
        at = of.admin.now()
        return of.inserter.insert_internal([job.run(at)], [of.admin.ran(id, at)])[0]

    @overload
    def run_now_tx(self, conn: Connection[Any], id: str) -> JobInsertResult: ...
    @overload
    def run_now_tx(self, conn: AsyncConnection[Any], id: str) -> Awaitable[JobInsertResult]: ...
    def run_now_tx(self, conn: Any, id: str) -> Any:
        """`run_now` in the caller's transaction."""
        if self._of.driver.is_async(conn):
            return self._run_now_on_async(conn, id)
        job, at = self.get_tx(conn, id), self._of.admin.now()
        results = self._of.inserter.insert_internal_tx(conn, [job.run(at)])
        self._run_tx(conn, self._of.admin.ran(id, at))
        return results[0]

    async def _run_now_on_async(self, conn: Any, id: str) -> JobInsertResult:
        job, at = await self.get_tx(conn, id), self._of.admin.now()
        results = await self._of.inserter.insert_internal_tx(conn, [job.run(at)])
        await self._run_tx(conn, self._of.admin.ran(id, at))
        result: JobInsertResult = results[0]
        return result

    def _run(self, statement: Statement[T]) -> T:
        self._of.client._check_process()
        with self._of.admin.line_named():
            return self._of.runner.run(statement)

    def _run_tx(self, conn: Any, statement: Statement[T]) -> Any:
        self._of.client._check_process()
        if self._of.driver.is_async(conn):
            return self._run_on_async(conn, statement)
        with self._of.admin.line_named():
            return self._of.runner.run_tx(conn, statement)

    async def _run_on_async(self, conn: Any, statement: Statement[T]) -> T:
        with self._of.admin.line_named():
            result: T = await self._of.runner.run_tx(conn, statement)
            return result
