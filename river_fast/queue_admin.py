"""Verbs on queues: get, list, update, pause, resume. River: Client.QueueGet, QueueList, QueueUpdate, QueuePause, ...

Any thread; owns nothing. A queue exists once some client has started to work it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from river_fast.canonical_json import go_string, go_text
from river_fast.control import ALL_QUEUES, CONTROL_TOPIC, ControlAction, ControlMessage, channel
from river_fast.driver import Driver, RawRow, Statement
from river_fast.encoding import encode_metadata, is_utf8
from river_fast.errors import NotFoundError, ValidationError
from river_fast.job_row import loads_exact
from river_fast.queue import Queue, stored_queues
from river_fast.statement_runner import StatementRunner

LIST_MAX = 10_000  # River's
NOTIFICATION_MAX_BYTES = 7999  # PostgreSQL's


class QueueAdmin:
    """`poke` hears of pauses and resumes made here outside a caller's transaction: for clients that cannot LISTEN."""

    def __init__(
        self,
        driver: Driver,
        *,
        poke: Callable[[ControlMessage], None] | None = None,
        statement_timeout: float | None = None,
    ) -> None:
        self._driver = driver
        self._runner = StatementRunner(driver, statement_timeout)
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

    def queue_update(self, name: str, metadata: Mapping[str, Any] | bytes | None = None) -> Queue:
        """Replace the queue's metadata as a whole (None: leave it) and tell the clients; the queue as stored.

        `NotFoundError`; `ValidationError` for what is no JSON object, or for too much: a notification brings it to the
        clients, and PostgreSQL's hold 8,000 bytes. River: QueueUpdate.
        """
        statement, message = self._update(name, metadata)
        queue = self._runner.run(statement)
        self._poke_update(message)
        return queue

    def queue_update_tx(self, conn: Any, name: str, metadata: Mapping[str, Any] | bytes | None = None) -> Any:
        return self._runner.run_tx(conn, self._update(name, metadata)[0])

    async def queue_update_async(self, name: str, metadata: Mapping[str, Any] | bytes | None = None) -> Queue:
        statement, message = self._update(name, metadata)
        queue = await self._runner.run_async(statement)
        self._poke_update(message)
        return queue

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

        checked = _checked_name(name)
        notify = self._driver.open().notify  # first: the schema may be known only after
        params = {"name": checked, "notify": notify, "channel": channel(self._driver.schema, CONTROL_TOPIC)}
        return Statement(f"queue_{action}", params, parse)

    def _update(
        self, name: str, metadata: Mapping[str, Any] | bytes | None
    ) -> tuple[Statement[Queue], ControlMessage | None]:
        checked = _checked_name(name)
        raw = None if metadata is None else encode_metadata(metadata)
        notify = self._driver.open().notify  # first: the schema may be known only after
        told = None
        if raw is not None and notify:
            told = f'{{"action":"metadata_changed","metadata":{go_text(raw.decode())},"queue":{go_string(checked)}}}'
            if (size := len(told.encode())) > NOTIFICATION_MAX_BYTES:
                most = NOTIFICATION_MAX_BYTES
                raise ValidationError("metadata", f"makes a notification of {size} bytes, and PostgreSQL's hold {most}")

        def parse(rows: list[RawRow], count: int) -> Queue:
            if not rows:
                raise NotFoundError(f"queue {name!r} does not exist; it does once a client has worked it")
            return Queue.stored(rows[0][:5])

        params = {
            "name": checked,
            "metadata": None if raw is None else raw.decode(),
            "message": told,
            "channel": channel(self._driver.schema, CONTROL_TOPIC),
        }
        changed = None
        if raw is not None:
            changed = ControlMessage(ControlAction.METADATA_CHANGED, name, metadata=loads_exact(raw))
        return Statement("queue_update", params, parse), changed

    def _poke_update(self, message: ControlMessage | None) -> None:
        if self._poke is not None and message is not None:
            self._poke(message)

    def _poked(self, action: ControlAction, name: str) -> None:
        if self._poke is not None:
            self._poke(ControlMessage(action, name))


def _checked_name(name: str) -> str:
    """A row may have any name that PostgreSQL can store, whatever a client may be told to work."""
    if not isinstance(name, str):
        raise ValidationError("name", f"must be a string, got {type(name).__name__}")
    if "\0" in name or not is_utf8(name):
        raise NotFoundError(f"queue {name!a:.80} does not exist")
    return str.__str__(name)
