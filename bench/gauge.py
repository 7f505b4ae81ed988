"""What a run cost the server: CPU, WAL with and without full-page images, statements. What cannot be had is None."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from river_fast.cli.meter import Meter, Reading
from river_fast.driver.psycopg import PsycopgDriver


@dataclass(frozen=True)
class Cost:
    """Of one run, in all."""

    postgres_cpu: float | None  # seconds
    wal: int | None  # bytes, full-page images apart where that is known
    full_page: int | None  # bytes of full-page images
    statements: int | None


class Gauge:
    """Asks the server of one session of runs. Extensions it has to create go with it.

    `may_reset`: the server is nobody else's, so its counts may begin anew with every run. Elsewhere they are
    subtracted, and given up where the extension has dropped statements meanwhile.
    """

    def __init__(self, url: str, may_reset: bool = False) -> None:
        self._may_reset = may_reset
        self._conn = psycopg.connect(url, autocommit=True)
        self._schema = f"bench_gauge_{uuid.uuid4().hex[:8]}"
        self._driver = PsycopgDriver(url)
        self._meter = Meter(self._driver)
        self.missing: list[str] = []

    def __enter__(self) -> Gauge:
        with contextlib.suppress(psycopg.Error):  # its own questions are nobody's statements; superusers only
            self._conn.execute("SET pg_stat_statements.track = none")
        self._statements = self._usable("pg_stat_statements", "SELECT count(*) FROM {}.pg_stat_statements")
        self._walinspect = self._usable(
            "pg_walinspect",
            "SELECT count(*) FROM {0}.pg_get_wal_stats(pg_current_wal_insert_lsn() - 1000, pg_current_wal_flush_lsn())",
        )
        if not self._meter.is_local:
            self.missing.append("PostgreSQL's CPU (the server is not on this machine)")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(psycopg.Error):
            self._conn.execute("SET client_min_messages = warning")
            self._conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self._schema)))
        self._conn.close()
        self._driver.close()

    @contextlib.contextmanager
    def measuring(self, into: list[Cost]) -> Iterator[None]:
        """Puts what the block cost into the list."""
        if self._may_reset and self._statements is not None:
            self._ask("SELECT count(*) FROM {0}.pg_stat_statements_reset()", self._statements)
        start, lsn, calls = self._meter.read(), self._position(), self._calls()
        yield
        into.append(self._since(start, lsn, calls))

    def _since(self, start: Reading, lsn: str | None, calls: int | None) -> Cost:
        used, now = self._meter.since(start), self._calls()
        wal, full_page = used.wal, None
        if self._walinspect and lsn is not None:
            statement = "SELECT sum(record_size)::int8, sum(fpi_size)::int8 FROM {}.pg_get_wal_stats(%s, %s)"
            row = self._ask(statement, self._walinspect, lsn, self._flushed())
            if row is not None:
                wal, full_page = row
        statements = None if now is None or calls is None or now < calls else now - calls
        return Cost(used.postgres_cpu, wal, full_page, statements)

    def _usable(self, extension: str, probe: str) -> str | None:
        """The schema in which the extension can be used; created there if the server lets us."""
        row = self._ask(
            "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = %s",
            None,
            extension,
        )
        try:
            if row is None:
                name = sql.Identifier(self._schema)
                self._conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
                self._conn.execute(sql.SQL("CREATE EXTENSION {} SCHEMA {}").format(sql.Identifier(extension), name))
            schema = self._schema if row is None else str(row[0])
            self._conn.execute(sql.SQL(probe).format(sql.Identifier(schema)))
        except psycopg.Error as error:
            self.missing.append(f"{extension} ({str(error).splitlines()[0]})")
            return None
        return schema

    def _position(self) -> str | None:
        """Where the log stands, all before it flushed: `pg_get_wal_stats` reads what is on disk."""
        with contextlib.suppress(psycopg.Error):
            self._conn.execute("SELECT txid_current()")  # a commit flushes
            return self._flushed()
        return None

    def _flushed(self) -> str:
        row = self._conn.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        return str(row[0])

    def _calls(self) -> int | None:
        if self._statements is None:
            return None
        statement = (
            "SELECT coalesce(sum(calls), 0)::int8 FROM {}.pg_stat_statements"
            " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        row = self._ask(statement, self._statements)
        return None if row is None else int(row[0])

    def _ask(self, statement: str, schema: str | None, *params: str) -> tuple[int, ...] | None:
        """None where the server will not answer."""
        query = sql.SQL(statement) if schema is None else sql.SQL(statement).format(sql.Identifier(schema))
        try:
            return self._conn.execute(query, params or None).fetchone()
        except psycopg.Error:
            return None
