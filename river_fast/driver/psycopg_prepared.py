"""Statements whose parameters are all in PostgreSQL's binary form, on connections of our own: no cursor, no adaptation.

Whoever holds the connection. A statement asked for often is prepared, as psycopg does it; what it is called is the
connection's to remember. The waiting, its limit and its cancelling are psycopg's own.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from functools import lru_cache
from typing import Any

from psycopg import errors, generators, pq

from river_fast.driver.psycopg_session import sql_text
from river_fast.pg_binary import BinaryParam

ASKED_OFTEN = 5  # from then on it is worth a round trip of its own to prepare
# The name is unknown to the server, or its plan is of a table that was altered: asked unprepared, soon prepared anew.
STALE = frozenset({"26000", "0A000"})

_NAMED = re.compile(r"%\((\w+)\)s")


class Prepared:
    """What one connection was asked how often, and what it calls that by now. By a statement's name and schema."""

    __slots__ = ("asked", "names", "tried")

    def __init__(self) -> None:
        self.asked: dict[tuple[str, str], int] = {}
        self.names: dict[tuple[str, str], bytes] = {}
        self.tried = 0  # no name is given twice: whoever is interrupted does not know whether it was taken


def is_binary(params: Mapping[str, Any]) -> bool:
    """Whether `ask` takes them."""
    return bool(params) and {type(param) for param in params.values()} == {BinaryParam}


def ask(
    pgconn: pq.abc.PGconn, prepared: Prepared, name: str, schema: str, params: Mapping[str, BinaryParam]
) -> Generator[Any, Any, pq.abc.PGresult]:
    """The reply to `sql/<name>.sql`, rows in binary; for a psycopg connection's `wait`. Raises psycopg's errors."""
    text, order = _numbered(name, schema)
    key = (name, schema)
    given = [params[param] for param in order]
    values, formats = [param.data for param in given], [pq.Format.BINARY] * len(given)
    oids = [param.oid for param in given]
    called = prepared.names.get(key)
    if called is None:
        asked = prepared.asked[key] = prepared.asked.get(key, 0) + 1
        if asked > ASKED_OFTEN:
            prepared.tried += 1
            called = b"river_fast_%d" % prepared.tried
            pgconn.send_prepare(called, text, oids)
            _checked((yield from generators.execute(pgconn)))
            prepared.names[key] = called
    if called is not None:
        pgconn.send_query_prepared(called, values, formats, pq.Format.BINARY)
        try:
            return _checked((yield from generators.execute(pgconn)))
        except errors.Error as error:
            if error.sqlstate not in STALE:
                raise
            prepared.names.pop(key, None)
            if pgconn.transaction_status != pq.TransactionStatus.IDLE:  # the transaction has failed with it
                raise
    # Not prepared, or no longer: then nothing of it was done.
    pgconn.send_query_params(text, values, oids, formats, pq.Format.BINARY)
    return _checked((yield from generators.execute(pgconn)))


def _checked(results: list[pq.abc.PGresult]) -> pq.abc.PGresult:
    if not results:
        raise errors.InternalError("got no result from the query")
    for result in results:
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise errors.error_from_result(result)
    return results[-1]


@lru_cache(maxsize=512)
def _numbered(name: str, schema: str) -> tuple[bytes, list[str]]:
    """The statement's text with `$n` for its parameters, and their names in that order."""
    order: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in order:
            order.append(found[1])
        return f"${order.index(found[1]) + 1}"

    return _NAMED.sub(number, sql_text(name, schema)).encode(), order
