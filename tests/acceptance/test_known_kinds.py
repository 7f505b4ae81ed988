"""`Config.fetch_only_known_kinds`: jobs of kinds that this client has no worker for stay as they are (river.md 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.config import QueueConfig
from tests.fix_client import Args, eventually
from tests.fix_pgbouncer import PROGRAM, PgBouncer
from tests.fix_proxy import Proxy
from tests.fix_rows import insert
from tests.fix_yugabyte import client_on, lacking

KNOWN = ("old_name", "renamed", "soon")


@dataclass
class Renamed(river.JobArgs, kind="renamed", aliases=("old_name",)):
    pass


def three_kinds(worked: list[tuple[str, int]]) -> river.Workers:
    """A sync one with an alias, and an async one."""
    workers = river.Workers()

    @workers.work(Renamed)
    def work(job: river.Job[Renamed]) -> None:
        worked.append((job.kind, job.id))

    @workers.work("soon")
    async def work_soon(job: river.Job[Any]) -> None:
        worked.append((job.kind, job.id))

    return workers


def mixed_rows(conn: psycopg.Connection, count: int = 30, **columns: Any) -> tuple[set[int], set[int]]:
    """Foreign and known jobs, foreign ones first; their ids."""
    foreign = {insert(conn, kind=f"foreign_{n % 3}", priority=1, **columns) for n in range(count)}
    return foreign, {insert(conn, kind=KNOWN[n % 3], priority=2, **columns) for n in range(count)}


def untouched(conn: psycopg.Connection) -> set[int]:
    rows = conn.execute("SELECT id FROM river_job WHERE state = 'available' AND attempt = 0 AND attempted_by IS NULL")
    return {row[0] for row in rows.fetchall()}


def works_its_own_alone(client: river.Client, conn: psycopg.Connection, worked: list[tuple[str, int]]) -> None:
    foreign, known = mixed_rows(conn)
    client.start()
    eventually(lambda: len(worked) >= len(known), what="the known jobs to be worked")
    report = client.stop(30)
    assert report.graceful
    assert {job_id for _, job_id in worked} == known
    assert {kind for kind, _ in worked} == set(KNOWN)
    assert untouched(conn) == foreign
    assert conn.execute("SELECT count(*) FROM river_job WHERE state = 'completed'").fetchone() == (len(known),)


def test_a_client_works_the_kinds_it_knows_aliases_among_them(make_client: Any, conn: psycopg.Connection) -> None:
    worked: list[tuple[str, int]] = []
    works_its_own_alone(make_client(three_kinds(worked), 5, fetch_only_known_kinds=True), conn, worked)


@pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine: apt-get install pgbouncer")
def test_behind_a_pooler_that_shares_its_sessions(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    worked: list[tuple[str, int]] = []
    with PgBouncer(dsn, "transaction", 10) as pooler:
        config = river.Config(
            schema=schema, workers=three_kinds(worked), queues={"default": QueueConfig(5)}, fetch_only_known_kinds=True
        )
        works_its_own_alone(river.Client(pooler.dsn, config), conn, worked)


def test_where_rows_have_no_ctid(yugabyte: Proxy, schema: str, conn: psycopg.Connection) -> None:
    worked: list[tuple[str, int]] = []
    works_its_own_alone(client_on(yugabyte, schema, three_kinds(worked), fetch_only_known_kinds=True), conn, worked)
    assert lacking(yugabyte) == set()


def test_many_queues_polled_together(make_client: Any, conn: psycopg.Connection) -> None:
    worked: list[tuple[str, int]] = []
    names = [f"q{n}" for n in range(5)]
    for name in names:
        mixed_rows(conn, 6, queue=name)
    queues = {name: QueueConfig(2) for name in names}
    client = make_client(three_kinds(worked), queues=queues, fetch_only_known_kinds=True, poll_only=True)
    client.start()
    eventually(lambda: len(worked) == 30, what="the known jobs to be worked")
    client.stop(30)
    assert len(untouched(conn)) == 30


def test_workers_added_after_the_start_are_not_fetched_for(make_client: Any, conn: psycopg.Connection) -> None:
    """The kinds are taken once, when the producer starts; the next start takes them anew."""
    worked: list[tuple[str, int]] = []
    workers = three_kinds(worked)
    client = make_client(workers, fetch_only_known_kinds=True)
    client.start()

    @workers.work(Args)
    def late(job: river.Job[Args]) -> None:
        worked.append((job.kind, job.id))

    late_job, known = insert(conn, kind="test_job", args='{"n": 1}'), insert(conn, kind="renamed", priority=4)
    eventually(lambda: worked)
    client.stop(30)
    assert worked == [("renamed", known)]
    assert untouched(conn) == {late_job}
    client.start()
    eventually(lambda: len(worked) == 2)
    client.stop(30)
    assert worked[1] == ("test_job", late_job)


def test_without_the_option_an_unknown_kind_is_fetched_and_fails(make_client: Any, conn: psycopg.Connection) -> None:
    worked: list[tuple[str, int]] = []
    client = make_client(three_kinds(worked))
    foreign = insert(conn, kind="foreign")
    client.start()
    eventually(lambda: client.job_get(foreign).errors)
    assert client.job_get(foreign).errors[0].error.startswith("job kind is not registered")
    client.stop(30)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_the_option_is_true_or_false(value: Any) -> None:
    with pytest.raises(river.ConfigError, match="fetch_only_known_kinds must be True or False"):
        river.Config(fetch_only_known_kinds=value).checked()
