"""Methods that look at jobs and steer them, each in a transaction of the suite's too; and those that wait for one.

The request loop's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

import river_fast as river
from river_fast.job import FINAL_STATES
from river_fast.maintenance.job_cleaner import delete_finalized as delete_finalized_jobs
from tests.conformance.contract import timestamp
from tests.conformance.errors import rejected
from tests.conformance.exact_json import dump
from tests.conformance.running_client import RunningClient
from tests.conformance.session import ARGS_MOST, CLIENT_POOL, Session, process_name

WAIT_MOST = 10.0  # seconds
WAIT_LOOK = 0.005
UNSTARTED_MOST = 2.0
FILTERS = ("ids", "kinds", "priorities", "queues", "states", "tags_all", "tags_any", "metadata")
DELETE_FILTERS = ("ids", "kinds", "queues", "states")

Conn = psycopg.Connection[Any]


def get(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    schema = params.get("schema")
    return session.job(session.client(schema).job_get(params["id"]), schema=schema)


def tx_get(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    conn = session.transactions.get(params["handle"])
    return session.job(session.client().job_get_tx(conn, params["id"]), conn)


def list_jobs(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return listed(session, session.client().job_list(**list_options(params)))


def tx_list(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    conn = session.transactions.get(params["handle"])
    return listed(session, session.client().job_list_tx(conn, **list_options(params)), conn)


def list_options(params: Mapping[str, Any]) -> dict[str, Any]:
    """An empty list is no filter to River; to us it is one that nothing passes."""
    options: dict[str, Any] = {name: params[name] for name in FILTERS if params.get(name) not in (None, [])}
    if "metadata" in options:
        options["metadata"] = dump(options["metadata"])
    return {
        **options,
        "order_by": params.get("order_by", "id"),
        "descending": params.get("direction") == "desc",
        "after": params.get("after"),
        "limit": params.get("limit", 100),
    }


def listed(session: Session, result: Any, conn: Conn | None = None, schema: str | None = None) -> dict[str, Any]:
    cursor = None if result.last_cursor is None else str(result.last_cursor)
    return {"jobs": session.jobs(result.jobs, conn, schema), "cursor": cursor}


def _verb(name: str) -> Callable[[Session, dict[str, Any]], dict[str, Any]]:
    def method(session: Session, params: dict[str, Any]) -> dict[str, Any]:
        return session.job(getattr(session.client(), name)(params["id"]))

    return method


def _tx_verb(name: str) -> Callable[[Session, dict[str, Any]], dict[str, Any]]:
    def method(session: Session, params: dict[str, Any]) -> dict[str, Any]:
        conn = session.transactions.get(params["handle"])
        return session.job(getattr(session.client(), name)(conn, params["id"]), conn)

    return method


def delete(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    unique = session.unique_of([params["id"]])  # afterwards nobody knows it any more
    return session.written(session.client().job_delete(params["id"]), unique.get(params["id"]))


def tx_delete(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    conn = session.transactions.get(params["handle"])
    unique = session.unique_of([params["id"]], conn)
    return session.written(session.client().job_delete_tx(conn, params["id"]), unique.get(params["id"]))


def delete_many(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    unique = session.all_unique()
    jobs = session.client().job_delete_many(**delete_options(params))
    return {"jobs": [session.written(job, unique.get(job.id)) for job in jobs]}


def tx_delete_many(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    conn = session.transactions.get(params["handle"])
    unique = session.all_unique(conn)
    jobs = session.client().job_delete_many_tx(conn, **delete_options(params))
    return {"jobs": [session.written(job, unique.get(job.id)) for job in jobs]}


def delete_options(params: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {name: params[name] for name in DELETE_FILTERS if params.get(name) not in (None, [])}
    return {**options, "unsafe_all": params.get("all", False), "limit": params.get("limit", 100)}


def update(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return session.job(session.client().job_update(params["id"], **output_of(params)))


def tx_update(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    conn = session.transactions.get(params["handle"])
    return session.job(session.client().job_update_tx(conn, params["id"], **output_of(params)), conn)


def output_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON text, every digit as it came."""
    return {"metadata": dump({"output": params["output"]})} if "output" in params else {}


def delete_finalized(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    deleted = delete_finalized_jobs(
        session.client()._driver,
        timestamp(params["before"], "before"),
        params["limit"],
        queues_excluded=params.get("queues_excluded", []),
        queues_included=params.get("queues_included"),
    )
    return {"deleted": deleted}


def wait(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    return session.job(wait_for(session.client(), params["id"], params.get("states") or FINAL_STATES))


def wait_for(client: river.Client, job_id: int, states: Any) -> river.Job[Any]:
    began, unstarted = time.monotonic(), None
    while (job := client.job_get(job_id)).state not in states or _unstarted(client, job):
        waited = time.monotonic() - began
        unstarted = job if job.state in states else unstarted
        if unstarted is not None and (waited > UNSTARTED_MOST or job.state not in ("available", "running")):
            return unstarted  # somebody else wrote the row, or the job has ended meanwhile
        if waited > WAIT_MOST:
            raise rejected(f"job {job_id} is {job.state.value} after {WAIT_MOST:g} s, not {', '.join(sorted(states))}")
        time.sleep(WAIT_LOOK)
    return job


def _unstarted(client: river.Client, job: river.Job[Any]) -> bool:
    """Running, says its row, but no worker of this client has it yet: a busy machine may still give it back."""
    services = client._services
    if services is None or job.state != "running" or job.attempted_by[-1:] != [client.id]:
        return False
    return all(other.id != job.id for other in services.producer.running())


def work(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    schema = session.schema(params.get("schema"))
    client = session.client(schema)
    client.job_get(params["id"])
    options = {"client_id": params.get("client_id") or process_name(), "schema": schema, "max_workers": 1}
    worker = RunningClient(
        session.environment.conninfo,
        options,
        barriers=session.barriers,
        connect=session.pooled,
        cancel_requested=lambda job_id: False,
        pool_size=CLIENT_POOL["B"],
        args_most=ARGS_MOST,
    )
    worker.start()
    try:
        job = wait_for(client, params["id"], FINAL_STATES)
    finally:
        worker.stop(hard=False)
    return session.job(job, schema=schema)


METHODS = {
    "get": get,
    "tx_get": tx_get,
    "list": list_jobs,
    "tx_list": tx_list,
    "cancel": _verb("job_cancel"),
    "tx_cancel": _tx_verb("job_cancel_tx"),
    "retry": _verb("job_retry"),
    "tx_retry": _tx_verb("job_retry_tx"),
    "delete": delete,
    "tx_delete": tx_delete,
    "delete_many": delete_many,
    "tx_delete_many": tx_delete_many,
    "update": update,
    "tx_update": tx_update,
    "delete_finalized": delete_finalized,
    "wait": wait,
    "work": work,
}
