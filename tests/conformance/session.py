"""What the requests of one adapter process share: its clients, its connections, transactions, barriers and clock.

The request loop's thread, but for `pooled`, which jobs use too. One client inserts where none runs; a running one
serves all requests. Connections in all: at most 20 (A) or 10 (B), of them 4 of the running client's hot path, its pool,
and the transactions that the suite holds open.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

import river_fast as river
from river_fast import resolved_opts
from river_fast.config import check_schema
from tests.conformance import values
from tests.conformance.barriers import Barriers
from tests.conformance.connections import Connections
from tests.conformance.environment import Environment
from tests.conformance.errors import rejected
from tests.conformance.running_client import RunningClient
from tests.conformance.transactions import Transactions

ARGS_MOST = 32 * 1024 * 1024  # bytes of a job's args: what the suite sends is let through
CLIENT_POOL = {"A": 6, "B": 2}
RAW_CONNECTIONS = {"A": 2, "B": 1}
TRANSACTIONS_MOST = {"A": 6, "B": 2}


class Session:
    """Made once, closed once."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        generation = environment.generation
        self.barriers = Barriers(made_at_use=generation == "B")
        self.transactions = Transactions(environment.conninfo, TRANSACTIONS_MOST[generation])
        self.clock: datetime | None = None
        self.running: RunningClient | None = None
        self._inserting: tuple[str | None, river.Client] | None = None
        self._connections = Connections(environment.conninfo, RAW_CONNECTIONS[generation])

    # Clients.

    def client(self, schema: str | None = None) -> river.Client:
        """The running client, else one that inserts."""
        if self.running is not None:
            if schema and schema != self.running.schema:
                raise rejected(f"the running client works schema {self.running.schema!r}, not {schema!r}")
            return self.running.client
        return self.inserting_client(schema or None)

    def schema(self, schema: str | None = None) -> str | None:
        """The one a request means; None: the connection's. Generation A's requests go to the running client's."""
        if self.running is not None and self.environment.generation == "A":
            return self.running.schema
        return schema or None

    def inserting_client(self, schema: str | None) -> river.Client:
        """One that works nothing. The last asked for is kept."""
        if self._inserting is not None and self._inserting[0] == schema:
            return self._inserting[1]
        client = river.Client(
            self.environment.conninfo, river.Config(schema=schema, pool_size=1, max_args_bytes=ARGS_MOST)
        )
        self.forgetinserting_client()
        self._inserting = schema, client
        return client

    def take_running(self, running: RunningClient) -> None:
        """Starts it; from then on it serves the requests."""
        self.forgetinserting_client()  # its connections are the other's now
        running.start()
        self.running = running

    def forget_statements(self) -> None:
        """After a migration: prepared statements know tables that are no more."""
        self.forgetinserting_client()
        self._connections.close()

    def forgetinserting_client(self) -> None:
        if self._inserting is not None:
            self._inserting[1].stop()
            self._inserting = None

    # Connections.

    @contextlib.contextmanager
    def pooled(self) -> Iterator[psycopg.Connection[Any]]:
        """A checked connection in autocommit mode."""
        with self._connections.lent() as conn:
            yield conn

    def table(self, name: str, schema: str | None = None) -> sql.Identifier:
        """Of the schema a request means."""
        where = self.schema(schema)
        if where is not None:
            check_schema(where)
        return sql.Identifier(name) if where is None else sql.Identifier(where, name)

    # Answers.

    def jobs(
        self, found: Iterable[river.Job[Any]], conn: psycopg.Connection[Any] | None = None, schema: str | None = None
    ) -> list[dict[str, Any]]:
        """As the contract writes them; their unique keys are read on `conn`, the transaction's, if there is one."""
        listed = list(found)
        known = self.unique_of([job.id for job in listed], conn, schema) if listed else {}
        return [self.written(job, known.get(job.id)) for job in listed]

    def job(
        self, found: river.Job[Any], conn: psycopg.Connection[Any] | None = None, schema: str | None = None
    ) -> dict[str, Any]:
        return self.jobs([found], conn, schema)[0]

    def written(self, job: river.Job[Any], unique: values.Unique | None) -> dict[str, Any]:
        return values.job(job, unique, all_digits=self.environment.generation == "B")

    def unique_of(
        self, ids: Iterable[int], conn: psycopg.Connection[Any] | None = None, schema: str | None = None
    ) -> dict[int, values.Unique]:
        table = self.table("river_job", schema)
        if conn is not None:
            return dict(values.unique_of(conn, table, ids))
        with self.pooled() as pooled:
            return dict(values.unique_of(pooled, table, ids))

    def all_unique(self, conn: psycopg.Connection[Any] | None = None) -> dict[int, values.Unique]:
        """Of every job that has a unique key, for those that are about to go."""
        query = sql.SQL("SELECT id FROM {} WHERE unique_key IS NOT NULL").format(self.table("river_job"))
        if conn is not None:
            return self.unique_of([row[0] for row in conn.execute(query)], conn)
        with self.pooled() as pooled:
            return self.unique_of([row[0] for row in pooled.execute(query)], pooled)

    # The end.

    def close(self) -> None:
        """Within seconds, whatever hangs: a job that ignores its cancellation is left behind."""
        with contextlib.suppress(Exception):
            if self.running is not None:
                running, self.running = self.running, None
                running.stop(hard=True)
        self.barriers.forget_all()
        self.transactions.close()
        with contextlib.suppress(Exception):
            self.forgetinserting_client()
        self._connections.close()


def process_name() -> str:
    return f"conformance-{os.getpid()}"


def let_any_metadata_in() -> None:
    """River lets a caller insert metadata under its own keys, ours refuses: the suite carries state over that way."""
    checked = resolved_opts._metadata
    resolved_opts._metadata = lambda metadata, limit, internal: checked(metadata, limit, True)
