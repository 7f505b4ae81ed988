"""A migrator on an empty schema, what it should leave there, and schemas and roles made for one test."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import Migrator
from tests import catalogue

NEWEST = 8
RIVERS = catalogue.rivers()


@pytest.fixture
def admin(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@contextlib.contextmanager
def migrator_of(dsn: str, schema: str | None) -> Iterator[Migrator]:
    driver = PsycopgDriver(dsn, schema)
    try:
        yield Migrator(driver)
    finally:
        driver.close()


@pytest.fixture
def migrator(dsn: str, empty_schema: str) -> Iterator[Migrator]:
    with migrator_of(dsn, empty_schema) as migrator:
        yield migrator


@contextlib.contextmanager
def made_schema(admin: psycopg.Connection[Any], name: str) -> Iterator[str]:
    admin.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    try:
        yield name
    finally:
        admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


@contextlib.contextmanager
def made_role(admin: psycopg.Connection[Any]) -> Iterator[sql.Identifier]:
    name = f"rf_role_{uuid.uuid4().hex[:8]}"
    admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    try:
        yield sql.Identifier(name)
    finally:
        admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def acting_as(dsn: str, role: sql.Identifier) -> str:
    return make_conninfo(dsn, options=f"-c role={role.as_string(None)}".replace('"', ""))


def described(conn: psycopg.Connection[Any], schema: str) -> Any:
    return json.loads(json.dumps(catalogue.describe(conn, schema)))


def versions(results: list[Any]) -> list[int]:
    return [result.version for result in results]


UP = list(range(1, NEWEST + 1))
