"""`Config.asynchronous_fetch`: which session has it, and what a crash of the server takes with it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast import embedded
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.migrate import Migrator
from tests.fix_client import Args, eventually, workers_of
from tests.fix_pgbouncer import PROGRAM, PgBouncer

UNFINISHED = "SELECT count(*) FROM river_job WHERE state <> 'completed'"
SETTINGS = "SELECT state, synchronous_commit FROM seen ORDER BY state"


@pytest.fixture
def seen(conn: psycopg.Connection) -> None:
    """Keeps what each session that changes a job's state has set."""
    conn.execute(
        """
        CREATE TABLE seen (state text, synchronous_commit text, UNIQUE (state, synchronous_commit));
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            EXECUTE format('INSERT INTO %I.seen VALUES ($1, $2) ON CONFLICT DO NOTHING', TG_TABLE_SCHEMA)
                USING NEW.state::text, current_setting('synchronous_commit');
            RETURN NULL;
        END $$;
        CREATE TRIGGER see AFTER INSERT OR UPDATE ON river_job FOR EACH ROW EXECUTE FUNCTION see()
        """
    )


def work_some(client: river.Client, conn: psycopg.Connection) -> list[Any]:
    with client:
        client.insert_many_fast([Args(n) for n in range(20)])
        client.insert(Args(20))
        eventually(lambda: conn.execute(UNFINISHED).fetchone() == (0,))
    return conn.execute(SETTINGS).fetchall()


@pytest.mark.parametrize(("asked", "fetched_with"), [(False, "on"), (True, "off")])
def test_the_fetcher_s_session_has_it_and_no_other(
    make_client: Any, conn: psycopg.Connection, seen: None, asked: bool, fetched_with: str
) -> None:
    client = make_client(workers_of(lambda job: None), asynchronous_fetch=asked)
    assert work_some(client, conn) == [("available", "on"), ("completed", "on"), ("running", fetched_with)]


@pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine: apt-get install pgbouncer")
def test_it_is_local_to_the_fetch_where_a_pooler_shares_its_sessions(
    dsn: str, schema: str, conn: psycopg.Connection, seen: None
) -> None:
    queues = {"default": river.QueueConfig(max_workers=10)}
    with PgBouncer(dsn, "transaction", 1) as between:  # one session for all of them
        config = river.Config(
            schema=schema, workers=workers_of(lambda job: None), queues=queues, asynchronous_fetch=True
        )
        found = work_some(river.Client(between.dsn, config), conn)
    assert found == [("available", "on"), ("completed", "on"), ("running", "off")]


class Server:
    """A server of the test's own, to be crashed."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._running = embedded.start(home)
        self.url = self._running.url

    def crash(self) -> None:
        """No checkpoint, no last flush: what an asynchronous commit had not written yet is gone."""
        done = self._running._run("pg_ctl", "stop", "-D", str(self._running.data_dir), "-s", "-w", "-m", "immediate")
        assert done.returncode == 0, done.stderr
        self._running._forget()
        self._running = embedded.start(self._home)

    def stop(self) -> None:
        self._running.stop()


@pytest.fixture
def server() -> Iterator[Server]:
    home = Path(tempfile.mkdtemp(prefix="river-crash-"))
    home.chmod(0o755)  # the server's user must pass here, if ours is root
    started = Server(home)
    yield started
    started.stop()
    shutil.rmtree(home)


@pytest.mark.timeout(180)
def test_a_crash_of_the_server_in_mid_load_loses_no_job(server: Server) -> None:
    driver = PsycopgDriver(server.url)
    Migrator(driver).migrate_up()
    driver.close()
    count, crashes = 3000, 3
    worked: set[int] = set()

    def work(job: river.Job[Args]) -> None:
        worked.add(job.args.n)
        time.sleep(0.001)  # what the work takes: a crash finds jobs running

    config = river.Config(
        workers=workers_of(work),
        queues={"default": river.QueueConfig(max_workers=20, prefetch=0)},
        asynchronous_fetch=True,
    )
    client = river.Client(server.url, config)
    client.insert_many_fast([Args(n) for n in range(count)])
    client.start()
    try:
        for number in range(1, crashes + 1):
            eventually(lambda number=number: len(worked) > count * number // (crashes + 2), 60, "work going on")
            server.crash()

        def finished() -> bool:
            with psycopg.connect(server.url) as conn:
                return conn.execute(UNFINISHED).fetchone() == (0,)

        eventually(finished, 90, "every job completed")
    finally:
        client.stop_and_cancel(10)
    assert worked == set(range(count))
