"""What plan tests need: tables in the states that have misled planners, and plans of the very statements in `sql/`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from river_fast.driver.psycopg import PsycopgDriver, apply_session, sql_text

FETCHING_INDEX = "river_job_prioritized_fetching_index"
PRIMARY_KEY = "river_job_pkey"


@dataclass(frozen=True)
class Table:
    """A migrated schema whose river_job is in one of the states of `make_table`."""

    dsn: str
    schema: str
    state: str

    def connect(self, role: str, session: str = "") -> HotConnection:
        return HotConnection(self, role, session)

    def pool_plan(self, statement: str, params: Mapping[str, Any]) -> Plan:
        """The plan of a statement that services run by psycopg, with the session settings of the pool's connections."""
        text = sql_text(statement, self.schema)
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            apply_session(conn)
            row = conn.execute(f"EXPLAIN (FORMAT JSON) {text}", params).fetchone()
        assert row is not None
        return Plan(row[0][0]["Plan"])

    def text(self, statement: str) -> str:
        return statement.replace("@schema@", f'"{self.schema}".')

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(self.text(statement))


class Plan:
    """One plan, as EXPLAIN (FORMAT JSON) gave it."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root

    def nodes(self) -> Iterator[dict[str, Any]]:
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.get("Plans", [])

    def has(self, node_type: str) -> bool:
        return any(node["Node Type"] == node_type for node in self.nodes())

    def scans(self, relation: str = "river_job") -> list[str]:
        """How the relation is read, sorted: `"Tid Scan"`, `"Index Scan using river_job_pkey"`, ..."""
        found = []
        for node in self.nodes():
            if node["Node Type"] == "Bitmap Index Scan" and node["Index Name"].startswith(relation):
                found.append(f"Bitmap Index Scan using {node['Index Name']}")
            elif node.get("Relation Name") == relation and node["Node Type"] not in ("ModifyTable", "Bitmap Heap Scan"):
                index = node.get("Index Name")
                found.append(node["Node Type"] + (f" using {index}" if index else ""))
        return sorted(found)

    def rows_read(self, relation: str = "river_job") -> int:
        """Rows of the relation that its scans produced or threw away (after `analyze`)."""
        total = 0.0
        for node in self.nodes():
            if node.get("Relation Name") == relation and node["Node Type"] != "ModifyTable":
                thrown = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
                total += (node["Actual Rows"] + thrown) * node["Actual Loops"]
        return round(total)

    def __str__(self) -> str:
        return json.dumps(self.root, indent=1)


class HotConnection:
    """A connection with the settings of one of the compiled part's, and its statements prepared as it prepares them."""

    def __init__(self, table: Table, role: str, session: str) -> None:
        self._table = table
        self._driver = PsycopgDriver(table.dsn, table.schema)
        # psycopg's own preparing would count executions, and drop all prepared statements at a rollback
        self.conn = psycopg.connect(
            self._driver.hot_conninfo(role).decode(), autocommit=True, prepare_threshold=None
        )
        self.conn.execute(self._driver.hot_setup(role))
        if session:
            self.conn.execute(self.statement(session))
        # a loaded machine must not fail a test of plans by time
        self.conn.execute("SET statement_timeout = '60s'")

    def __enter__(self) -> HotConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.conn.close()
        self._driver.close()

    def text(self, statement: str) -> str:
        return self._table.text(statement)

    def statement(self, name: str) -> bytes:
        """The text of `sql/<name>.sql`; `name+form`: with the lines that begin with `--form`, as the completer does."""
        name, *forms = name.split("+")
        text = self._driver.statement_text(name).decode()
        for form in forms:
            assert f"--{form}" in text, f"{name} has no form {form}"
            text = text.replace(f"--{form}", "")
        return text.encode()

    def prepare(self, name: str) -> None:
        """By the protocol, parameter types left to the server: as `rf_conn_prepare` does."""
        result = self.conn.pgconn.prepare(name.encode(), self.statement(name), None)
        assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, result.error_message

    def rows(self, statement: str) -> list[Any]:
        """The first column of what the statement returns."""
        return [row[0] for row in self.conn.execute(self.text(statement)).fetchall()]

    def explain(self, name: str, *params: Any) -> Plan:
        """The plan that an execution now would use; counts as an execution for the choice of a generic plan."""
        return self._explain("FORMAT JSON", name, params)

    def analyze(self, name: str, *params: Any) -> Plan:
        """The plan as it was executed."""
        return self._explain("ANALYZE, TIMING OFF, FORMAT JSON", name, params)

    def plans(self, name: str, *params: Any, mode: str) -> Plan:
        """`"custom"`: planned for these values; `"settled"`: what the server uses from the 8th execution on;
        `"generic"`: planned for any values, as the server may choose to do."""
        self.conn.execute(f"SET plan_cache_mode = {'force_generic_plan' if mode == 'generic' else 'auto'}")
        try:
            self.prepare(name)
            for _ in range(7 if mode == "settled" else 0):
                self.explain(name, *params)
            return self.explain(name, *params)
        finally:
            self.conn.execute(sql.SQL("DEALLOCATE {}; RESET plan_cache_mode").format(sql.Identifier(name)))

    def _explain(self, options: str, name: str, params: Sequence[Any]) -> Plan:
        values = sql.SQL(", ").join(sql.Literal(value) for value in params)
        call = sql.SQL("EXPLAIN ({}) EXECUTE {}({})") if params else sql.SQL("EXPLAIN ({}) EXECUTE {}")
        parts = [sql.SQL(options), sql.Identifier(name), *([values] if params else [])]
        row = self.conn.execute(call.format(*parts)).fetchone()
        assert row is not None
        return Plan(row[0][0]["Plan"])


STATES = ("small", "large", "fresh", "analysed_when_empty", "bloated")


def make_table(dsn: str, state: str, rows: int) -> Table:
    """`rows`: of the large one. No table is ever analysed behind a test's back."""
    from river_fast.migrate import Migrator

    table = Table(dsn, f"plans_{uuid.uuid4().hex[:12]}", state)
    table.execute(f'CREATE SCHEMA "{table.schema}"')
    driver = PsycopgDriver(dsn, table.schema)
    try:
        Migrator(driver).migrate_up()
    finally:
        driver.close()
    table.execute("ALTER TABLE @schema@river_job SET (autovacuum_enabled = false)")
    if state == "small":
        _insert(table, 50)
        _vacuum_analyze(table)
    elif state == "large":
        _insert(table, rows * 6 // 10, "completed")
        _insert(table, rows * 4 // 10)
        _vacuum_analyze(table)
    elif state == "fresh":
        _insert(table, 20_000)
    elif state == "analysed_when_empty":
        _vacuum_analyze(table)
        _insert(table, 20_000)
    else:
        assert state == "bloated"
        _insert(table, 20_000)
        _vacuum_analyze(table)
        for new_state in ("running", "completed"):  # statistics and reality part; every index fills with dead entries
            table.execute(f"UPDATE @schema@river_job SET {_columns_of(new_state)}")
        table.execute("DELETE FROM @schema@river_job WHERE id % 2 = 0")
        _insert(table, 10_000)
    return table


def drop_table(table: Table) -> None:
    table.execute(f"""SET client_min_messages = warning; DROP SCHEMA "{table.schema}" CASCADE""")


def _insert(table: Table, rows: int, state: str = "available") -> None:
    finalized_at = "now()" if state == "completed" else "NULL"
    table.execute(
        "INSERT INTO @schema@river_job (args, kind, max_attempts, state, finalized_at, attempt, attempted_at)"
        f" SELECT jsonb_build_object('num', n), 'noop', 25, '{state}', {finalized_at}, 0, NULL"
        f" FROM generate_series(1, {rows}) n"
    )


def _columns_of(state: str) -> str:
    when = "attempted_at" if state == "running" else "finalized_at"
    return f"state = '{state}', {when} = now()"


def _vacuum_analyze(table: Table) -> None:
    table.execute("VACUUM (ANALYZE) @schema@river_job")
