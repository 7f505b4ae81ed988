"""Methods that read and write rows past all of our own code, as another program might.

The request loop's thread. The rows' values are the contract's.
"""

from __future__ import annotations

import json
from typing import Any

from psycopg import sql

from tests.conformance.built_in_job import KIND
from tests.conformance.contract import DATA
from tests.conformance.errors import not_found, rejected, unsupported
from tests.conformance.exact_json import dump, tokens
from tests.conformance.insert_methods import args_of
from tests.conformance.session import Session

MAX_ATTEMPTS = 25
EXACT_ARGS = '{"decimal":0.12345678901234567890123456789,"integer":9223372036854775807}'
EXACT_METADATA = '{"negative":-9223372036854775808}'
EXTRA_NUMBERS = ("big_integer", "beyond_float", "long_decimal")
DISCARD_ERROR = {
    "at": "2026-02-03T04:05:06.789Z",
    "attempt": 1,
    "error": "external discard",
    "trace": "external trace",
}
ATTEMPTED_AT = "2026-01-02T03:04:06.123456Z"
FULL_ROW = {
    "args": '{"nested":{"enabled":true},"values":[1,"two",null]}',
    "attempt": 3,
    "attempted_at": ATTEMPTED_AT,
    "attempted_by": ["go-client", "candidate-client"],
    "created_at": "2026-01-02T03:04:05.6789Z",
    "finalized_at": "2026-01-02T03:04:07.000001Z",
    "kind": "conformance_full_row",
    "max_attempts": 4,
    "metadata": '{"output":{"ok":true},"river:rescue_count":2,"user":"metadata"}',
    "priority": 2,
    "queue": "priority_jobs",
    "scheduled_at": "2026-01-02T03:04:05.999999Z",
    "state": "discarded",
    "tags": ["alpha_tag", "beta_tag"],
    "unique_key": b"\xab" * 32,
    "unique_states": "11110101",
}
TEXT_COLUMNS = (
    "args",
    "attempted_at",
    "attempted_by",
    "created_at",
    "errors",
    "finalized_at",
    "metadata",
    "scheduled_at",
    "tags",
)


def raw_insert_no_notify(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    args = args_of({name: params[name] for name in params if name != "kind"})
    attempts = params.get("opts", {}).get("max_attempts", MAX_ATTEMPTS)
    values = {"args": dump(vars(args)).decode(), "kind": params.get("kind", KIND), "max_attempts": attempts}
    return session.job(session.client().job_get(_insert(session, values)))


def raw_insert_exact_json(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "args": EXACT_ARGS,
        "kind": "conformance_exact_json",
        "max_attempts": MAX_ATTEMPTS,
        "metadata": params.get("metadata_json", EXACT_METADATA),
    }
    if "id" in params:
        values["id"] = params["id"]
    return {"id": _insert(session, values)}


def raw_insert_full_row(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    told = json.loads((DATA / "protocol_values.json").read_text("utf-8"))["attempt_error"]
    error = json.dumps({"at": ATTEMPTED_AT, "attempt": 3, "error": told["error"], "trace": told["trace"]})
    return session.job(session.client().job_get(_insert(session, {**FULL_ROW, "errors": [error]})))


def raw_job_exact_json(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    job = session.client().job_get(params["id"])
    args, metadata = tokens(job.encoded_args), tokens(job.encoded_metadata)
    if not isinstance(args.get("decimal"), str) or not isinstance(args.get("integer"), str):
        raise rejected(f"job {params['id']} is none that raw_insert_exact_json made")
    found = {"decimal": args["decimal"], "integer": args["integer"], "negative": metadata.get("negative", "")}
    return {**found, **{name: metadata[name] for name in EXTRA_NUMBERS if name in metadata}}


def raw_job_row(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    columns = [sql.SQL("{}::text").format(sql.Identifier(name)) for name in TEXT_COLUMNS]
    more = sql.SQL("upper(encode(unique_key, 'hex')), unique_states::text")
    row = _row(session, params["id"], sql.SQL(", ").join([*columns, more]))
    found = dict(zip((*TEXT_COLUMNS, "unique_key", "unique_states"), row, strict=True))
    return {**found, "jsonb": None, "unique_key_type": None, "unique_states_type": None}


def raw_job_timestamps(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    row = _row(session, params["id"], sql.SQL("created_at::text, scheduled_at::text"))
    return {"created_at": row[0], "scheduled_at": row[1]}


def raw_finalize(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    query = sql.SQL(
        "UPDATE {} SET state = %(state)s, finalized_at = now(), metadata = metadata || %(metadata)s::jsonb,"
        " errors = CASE WHEN %(error)s::jsonb IS NULL THEN errors ELSE array_append(errors, %(error)s::jsonb) END"
        " WHERE id = %(id)s AND state = 'running' RETURNING id"
    ).format(session.table("river_job"))
    values = {
        "id": params["id"],
        "state": params["state"],
        "metadata": dump(params.get("metadata", {})).decode(),
        "error": json.dumps(DISCARD_ERROR) if params["state"] == "discarded" else None,
    }
    with session.pooled() as conn:
        if conn.execute(query, values).fetchone() is None:
            raise not_found(f"job {params['id']} is not running")
    return session.job(session.client().job_get(params["id"]))


def raw_notifications(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    raise unsupported("only SQLite has an outbox of notifications")


def raw_replace_json_text(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    raise unsupported("only SQLite stores JSON as text")


def _insert(session: Session, values: dict[str, Any]) -> int:
    marks = [sql.SQL("%s::jsonb[]") if name == "errors" else sql.Placeholder() for name in values]
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
        session.table("river_job"), sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(marks)
    )
    with session.pooled() as conn:
        row = conn.execute(query, list(values.values())).fetchone()
    assert row is not None
    return int(row[0])


def _row(session: Session, job_id: int, columns: sql.Composable) -> Any:
    query = sql.SQL("SELECT {} FROM {} WHERE id = %s").format(columns, session.table("river_job"))
    with session.pooled() as conn:
        row = conn.execute(query, [job_id]).fetchone()
    if row is None:
        raise not_found(f"job {job_id} does not exist")
    return row


METHODS = {
    "raw_insert_no_notify": raw_insert_no_notify,
    "raw_insert_exact_json": raw_insert_exact_json,
    "raw_insert_full_row": raw_insert_full_row,
    "raw_job_exact_json": raw_job_exact_json,
    "raw_job_row": raw_job_row,
    "raw_job_timestamps": raw_job_timestamps,
    "raw_finalize": raw_finalize,
    "raw_notifications": raw_notifications,
    "raw_replace_json_text": raw_replace_json_text,
}
