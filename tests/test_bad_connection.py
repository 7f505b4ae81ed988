"""Connections, connection strings and schemas that cannot take an insert: a typed error that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.config import Config
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import ConfigError, DatabaseError, MigrationError
from river_fast.inserter import Inserter
from tests.fix_bad_input import GOOD
from tests.fix_inserter import count, driver, inserter

__all__ = ["count", "driver", "inserter"]

# --- the caller's connection (rows 62 and 63)


def test_connections_that_cannot_take_an_insert_are_refused(
    inserter: Inserter, dsn: str, count: Callable[[], int]
) -> None:
    with psycopg.connect(dsn, autocommit=True) as caller:
        with pytest.raises(ConfigError, match="autocommit"):
            inserter.insert_tx(caller, GOOD)
        with caller.transaction(), pytest.raises(ConfigError, match="pipeline"), caller.pipeline():
            inserter.insert_tx(caller, GOOD)
        assert not caller.closed
    with pytest.raises(ConfigError, match="closed"):
        inserter.insert_tx(caller, GOOD)
    with psycopg.connect(dsn) as caller:
        with pytest.raises(psycopg.Error):
            caller.execute("SELECT 1/0")
        with pytest.raises(ConfigError, match="25P02"):
            inserter.insert_tx(caller, GOOD)
        assert not caller.closed
        caller.rollback()
        with caller.cursor() as cursor, cursor.copy("COPY (SELECT 1) TO STDOUT") as copy:
            with pytest.raises(ConfigError, match="busy"):
                inserter.insert_tx(caller, GOOD)
            assert b"".join(copy)
    with psycopg.connect(dsn, client_encoding="LATIN1") as caller, pytest.raises(ConfigError, match="UTF8"):
        inserter.insert_tx(caller, GOOD)
    for thing in (None, "conn", object(), psycopg):
        with pytest.raises(ConfigError, match="psycopg Connection"):
            inserter.insert_tx(thing, GOOD)  # type: ignore[call-overload]
    assert count() == 0


def test_database_that_refuses_leaves_the_callers_connection_open(inserter: Inserter, dsn: str, schema: str) -> None:
    with psycopg.connect(dsn) as caller:
        caller.read_only = True
        with pytest.raises(DatabaseError) as refused:
            inserter.insert_tx(caller, GOOD)
        assert refused.value.sqlstate == "25006"
        assert not caller.closed
        caller.rollback()
    with psycopg.connect(dsn, dbname="template1") as caller:
        with pytest.raises(MigrationError, match="migrate-up"):
            inserter.insert_tx(caller, GOOD)
        assert not caller.closed


# --- DSN and schema (rows 64, 65, 69 to 72)


@pytest.mark.parametrize(
    "dsn",
    [
        "nonsense_key=1", "postgres://u:s3cr3t@host:notaport/db", "host=a,b port=1,2,3 password=s3cr3t",
        "postgres://u:s3cr3t@[::1/db", "host='unfinished password=s3cr3t", "port=65536 password=s3cr3t",
        "port=0 password=s3cr3t", "dbname=a\0b password=s3cr3t", "x" * 1_000_000,
        "password=s3cr3t dbname=" + "x" * 1_000_000,
    ],
    ids=lambda dsn: repr(dsn[:30]),
)  # fmt: skip
def test_connection_strings_that_cannot_work_are_refused_without_their_password(dsn: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PsycopgDriver(dsn)
    shown: BaseException | None = caught.value
    while shown is not None:
        assert "s3cr3t" not in str(shown) + repr(shown)
        shown = shown.__cause__
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("dsn", "warned"),
    [
        ("host=db.example.com sslmode=disable", True),
        ("host=localhost,db.example.com sslmode=disable", True),
        ("host=localhost hostaddr=192.0.2.1 sslmode=disable", True),
        ("host=localhost sslmode=disable", False),
        ("host=127.0.0.1 sslmode=disable", False),
        ("host=/run/postgresql sslmode=disable", False),
        ("host=db.example.com sslmode=prefer", False),
    ],
)
def test_plain_text_to_another_host_is_warned_of(  # row 67
    dsn: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    river.Client(dsn + " passfile=/nonexistent")
    assert ["unencrypted" in record.message for record in caplog.records] == [True] * warned
    if warned:
        with pytest.raises(ConfigError, match="require_tls"):
            river.Client(dsn, river.Config(require_tls=True))


def test_secrets_that_others_may_read_are_warned_of(  # row 68
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    passfile, servicefile = tmp_path / "pass", tmp_path / "service"
    passfile.write_text("*:*:*:*:s3cr3t\n")
    servicefile.write_text("[jobs]\nhost=localhost\npassword=s3cr3t\n")
    monkeypatch.setenv("PGSERVICEFILE", str(servicefile))
    for mode, heard in ((0o600, 0), (0o640, 2), (0o604, 2)):
        passfile.chmod(mode)
        servicefile.chmod(mode)
        caplog.clear()
        river.Client(f"service=jobs passfile={passfile}")
        assert len(caplog.records) == heard
        assert all("chmod 600" in record.message for record in caplog.records)
        assert "s3cr3t" not in caplog.text


@pytest.mark.parametrize(
    "schema",
    ['a"b', "a;drop", "ünï", "a" * 64, "a" * 47, "1a", "", "a b", "a\0", "a\n", 7],
    ids=repr,
)
def test_schemas_that_break_rivers_rule_are_refused(schema: Any) -> None:
    with pytest.raises(ConfigError, match="schema"):
        Config(schema=schema).checked()


def test_missing_schema_and_missing_rights_say_what_to_run(
    dsn: str, schema: str, conn: psycopg.Connection[Any]
) -> None:
    driver = PsycopgDriver(dsn, "never_created")
    with pytest.raises(MigrationError, match="migrate-up --schema never_created"):
        Inserter(driver, Config().checked()).insert(GOOD)
    driver.close()
    role = f"role_{schema}"
    conn.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        driver = PsycopgDriver(psycopg.conninfo.make_conninfo(dsn, user=role), schema)
        inserter = Inserter(driver, Config().checked())
        for insert in (lambda: inserter.insert(GOOD), lambda: inserter.insert_many_fast([GOOD])):
            with pytest.raises(ConfigError, match="GRANT USAGE ON SCHEMA"):
                insert()
        driver.close()
    finally:
        conn.execute(f'DROP ROLE "{role}"')


def test_schemas_of_one_database_are_apart(dsn: str, schema: str, conn: psycopg.Connection[Any]) -> None:
    """Row 70 and 72: names are quoted and keep their case; topics do not cross."""
    from river_fast.migrate import Migrator

    other = schema.upper()
    conn.execute(f'CREATE SCHEMA "{other}"')
    driver = PsycopgDriver(dsn, other)
    try:
        Migrator(driver).migrate_up()
        conn.execute(f'LISTEN "{schema}.river_insert"')
        Inserter(driver, Config().checked()).insert(GOOD)
        assert conn.execute("SELECT count(*) FROM river_job").fetchone() == (0,)
        assert conn.execute(f'SELECT count(*) FROM "{other}".river_job').fetchone() == (1,)
        assert list(conn.notifies(timeout=0)) == []
    finally:
        driver.close()
        conn.execute(f'DROP SCHEMA "{other}" CASCADE')
