"""Methods that start and stop the client, look at it, and make, migrate and empty the schema it works on.

The request loop's thread.
"""

from __future__ import annotations

from typing import Any

from psycopg import sql

import river_fast as river
from river_fast.config import check_schema
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import MAIN, lines
from tests.conformance import contract, values
from tests.conformance.environment import IMPLEMENTATION
from tests.conformance.errors import invalid_params, rejected
from tests.conformance.running_client import RunningClient
from tests.conformance.session import ARGS_MOST, CLIENT_POOL, Session

TABLES = ("river_job", "river_notification", "river_queue", "river_leader")


def handshake(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    environment = session.environment
    return {
        "adapter_version": contract.CONTRACT["adapter_version"],
        "application_name": environment.application_name,
        "backend": "postgres",
        "capabilities": list(contract.CAPABILITIES[environment.profile]),
        "implementation": IMPLEMENTATION,
        "implementation_version": river.__version__,
        "methods": contract.method_names(environment.profile),
        "migration_lines": {MAIN: len(lines()[MAIN])},
        "profile": environment.profile,
        "protocol_revision": contract.CONTRACT["protocol_revision"],
    }


def start(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    if "claim_barrier" in params and session.barriers.get(params["claim_barrier"]) is None:
        raise invalid_params(f"claim_barrier {params['claim_barrier']!r} does not exist")
    return launch(session, params)


def launch(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """Starts the one client that may run."""
    if session.running is not None:
        raise rejected("a client is running")
    generation = session.environment.generation
    schema = params.get("schema") or None
    running = RunningClient(
        session.environment.conninfo,
        params,
        barriers=session.barriers,
        connect=session.pooled,
        cancel_requested=lambda job_id: _cancel_requested(session, job_id, schema),
        pool_size=CLIENT_POOL[generation],
        args_most=ARGS_MOST,
        generation=generation,
    )
    session.take_running(running)
    return {}


def _cancel_requested(session: Session, job_id: int, schema: str | None) -> bool:
    query = sql.SQL("SELECT metadata ? 'cancel_attempted_at' FROM {} WHERE id = %s")
    with session.pooled() as conn:
        row = conn.execute(query.format(session.table("river_job", schema)), [job_id]).fetchone()
    return row is not None and bool(row[0])


def stop(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    if session.running is None:
        raise rejected("no client is running")
    running, session.running = session.running, None
    running.stop(hard=params.get("cancel", False))
    return {}


def runtime_stats(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    if session.running is None:
        raise rejected("no client is running")
    return session.running.stats.read()


def reset(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    if session.running is not None or len(session.transactions):
        raise rejected("a client is running, or a transaction is open")
    session.barriers.forget_all()
    tables = sql.SQL(", ").join(session.table(name, params.get("schema")) for name in TABLES)
    with session.pooled() as conn:
        conn.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))
    return {}


def migrate(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    schema = params.get("schema") or None
    if schema is not None:
        check_schema(schema)
        with session.pooled() as conn:
            conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    return migrated(
        session,
        schema,
        params.get("direction") == "down",
        params.get("target_version"),
        params.get("max_steps"),
        params.get("dry_run", False),
    )


def migrated(
    session: Session,
    schema: str | None,
    down: bool,
    target_version: int | None,
    max_steps: int | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """What was applied, what is there now, and whether that is all."""
    driver = PsycopgDriver(session.environment.conninfo, schema, pool_size=1)
    try:
        migrator = river.Migrator(driver)
        way = migrator.migrate_down if down else migrator.migrate_up
        results = way(target_version or None, max_steps, dry_run)  # Go's zero is no target
        found = {
            "applied": [result.version for result in results],
            "existing": migrator.existing_versions(),
            "valid": migrator.validate().ok,
        }
    finally:
        driver.close()
    if found["applied"] and not dry_run:
        session.forget_statements()
    return found


def leader(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    query = sql.SQL("SELECT leader_id, elected_at FROM {} WHERE name = 'default' AND expires_at >= now()")
    with session.pooled() as conn:
        row = conn.execute(query.format(session.table("river_leader"))).fetchone()
    if row is None:
        return {"elected_at": None, "leader_id": None}
    return {"elected_at": values.time_text(row[1]), "leader_id": row[0]}


def request_resign(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    if "handle" in params:
        session.client().notify.request_resign_tx(session.transactions.get(params["handle"]))
    else:
        session.client().notify.request_resign()
    return {}


def tx_begin(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.transactions.begin(params["handle"])
    return {}


def tx_fail(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.transactions.fail(params["handle"])
    return {}


def tx_commit(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.transactions.commit(params["handle"])
    return {}


def tx_rollback(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    session.transactions.rollback(params["handle"])
    return {}


METHODS = {
    "handshake": handshake,
    "start": start,
    "stop": stop,
    "runtime_stats": runtime_stats,
    "reset": reset,
    "migrate": migrate,
    "leader": leader,
    "request_resign": request_resign,
    "tx_begin": tx_begin,
    "tx_fail": tx_fail,
    "tx_commit": tx_commit,
    "tx_rollback": tx_rollback,
}
