"""`make interop`: job lists and their cursors, ours beside those of River's own client, on the same rows.

River's `admin` program and our `JobAdmin` are asked the same: pages must hold the same ids in the same order, cursors
the same bytes, and each continues from the other's. What is asked is drawn at random, from a seed that is printed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import DatabaseError, ValidationError
from river_fast.job import FINAL_STATES, JobState
from river_fast.job_admin import JobAdmin
from river_fast.migrate import Migrator

if TYPE_CHECKING:
    from tests.interop.migrations import Differences, River

ROWS = 400
LISTS = 300
PAGES_MOST = 40
# What Go escapes, what it leaves, and what makes base64url differ from base64.
KINDS = ("plain", "a<b>&c", "\u2028\u2029\x7f\b\f\x01", "ünï·cöde", 'quo"te\\', "~~~???>>>")
QUEUES = ("default", "q|1", "Any Name")
TAGS = ("one", "two", "three", "comma,d")
TIMES = ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5Z", "2026-01-02T03:04:05.678901Z", "1999-12-31T23:59:59.00001Z")
METADATA = ({}, {"a": 1}, {"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [2]}}, {"n": 1.50})


class Admin:
    """River's client, which answers a question of ours at a time."""

    def __init__(self, program: Path, dsn: str, schema: str) -> None:
        self._process = subprocess.Popen(
            [program, schema],
            env={**os.environ, "DATABASE_URL": dsn},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def __enter__(self) -> Admin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def __call__(self, do: str, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **asked}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def fill(conn: psycopg.Connection[Any], schema: str, draw: random.Random) -> None:
    """Jobs in every state, many with equal times, some without."""
    rows = []
    for _ in range(ROWS):
        state = draw.choice(list(JobState))
        final = state in FINAL_STATES
        rows.append((
            draw.choice(KINDS), draw.choice(QUEUES), draw.randint(1, 4), state, draw.choice(TIMES),
            draw.choice((None, *TIMES)), draw.choice(TIMES) if final else None,
            draw.sample(TAGS, draw.randint(0, 3)), json.dumps(draw.choice(METADATA)),
        ))  # fmt: skip
    table = psycopg.sql.Identifier(schema, "river_job")
    insert = psycopg.sql.SQL(
        "INSERT INTO {} (args, kind, queue, priority, state, scheduled_at, attempted_at, finalized_at, tags, metadata)"
        " VALUES ('{{}}', %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    ).format(table)
    with conn.cursor() as cursor:
        cursor.executemany(insert, rows)


def drawn_filters(draw: random.Random) -> dict[str, Any]:
    """Never an empty list: River takes that for no filter."""
    possible: dict[str, Any] = {
        "ids": lambda: draw.sample(range(1, ROWS + 20), draw.randint(1, 60)),
        "kinds": lambda: draw.sample(KINDS, draw.randint(1, 3)),
        "priorities": lambda: draw.sample(range(1, 6), draw.randint(1, 3)),
        "queues": lambda: draw.sample(QUEUES, draw.randint(1, 2)),
        "states": lambda: [str(state) for state in draw.sample(list(JobState), draw.randint(1, 4))],
        "tags_all": lambda: draw.sample(TAGS, draw.randint(1, 2)),
        "tags_any": lambda: draw.sample(TAGS, draw.randint(1, 2)),
        "metadata": lambda: draw.choice(METADATA),
    }
    return {name: possible[name]() for name in draw.sample(list(possible), draw.randint(0, 3))}


def asked_of_us(admin: JobAdmin, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        result = admin.job_list(**asked)
    except (ValidationError, DatabaseError):
        return {"refused": True}
    return {"ids": [job.id for job in result.jobs], "cursor": str(result.last_cursor) if result.jobs else None}


def asked_of_river(admin: Admin, asked: dict[str, Any]) -> dict[str, Any]:
    answer = admin("list", **asked)
    if "error" in answer:
        return {"refused": True}
    return {"ids": answer.get("ids", []), "cursor": answer.get("cursor")}


def check(conn: psycopg.Connection[Any], dsn: str, schema: str, river: River, differences: Differences) -> None:
    seed = int(os.environ.get("RIVER_FAST_SEED") or random.randrange(2**32))
    print(f"job lists: RIVER_FAST_SEED={seed}")
    draw = random.Random(seed)
    driver = PsycopgDriver(dsn, schema)
    try:
        Migrator(driver).migrate_up()
        fill(conn, schema, draw)
        ours = JobAdmin(driver)
        with Admin(river.program("admin"), dsn, schema) as rivers:
            for _ in range(LISTS):
                check_list(ours, rivers, draw, differences)
            check_deletes(ours, rivers, differences)
    finally:
        driver.close()


def check_list(ours: JobAdmin, rivers: Admin, draw: random.Random, differences: Differences) -> None:
    """All pages of a list, each asked of both, and continued from the one's cursor or the other's."""
    asked = {
        **drawn_filters(draw),
        "order_by": draw.choice(("id", "time", "time", "scheduled_at", "finalized_at")),
        "descending": draw.choice((False, True)),
        "limit": draw.choice((1, 3, 17, 100)),
    }
    for _ in range(PAGES_MOST):
        mine, theirs = asked_of_us(ours, asked), asked_of_river(rivers, asked)
        differences.compare(f"job list {asked}", mine, theirs)
        if mine != theirs or not mine.get("cursor"):
            return
        asked["after"] = draw.choice((mine, theirs))["cursor"]


def check_deletes(ours: JobAdmin, rivers: Admin, differences: Differences) -> None:
    """What each refuses; and each deletes the lowest ids that pass, never a running job."""
    for asked in ({}, {"all": True, "kinds": ["plain"]}, {"all": True, "limit": 10_001}, {"kinds": ["none"]}):
        given: dict[str, Any] = dict(asked)
        mine = {**given, "unsafe_all": given.pop("all", False)}
        mine.pop("all", None)
        try:
            deleted: Any = [job.id for job in ours.job_delete_many(**mine)]
        except ValidationError:
            deleted = "refused"
        answer = rivers("delete_many", **asked)
        theirs = "refused" if "error" in answer else answer.get("ids", [])
        differences.compare(f"delete many {asked}", deleted, theirs)
    for states in (["running"], ["available", "running"], ["completed"]):
        left = [job.id for job in ours.job_list(states=[s for s in states if s != "running"], limit=10_000).jobs]
        mine_ids = [job.id for job in ours.job_delete_many(states=states, limit=5)]
        differences.compare(f"we delete {states}", mine_ids, left[:5])
        theirs = rivers("delete_many", states=states, limit=5).get("ids", [])
        differences.compare(f"River deletes {states}", theirs, left[5:10])
