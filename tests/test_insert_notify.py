"""What an insert tells the queues' clients: when, once, and only with its commit."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from river_fast.config import Config
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import UniqueConflictError
from river_fast.insert_opts import InsertManyParams, InsertOpts
from river_fast.inserter import Inserter
from tests.fix_inserter import ALL, LATER, UNIQUE, EmailArgs, Insert, driver, inserter
from tests.fix_rows import heard_until_now

__all__ = ["driver", "inserter"]


def _listen(dsn: str, schema: str) -> psycopg.Connection[Any]:
    listener = psycopg.connect(dsn, autocommit=True)
    listener.execute(f'LISTEN "{schema}.river_insert"')
    return listener


@pytest.mark.parametrize("insert", ALL)
def test_each_queue_with_available_jobs_is_notified(
    inserter: Inserter, conn: psycopg.Connection[Any], dsn: str, schema: str, insert: Insert
) -> None:
    params = [
        InsertManyParams(EmailArgs("a"), InsertOpts(queue="one")),
        InsertManyParams(EmailArgs("b"), InsertOpts(queue="two|x")),
        InsertManyParams(EmailArgs("c"), InsertOpts(queue="pending", pending=True)),
        InsertManyParams(EmailArgs("d"), InsertOpts(queue="later", scheduled_at=LATER)),
    ]
    with _listen(dsn, schema) as listener:
        insert(inserter, conn, params)
        assert sorted(heard_until_now(listener)) == ['{"queue": "one"}', '{"queue": "two|x"}']


def test_batches_always_notify_and_singles_only_outside_the_window(
    driver: PsycopgDriver, dsn: str, schema: str
) -> None:
    inserter = Inserter(driver, Config(fetch_cooldown=60, fetch_poll_interval=60).checked())
    with _listen(dsn, schema) as listener:
        inserter.insert_many([EmailArgs("a")] * 3)
        assert len(heard_until_now(listener)) == 1
        inserter.insert(EmailArgs("a"))  # within the window of the batch
        assert len(heard_until_now(listener)) == 0
        inserter.insert(EmailArgs("a"), InsertOpts(queue="another"))
        assert len(heard_until_now(listener)) == 1
        inserter.insert_many([EmailArgs("a")])
        inserter.insert_many_fast([EmailArgs("a")])
        with psycopg.connect(dsn) as caller:
            inserter.insert_tx(caller, EmailArgs("a"))
        assert len(heard_until_now(listener)) == 3


def test_rolled_back_notification_uses_nothing_up(driver: PsycopgDriver, dsn: str, schema: str) -> None:
    inserter = Inserter(driver, Config(fetch_cooldown=60, fetch_poll_interval=60).checked())
    with _listen(dsn, schema) as listener:
        with psycopg.connect(dsn) as caller:
            inserter.insert_tx(caller, EmailArgs("a"))
            caller.rollback()
        with pytest.raises(UniqueConflictError):
            inserter.insert_many_fast([InsertManyParams(EmailArgs("a"), UNIQUE)] * 2)
        assert heard_until_now(listener) == []
        inserter.insert(EmailArgs("a"))
        assert heard_until_now(listener) == ['{"queue": "default"}']


def test_server_without_notifications_is_never_asked_for_them(driver: PsycopgDriver, dsn: str, schema: str) -> None:
    from dataclasses import replace

    driver._capabilities = replace(driver.open(), listen=False, notify=False)
    poked: list[str] = []
    inserter = Inserter(driver, Config().checked(), poke=poked.extend)
    with _listen(dsn, schema) as listener:
        inserter.insert(EmailArgs("a"))
        inserter.insert_many([InsertManyParams(EmailArgs("a"), InsertOpts(queue=name)) for name in ("one", "two")])
        inserter.insert_many_fast([EmailArgs("a")])
        assert heard_until_now(listener) == []
    assert poked == ["default", "one", "two", "default"]
