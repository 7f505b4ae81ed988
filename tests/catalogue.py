"""What PostgreSQL's catalogue says of one schema, as plain data: the form in which migrations are compared.

`describe(conn, schema)` leaves out only what may differ between equal schemas: OIDs, owners and the schema's own name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg

RIVERS = Path(__file__).parent / "data" / "river_catalogue.json"
# The whole walk: up one version at a time, then down again to nothing (0).
STEPS = [("up", version) for version in range(1, 9)] + [("down", version) for version in range(7, -1, -1)]

# Each part is one query: a text that names the thing, and all that is known of it. search_path holds the schema alone
# while they run, so that definitions come unqualified, as they would from any schema.
PARTS = {
    "types": """
        SELECT t.typname::text, t.typtype::text, array(
            SELECT e.enumlabel::text FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
        FROM pg_catalog.pg_type AS t
        WHERE t.typnamespace = %(schema)s::regnamespace AND t.typtype NOT IN ('b', 'c') ORDER BY 1""",
    "relations": """
        SELECT c.relname::text, c.relkind::text, c.relpersistence::text, c.relrowsecurity, c.reloptions,
            am.amname::text, c.relreplident::text, c.reltablespace <> 0, obj_description(c.oid, 'pg_class')
        FROM pg_catalog.pg_class AS c LEFT JOIN pg_catalog.pg_am AS am ON am.oid = c.relam
        WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind <> 't' ORDER BY 1""",
    "columns": """
        SELECT c.relname || '.' || a.attname,
            row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum),
            pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
            pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attidentity::text, a.attgenerated::text,
            a.attstorage::text, a.attcollation::regcollation::text,
            -- both differ between PostgreSQL versions in their form
            coalesce(to_jsonb(a) ->> 'attcompression', ''), nullif((to_jsonb(a) ->> 'attstattarget')::int, -1)
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
        ORDER BY c.relname, a.attnum""",
    "constraints": """
        SELECT c.relname || '.' || n.conname, n.contype::text, pg_catalog.pg_get_constraintdef(n.oid),
            n.convalidated, n.condeferrable
        FROM pg_catalog.pg_constraint AS n JOIN pg_catalog.pg_class AS c ON c.oid = n.conrelid
        WHERE n.connamespace = %(schema)s::regnamespace AND n.contype <> 'n' ORDER BY 1""",
    "indexes": """
        SELECT c.relname::text, pg_catalog.pg_get_indexdef(i.indexrelid, 0, true),
            i.indisvalid, i.indisprimary, c.reloptions
        FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname NOT LIKE 'pg_toast%%' ORDER BY 1""",
    "sequences": """
        SELECT c.relname::text, s.seqtypid::regtype::text, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache,
            s.seqcycle, d.refobjid::regclass || '.' || a.attname
        FROM pg_catalog.pg_sequence AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
        LEFT JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
            AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
        LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE c.relnamespace = %(schema)s::regnamespace ORDER BY 1""",
    "functions": """
        SELECT p.proname || '(' || pg_catalog.pg_get_function_arguments(p.oid) || ')', l.lanname::text,
            pg_catalog.pg_get_function_result(p.oid), p.provolatile::text, p.proisstrict, p.prosecdef,
            p.proparallel::text, p.proleakproof, p.procost, p.proconfig, p.prokind::text
        FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
        WHERE p.pronamespace = %(schema)s::regnamespace ORDER BY 1""",
    "triggers": """
        SELECT c.relname || '.' || t.tgname, pg_catalog.pg_get_triggerdef(t.oid, true)
        FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
        WHERE c.relnamespace = %(schema)s::regnamespace AND NOT t.tgisinternal ORDER BY 1""",
}


def describe(conn: psycopg.Connection[Any], schema: str) -> dict[str, dict[str, Any]]:
    """By part, by name: the properties, JSON values all; `bookkeeping` besides. `conn` in autocommit."""
    described: dict[str, dict[str, Any]] = {"bookkeeping": bookkeeping(conn, schema)}
    with conn.transaction():
        quoted = psycopg.sql.Identifier(schema).as_string(conn)
        conn.execute(psycopg.sql.SQL("SET LOCAL search_path = {}").format(psycopg.sql.Identifier(schema)))
        for part, query in PARTS.items():
            rows = conn.execute(query, {"schema": quoted}).fetchall()
            described[part] = {row[0]: list(row[1:]) for row in rows}
    return described


def bookkeeping(conn: psycopg.Connection[Any], schema: str) -> dict[str, Any]:
    """The rows of `river_migration` but for their times (and ids): line and version, None where there is no line."""
    table = psycopg.sql.Identifier(schema, "river_migration")
    exists = conn.execute("SELECT to_regclass(%s) IS NOT NULL", (table.as_string(conn),)).fetchone()
    if exists is None or not exists[0]:
        return {}
    query = psycopg.sql.SQL("SELECT to_jsonb(m) FROM {} AS m ORDER BY version").format(table)
    return {str(row[0]["version"]): row[0].get("line") for row in conn.execute(query)}


def save(release: str, steps: dict[str, Any]) -> None:
    """Writes River's description, a thing a line; a step that equals an earlier one only names it."""
    lines = []
    earlier: dict[str, str] = {}
    for step, described in steps.items():
        whole = json.dumps(described, sort_keys=True)
        if whole in earlier:
            lines.append(f'{json.dumps(step)}: {json.dumps(earlier[whole])}')
            continue
        earlier[whole] = step
        parts = []
        for part, things in described.items():
            inside = ",\n".join(f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in things.items())
            parts.append(f'  {json.dumps(part)}: {{\n{inside}\n  }}' if things else f"  {json.dumps(part)}: {{}}")
        lines.append(f"{json.dumps(step)}: {{\n" + ",\n".join(parts) + "\n }")
    body = ",\n ".join([f'"river": {json.dumps(release)}', *lines])
    RIVERS.write_text(f"{{\n {body}\n}}\n", "utf-8")


def rivers() -> dict[str, Any]:
    """River's description of each step ("up 4"), as `describe` gives it; "river" is the release it was taken from."""
    saved = json.loads(RIVERS.read_text("utf-8"))
    return {step: saved.get(value, value) if isinstance(value, str) else value for step, value in saved.items()}
