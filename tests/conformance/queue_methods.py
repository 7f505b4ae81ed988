"""Methods on queues: their rows, and which of them the running client works.

The request loop's thread.
"""

from __future__ import annotations

from typing import Any

import psycopg

import river_fast as river
from tests.conformance import values
from tests.conformance.errors import rejected
from tests.conformance.exact_json import dump
from tests.conformance.running_client import RunningClient
from tests.conformance.session import Session

REMOVE_TIMEOUT = 9.0  # seconds for the queue's running jobs


def _conn(session: Session, params: dict[str, Any]) -> psycopg.Connection[Any]:
    return session.transactions.get(params["handle"])


def queue_get(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return values.queue(session.client().queue_get(params["name"]))


def tx_queue_get(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return values.queue(session.client().queue_get_tx(_conn(session, params), params["name"]))


def queue_list(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return {"queues": [values.queue(queue) for queue in session.client().queue_list(params.get("limit", 100))]}


def tx_queue_list(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    queues = session.client().queue_list_tx(_conn(session, params), params.get("limit", 100))
    return {"queues": [values.queue(queue) for queue in queues]}


def queue_pause(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.client().queue_pause(params["name"])
    return {}


def tx_queue_pause(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.client().queue_pause_tx(_conn(session, params), params["name"])
    return {}


def queue_resume(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.client().queue_resume(params["name"])
    return {}


def tx_queue_resume(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.client().queue_resume_tx(_conn(session, params), params["name"])
    return {}


def queue_update(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return values.queue(session.client().queue_update(params["name"], metadata=metadata_of(params)))


def tx_queue_update(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    conn = _conn(session, params)
    return values.queue(session.client().queue_update_tx(conn, params["name"], metadata=metadata_of(params)))


def metadata_of(params: dict[str, Any]) -> bytes | None:
    """None: it stays as it is."""
    return dump(params["metadata"]) if "metadata" in params else None


def queue_add(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    running, name = _running(session), params["name"]
    config = river.QueueConfig(max_workers=params.get("max_workers", 1), prefetch=0)
    try:
        running.client.queues.add(name, config)
    except river.QueueAlreadyAddedError:
        running.client.queues.remove(name, REMOVE_TIMEOUT)
        running.client.queues.add(name, config)
    return {}


def queue_remove(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    _running(session).client.queues.remove(params["name"], REMOVE_TIMEOUT)
    return {}


def _running(session: Session) -> RunningClient:
    if session.running is None:
        raise rejected("no client is running")
    return session.running


METHODS = {
    "queue_get": queue_get,
    "tx_queue_get": tx_queue_get,
    "queue_list": queue_list,
    "tx_queue_list": tx_queue_list,
    "queue_pause": queue_pause,
    "tx_queue_pause": tx_queue_pause,
    "queue_resume": queue_resume,
    "tx_queue_resume": tx_queue_resume,
    "queue_update": queue_update,
    "tx_queue_update": tx_queue_update,
    "queue_add": queue_add,
    "queue_remove": queue_remove,
}
