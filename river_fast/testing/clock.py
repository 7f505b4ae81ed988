"""Time as a test wants it. River: TimeStub.

Any thread. A `Clock` stands still until it is moved, and steers what clients compute by a clock of their own; the
server's clock goes on, so for running clients `pass_time` moves the jobs instead.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from river_fast import pg_binary
from river_fast.async_client import AsyncClient
from river_fast.client import Client
from river_fast.config import Duration, seconds
from river_fast.driver import Statement
from river_fast.errors import ConfigError, ValidationError
from river_fast.insert_opts import InsertOpts
from river_fast.insert_params import InsertBatch, InsertBuilder
from river_fast.job_row import PG_EPOCH
from river_fast.resolved_opts import ResolvedOpts
from river_fast.testing.place import Steps, run


class Clock:
    """Stands at `now` (None: this moment) until `set` or `advance` moves it. River: TimeStub, Config.Test.Time.

    `install(client)`: from then on unique periods of that client's inserts are counted by it, and jobs without a
    scheduled_at are scheduled at it. `work_job(..., clock=clock)`: attempted_at, finalized_at, the errors' times and
    the next attempt's are its own, exactly.
    """

    def __init__(self, now: datetime | None = None) -> None:
        self._now = _aware(datetime.now(UTC) if now is None else now)

    def now(self) -> datetime:
        """Where it stands, in UTC."""
        return self._now

    def set(self, now: datetime) -> None:
        """Put it to a moment, later or earlier; an aware datetime."""
        self._now = _aware(now)

    def advance(self, duration: Duration) -> datetime:
        """Move it on by seconds or a timedelta; where it stands then."""
        self._now += timedelta(seconds=seconds("duration", duration))
        return self._now

    def install(self, client: Client | AsyncClient) -> None:
        """Have the client's inserts go by this clock; for good."""
        inner = client._client if isinstance(client, AsyncClient) else client
        if not isinstance(inner, Client):
            raise ConfigError(f"install takes a Client or an AsyncClient, got {type(client).__name__}")
        inner._inserter._builder = TestBuilder.of(inner._inserter._builder, self)


class TestBuilder(InsertBuilder):
    """Builds inserts by a test's clock, and, for work at once, without uniqueness and with River's own metadata."""

    __test__ = False  # not a test class, whatever pytest makes of its name
    _clock: Clock | None
    _internal: bool

    @classmethod
    def of(cls, builder: InsertBuilder, clock: Clock | None, *, internal: bool = False) -> TestBuilder:
        """As `builder` builds them but for that."""
        made = cls.__new__(cls)
        made.__dict__.update(builder.__dict__)
        made._clock, made._internal = clock, internal
        if clock is not None:
            made._now = clock.now
        return made

    def one(self, args: Any, opts: InsertOpts | None = None, *, internal: bool = False) -> InsertBatch:
        """One job's batch."""
        return super().one(args, opts, internal=internal or self._internal)

    def _resolved(self, info: Any, args: Any, opts: InsertOpts | None, cache: Any, internal: bool) -> ResolvedOpts:
        resolved = self._resolve(info, args, opts, internal)  # none is kept: the clock moves
        if self._internal:
            resolved.rule, resolved.unique_states = None, pg_binary.int4_element(None)
        if self._clock is not None and resolved.scheduled_at is None:
            resolved.scheduled_at = self._clock.now()
            resolved.scheduled_us = pg_binary.int8_element(
                (resolved.scheduled_at - PG_EPOCH) // timedelta(microseconds=1)
            )
        return resolved


def pass_time(where: Any, duration: Duration, *, schema: str | None = None) -> Any:
    """As if `duration` (seconds or timedelta) had passed for every job that is not running: what was to be due by then
    is due now. For clients that run, which go by the server's clock. The number of jobs moved; awaitable for an
    `AsyncClient` or an async connection."""
    return run(where, schema, _pass(seconds("duration", duration)))


def _pass(moved: float) -> Steps[int]:
    count: int = yield Statement("testing_pass_time", {"seconds": moved}, lambda rows, count: count)
    return count


def _aware(now: datetime) -> datetime:
    if not isinstance(now, datetime) or now.tzinfo is None:
        raise ValidationError("now", f"must be an aware datetime, got {now!r:.80}")
    return now.astimezone(UTC)
