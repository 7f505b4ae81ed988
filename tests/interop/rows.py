"""Rows that every migration must carry over as River's does: written at each version, compared after each step."""

from __future__ import annotations

import json
from typing import Any

import psycopg

AT = "timestamptz '2026-01-02 03:04:05.678901+00'"

# What the new columns and rules of a version allow, written once that version is reached on the way up.
WRITTEN_AT = {
    2: f"""
        INSERT INTO river_job (kind, max_attempts, state, finalized_at, args, metadata, tags, attempted_by, errors,
            created_at, scheduled_at)
        VALUES ('nulls', 3, 'available', NULL, NULL, '{{}}', NULL, NULL, NULL, {AT}, {AT}),
            ('done', 3, 'completed', {AT}, '{{"a": 1}}', '{{"m": [1]}}', '{{x,"y z"}}', '{{c1,c2}}',
                ARRAY['{{"error": "e"}}'::jsonb], {AT}, {AT}),
            ('gone', 3, 'discarded', {AT}, '[]', '{{}}', '{{}}', '{{}}', '{{}}', {AT}, {AT});
        INSERT INTO river_leader (elected_at, expires_at, leader_id, name) VALUES ({AT}, {AT}, 'leader', 'default')""",
    3: f"INSERT INTO river_job (kind, max_attempts, created_at, scheduled_at) VALUES ('later', 1, {AT}, {AT})",
    4: f"""
        INSERT INTO river_job (kind, max_attempts, args, state, created_at, scheduled_at)
        VALUES ('waits', 1, '{{}}', 'pending', {AT}, {AT});
        INSERT INTO river_queue (name, created_at, metadata, paused_at, updated_at)
        VALUES ('default', {AT}, '{{"q": 1}}', {AT}, {AT})""",
    5: f"""
        INSERT INTO river_job (kind, max_attempts, args, unique_key, created_at, scheduled_at)
        VALUES ('only', 1, '{{}}', 'key', {AT}, {AT});
        INSERT INTO river_client (id, created_at, updated_at) VALUES ('c1', {AT}, {AT})""",
    6: f"""
        INSERT INTO river_job (kind, max_attempts, args, unique_key, unique_states, created_at, scheduled_at)
        VALUES ('one', 1, '{{}}', 'other', B'11110101', {AT}, {AT})""",
    7: f"""
        INSERT INTO river_job (kind, args, created_at, scheduled_at) VALUES ('short', '{{}}', {AT}, {AT});
        INSERT INTO river_notification (created_at, payload, topic) VALUES ({AT}, 'p', 't')""",
}
TABLES = ("river_job", "river_leader", "river_queue", "river_client", "river_notification", "river_migration")


def write(conn: psycopg.Connection[Any], schema: str, version: int) -> None:
    if version in WRITTEN_AT:
        with conn.transaction():
            conn.execute(psycopg.sql.SQL("SET LOCAL search_path = {}").format(psycopg.sql.Identifier(schema)))
            conn.execute(WRITTEN_AT[version])


def read(conn: psycopg.Connection[Any], schema: str) -> dict[str, list[str]]:
    """Every row of every table, but for the times at which migrations ran."""
    found = {}
    for table in TABLES:
        name = psycopg.sql.Identifier(schema, table)
        exists = conn.execute("SELECT to_regclass(%s) IS NOT NULL", (name.as_string(conn),)).fetchone()
        if exists and exists[0]:
            rows = conn.execute(psycopg.sql.SQL("SELECT to_jsonb(t) FROM {} AS t").format(name)).fetchall()
            volatile = {"created_at", "id"} if table == "river_migration" else set()
            found[table] = sorted(
                json.dumps({k: v for k, v in row[0].items() if k not in volatile}, sort_keys=True) for row in rows
            )
    return found
