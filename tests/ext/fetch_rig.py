"""A Fetcher with its thread, an attention thread that grows worker threads, and jobs made by raw SQL.

Used by test_fetcher*.py. Every wait has a deadline and says what it waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from river_fast._ext import fetcher as compiled
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.job import Job

compiled.load_libpq(PsycopgDriver("").libpq_path())

STATEMENTS = ("job_get_available", "job_give_back", "queue_poll", "client_lock", "client_heartbeat")


def wait_for(what: str, condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    """The condition's first true value; an AssertionError naming `what` after `timeout` seconds."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {timeout} s for {what}"
        time.sleep(0.001)
    return value


class Rig:
    """Start with `with`; `work(job)` runs on worker threads, and what it returned or did not is finished."""

    def __init__(self, dsn: str, schema: str, **options: Any) -> None:
        driver = PsycopgDriver(dsn, schema)
        setup = driver.hot_setup("fetcher") + f'; LISTEN "{schema}.river_insert"'.encode()
        self.name = f"rig_{schema}_{id(self)}"
        # a stop's deadlines are then the fetcher's own, and not those of a slow disk
        quick = make_conninfo(dsn, application_name=self.name[:63], options="-c synchronous_commit=off")
        conninfo = options.pop("conninfo", quick.encode())
        self.kinds = options.pop("kinds", ("plain", "loop"))
        self.fetcher = compiled.Fetcher(
            conninfo=conninfo,
            setup=options.pop("setup", setup),
            statements=options.pop("statements", {name: driver.statement_text(name) for name in STATEMENTS}),
            client_id=options.pop("client_id", "rig"),
            lock_key=options.pop("lock_key", 0),
            kinds=self.kinds,
            async_kinds=[kind == "loop" for kind in self.kinds],
            job_type=Job,
            **options,
        )
        driver.close()
        self.dsn = dsn
        self.active: dict[int, dict[int, Job[Any]]] = {}
        self.works: dict[int, Callable[[Job[Any]], None]] = {}
        self.notices: list[tuple[int, int, int, str]] = []
        self.grown: list[tuple[int, int]] = []
        self.workers: list[threading.Thread] = []
        self.ending = threading.Event()
        self.runner = threading.Thread(target=self.fetcher.run, name="fetcher")
        self.attention = threading.Thread(target=self._attend, name="attention")

    def __enter__(self) -> Rig:
        self.runner.start()
        self.attention.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        self.fetcher.close()
        for thread in (self.runner, self.attention, *self.workers):
            thread.join(30)
            assert not thread.is_alive(), f"{thread.name} did not end"

    def queue(
        self, name: str = "default", max_workers: int = 10, work: Callable[[Job[Any]], None] | None = None, **more: Any
    ) -> int:
        """Adds the queue; without `work` nobody pops but the test."""
        active: dict[int, Job[Any]] = {}
        settings = {"fetch_cooldown": 0.002, "fetch_poll_interval": 1.0, "prefetch": -1} | more
        index = self.fetcher.add_queue(name, max_workers, active=active, **settings)
        self.active[index] = active
        if work is not None:
            self.works[index] = work
        return index

    def stats(self, name: str) -> int:
        return self.fetcher.stats()[name]

    def lost(self) -> list[tuple[int, int, int, str]]:
        return [notice for notice in self.notices if notice[0] == compiled.LOST]

    def connected(self) -> list[tuple[int, int, int, str]]:
        return [notice for notice in self.notices if notice[0] == compiled.CONNECTED]

    def wait_connected(self, times: int = 1) -> None:
        wait_for(f"{times} connections", lambda: len(self.connected()) >= times)

    def try_pop(self, queue: int) -> Job[Any]:
        """A job as the event loop gets it, or an AssertionError. What nobody takes goes away and comes back."""
        job: Job[Any] = wait_for("a job for the loop", lambda: self.fetcher.try_pop(queue))
        return job

    def pop(self, queue: int) -> Job[Any]:
        """A job as a worker thread gets it, or an AssertionError."""
        wait_for("a job in the ring", lambda: self.fetcher.queue_stats(queue)["ring"])
        job = self.fetcher.pop(queue)
        assert job is not None
        return job

    def finish(self, job: Job[Any]) -> None:
        row = job._row
        self.active[row.queue_index].pop(row.id)
        self.fetcher.finish(row)

    def kill_backend(self) -> int:
        """Ends the fetcher's session from the server's side; its backend's pid."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            rows = conn.execute(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
                (self.name[:63],),
            ).fetchall()
        assert len(rows) == 1, rows
        return int(rows[0][0])

    def _attend(self) -> None:
        while not self.ending.is_set():
            for what, queue, number, text in self.fetcher.take_attention(0.1):
                if what != compiled.GROW:
                    self.notices.append((what, queue, number, text))
                elif queue in self.works:
                    self.grown.append((queue, number))
                    self.fetcher.worker_started(queue, number)
                    for _ in range(number):
                        thread = threading.Thread(target=self._work, args=(queue,), name=f"worker {queue}")
                        self.workers.append(thread)
                        thread.start()

    def _work(self, queue: int) -> None:
        work = self.works[queue]
        while (job := self.fetcher.pop(queue)) is not None:
            work(job)
            self.finish(job)


def insert(conn: psycopg.Connection[Any], count: int = 1, notify: bool = False, **columns: Any) -> list[int]:
    """`count` available jobs of kind `plain`, by raw SQL; their ids."""
    values = {"kind": "plain", "args": '{"n": 1}', "queue": "default"} | columns
    names = ", ".join(values)
    marks = ", ".join(f"%({name})s" for name in values)
    with conn.transaction():
        rows = conn.execute(
            f"INSERT INTO river_job ({names}) SELECT {marks} FROM generate_series(1, %(count)s) RETURNING id",
            values | {"count": count},
        ).fetchall()
        if notify:
            conn.execute(
                "SELECT pg_notify(current_schema() || '.river_insert', %s)", (f'{{"queue": "{values["queue"]}"}}',)
            )
    return [row[0] for row in rows]


def states(conn: psycopg.Connection[Any]) -> dict[str, int]:
    return dict(conn.execute("SELECT state::text, count(*) FROM river_job GROUP BY 1").fetchall())
