"""A migrated schema for each test, there before it is asked for. River: riverdbtest.

`take` and `give_back` are for any thread; a thread of its own, with one connection, makes the next schemas while a test
runs, and drops what was given back when it has made enough. It owns the schemas of this run; those that a killed run
left behind go first.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence

import psycopg

from river_fast.driver.psycopg import PsycopgDriver, apply_session, sql_text
from river_fast.errors import ConfigError
from river_fast.migrate import MAIN, Migrator

PREFIX = "river_test"
READY = 4                # schemas made ahead: for tests that are quicker than the making of one
LOCK_SPACE = 0x7269766D  # the first key of this package's advisory locks on test runs
DROP_TIMEOUT = "10s"     # for a client that a test left running; what cannot be dropped goes with the next run

_logger = logging.getLogger("river_fast.testing")


class SchemaSupply:
    """Schemas on the server at `url`, with these migration lines, main first. `close` at the end; `ConfigError`."""

    def __init__(self, url: str, lines: Sequence[str] = (MAIN,), prefix: str = PREFIX) -> None:
        if not lines or lines[0] != MAIN:
            raise ConfigError(f'the migration lines of a test\'s schema begin with "{MAIN}", got {lines!r:.80}')
        self._url, self._lines, self._prefix = url, tuple(lines), prefix
        self._key = os.urandom(4).hex()
        self._count = 0
        self._changed = threading.Condition()  # guards the following
        self._ready: deque[str] = deque()
        self._given_back: deque[str] = deque()
        self._taken: set[str] = set()
        self._closing = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="river_fast.schema_supply", daemon=True)
        self._thread.start()

    def take(self) -> str:
        """The name of a new schema; what kept it from being made is raised here."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failure or self._closing)
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise ConfigError("the supply of schemas is closed")
            schema = self._ready.popleft()
            self._taken.add(schema)
            self._changed.notify_all()
            return schema

    def give_back(self, schema: str) -> None:
        """Drop it, some time soon."""
        with self._changed:
            self._taken.discard(schema)
            self._given_back.append(schema)
            self._changed.notify_all()

    def close(self) -> None:
        """Everything dropped, the connection closed. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    # The thread's own.

    def _run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as conn:
                text, template = self._set_up(conn)
                while self._step(conn, text, template):
                    pass
                for schema in (*self._given_back, *self._ready, *self._taken, template):
                    _drop(conn, schema)
        except BaseException as error:  # raised by each `take` from now on
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _step(self, conn: psycopg.Connection, text: str, template: str) -> bool:
        """Makes a schema, or, where there are enough, drops one; False: the end was asked for."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or len(self._ready) < READY or self._given_back)
            if self._closing:
                return False
            given_back = None if len(self._ready) < READY else self._given_back.popleft()
        if given_back is not None:
            _drop(conn, given_back)
            return True
        schema = self._name()
        conn.execute(text.replace(template, schema).encode())
        with self._changed:
            self._ready.append(schema)
            self._changed.notify_all()
        return True

    def _set_up(self, conn: psycopg.Connection) -> tuple[str, str]:
        """A schema migrated step by step, and the text that makes another like it in one round trip."""
        apply_session(conn)
        conn.execute("SET synchronous_commit = off; SET client_min_messages = warning")
        conn.execute(f"SET lock_timeout = '{DROP_TIMEOUT}'")
        conn.execute(sql_text("testing_lock", ""), {"space": LOCK_SPACE, "key": self._key})
        left = conn.execute(sql_text("testing_schemas_left", ""), {"prefix": self._prefix, "space": LOCK_SPACE})
        for (schema,) in left.fetchall():
            _drop(conn, schema)
        template = self._name()
        conn.execute(sql_text("schema_create", template))
        driver = PsycopgDriver(self._url, template)
        try:
            for line in self._lines:
                Migrator(driver, line).migrate_up()
        finally:
            driver.close()
        made = conn.execute(sql_text("testing_schema_text", ""), {"schema": template}).fetchall()
        book = conn.execute(sql_text("migration_get_all", template)).fetchall()
        book.sort(key=lambda row: self._lines.index(row[0]))  # as they were migrated
        insert, write = sql_text("migration_insert", template), psycopg.ClientCursor(conn).mogrify
        rows = [write(insert, {"line": line, "version": version}) for line, version in book]
        return ";\n".join([sql_text("schema_create", template), *(ddl for (ddl,) in made), *rows]), template

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}_{self._key}_{self._count}"


def _drop(conn: psycopg.Connection, schema: str) -> None:
    try:
        conn.execute(sql_text("schema_drop", schema))
    except psycopg.Error as error:
        _logger.warning("the test schema %s could not be dropped: %s", schema, error)
