"""River's scenarios of load and of loss, by their names: River's own client and ours work one queue together, while
processes stop and start, connections are ended, and the server goes away.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from river_fast import embedded
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import Migrator
from tests.conformance.process import AdapterProcess
from tests.fix_client import eventually
from tests.interop.contract_runtime import BOTH, Sides, pair, running, start

__all__ = ["pair"]

OPEN = ["available", "pending", "retryable", "running", "scheduled"]
CONNECTIONS_MOST = 20


def drained(adapter: AdapterProcess) -> None:
    eventually(lambda: not adapter.call("list", states=OPEN, limit=1)["jobs"], 60, "the end of all jobs")


def ended(conn: psycopg.Connection) -> Counter[tuple[str, int]]:
    """How many jobs by their state and attempt."""
    rows = conn.execute("SELECT state::text, attempt, count(*) FROM river_job GROUP BY 1, 2").fetchall()
    return Counter({(state, attempt): count for state, attempt, count in rows})


def test_mixed_soak(ours: AdapterProcess, reference: AdapterProcess, conn: psycopg.Connection) -> None:
    """And multi_engine_soak, multi_engine_competition, multi_engine_resource_bound, mixed_connection_pool_bound."""
    most = 0
    for number, adapter in enumerate((ours, reference)):
        start(adapter, f"c{number}", max_workers=100)
    kinds: list[dict[str, Any]] = (
        [{}] * 30 + [{"behavior": "output", "message": "m"}] * 5 + [{"behavior": "cancel"}] * 5
    )
    kinds += [{"behavior": "transactional_complete"}] * 5 + [{"behavior": "snooze_once", "duration_ms": 1}] * 5
    for _ in range(20):
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda adapter: adapter.call("insert_many", jobs=kinds), (ours, reference)))
        most = max(most, ours.call("connection_count")["count"])
    drained(ours)
    assert ended(conn) == {("completed", 1): 1800, ("cancelled", 1): 200}
    assert most <= CONNECTIONS_MOST
    told = [Counter(adapter.call("runtime_stats")["events"]) for adapter in (ours, reference)]
    eventually(
        lambda: (
            sum((Counter(a.call("runtime_stats")["events"]) for a in (ours, reference)), Counter[str]())
            == {"job_completed": 1800, "job_cancelled": 200, "job_snoozed": 200}
        ),
        what=f"an event of each outcome: {told}",
    )


@BOTH
def test_multi_engine_fault_recovery(pair: Sides, conn: psycopg.Connection) -> None:
    """Every connection of the one at work is ended, again and again."""
    works, asks = pair
    start(works, max_workers=20)
    ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    for _ in range(6):
        asks.call("insert_many", jobs=[{"behavior": "sleep", "duration_ms": 5}] * 50 + [{"behavior": "output"}] * 10)
        conn.execute(ends, [works.name])
    drained(asks)
    done = conn.execute("SELECT count(*) FROM river_job WHERE state = 'completed' AND errors IS NULL").fetchone()
    assert done == (360,)
    works.call("insert")


def test_rolling_deployment_same_protocol(
    ours: AdapterProcess, adapters: Callable[..., AdapterProcess], conn: psycopg.Connection
) -> None:
    """Either side stops and starts, gracefully and hard, while jobs come: each is worked, and none fails."""
    done, members = threading.Event(), (adapters("one"), adapters("go", "go"))

    def roll(member: AdapterProcess) -> None:
        number = 0
        while not done.is_set():
            member.call("start", client_id=f"{member.name}{number}", max_workers=5)
            worked = "SELECT count(*) > 0 FROM river_job WHERE attempted_by[1] = %s"
            with psycopg.connect(conn.info.dsn, autocommit=True, options=conn.info.get_parameters()["options"]) as look:
                while not done.is_set() and look.execute(worked, [f"{member.name}{number}"]).fetchone() == (False,):
                    done.wait(0.01)
            member.call("stop", cancel=number % 2 == 0)
            number += 1

    with ThreadPoolExecutor(2) as threads:
        rolling = [threads.submit(roll, member) for member in members]
        try:
            for _ in range(10):
                ours.call("insert_many", jobs=[{"behavior": "sleep", "duration_ms": 2}] * 50)
            drained(ours)
        finally:
            done.set()
        for one in rolling:
            one.result(30)
    assert ended(conn) == {("completed", 1): 500}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[embedded.Embedded]:
    """A server of the test's own, which it may stop."""
    started = embedded.start(tmp_path / "pg")
    driver = PsycopgDriver(started.url)
    Migrator(driver).migrate_up()
    driver.close()
    yield started
    started.stop()


def test_database_unavailable_reconnect(server: embedded.Embedded, go_program: Path, tmp_path: Path) -> None:
    """The server is stopped while a job of either side runs; the job ends meanwhile, and the server comes back."""
    with (
        AdapterProcess(server.url, "river-conformance-ours") as ours,
        AdapterProcess(server.url, "river-conformance-go", (str(go_program), "--contract")) as reference,
    ):
        jobs = {}
        for name, adapter in (("a", ours), ("b", reference)):
            adapter.call("barrier_create", name="b")
            start(adapter, name, max_workers=1)
            jobs[name] = running(adapter, "barrier_output", message="b")
            assert adapter.call("get", id=jobs[name])["attempted_by"] == [name]
        server.stop()
        ours.call("barrier_release", name="b")
        reference.call("barrier_release", name="b")
        embedded.start(tmp_path / "pg")
        with psycopg.connect(server.url, autocommit=True) as conn:
            query = "SELECT count(*) FROM river_job WHERE state = 'completed' AND attempt = 1 AND metadata ? 'output'"
            eventually(lambda: conn.execute(query).fetchone() == (2,), 60, "both completions")
            for adapter in (ours, reference):
                assert eventually(lambda adapter=adapter: answered(adapter), 40, "an answer")["state"] == "available"
            query = "SELECT count(*) FROM river_job WHERE state = 'completed'"
            eventually(lambda: conn.execute(query).fetchone()[0] >= 4, 60, "jobs after the outage")  # type: ignore[index]


def answered(adapter: AdapterProcess) -> Any:
    return None if adapter.refused_or_none("queue_list") else adapter.call("insert")
