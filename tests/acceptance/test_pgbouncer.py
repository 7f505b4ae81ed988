"""A real PgBouncer before the server: in transaction mode nothing is kept in a session, in session mode all is on.

Faults F51 and F52. Where no pgbouncer program is on the machine these tests cannot run, and say so.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import make_conninfo

import river_fast as river
from river_fast.driver.psycopg import PsycopgDriver
from tests.fix_client import Args, eventually, workers_of
from tests.fix_pgbouncer import CLEAN, PROGRAM, PgBouncer

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine: apt-get install pgbouncer")

COUNT = 3000
UNFINISHED = "SELECT count(*) FROM river_job WHERE state NOT IN ('completed', 'discarded')"


@pytest.fixture
def pgbouncer(dsn: str) -> Iterator[Callable[..., PgBouncer]]:
    """`pgbouncer(mode, pool_size, **settings)`: started, stopped at the end."""
    with ExitStack() as stack:
        yield lambda *args, **settings: stack.enter_context(PgBouncer(dsn, *args, **settings))


@pytest.fixture
def make(schema: str) -> Iterator[Callable[..., river.Client]]:
    """`make(dsn, workers, **config)`: a client, not started, stopped at the end."""
    made: list[river.Client] = []

    def client(dsn: str, workers: river.Workers | None = None, max_workers: int = 20, **config: Any) -> river.Client:
        queues = {} if workers is None else {"default": river.QueueConfig(max_workers=max_workers)}
        made.append(river.Client(dsn, river.Config(schema=schema, workers=workers, queues=queues, **config)))
        return made[-1]

    yield client
    for one in made:
        one.stop_and_cancel(5)


class SoonAgain:
    """The retry policy: in a tenth of a second."""

    def next_retry(self, job: river.Job[Any]) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=0.1)


class Mixture:
    """Of ten jobs one fails at first, one snoozes at first, one fails to the end; keeps every start."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int]] = []
        self._snoozed: set[int] = set()

    def __call__(self, job: river.Job[Args]) -> None:
        self.starts.append((job.id, job.attempt))
        sort = job.args.n % 10
        if sort == 1 and job.attempt == 1:
            raise ValueError("not today")
        if sort == 2 and job.id not in self._snoozed:
            self._snoozed.add(job.id)
            raise river.JobSnoozeError(0.1)
        if sort == 3:
            raise ValueError("never")


def insert_mixture(client: river.Client) -> None:
    """COUNT jobs, by each way of inserting; a tenth of those that come by arrays is due in a second."""
    soon = datetime.now(UTC) + timedelta(seconds=1)
    client.insert_many_fast(
        [river.InsertManyParams(Args(n), river.InsertOpts(max_attempts=2)) for n in range(COUNT // 2)]
    )
    client.insert_many(
        [
            river.InsertManyParams(
                Args(n), river.InsertOpts(max_attempts=2, scheduled_at=soon if n % 10 == 4 else None)
            )
            for n in range(COUNT // 2, COUNT - 50)
        ]
    )
    for n in range(COUNT - 50, COUNT):
        client.insert(Args(n), river.InsertOpts(max_attempts=2))


def check_mixture(conn: psycopg.Connection) -> None:
    never = COUNT // 10
    states = dict(conn.execute("SELECT state::text, count(*) FROM river_job GROUP BY 1").fetchall())
    assert states == {"completed": COUNT - never, "discarded": never}
    odd = conn.execute(
        "SELECT id, args, state, attempt, cardinality(errors) FROM river_job"
        " WHERE attempt <> CASE (args ->> 'n')::int % 10 WHEN 1 THEN 2 WHEN 3 THEN 2 ELSE 1 END"
        " OR coalesce(cardinality(errors), 0) <> CASE (args ->> 'n')::int % 10 WHEN 1 THEN 1 WHEN 3 THEN 2 ELSE 0 END"
    ).fetchall()
    assert odd == []


def drained(conn: psycopg.Connection, timeout: float = 90) -> None:
    eventually(lambda: conn.execute(UNFINISHED).fetchone() == (0,), timeout, "every job finished")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool_size", [2, 10])
def test_transaction_mode_works_everything_and_leaves_nothing_in_the_sessions(
    pgbouncer: Any, make: Any, conn: psycopg.Connection, pool_size: int
) -> None:
    bouncer = pgbouncer("transaction", pool_size)
    work = Mixture()
    client = make(bouncer.dsn, workers_of(work), retry_policy=SoonAgain())
    insert_mixture(client)
    unique = river.InsertOpts(unique=river.UniqueOpts(by_args=True), max_attempts=2)
    once, twice = client.insert(Args(COUNT), unique), client.insert(Args(COUNT), unique)
    assert (once.unique_skipped_as_duplicate, twice.unique_skipped_as_duplicate) == (False, True)
    client.start()
    drained(conn)
    assert client.wait(once.job, 20).state == "completed"
    client.job_delete(once.job.id)
    check_mixture(conn)
    again = Counter(work.starts)
    assert {count for start, count in again.items()} == {1, 2}
    assert sum(count == 2 for count in again.values()) == COUNT // 10, "what snoozed starts its first attempt again"
    assert bouncer.sessions(pool_size) == [CLEAN] * pool_size  # the client runs
    assert client.stats()["completer_copy_flushes"] == 0
    assert client.stop(20).graceful
    assert bouncer.sessions(pool_size) == [CLEAN] * pool_size


@pytest.mark.timeout(180)
def test_async_client_in_transaction_mode(
    pgbouncer: Any, schema: str, conn: psycopg.Connection
) -> None:
    bouncer = pgbouncer("transaction", 3)

    async def work(job: river.Job[Args]) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        queues = {"default": river.QueueConfig(max_workers=50)}
        client = river.AsyncClient(bouncer.dsn, river.Config(schema=schema, workers=workers_of(work), queues=queues))
        async with client:
            results = await asyncio.gather(*(client.insert(Args(n)) for n in range(100)))
            await client.insert_many_fast([Args(n) for n in range(500)])
            for result in results:
                assert (await client.wait(result.job, 30)).state == "completed"
            async with await psycopg.AsyncConnection.connect(bouncer.dsn, prepare_threshold=None) as own:
                for n in range(10):
                    await client.insert_tx(own, Args(n))
            await asyncio.to_thread(drained, conn)

    asyncio.run(main())
    assert bouncer.sessions(3) == [CLEAN] * 3


def call_inner(params: Any, inner: Any) -> Any:
    return inner(params)


@pytest.mark.timeout(180)
def test_inserts_through_it_wake_workers_that_listen_at_the_server(
    pgbouncer: Any, make: Any, dsn: str, conn: psycopg.Connection
) -> None:
    bouncer = pgbouncer("transaction", 2)
    worker = make(dsn, workers_of(lambda job: None), fetch_poll_interval=120)
    inserter = make(bouncer.dsn)
    worker.start()
    eventually(lambda: worker.stats()["fetches"] + worker.stats()["empty_fetches"], what="the first, empty fetch")
    for n in range(3):
        assert inserter.wait(inserter.insert(Args(n)).job, 60).state == "completed"
    through = make(bouncer.dsn, plugins=[river.Plugin(insert_begin=str, insert_many=call_inner)])
    assert inserter.wait(through.insert(Args()).job, 60).state == "completed"
    with psycopg.connect(bouncer.dsn, prepare_threshold=None) as own:
        jobs = [each.insert_tx(own, Args()).job for each in (inserter, through)]
    for job in jobs:
        assert inserter.wait(job, 60).state == "completed"


@pytest.mark.timeout(180)
def test_running_job_is_cancelled_and_a_paused_queue_rests(
    pgbouncer: Any, make: Any, conn: psycopg.Connection
) -> None:
    bouncer = pgbouncer("transaction", 2)
    started = threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        assert job.wait_cancelled(60)
        job.raise_if_cancelled()

    client, other = make(bouncer.dsn, workers_of(work)), make(bouncer.dsn)
    client.start()
    job = other.insert(Args()).job
    assert started.wait(30)
    other.job_cancel(job.id)
    assert other.wait(job, 60).state == "cancelled"
    with client.subscribe("queue_paused", "queue_resumed") as events:
        other.queue_pause("default")
        assert events.get(30).kind == "queue_paused"
        other.queue_resume("default")
        assert events.get(30).kind == "queue_resumed"


@pytest.mark.timeout(300)
def test_restarts_in_mid_load_lose_and_double_nothing(
    pgbouncer: Any, make: Any, conn: psycopg.Connection
) -> None:
    bouncer = pgbouncer("transaction", 4)
    starts: list[tuple[int, int]] = []
    slow = threading.Event()

    def work(job: river.Job[Args]) -> None:
        starts.append((job.id, job.attempt))
        slow.wait(0.005)

    client = make(bouncer.dsn, workers_of(work))
    client.insert_many_fast([Args(n) for n in range(COUNT)])
    inserted: list[int] = []
    unknown = 0
    ending = threading.Event()

    def insert() -> None:
        nonlocal unknown
        while not ending.is_set():
            try:
                inserted.append(client.insert(Args()).job.id)
            except river.InsertOutcomeUnknownError:
                unknown += 1
            except river.DatabaseError:
                ending.wait(0.01)

    client.start()
    inserter = threading.Thread(target=insert)
    inserter.start()
    try:
        for _ in range(5):
            before = len(starts)
            eventually(lambda before=before: len(starts) > before + 200, 60, "work going on")
            bouncer.stop()
            bouncer.start()
    finally:
        ending.set()
        inserter.join(60)
    drained(conn, 120)
    assert client.stats()["reconnects"] >= 1
    assert client.stop(30).graceful
    rows = {row[0] for row in conn.execute("SELECT id FROM river_job")}
    assert set(inserted) <= rows
    assert len(rows) <= COUNT + len(inserted) + unknown
    assert len(starts) == len(set(starts)), "an attempt was worked twice"
    assert {job_id for job_id, _ in starts} == rows
    assert conn.execute("SELECT count(*) FROM river_job WHERE attempt <> 1 OR errors IS NOT NULL").fetchone() == (0,)
    assert bouncer.sessions(4) == [CLEAN] * 4


@pytest.mark.timeout(240)
def test_exhausted_pool_and_sessions_that_do_not_last_hold_up_and_lose_nothing(
    pgbouncer: Any, make: Any, conn: psycopg.Connection
) -> None:
    bouncer = pgbouncer("transaction", 2, query_wait_timeout=1, server_idle_timeout=1, server_lifetime=1)
    starts: list[int] = []

    def work(job: river.Job[Args]) -> None:
        starts.append(job.id)

    client = make(bouncer.dsn, workers_of(work))
    client.insert_many_fast([Args(n) for n in range(COUNT)])
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(psycopg.connect(bouncer.dsn, prepare_threshold=None)).execute("SELECT 1")
        with pytest.raises(river.DatabaseError, match="nothing was written"):
            client.insert(Args())
    client.start()
    eventually(lambda: len(starts) > 100)
    with ExitStack() as stack:
        for _ in range(2):
            holder = stack.enter_context(psycopg.connect(bouncer.dsn, prepare_threshold=None))
            eventually(lambda holder=holder: _lent(holder), what="a session for this transaction")
        conn.execute("INSERT INTO river_job (kind, args, max_attempts) VALUES ('test_job', '{}', 25)")
        eventually(lambda: client.stats()["reconnects"] + client.stats()["completer_reconnects"] >= 1, 60)
    drained(conn)
    assert client.stop(30).graceful
    assert len(starts) == len(set(starts)) == COUNT + 1
    assert bouncer.sessions(2) == [CLEAN] * 2


def _lent(holder: psycopg.Connection) -> bool:
    holder.execute("SELECT 1")
    return True


def test_callers_pool_that_leads_through_it(pgbouncer: Any, schema: str, conn: psycopg.Connection) -> None:
    bouncer = pgbouncer("transaction", 2)
    queues = {"default": river.QueueConfig(max_workers=5)}
    config = river.Config(schema=schema, workers=workers_of(lambda job: None), queues=queues)
    with psycopg_pool.ConnectionPool(bouncer.dsn, min_size=1, max_size=2) as pool:  # would prepare what comes often
        with river.Client.from_pool(pool, config) as client:
            for n in range(20):
                client.insert(Args(n))
                client.insert_many([Args(n), Args(n)])
            drained(conn)
        assert bouncer.sessions(2) == [CLEAN] * 2


def test_settings_of_the_sessions_do_not_reach_ours(pgbouncer: Any, make: Any, conn: psycopg.Connection) -> None:
    hostile = "SET default_transaction_isolation = serializable; SET default_transaction_read_only = on; SET jit = on"
    bouncer = pgbouncer("transaction", 2, connect_query=hostile)
    client = make(bouncer.dsn, workers_of(lambda job: None))
    client.start()
    client.insert_many([Args(n) for n in range(500)])
    client.insert_many_fast([Args(n) for n in range(500)])
    drained(conn)
    assert client.stats()["fetch_errors"] + client.stats()["completer_retries"] == 0
    assert client.stop(20).graceful


@pytest.mark.timeout(180)
def test_session_mode_has_everything_on(pgbouncer: Any, make: Any, conn: psycopg.Connection) -> None:
    bouncer = pgbouncer("session", 20)
    driver = PsycopgDriver(bouncer.dsn, "public")
    found = driver.open()
    driver.close()
    assert (found.shared_sessions, found.listen, found.session_locks, found.temp_tables) == (False, True, True, True)
    client = make(bouncer.dsn, workers_of(Mixture()), retry_policy=SoonAgain(), max_workers=1000)
    insert_mixture(client)
    client.start()
    drained(conn)
    check_mixture(conn)
    client.insert_many_fast([Args(0) for _ in range(5000)])
    drained(conn)

    def told() -> int:
        assert client.wait(client.insert(Args()).job, 30).state == "completed"
        return client.stats()["notifications"]

    eventually(told, what="a notification, once the fetcher listens")
    assert client.stats()["completer_copy_flushes"] >= 1
    held = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory'"
        " AND application_name = 'river_fast/fetcher' AND pg_locks.granted"
    )
    assert conn.execute(held).fetchone() == (1,)
    assert client.stop(20).graceful
    eventually(lambda: conn.execute(held).fetchone() == (0,), what="the lock let go with its session")


def test_what_it_is_told_is_not_looked_for(pgbouncer: Any, dsn: str) -> None:
    for there, pooler, shared in (
        (pgbouncer("transaction", 2).dsn, "session", False),
        (pgbouncer("session", 2).dsn, "transaction", True),
        (dsn, "transaction", True),
        (dsn, "auto", False),
    ):
        driver = PsycopgDriver(there, "public", pooler=pooler)
        assert driver.open().shared_sessions is shared
        driver.close()


@pytest.mark.parametrize("settings", [{"server_round_robin": 1}, {"server_round_robin": 0}])
def test_sharing_is_seen_however_sessions_are_lent(pgbouncer: Any, settings: dict[str, Any]) -> None:
    bouncer = pgbouncer("transaction", 5, **settings)
    bouncer.sessions(5)  # so that it has all of them
    for _ in range(5):
        driver = PsycopgDriver(bouncer.dsn, "public")
        assert driver.open().shared_sessions
        driver.close()


def test_too_few_sessions_to_tell_count_as_shared(pgbouncer: Any) -> None:
    driver = PsycopgDriver(pgbouncer("session", 3).dsn, "public")
    assert driver.open().shared_sessions
    driver.close()


def test_refused_options_are_named(pgbouncer: Any) -> None:
    bouncer = pgbouncer("transaction", 2)
    driver = PsycopgDriver(make_conninfo(bouncer.dsn, options="-c search_path=a,b", password="s3cr3t"))
    with pytest.raises(river.DatabaseError, match=r"options.*Config\.schema") as caught:
        driver.open()
    assert "s3cr3t" not in str(caught.value)
