"""Asks whichever client leads to resign. River: Client.Notify().RequestResign.

Any thread; owns nothing. A notification on the leadership topic, and nothing else: a leader that only polls does not
hear it, and where the server has no NOTIFY nothing is sent, as in River.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from river_fast.control import LEADERSHIP_TOPIC, channel
from river_fast.driver import Driver, Statement
from river_fast.pg_binary import TEXT, BinaryParam, texts
from river_fast.statement_runner import StatementRunner

REQUEST = '{"action":"request_resign","leader_id":""}'  # River's bytes; the leader's id does not matter to anybody


class LeaderAdmin:
    """The same for both kinds of client."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._runner = StatementRunner(driver)

    def request_resign(self) -> None:
        self._runner.run(self._request())

    def request_resign_tx(self, conn: Any) -> Awaitable[None] | None:
        """The same; sent when the caller commits."""
        return self._runner.run_tx(conn, self._request())  # type: ignore[no-any-return]

    async def request_resign_async(self) -> None:
        await self._driver.open_async()
        await self._runner.run_async(self._request())

    def _request(self) -> Statement[None]:
        told = [REQUEST] if self._driver.open().notify else []
        name = channel(self._driver.schema, LEADERSHIP_TOPIC)
        params = {"channel": BinaryParam(TEXT, name.encode()), "payloads": texts(told)}
        return Statement("notify_many", params, lambda rows, count: None)
