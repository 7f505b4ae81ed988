"""`client.notify`: what may be told to the other clients of a schema. River: Client.Notify().

Any thread, or the caller's event loop; owns nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, overload

from river_fast.leader_admin import LeaderAdmin

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

    from river_fast.client import Client


class ClientNotify:
    """`Client.notify`. River: ClientNotifyBundle."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._leader = LeaderAdmin(client._driver)

    def request_resign(self) -> None:
        """Whichever client leads resigns, and all compete anew, itself too. River: RequestResign."""
        self._client._check_process()
        self._leader.request_resign()

    @overload
    def request_resign_tx(self, conn: Connection[Any]) -> None: ...
    @overload
    def request_resign_tx(self, conn: AsyncConnection[Any]) -> Awaitable[None]: ...
    def request_resign_tx(self, conn: Any) -> Any:
        """The same, at the commit of the caller's transaction. River: RequestResignTx."""
        self._client._check_process()
        return self._leader.request_resign_tx(conn)


class AsyncClientNotify:
    """`AsyncClient.notify`."""

    def __init__(self, notify: ClientNotify) -> None:
        self._notify = notify

    async def request_resign(self) -> None:
        """As `ClientNotify.request_resign`."""
        self._notify._client._check_process()
        await self._notify._leader.request_resign_async()

    async def request_resign_tx(self, conn: AsyncConnection[Any]) -> None:
        """As `ClientNotify.request_resign_tx`."""
        self._notify._client._driver.on_async(conn)  # `ConfigError`, before anything is sent on another
        await self._notify.request_resign_tx(conn)
