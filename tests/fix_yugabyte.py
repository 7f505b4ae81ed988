"""A PostgreSQL that says it is YugabyteDB, as River's own suite makes one, and all that clients ask of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import river_fast as river
from tests.fix_proxy import Proxy

LACKS = re.compile(
    rb"\b(ctid|xmin|xmax|cmin|cmax|pg_(try_)?advisory_lock\w*|CREATE TEMP\w*|pg_temp|FREEZE)\b|\bLISTEN ", re.IGNORECASE
)
COMMENTS = re.compile(rb"--[^\n]*|/\*.*?\*/", re.DOTALL)
VERSION = """
CREATE FUNCTION version() RETURNS text LANGUAGE sql AS
    $$ SELECT 'PostgreSQL 15.12-YB-2025.2.3.0-b1 on x86_64-pc-linux-gnu, compiled by clang, 64-bit' $$
"""
LISTENS = """
CREATE FUNCTION current_setting(name text, missing_ok boolean) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN name = 'yb_enable_listen_notify' THEN 'on' ELSE pg_catalog.current_setting(name, missing_ok) END $$
"""


@pytest.fixture
def yugabyte(dsn: str, schema: str, conn: psycopg.Connection) -> Iterator[Proxy]:
    """River asks for version() by its bare name, so that one earlier on the search_path answers; so do we."""
    conn.execute(VERSION)
    proxy = Proxy(make_conninfo(dsn, options=f"-c search_path={schema},pg_catalog"))
    proxy.asked = []
    yield proxy
    proxy.cut()
    proxy.close()


def client_on(proxy: Proxy, schema: str, workers: river.Workers | None, **config: Any) -> river.Client:
    """Of one queue, or, without workers, one that only inserts."""
    queues = {} if workers is None else {"default": river.QueueConfig(max_workers=10)}
    return river.Client(proxy.conninfo, river.Config(schema=schema, workers=workers, queues=queues, **config))


def hear_nothing(conn: psycopg.Connection, schema: str) -> None:
    """From now on `conn` would hear any notification of the schema's; `conn.notifies(timeout=0)` tells."""
    for topic in ("insert", "control", "leadership"):
        conn.execute(f'LISTEN "{schema}.river_{topic}"')


def lacking(proxy: Proxy) -> set[bytes]:
    assert proxy.asked
    return {found.group().strip() for found in LACKS.finditer(COMMENTS.sub(b"", b"".join(proxy.asked)))}
