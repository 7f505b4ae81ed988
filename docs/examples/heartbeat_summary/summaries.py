"""Heartbeats come in; what a person did in a day is summed up by jobs. See README.md.

A heartbeat says: this person was at work on this project at this moment. Two that follow each other within two minutes
mean that the time between them was spent on the first one's project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import psycopg

import river_fast as river

TABLES = (Path(__file__).parent / "tables.sql").read_text("utf-8")

# A person's summary job is waiting or running, or there is none: not one that is completed, which would bar the next.
UNDER_WAY = ("available", "pending", "retryable", "running", "scheduled")
ONE_A_PERSON = river.InsertOpts(unique=river.UniqueOpts(by_args=True, by_state=UNDER_WAY))

# Heartbeats of a person are written under a shared lock of the person's row, summed up under an exclusive one. So a
# heartbeat that finds a job running, and inserts none, has committed before that job reads, or waits until it is done.
PERSONS_CREATE = "INSERT INTO person (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING"
PERSONS_SHARE = "SELECT FROM person WHERE name = ANY (%s) ORDER BY name FOR KEY SHARE"
PERSON_LOCK = "SELECT FROM person WHERE name = %s FOR UPDATE"

HEARTBEAT_INSERT = "INSERT INTO heartbeat (person, at, project) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
DAYS = "SELECT DISTINCT (at AT TIME ZONE 'UTC')::date FROM heartbeat WHERE person = %s ORDER BY 1"
DAY_CLEAR = "DELETE FROM summary WHERE person = %(person)s AND day = %(day)s"
DAY_SUM = """
INSERT INTO summary (person, day, project, seconds)
SELECT %(person)s, %(day)s, project, sum(extract(epoch FROM next - at))
FROM (
    SELECT project, at, lead(at) OVER (ORDER BY at) AS next
    FROM heartbeat
    WHERE person = %(person)s AND (at AT TIME ZONE 'UTC')::date = %(day)s
) AS beat
WHERE next - at <= interval '2 minutes'
GROUP BY project
"""


@dataclass(frozen=True)
class Heartbeat:
    """This person was at work on this project at this moment (an aware datetime)."""

    person: str
    at: datetime
    project: str


@dataclass
class SummarizeArgs(river.JobArgs, kind="summarize"):
    """Sum up a person's days anew."""

    person: str


def record(client: river.Client, conn: psycopg.Connection[Any], heartbeats: Iterable[Heartbeat]) -> None:
    """Store heartbeats, and queue the jobs that sum them up, in one transaction: both exist, or neither does."""
    beats = list(heartbeats)
    persons = sorted({beat.person for beat in beats})
    with conn.transaction():
        conn.execute(PERSONS_CREATE, [persons])
        conn.execute(PERSONS_SHARE, [persons])
        conn.cursor().executemany(HEARTBEAT_INSERT, [(beat.person, beat.at, beat.project) for beat in beats])
        client.insert_many_tx(conn, [river.InsertManyParams(SummarizeArgs(person), ONE_A_PERSON) for person in persons])


def workers(connect: Callable[[], psycopg.Connection[Any]]) -> river.Workers:
    """`connect`: a connection for one job, closed after it; of a pool, where there is one."""
    bundle = river.Workers()

    @bundle.work(SummarizeArgs)
    def summarize(job: river.Job[SummarizeArgs]) -> None:
        with connect() as conn, conn.transaction():
            conn.execute(PERSON_LOCK, [job.args.person])
            for (day,) in conn.execute(DAYS, [job.args.person]).fetchall():
                job.raise_if_cancelled()  # a stop need not wait for the rest: nothing of this transaction will be seen
                sum_up(conn, job.args.person, day)
            job.complete_tx(conn)  # the summary is there and the job completed, or neither

    return bundle


def sum_up(conn: psycopg.Connection[Any], person: str, day: date) -> None:
    """One day of a person, anew."""
    which = {"person": person, "day": day}
    conn.execute(DAY_CLEAR, which)
    conn.execute(DAY_SUM, which)
