"""What an insert sends: array statements or COPY, and how the replies and refusals are read.

Pure functions, any thread. Arrays tell duplicates and return rows; COPY is faster and does neither.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any, Final

from river_fast import pg_binary
from river_fast.driver import CommitOutcomeUnknownError, ConnectionLostError, RawRow, Statement, stored_rows
from river_fast.errors import (
    ConfigError,
    DatabaseError,
    EncodeError,
    InsertOutcomeUnknownError,
    MigrationError,
    RiverError,
    UniqueConflictError,
)
from river_fast.insert_params import InsertBatch
from river_fast.job_row import (
    ARGS,
    ATTEMPT,
    CREATED_AT,
    ID,
    KIND,
    MAX_ATTEMPTS,
    METADATA,
    PRIORITY,
    QUEUE,
    SCHEDULED_AT,
    STATE,
    TAGS,
    BinaryRow,
)
from river_fast.pg_binary import BinaryParam
from river_fast.resolved_opts import ResolvedOpts

ROWS_PER_STATEMENT: Final = 5_000
BYTES_PER_STATEMENT: Final = 32 * 1024 * 1024  # one parameter may hold 256 MB; a statement this large is slow enough
FEW_QUEUES: Final = 16  # a notification's parameters are kept for so many at most
ROWS_PER_CHUNK: Final = 500  # of a COPY: the next are put together while the server works on these
BRIEF_FROM: Final = 100  # rows; for fewer, what is not sent back is less than finding out whether it may be left out
_NO_METADATA: Final = b"\x01{}"
_COLUMNS = 16  # job.COLUMNS; what follows in a row is the unique insert's own


@dataclass(frozen=True, slots=True)
class CopyIn:
    """One COPY: its statement's name and its rows, encoded, in chunks; to be read once."""

    name: str
    chunks: Iterable[bytes]


def statements(
    batch: InsertBatch, queues: Sequence[str], schema: str, lock_timeout: str | None = None
) -> list[Statement[Any]]:
    """The array inserts of a batch, the first of which notifies `queues`.

    `lock_timeout`: how long unique jobs wait for a rival's commit (PostgreSQL's setting, local to the transaction).
    """
    alike = batch.is_alike()
    return [
        _statement(batch, positions, alike, () if number else queues, schema, lock_timeout)
        for number, positions in enumerate(_chunks(batch))
    ]


def _chunks(batch: InsertBatch) -> list[Sequence[int]]:
    """Positions, without repeated keys, as one statement takes them."""
    positions: Sequence[int] = range(len(batch))
    if batch.duplicate_of:
        positions = [position for position in positions if position not in batch.duplicate_of]
    if len(positions) <= ROWS_PER_STATEMENT and batch.size <= BYTES_PER_STATEMENT:
        return [positions]
    chunks: list[Sequence[int]] = []
    chunk: list[int] = []
    size = 0
    for position in positions:
        size += len(batch.args[position])
        if chunk and (len(chunk) >= ROWS_PER_STATEMENT or size > BYTES_PER_STATEMENT):
            chunks.append(chunk)
            chunk, size = [], len(batch.args[position])
        chunk.append(position)
    chunks.append(chunk)
    return chunks


def _statement(
    batch: InsertBatch,
    positions: Sequence[int],
    alike: bool,
    queues: Sequence[str],
    schema: str,
    lock_timeout: str | None,
) -> Statement[Any]:
    if alike:
        args = batch.args if len(positions) == len(batch) else [batch.args[position] for position in positions]
        shared = _alike_params(batch.opts[0])
        kind = pg_binary.param(pg_binary.TEXT, batch.infos[0].kind_element)
        found = {"args": pg_binary.jsonb_array(args), "kind": kind, **shared, **notify_params(schema, tuple(queues))}
        whole = Statement("job_insert_many_alike", found, _in_order, lazy=True)
        if len(args) < BRIEF_FROM or shared["metadata"].data != _NO_METADATA:
            return whole
        table = BinaryParam(pg_binary.TEXT, (_quoted(schema) + "river_job").encode())
        places = _brief_places(kind, shared, batch.opts[0])
        found = {**found, "table": table}
        return Statement("job_insert_many_alike_brief", found, _in_order, lazy=True, places=places, otherwise=whole)
    opts = [batch.opts[position] for position in positions]
    params = {
        "args": pg_binary.jsonb_array([batch.args[i] for i in positions]),
        "kinds": pg_binary.array(pg_binary.TEXT, [batch.infos[i].kind_element for i in positions]),
        "max_attempts": pg_binary.array(pg_binary.INT2, [o.max_attempts for o in opts]),
        "metadata": pg_binary.array(pg_binary.JSONB, [o.metadata for o in opts]),
        "priorities": pg_binary.array(pg_binary.INT2, [o.priority for o in opts]),
        "queues": pg_binary.array(pg_binary.TEXT, [o.queue for o in opts]),
        "scheduled_at": pg_binary.array(pg_binary.TIMESTAMPTZ, [o.scheduled_us for o in opts]),
        "states": pg_binary.array(pg_binary.TEXT, [o.state_element for o in opts]),
        "tags": pg_binary.array(pg_binary.TEXT, [o.tags for o in opts]),
        **notify_params(schema, tuple(queues)),
    }
    if not batch.unique:
        return Statement("job_insert_many", params, _in_order, lazy=True)
    keys = [batch.keys[position] for position in positions]
    params["unique_keys"] = pg_binary.array(pg_binary.BYTEA, [pg_binary.optional_element(key) for key in keys])
    params["unique_states"] = pg_binary.array(pg_binary.INT4, [o.unique_states for o in opts])
    params["lock_timeout"] = BinaryParam(pg_binary.TEXT, None if lock_timeout is None else lock_timeout.encode())
    params["sequence"] = BinaryParam(pg_binary.TEXT, (_quoted(schema) + "river_job_id_seq").encode())
    return Statement("job_insert_many_unique", params, lambda rows, count: _by_key(rows, keys), lazy=True)


def _alike_params(opts: ResolvedOpts) -> dict[str, BinaryParam]:
    """What is the same of all jobs with these options, as parameters."""
    params = opts.sent.get("params")
    if params is None:
        params = opts.sent["params"] = {
            "max_attempts": pg_binary.param(pg_binary.INT2, opts.max_attempts),
            "metadata": pg_binary.param(pg_binary.JSONB, opts.metadata),
            "priority": pg_binary.param(pg_binary.INT2, opts.priority),
            "queue": pg_binary.param(pg_binary.TEXT, opts.queue),
            "scheduled_at": pg_binary.param(pg_binary.TIMESTAMPTZ, opts.scheduled_us),
            "state": pg_binary.param(pg_binary.TEXT, opts.state_element),
            "tags": pg_binary.param(pg_binary.TEXT, opts.tags),
        }
    return params


def _brief_places(
    kind: BinaryParam, shared: Mapping[str, BinaryParam], opts: ResolvedOpts
) -> tuple[int | bytes | None, ...]:
    """Where the columns of a job inserted so are: in the reply, or known."""
    known = {
        STATE: shared["state"].data, ATTEMPT: struct.pack("!h", 0), MAX_ATTEMPTS: shared["max_attempts"].data,
        PRIORITY: shared["priority"].data, KIND: kind.data, METADATA: shared["metadata"].data,
        QUEUE: shared["queue"].data, TAGS: pg_binary.text_array_element(opts.tags_array)[4:],
    }  # fmt: skip
    replied = {column: place for place, column in enumerate((ID, CREATED_AT, SCHEDULED_AT, ARGS))}
    return tuple(replied[column] if column in replied else known.get(column) for column in range(_COLUMNS))


def notify_params(schema: str, queues: tuple[str, ...]) -> Mapping[str, BinaryParam]:
    """River's payload, letter for letter; queue names hold nothing that JSON escapes."""
    return _few_queues(schema, queues) if len(queues) <= FEW_QUEUES else _notify_params(schema, queues)


def _notify_params(schema: str, queues: tuple[str, ...]) -> Mapping[str, BinaryParam]:
    payloads = pg_binary.texts(f'{{"queue": "{queue}"}}' for queue in queues)
    return {"channel": BinaryParam(pg_binary.TEXT, f"{schema}.river_insert".encode()), "payloads": payloads}


_few_queues = lru_cache(maxsize=256)(_notify_params)


def _in_order(rows: list[RawRow], count: int) -> list[tuple[BinaryRow, bool]]:
    """Ids are drawn in the order given; should a server return the rows in another, they tell."""
    stored = stored_rows(rows, count)
    ids = list(map(_id, stored))
    if ids != sorted(ids):
        stored.sort(key=_id)
    return list(zip(stored, repeat(False)))


def _by_key(rows: list[RawRow], keys: list[bytes | None]) -> list[tuple[BinaryRow, bool]]:
    """The rows in the order of the keys sent; those without a key by their ids."""
    stored = stored_rows(rows, len(rows))
    keyed = {row.field(_COLUMNS): (row, row.field(_COLUMNS + 1) == b"\x01") for row in stored}
    others = iter(sorted((row for row in stored if row.field(_COLUMNS) is None), key=_id))
    return [(next(others), False) if key is None else keyed[key] for key in keys]


def _id(row: BinaryRow) -> bytes:
    return row.field(ID) or b""


def copies(batch: InsertBatch) -> list[CopyIn]:
    """COPY the jobs due now, whose scheduled_at is the server's to say, apart from those with a time; and where none of
    them is unique, leave out what says so."""
    if batch.is_alike():
        return [CopyIn(_copy_name(batch.opts[0], batch), _alike_rows(batch))]
    rows: dict[str, list[bytes]] = {}
    unique = bool(batch.unique)
    for args, info, opts, key in zip(batch.args, batch.infos, batch.opts, batch.keys, strict=True):
        head, middle, bits, tail = _copy_parts(opts, unique)
        keyed = pg_binary.optional_element(key) + bits if unique else b""
        row = b"".join((head, pg_binary.jsonb_element(args), info.kind_element, middle, keyed, tail))
        rows.setdefault(_copy_name(opts, batch), []).append(row)
    return [CopyIn(name, _chunked(made)) for name, made in sorted(rows.items())]


def _copy_name(opts: ResolvedOpts, batch: InsertBatch) -> str:
    unique = "_unique" if batch.unique else ""
    scheduled = "" if opts.scheduled_at is None else "_scheduled"
    return f"job_insert_fast_many{unique}{scheduled}"


def _copy_parts(opts: ResolvedOpts, unique: bool) -> tuple[bytes, bytes, bytes, bytes]:
    """Of a COPY row: what stands before its args, between kind and key, the unique states, and what stands last."""
    found = opts.sent.get("copy")
    if found is None or found[0] != unique:
        columns = 8 + 2 * unique + (opts.scheduled_at is not None)
        tags = pg_binary.text_array_element(opts.tags_array)
        middle = opts.max_attempts + opts.metadata + opts.priority + opts.queue + opts.state_element + tags
        bits = pg_binary.NULL if opts.rule is None else struct.pack("!iiB", 5, 8, opts.rule.states)  # bit(8)
        tail = b"" if opts.scheduled_at is None else opts.scheduled_us
        found = opts.sent["copy"] = (unique, (struct.pack("!h", columns), middle, bits, tail))
    return found[1]


def _alike_rows(batch: InsertBatch) -> Iterator[bytes]:
    """Rows that differ in their args alone: what lies between two args is always the same."""
    head, middle, _, tail = _copy_parts(batch.opts[0], False)
    after = batch.infos[0].kind_element + middle + tail
    for start in range(0, len(batch), ROWS_PER_CHUNK):
        rows = pg_binary.jsonb_elements(batch.args[start : start + ROWS_PER_CHUNK], after + head)
        yield rows[len(after) :] + after


def _chunked(rows: Sequence[bytes]) -> Iterator[bytes]:
    for start in range(0, len(rows), ROWS_PER_CHUNK):
        yield b"".join(rows[start : start + ROWS_PER_CHUNK])


def insert_error(error: DatabaseError, schema: str, *, own_commit: bool) -> RiverError:
    """`own_commit`: the statement was its own transaction, so that a lost reply may have been its commit's."""
    if isinstance(error, CommitOutcomeUnknownError) or (own_commit and isinstance(error, ConnectionLostError)):
        return InsertOutcomeUnknownError(
            "the connection was lost after the insert was sent: it may or may not have been committed; "
            "look before you insert again, or give the jobs unique options"
        )
    state = error.sqlstate or ""
    if state == "23505":
        return UniqueConflictError("a job with the same unique key exists; none was inserted")
    if state in ("3F000", "42P01", "42703", "42704", "42883"):
        return MigrationError(
            f'schema "{schema}" is missing or not migrated ({error}); run: river-fast migrate-up --schema {schema}'
        )
    if state == "42501":
        return ConfigError(
            f"{error}; run as its owner: GRANT USAGE ON SCHEMA {_quoted(schema)[:-1]} TO ...; "
            f"GRANT SELECT, INSERT, UPDATE ON {_quoted(schema)}river_job TO ...; "
            f"GRANT USAGE ON SEQUENCE {_quoted(schema)}river_job_id_seq TO ..."
        )
    if state in ("22003", "22P02", "22P05", "22021", "54000"):  # everything but JSON was checked to the last bit
        return EncodeError("args", f"PostgreSQL cannot store them: {error}")
    return error


def _quoted(schema: str) -> str:
    return '"' + schema.replace('"', '""') + '".'
