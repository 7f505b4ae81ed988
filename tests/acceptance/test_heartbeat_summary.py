"""docs/examples/heartbeat_summary: the aggregation service of the fifth failure (Wakapi #754), stopped and restarted
at any moment."""

from __future__ import annotations

import random
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.acceptance.test_regressions import thread_failures
from tests.fix_client import WAIT_MOST, eventually

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "heartbeat_summary"
HEARTBEATS, PERSONS, STOPS, WRITERS, BATCH = 10_000, 50, 20, 4, 50
LEFT = "SELECT count(*) FROM river_job WHERE finalized_at IS NULL"
START = datetime(2026, 3, 1, tzinfo=UTC)
Summaries = dict[tuple[str, date, str], float]


@pytest.fixture
def summaries(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import summaries

    yield summaries
    del sys.modules["summaries"]


def invented(example: Any, rng: random.Random) -> list[Any]:
    at = {f"person-{number:02}": START + timedelta(hours=number) for number in range(PERSONS)}
    beats = []
    for _ in range(HEARTBEATS):
        person = rng.choice(sorted(at))
        at[person] += timedelta(seconds=rng.choice((1, 60, 119, 120, 121, 600, 40_000)))
        beats.append(example.Heartbeat(person, at[person], rng.choice("abc")))
    return beats


def expected(beats: list[Any]) -> Summaries:
    """By the definition, without SQL."""
    total: Summaries = defaultdict(float)
    ordered = sorted(beats, key=lambda beat: (beat.person, beat.at))
    for (person, day), group in groupby(ordered, key=lambda beat: (beat.person, beat.at.date())):
        of_day = list(group)
        for this, following in pairwise(of_day):
            seconds = (following.at - this.at).total_seconds()
            if seconds <= 120:
                total[person, day, this.project] += seconds
    return dict(total)


def stopped_twice(stop: Callable[[float], river.StopReport]) -> list[river.StopReport]:
    """By two threads at once."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(stop, (WAIT_MOST, WAIT_MOST)))


def stored(conn: psycopg.Connection[Any]) -> Summaries:
    return {(person, day, project): seconds for person, day, project, seconds in conn.execute("SELECT * FROM summary")}


@pytest.fixture
def connect(dsn: str, schema: str, conn: psycopg.Connection[Any], summaries: Any) -> Callable[[], Any]:
    conn.execute(summaries.TABLES)
    return lambda: psycopg.connect(dsn, autocommit=True, options=f"-c search_path={schema}")


@pytest.fixture
def make_service(dsn: str, schema: str, summaries: Any, connect: Any) -> Callable[[], river.Client]:
    workers, queues = summaries.workers(connect), {"default": river.QueueConfig(max_workers=8)}
    return lambda: river.Client(dsn, river.Config(schema=schema, queues=queues, workers=workers))


def test_a_heartbeat_that_comes_while_its_person_is_summed_up_is_counted(
    conn: psycopg.Connection[Any], summaries: Any, connect: Any, make_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds a job that runs, and has read already: it must wait for its end, and queue the next."""
    beats = [summaries.Heartbeat("ada", START + timedelta(seconds=60 * number), "a") for number in range(3)]
    read, go_on = threading.Event(), threading.Event()
    sum_up = summaries.sum_up

    def sum_up_and_wait(*args: Any) -> None:
        sum_up(*args)
        read.set()
        assert go_on.wait(WAIT_MOST)

    monkeypatch.setattr(summaries, "sum_up", sum_up_and_wait)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    with make_service() as client, connect() as writing, ThreadPoolExecutor(1) as pool:
        summaries.record(client, conn, beats[:2])
        assert read.wait(WAIT_MOST)
        writer = pool.submit(summaries.record, client, writing, beats[2:])
        try:
            eventually(lambda: conn.execute(waiting, [writing.info.backend_pid]).fetchone() == (1,) or writer.done())
        finally:
            go_on.set()
        writer.result(WAIT_MOST)
        eventually(lambda: conn.execute(LEFT).fetchone() == (0,))
    assert stored(conn) == expected(beats)


@pytest.mark.timeout(300)
def test_every_summary_is_exact_however_often_its_workers_are_stopped_twice_and_started_again(
    conn: psycopg.Connection[Any], summaries: Any, connect: Any, make_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    beats = invented(summaries, rng)
    summing_up = threading.Semaphore(0)  # released in the middle of each job
    sum_up = summaries.sum_up

    def sum_up_and_tell(*args: Any) -> None:
        sum_up(*args)
        summing_up.release()

    monkeypatch.setattr(summaries, "sum_up", sum_up_and_tell)
    client = make_service()
    round_begins = threading.Barrier(WRITERS + 1)

    def write(number: int) -> None:
        """A part of the heartbeats before each stop, in no order."""
        mine = beats[number::WRITERS]
        with connect() as writing:
            for part in range(STOPS):
                round_begins.wait(WAIT_MOST)
                now = mine[part::STOPS]
                for start in range(0, len(now), BATCH):
                    summaries.record(client, writing, now[start : start + BATCH])

    with thread_failures() as failures:
        writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        for stop in range(STOPS):
            client.start()
            round_begins.wait(WAIT_MOST)
            for _ in range(rng.randrange(1, 20)):
                assert summing_up.acquire(timeout=WAIT_MOST), seed
            first, second = stopped_twice(client.stop_and_cancel if stop % 2 else client.stop)
            assert first == second, seed
            assert first.finished, (seed, first)
            assert not first.abandoned + first.unrecorded, (seed, first)
        for writer in writers:
            writer.join(WAIT_MOST)
            assert not writer.is_alive(), seed
        with client:
            eventually(lambda: conn.execute(LEFT).fetchone() == (0,))
    assert not failures, (seed, failures)
    assert stored(conn) == pytest.approx(expected(beats)), seed
    assert conn.execute("SELECT DISTINCT state::text FROM river_job").fetchall() == [("completed",)], seed
