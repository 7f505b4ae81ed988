"""Sends invented heartbeats and has them summed up, until all are or Ctrl-C: `python main.py --help`."""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from datetime import UTC, datetime, timedelta

import psycopg
from summaries import TABLES, Heartbeat, record, workers

import river_fast as river
from river_fast import embedded

START = datetime(2026, 1, 1, 8, tzinfo=UTC)
LEFT = "SELECT count(*) FROM river_job WHERE kind = 'summarize' AND finalized_at IS NULL"
HOURS = "SELECT person, round((sum(seconds) / 3600)::numeric, 2) FROM summary GROUP BY person ORDER BY person LIMIT 5"


def invented(count: int, persons: int) -> list[Heartbeat]:
    """Days of work, a heartbeat about every minute, and now and then a pause."""
    at = dict.fromkeys((f"person-{number:02}" for number in range(persons)), START)
    beats = []
    for _ in range(count):
        person = random.choice(list(at))
        at[person] += timedelta(seconds=random.choice((20, 60, 100, 100, 600, 20_000)))
        beats.append(Heartbeat(person, at[person], random.choice(("website", "engine", "letters"))))
    return beats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", help="default: an embedded PostgreSQL, started if need be")
    parser.add_argument("--heartbeats", type=int, default=10_000)
    parser.add_argument("--persons", type=int, default=50)
    options = parser.parse_args()
    url = options.database_url or embedded.start().url

    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(TABLES)
        config = river.Config(
            queues={"default": river.QueueConfig(max_workers=10)},
            workers=workers(lambda: psycopg.connect(url, autocommit=True)),
        )
        beats = invented(options.heartbeats, options.persons)
        with river.Client(url, config) as client, contextlib.suppress(KeyboardInterrupt):
            for start in range(0, len(beats), 100):
                record(client, conn, beats[start : start + 100])
            print(f"{len(beats):,} heartbeats are in; Ctrl-C stops in order")
            while conn.execute(LEFT).fetchone() != (0,):
                time.sleep(0.2)
        for person, hours in conn.execute(HOURS):
            print(person, hours, "hours")


if __name__ == "__main__":
    main()
