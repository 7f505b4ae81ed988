"""The reply of a fetch is lost after its commit (F47): nobody holds the rows, and their own client frees them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args
from tests.fix_proxy import Proxy

JOBS = 50
FETCHES_WAITING = """
    SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE application_name = 'river_fast/fetcher' AND NOT granted AND relation = 'river_job'::regclass
"""


@pytest.fixture
def proxy(dsn: str, schema: str) -> Iterator[Proxy]:
    """Cut before the schema is dropped: a session that is frozen in mid-transaction holds locks on it."""
    proxy = Proxy(dsn)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("client_id", [None, "worker-1"])
@pytest.mark.parametrize("poll_only", [False, True])
def test_rows_whose_fetch_reply_was_cut_off_run_soon_on_their_first_attempt(
    proxy: Proxy, conn: psycopg.Connection, dsn: str, schema: str, until: Callable[..., Any],
    client_id: str | None, poll_only: bool,
) -> None:
    worked: list[int] = []
    workers = river.Workers()

    @workers.work(Args)
    def work(job: river.Job[Args]) -> None:
        worked.append(job.id)

    queues = {"default": river.QueueConfig(max_workers=100, fetch_poll_interval=0.05)}
    config = river.Config(schema=schema, queues=queues, workers=workers, id=client_id, poll_only=poll_only)
    with river.Client(proxy.conninfo, config), river.Client(dsn, river.Config(schema=schema)) as inserting:
        first = inserting.insert(Args())
        until(f"SELECT state::text FROM river_job WHERE id = {first.job.id}", "completed")
        with conn.transaction():  # a fetch waits for the lock: the reply that is lost is that of this one
            conn.execute("LOCK TABLE river_job IN EXCLUSIVE MODE")
            inserting.insert_many_tx(conn, [Args(n) for n in range(JOBS)])
            until(FETCHES_WAITING, True)
            proxy.swallowing = True
        until("SELECT count(*) FROM river_job WHERE state = 'running'", JOBS)
        assert worked == [first.job.id]
        proxy.swallowing = False
        proxy.cut()
        until("SELECT count(*) FROM river_job WHERE state = 'completed'", JOBS + 1)  # 5 s on a quiet machine
        assert sorted(worked) == sorted(set(worked))
        attempts = "SELECT min(attempt), max(attempt), max(cardinality(attempted_by)) FROM river_job"
        assert conn.execute(attempts).fetchone() == (1, 1, 1)


def test_replies_cut_off_again_and_again_lose_no_job_and_run_none_twice(
    proxy: Proxy, conn: psycopg.Connection, dsn: str, schema: str, until: Callable[..., Any]
) -> None:
    worked: list[tuple[int, int]] = []
    workers = river.Workers()

    @workers.work(Args)
    def work(job: river.Job[Args]) -> None:
        worked.append((job.id, job.attempt))

    queues = {"default": river.QueueConfig(max_workers=10, fetch_poll_interval=0.05)}
    config = river.Config(schema=schema, queues=queues, workers=workers)
    with river.Client(proxy.conninfo, config), river.Client(dsn, river.Config(schema=schema)) as inserting:
        for _ in range(8):
            inserting.insert_many([Args(n) for n in range(100)])
            proxy.swallowing = True
            threading.Event().wait(0.1)
            proxy.swallowing = False
            proxy.cut()
            threading.Event().wait(0.2)
        until("SELECT count(*) FROM river_job WHERE state <> 'completed'", 0, 60)
    # a completion whose reply was cut is found recorded; a claim whose reply was cut was never started
    assert len(worked) == len(set(worked))
    assert {job_id for job_id, _ in worked} == {row[0] for row in conn.execute("SELECT id FROM river_job")}
    assert conn.execute("SELECT max(cardinality(errors)) FROM river_job").fetchone() == (None,)
