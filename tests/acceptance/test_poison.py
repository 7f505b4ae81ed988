"""One bad outcome among thousands: the others are stored, in few statements, and so is it, in a form that can be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args, eventually, workers_of

COUNT = 5000
MAX_WORKERS = 6000  # all of them wait at one gate, on the event loop, so that they end in one flush


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class Lying(str):
    """Text that does not survive being touched."""

    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError("no part of me")

    def replace(self, *_: Any) -> Any:
        raise RuntimeError("no change in me")


class Liar(Exception):
    def __str__(self) -> str:
        return Lying("lies")


POISONS: dict[str, tuple[Callable[[], BaseException], str]] = {
    "nul": (lambda: ValueError("a \0 b"), "a \\u0000 b"),
    "surrogate": (lambda: ValueError("a \udcff b"), "a \\udcff b"),
    "raises": (Unprintable, "<Unprintable whose text raised RuntimeError>"),
    "huge": (lambda: ValueError("x" * 30_000_000), "x" * 16384),
    "liar": (Liar, "lies"),
}


class Tomorrow:
    """What failed stays to be looked at; the first retry of River's own policy would come within a second."""

    def next_retry(self, job: river.Job[Any]) -> datetime:
        return datetime.now(UTC) + timedelta(days=1)


def at_one_gate(ending: Callable[[int], None]) -> tuple[river.Workers, Callable[[], int], Callable[[], None]]:
    """Workers whose jobs all wait until `open_gate`, and then end as `ending(n)` says; how many wait."""
    import asyncio

    waiting: list[asyncio.Future[None]] = []

    async def work(job: river.Job[Args]) -> None:
        gate = asyncio.get_running_loop().create_future()
        waiting.append(gate)
        await gate
        ending(job.args.n)

    def open_gate() -> None:
        loop = waiting[0].get_loop()

        def open_all() -> None:
            for gate in waiting:
                gate.set_result(None)

        loop.call_soon_threadsafe(open_all)

    return workers_of(work, timeout=river.NEVER), lambda: len(waiting), open_gate


@pytest.mark.parametrize("others", ["failed", "completed"])
@pytest.mark.parametrize("poison", POISONS)
def test_one_unstorable_error_among_five_thousand_outcomes_delays_nobody(
    make_client: Any, conn: psycopg.Connection, poison: str, others: str
) -> None:
    made, text = POISONS[poison]
    error = made()

    def ending(n: int) -> None:
        if n == COUNT // 2:
            raise error
        if others == "failed":
            raise ValueError(f"mine is {n}")

    workers, waiting, open_gate = at_one_gate(ending)
    client = make_client(workers, max_workers=MAX_WORKERS, retry_policy=Tomorrow())
    client.insert_many_fast([Args(n) for n in range(COUNT)])
    client.start()
    eventually(lambda: waiting() == COUNT, 60, "every job at the gate")
    open_gate()
    running = "SELECT count(*) FROM river_job WHERE state = 'running'"
    eventually(lambda: conn.execute(running).fetchone() == (0,), 60, "all outcomes stored")
    stats = client.stats()
    assert stats["completer_copy_flushes"] + stats["completer_array_flushes"] < COUNT // 2, "not each row by itself"
    errors = "SELECT errors[1]->>'error', attempt FROM river_job WHERE (args->>'n')::int = %s"
    assert conn.execute(errors, [COUNT // 2]).fetchone() == (text, 1)
    if others == "failed":
        wrong = conn.execute(
            "SELECT count(*) FROM river_job WHERE (args->>'n')::int <> %s AND (cardinality(errors) <> 1"
            " OR errors[1]->>'error' <> 'mine is ' || (args->>'n'))",
            [COUNT // 2],
        ).fetchone()
    else:
        wrong = conn.execute(
            "SELECT count(*) FROM river_job WHERE (args->>'n')::int <> %s AND state <> 'completed'", [COUNT // 2]
        ).fetchone()
    assert wrong == (0,)
    assert client.stop(30).graceful


@pytest.mark.parametrize("others", ["failed", "completed"])
def test_one_row_locked_by_another_session_delays_only_itself(
    make_client: Any, conn: psycopg.Connection, dsn: str, others: str
) -> None:
    def ending(n: int) -> None:
        if others == "failed":
            raise ValueError(f"mine is {n}")

    workers, waiting, open_gate = at_one_gate(ending)
    client = make_client(workers, max_workers=MAX_WORKERS, retry_policy=Tomorrow())
    client.insert_many_fast([Args(n) for n in range(COUNT)])
    client.start()
    eventually(lambda: waiting() == COUNT, 60, "every job at the gate")
    with psycopg.connect(dsn) as other:
        other.execute(conn.execute("SELECT format('SET search_path = %I', current_schema())").fetchone()[0])
        other.execute("SELECT 1 FROM river_job WHERE (args->>'n')::int = 17 FOR UPDATE")
        open_gate()
        left = "SELECT count(*) FROM river_job WHERE state = 'running'"
        eventually(lambda: conn.execute(left).fetchone() == (1,), 60, "all others, while it is locked")
    eventually(lambda: conn.execute(left).fetchone() == (0,), 60, "the one that was locked")
    assert client.stop(30).graceful


def test_outcome_that_cannot_be_told_counts_as_failed_and_its_worker_lives(make_client: Any) -> None:
    """What River leaves running for an hour: metadata that cannot be encoded (river.md 2.4)."""

    class Odd(river.JobSnoozeError):
        def __getattribute__(self, name: str) -> Any:
            if name == "seconds" and raised.is_set():
                raise RuntimeError("how long?")
            return super().__getattribute__(name)

    raised = threading.Event()

    def work(job: river.Job[Args]) -> None:
        if job.args.n == 1:
            error = Odd(1)
            raised.set()
            raise error

    client = make_client(workers_of(work), max_workers=1)
    with client.subscribe("job_failed") as events:
        job = client.insert(Args(1)).job
        client.start()
        assert events.get(20).job.id == job.id
    row = client.job_get(job.id)
    assert (row.state, row.attempt) == ("available", 1)
    assert len(row.errors) == 1
    assert client.wait(client.insert(Args(2)).job, 20).state == "completed"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_retry_policy_that_exits_costs_neither_outcome_nor_worker(make_client: Any, error: BaseException) -> None:
    class Exits:
        def next_retry(self, job: river.Job[Any]) -> Any:
            raise error

    def work(job: river.Job[Args]) -> None:
        if job.args.n == 1:
            raise ValueError("first")

    client = make_client(workers_of(work), max_workers=1, retry_policy=Exits())
    with client.subscribe("job_failed") as events:
        job = client.insert(Args(1)).job
        client.start()
        assert events.get(20).job.id == job.id
    assert [entry.error for entry in client.job_get(job.id).errors] == ["first"]
    assert client.wait(client.insert(Args(2)).job, 20).state == "completed"
