"""Verbs on queues: get, list, pause, resume. River: Client.QueueGet, QueueList, QueuePause, QueueResume.

Any thread; owns nothing. A queue exists once some client has started to work it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from river_fast.config import check_queue_name
from river_fast.control import ALL_QUEUES, CONTROL_TOPIC, ControlAction, ControlMessage, channel
from river_fast.driver import Driver, RawRow, Statement
from river_fast.errors import ConfigError, NotFoundError, ValidationError
from river_fast.queue import Queue, stored_queues
from river_fast.statement_runner import StatementRunner

LIST_MAX = 10_000  # River's


class QueueAdmin:
    """`poke` hears of pauses and resumes made here outside a caller's transaction: for clients that cannot LISTEN."""

    def __init__(self, driver: Driver, *, poke: Callable[[ControlMessage], None] | None = None) -> None:
        self._driver = driver
        self._runner = StatementRunner(driver)
        self._poke = poke

    def queue_get(self, name: str) -> Queue:
        """The queue as stored now. `NotFoundError`. River: QueueGet."""
        return self._runner.run(self._get(name))

    def queue_get_tx(self, conn: Any, name: str) -> Any:
        return self._runner.run_tx(conn, self._get(name))

    async def queue_get_async(self, name: str) -> Queue:
        return await self._runner.run_async(self._get(name))

    def queue_list(self, limit: int = 100) -> list[Queue]:
        """The first `limit` (1 to 10,000) queues by name. River: QueueList."""
        return self._runner.run(self._list(limit))

    def queue_list_tx(self, conn: Any, limit: int = 100) -> Any:
        return self._runner.run_tx(conn, self._list(limit))

    async def queue_list_async(self, limit: int = 100) -> list[Queue]:
        return await self._runner.run_async(self._list(limit))

    def queue_pause(self, name: str) -> None:
        """No client fetches from the queue (`"*"`: from any queue there is) any more; running jobs go on.

        Pausing twice is fine. `NotFoundError` for a name without a row. River: QueuePause.
        """
        self._runner.run(self._switch(ControlAction.PAUSE, name))
        self._poked(ControlAction.PAUSE, name)

    def queue_pause_tx(self, conn: Any, name: str) -> Any:
        """The same; nobody is told before the caller commits."""
        return self._runner.run_tx(conn, self._switch(ControlAction.PAUSE, name))

    async def queue_pause_async(self, name: str) -> None:
        await self._runner.run_async(self._switch(ControlAction.PAUSE, name))
        self._poked(ControlAction.PAUSE, name)

    def queue_resume(self, name: str) -> None:
        """The reverse of `queue_pause`. River: QueueResume."""
        self._runner.run(self._switch(ControlAction.RESUME, name))
        self._poked(ControlAction.RESUME, name)

    def queue_resume_tx(self, conn: Any, name: str) -> Any:
        return self._runner.run_tx(conn, self._switch(ControlAction.RESUME, name))

    async def queue_resume_async(self, name: str) -> None:
        await self._runner.run_async(self._switch(ControlAction.RESUME, name))
        self._poked(ControlAction.RESUME, name)

    # The statements.

    def _get(self, name: str) -> Statement[Queue]:
        def parse(rows: list[RawRow], count: int) -> Queue:
            if not rows:
                raise NotFoundError(f"queue {name!r} does not exist")
            return Queue.stored(rows[0])

        return Statement("queue_get", {"name": _checked_name(name)}, parse)

    def _list(self, limit: int) -> Statement[list[Queue]]:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIST_MAX:
            raise ValidationError("limit", f"must be 1 to {LIST_MAX}, got {limit!r}")
        return Statement("queue_list", {"limit": limit}, stored_queues)

    def _switch(self, action: ControlAction, name: str) -> Statement[None]:
        def parse(rows: list[RawRow], count: int) -> None:
            if name != ALL_QUEUES and not int.from_bytes(rows[0][0] or b"", "big"):
                raise NotFoundError(f"queue {name!r} does not exist; it does once a client has worked it")

        checked = name if name == ALL_QUEUES else _checked_name(name)
        notify = self._driver.open().notify  # first: the schema may be known only after
        params = {"name": checked, "notify": notify, "channel": channel(self._driver.schema, CONTROL_TOPIC)}
        return Statement(f"queue_{action}", params, parse)

    def _poked(self, action: ControlAction, name: str) -> None:
        if self._poke is not None:
            self._poke(ControlMessage(action, name))


def _checked_name(name: str) -> str:
    try:
        return check_queue_name(name)
    except ConfigError as error:
        raise ValidationError("name", str(error)) from None
