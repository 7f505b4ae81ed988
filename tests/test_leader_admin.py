"""Asking the leader to resign, as the leader's own client or any other hears it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.elector import Elector
from river_fast.errors import ConfigError
from river_fast.leader_admin import LeaderAdmin
from river_fast.notifier import Notifier
from tests.fix_rows import heard_until_now

TOLD = '{"action":"request_resign","leader_id":""}'  # River's bytes


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    driver = PsycopgDriver(dsn, schema)
    yield driver
    driver.close()


@pytest.fixture
def listening(dsn: str, schema: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f'LISTEN "{schema}.river_leadership"')
        yield conn


def test_every_face_tells_rivers_bytes_and_a_transaction_at_its_commit(
    listening: psycopg.Connection, dsn: str, schema: str
) -> None:
    client = river.Client(dsn, river.Config(schema=schema))
    client.notify.request_resign()
    with psycopg.connect(dsn) as theirs:
        client.notify.request_resign_tx(theirs)
        theirs.rollback()
    client.stop()
    assert heard_until_now(listening) == [TOLD]

    async def work() -> None:
        mine = river.AsyncClient(dsn, river.Config(schema=schema))
        async with mine, await psycopg.AsyncConnection.connect(dsn) as theirs:
            await mine.notify.request_resign()
            await mine.notify.request_resign_tx(theirs)
            assert heard_until_now(listening) == [TOLD]
            await theirs.commit()
            with pytest.raises(ConfigError, match="AsyncConnection"), psycopg.connect(dsn) as other:
                await mine.notify.request_resign_tx(other)  # type: ignore[arg-type]

    asyncio.run(work())
    assert heard_until_now(listening) == [TOLD]


def test_the_leader_resigns_and_is_elected_anew(driver: PsycopgDriver) -> None:
    notifier = Notifier(driver)
    elector = Elector(driver, "me", notifier)
    gained, lost = elector.gained.activate(), elector.lost.activate()
    notifier.start()
    elector.start()
    try:
        first = gained.wait()
        LeaderAdmin(driver).request_resign()
        assert lost.wait() == first
        assert gained.wait() != first
    finally:
        elector.stop(20)
        notifier.stop(20)


def test_nothing_is_told_where_the_server_cannot(
    driver: PsycopgDriver, listening: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor: Any = replace(driver.open(), notify=False)
    monkeypatch.setattr(driver, "_capabilities", poor)
    LeaderAdmin(driver).request_resign()
    assert heard_until_now(listening) == []
