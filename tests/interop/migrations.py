"""River's own migrations against ours, version by version, up and down, on empty tables and with rows in them."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import EVERYTHING, Migrator
from tests import catalogue
from tests.interop import rows
from tests.interop.conftest import VERSIONS
from tests.interop.peers import Peer, Process

NEWEST = 8
RiverOn = Callable[[str], Peer]


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def river_on(dsn: str, go_program: Path) -> Iterator[RiverOn]:
    """River's migrator on a schema, of any name."""
    with contextlib.ExitStack() as stack:
        yield lambda schema: stack.enter_context(Process([go_program], dsn, schema))


@contextlib.contextmanager
def fresh_schema(conn: psycopg.Connection[Any], label: str) -> Iterator[str]:
    """Of a name that has to be quoted."""
    name = " ".join(("Interop", label, uuid.uuid4().hex[:8]))
    quoted = psycopg.sql.Identifier(name)
    conn.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(quoted))
    try:
        yield name
    finally:
        conn.execute(psycopg.sql.SQL("DROP SCHEMA {} CASCADE").format(quoted))


@contextlib.contextmanager
def our_migrator(dsn: str, schema: str) -> Iterator[Migrator]:
    driver = PsycopgDriver(dsn, schema)
    try:
        yield Migrator(driver)
    finally:
        driver.close()


def our_step(migrator: Migrator, way: str, version: int) -> None:
    if way == "up":
        migrator.migrate_up(target_version=version)
    else:
        migrator.migrate_down(target_version=version or EVERYTHING)


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "with rows"])
def test_each_step_makes_what_rivers_makes(
    conn: psycopg.Connection[Any], dsn: str, river_on: RiverOn, filled: bool, request: pytest.FixtureRequest
) -> None:
    described: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(fresh_schema(conn, whose)) for whose in ("ours", "river"))
        migrator, river = stack.enter_context(our_migrator(dsn, ours)), river_on(theirs)
        for way, version in catalogue.STEPS:
            river.migrate(way=way, version=version)
            our_step(migrator, way, version)
            rivers = catalogue.describe(conn, theirs)
            assert plain(catalogue.describe(conn, ours)) == plain(rivers), f"after {way} to {version}"
            described.setdefault(f"{way} {version}", rivers)
            if filled:
                assert rows.read(conn, ours) == rows.read(conn, theirs), f"after {way} to {version}"
                if way == "up":
                    rows.write(conn, ours, version)
                    rows.write(conn, theirs, version)
    if request.config.getoption("--write-catalogue"):
        catalogue.save(request.config.stash[VERSIONS]["river"], described)


@pytest.mark.parametrize("version", range(1, NEWEST + 1))
def test_each_continues_takes_back_and_validates_what_the_other_began(
    conn: psycopg.Connection[Any], dsn: str, river_on: RiverOn, version: int
) -> None:
    with fresh_schema(conn, "shared") as schema, our_migrator(dsn, schema) as migrator:
        river = river_on(schema)
        our_step(migrator, "up", version)
        assert (river.validate() == []) == (version == NEWEST)
        river.migrate(way="up", version=NEWEST)
        assert migrator.validate().ok
        our_step(migrator, "down", version)
        river.migrate(way="down", version=0)
        assert catalogue.describe(conn, schema)["relations"] == {}
        river.migrate(way="up", version=version)
        assert migrator.validate().ok == (version == NEWEST)
        migrator.migrate_up()
        assert river.validate() == []
        migrator.migrate_down(target_version=EVERYTHING)
        assert catalogue.describe(conn, schema)["relations"] == {}
