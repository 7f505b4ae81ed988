"""Generation B of the contract: fourteen methods, and the suite looks at the database itself.

The request loop's thread. Requests are served by clients that only insert; the running one works. What both generations
have is generation A's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psycopg

import river_fast as river
from tests.conformance.built_in_job import ARGS
from tests.conformance.contract import CONTRACT, check
from tests.conformance.environment import IMPLEMENTATION
from tests.conformance.errors import METHOD_NOT_FOUND, RpcError, invalid_params, named, rejected
from tests.conformance.insert_methods import insert_many_within, item_of, without_repeats, written
from tests.conformance.job_methods import list_options, listed
from tests.conformance.lifecycle_methods import launch, migrated, stop
from tests.conformance.queue_methods import metadata_of
from tests.conformance.session import Session

STATS = ("cancelled_at_start", "error_handler_calls", "periodic_starts")
POLL_DEFAULT_MS = 1000  # River's own, where A has its adapters poll every 10 ms
BEHAVIORS = (
    "",
    "barrier_output",
    "barrier_wait",
    "cancel",
    "cooperative_cancel",
    "error",
    "output",
    "resumable_cursor",
    "sleep",
    "snooze_once",
)

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": ["array", "null"], "items": TEXT}
NUMBER: Schema = {"type": "integer"}
NUMBERS: Schema = {"type": ["array", "null"], "items": NUMBER}
FLAG: Schema = {"type": "boolean"}
ANYTHING: Schema = {}
WHERE = {"schema": TEXT, "tx": TEXT}


def _object(required: str = "", **members: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": members}


OPTS = CONTRACT["$defs"]["insert_opts"]["properties"]
JOB = _object(
    behavior={"type": "string", "enum": list(BEHAVIORS)},
    duration_ms=NUMBER,
    message=TEXT,
    kind={"type": "string", "enum": list(ARGS)},
    opts={"type": ["object", "null"], "additionalProperties": False, "properties": {**OPTS, "max_attempts": NUMBER}},
)
PARAMS: dict[str, Schema] = {
    "handshake": _object(),
    "start": _object(
        "client_id",
        claim_barrier=TEXT,
        client_id=TEXT,
        error_handler_cancel=FLAG,
        fetch_only_known_kinds=FLAG,
        fetch_poll_interval_ms=NUMBER,
        job_timeout_ms=NUMBER,
        leader_election_disabled=FLAG,
        max_workers=NUMBER,
        periodic_run_on_start=FLAG,
        periodic_unique=FLAG,
        poll_only=FLAG,
        queues=TEXTS,
        rescue_after_ms=NUMBER,
        retry_delay_ms=NUMBER,
        schema=TEXT,
        tuning={
            **_object(elect_interval_ms=NUMBER, rescuer_interval_ms=NUMBER, scheduler_interval_ms=NUMBER),
            "type": ["object", "null"],
        },
        worker_kinds={"type": ["array", "null"], "items": {"type": "string", "enum": list(ARGS)}},
    ),
    "stop": _object(cancel=FLAG),
    "stats": _object(),
    "insert": _object("jobs", jobs={"type": "array", "items": JOB}, **WHERE),
    "list": _object(
        after=TEXT,
        direction={"type": "string", "enum": ["", "asc", "desc"]},
        ids=NUMBERS,
        kinds=TEXTS,
        limit=NUMBER,
        metadata=ANYTHING,
        order_by=TEXT,
        priorities=NUMBERS,
        queues=TEXTS,
        states=TEXTS,
        tags_all=TEXTS,
        **WHERE,
    ),
    "cancel": _object("id", id=NUMBER, **WHERE),
    "retry": _object("id", id=NUMBER, **WHERE),
    "queue": _object(
        "action name",
        action={"type": "string", "enum": ["pause", "resume", "update"]},
        metadata=ANYTHING,
        name=TEXT,
        **WHERE,
    ),
    "request_resign": _object(**WHERE),
    "release": _object("name", name=TEXT),
    "migrate": _object(
        direction={"type": "string", "enum": ["", "down", "up"]},
        schema=TEXT,
        target_version={"type": ["integer", "null"]},
    ),
    "tx_begin": _object("tx", tx={"type": "string", "minLength": 1}),
    "tx_end": _object("tx", commit=FLAG, tx=TEXT),
}


class Adapter:
    """Answers requests of generation B."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def answer(self, method: str, params: dict[str, Any], line: str) -> dict[str, Any]:
        if method not in PARAMS:
            raise RpcError(METHOD_NOT_FOUND, f"method {method!r:.80} does not exist")
        check(params, PARAMS[method], "params")
        return METHODS[method](self._session, params)


def handshake(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return {"driver": "postgres", "implementation": IMPLEMENTATION, "version": river.__version__}


def start(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """Zeros and empty values mean what is left out."""
    options = {name: value for name, value in params.items() if value not in (0, "", None, [], False)}
    tuning = {name: value for name, value in (options.pop("tuning", None) or {}).items() if value > 0}
    if "elect_interval_ms" in tuning:  # ignored where it is more than we offer
        tuning["elect_interval_ms"] = min(tuning["elect_interval_ms"], 10_000)
    if params.get("periodic_unique") and not params.get("periodic_run_on_start"):
        raise invalid_params("periodic_unique requires periodic_run_on_start")
    return launch(session, {"client_id": "", "fetch_poll_interval_ms": POLL_DEFAULT_MS, **options, **tuning})


def stats(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    if session.running is None:
        raise rejected("no client is running")
    found = session.running.stats.read(STATS)
    events = [event for event in found["events"] if event != "job_interrupted"]
    return {**{name: found[name] for name in STATS}, "events": events}


def insert(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    client, conn, schema = _place(session, params)
    jobs = [item_of({**job, "opts": job.get("opts") or {}}) for job in params["jobs"]]
    if conn is not None:
        return written(session, insert_many_within(client, conn, jobs), conn, schema)
    with session.pooled() as pooled, pooled.transaction():
        return written(session, without_repeats(client.insert_many_tx(pooled, jobs)), pooled, schema)


def list_jobs(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    client, conn, schema = _place(session, params)
    options = {name: value for name, value in params.items() if value not in (None, "", 0, [])}
    try:
        result = client.job_list(**list_options(options)) if conn is None else client.job_list_tx(
            conn, **list_options(options)
        )
    except river.ValidationError as error:
        raise invalid_params(str(error)) if error.field == "after" else named(error) from None
    return listed(session, result, conn, schema)


def _verb(name: str) -> Callable[[Session, dict[str, Any]], dict[str, Any]]:
    def method(session: Session, params: dict[str, Any]) -> dict[str, Any]:
        client, conn, schema = _place(session, params)
        if conn is None:
            return session.job(getattr(client, name)(params["id"]), schema=schema)
        return session.job(getattr(client, f"{name}_tx")(conn, params["id"]), conn, schema)

    return method


def queue(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    client, conn, _ = _place(session, params)
    verb = getattr(client, f"queue_{params['action']}" + ("" if conn is None else "_tx"))
    arguments = (params["name"],) if conn is None else (conn, params["name"])
    if params["action"] == "update":
        verb(*arguments, metadata=metadata_of(params))
    else:
        verb(*arguments)
    return {}


def request_resign(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    client, conn, _ = _place(session, params)
    if conn is None:
        client.notify.request_resign()
    else:
        client.notify.request_resign_tx(conn)
    return {}


def release(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.barriers.release(params["name"])
    return {}


def migrate(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    down = params.get("direction") == "down"
    return {"versions": migrated(session, params.get("schema") or None, down, params.get("target_version"))["applied"]}


def tx_begin(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.transactions.begin(params["tx"])
    return {}


def tx_end(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    (session.transactions.commit if params.get("commit") else session.transactions.rollback)(params["tx"])
    return {}


def _place(
    session: Session, params: Mapping[str, Any]
) -> tuple[river.Client, psycopg.Connection[Any] | None, str | None]:
    """The client of the schema, the transaction if one is named, and the schema."""
    schema = params.get("schema") or None
    conn = session.transactions.get(params["tx"]) if params.get("tx") else None
    return session.inserting_client(schema), conn, schema


METHODS = {
    "handshake": handshake,
    "start": start,
    "stop": stop,
    "stats": stats,
    "insert": insert,
    "list": list_jobs,
    "cancel": _verb("job_cancel"),
    "retry": _verb("job_retry"),
    "queue": queue,
    "request_resign": request_resign,
    "release": release,
    "migrate": migrate,
    "tx_begin": tx_begin,
    "tx_end": tx_end,
}
