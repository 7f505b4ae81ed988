"""Where a helper runs its statements: a client's pool, or a connection of the test's own. River: the Tx variants.

Any thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from river_fast.async_client import AsyncClient
from river_fast.client import Client
from river_fast.driver import Statement
from river_fast.driver.psycopg import PsycopgExecutor, executor_on
from river_fast.errors import ValidationError
from river_fast.statement_runner import StatementRunner

T = TypeVar("T")

# What a helper does, told to whoever runs it: yields statements, is sent their answers, returns its own.
Steps = Generator[Statement[Any], Any, T]


def run(where: Any, schema: str | None, steps: Steps[T]) -> Any:
    """`T`, or an awaitable of it where `where` is an `AsyncClient` or an async connection. `schema`: of a connection
    whose search_path does not lead there; a client knows its own."""
    if isinstance(where, Client | AsyncClient) and schema is not None:
        raise ValidationError("schema", f"a client has its own; leave {schema!r} out")
    if isinstance(where, Client):
        return _finish(steps, StatementRunner(where._driver).run)
    if isinstance(where, AsyncClient):
        return _finish_async(steps, StatementRunner(where._client._driver).run_async)
    executor = executor_on(where, schema or "")
    if isinstance(executor, PsycopgExecutor):
        return _finish(steps, executor.run)
    return _finish_async(steps, executor.run)


def _finish(steps: Steps[T], ask: Callable[[Statement[Any]], Any]) -> T:
    __tracebackhide__ = True
    answer = None
    try:
        while True:
            answer = ask(steps.send(answer))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def _finish_async(steps: Steps[T], ask: Callable[[Statement[Any]], Awaitable[Any]]) -> T:
    __tracebackhide__ = True
    answer = None
    try:
        while True:
            answer = await ask(steps.send(answer))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
