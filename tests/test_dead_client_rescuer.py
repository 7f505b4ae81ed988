"""The dead client rescuer: whose rows it frees, when, and how; one watcher at a time."""

from __future__ import annotations

import logging
import threading
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.maintenance.dead_client_rescuer import DeadClientRescuer, Sight, Vigil, Watched
from river_fast.registration import lock_key, watcher_key
from tests.fix_dead_clients import Scene, fast, generated, looks, quick, scene, without_locks
from tests.fix_rows import column, heard, insert
from tests.stress import hammer

__all__ = ["fast", "quick", "scene", "without_locks"]

LOCKED, BEATING = Watched("a", 1, locks=True), Watched("b", 2, locks=False, created_at=0)


class Clock:
    """Seconds as the test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def seen(vigil: Vigil, clock: Clock, after: float, client: Watched, sign: int | None = None, held: int = 0) -> bool:
    """Look `after` seconds; whether the client is dead."""
    clock.now += after
    vigil.look(Sight(frozenset({held}), {client: sign}))
    assert (client in vigil.dead) != (client in vigil.living)
    return client in vigil.dead


# For how long nobody gave a sign.


def test_a_lock_that_is_free_for_ten_seconds_of_looks_means_dead() -> None:
    vigil = Vigil(clock := Clock())
    assert [seen(vigil, clock, 2.0, LOCKED) for _ in range(6)] == [False] * 5 + [True]


def test_a_lock_that_was_held_in_between_begins_anew() -> None:
    vigil = Vigil(clock := Clock())
    assert not any(seen(vigil, clock, 2.0, LOCKED) for _ in range(5))
    assert not seen(vigil, clock, 2.0, LOCKED, held=LOCKED.key)
    assert [seen(vigil, clock, 2.0, LOCKED) for _ in range(6)] == [False] * 5 + [True]


def test_a_heartbeat_that_stands_still_for_twenty_seconds_of_looks_means_dead() -> None:
    vigil = Vigil(clock := Clock())
    assert not any(seen(vigil, clock, 2.0, BEATING, 7) for _ in range(10))
    assert [seen(vigil, clock, 2.0, BEATING, 8) for _ in range(11)] == [False] * 10 + [True]
    assert not seen(vigil, clock, 2.0, BEATING, 5), "a server's clock may be set back: it beats"


def test_an_outage_between_two_looks_is_nobodys_silence() -> None:
    """All clients were cut off with the watcher, and are just coming back."""
    vigil = Vigil(clock := Clock())
    assert not seen(vigil, clock, 2.0, LOCKED)
    assert not seen(vigil, clock, 600.0, LOCKED)
    assert not seen(vigil, clock, 2.0, LOCKED)
    vigil = Vigil(clock)
    assert not seen(vigil, clock, 2.0, BEATING, 7)
    assert not seen(vigil, clock, 600.0, BEATING, 7)


# Whose rows, and what becomes of them.


def test_a_dead_clients_rows_are_rescued_as_river_does_but_at_once(scene: Scene, dsn: str) -> None:
    client = generated()
    session, job_id = scene.living(client), scene.claim(client, metadata='{"river:rescue_count": 2, "mine": 1}')
    before = column(scene.conn, job_id, "ARRAY[scheduled_at, attempted_at]")
    with psycopg.connect(dsn, autocommit=True) as listening:
        listening.execute(f'LISTEN "{scene.schema}.river_insert"')
        watcher = scene.watcher()
        looks(watcher, 15)
        assert column(scene.conn, job_id, "state") == "running", "its client lives"
        session.close()
        assert watcher.rescued.wait() == client
        assert heard(listening) == ("river_insert", {"queue": "q1"})
    assert column(scene.conn, job_id, "state") == "available"
    assert column(scene.conn, job_id, "attempt") == 2, "it may have been at work: the attempt is charged"
    assert column(scene.conn, job_id, "attempted_by") == ["other", client]
    assert column(scene.conn, job_id, "ARRAY[scheduled_at, attempted_at]") == before, "it is the first in line"
    assert column(scene.conn, job_id, "metadata") == {"river:rescue_count": 3, "mine": 1}
    assert [(e["attempt"], e["error"]) for e in column(scene.conn, job_id, "errors")] == [
        (2, "Stuck job rescued by JobRescuer")
    ]
    assert scene.freed == [["q1"]]
    assert watcher.stats() == {"dead_clients_rescued": 1}


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({"metadata": '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}'}, "cancelled"),
        ({"attempt": 3, "max_attempts": 3}, "discarded"),
    ],
)
def test_a_rescue_may_be_final(scene: Scene, columns: dict[str, Any], state: str) -> None:
    job_id = scene.claim(generated(), **columns)
    scene.watcher()
    scene.wait_state(job_id, state)
    assert column(scene.conn, job_id, "finalized_at") is not None


def test_rows_of_anybody_else_are_never_touched(scene: Scene) -> None:
    """A Go client's, a given id's, that of a client without a lock; those that are not running any more."""
    dead = generated()
    others: list[list[Any] | None] = [
        ["host_2026_01_01T00_00_00_000000"], ["worker-1"], [generated(locks=False)], [dead, "worker-1"], [dead, None],
        [], None, [dead + "x"], [dead.upper()], [dead[:-1]],
    ]  # fmt: skip
    left = [scene.claim("any", attempted_by=by) for by in others]
    ended = [insert(scene.conn, s, attempted_by=[dead]) for s in ("available", "retryable", "completed", "discarded")]
    before = scene.conn.execute("SELECT id, state, errors FROM river_job ORDER BY 1").fetchall()
    job_id = scene.claim(dead)
    watcher = scene.watcher()
    scene.wait_state(job_id, "available")
    looks(watcher, 3)
    after = scene.conn.execute("SELECT id, state, errors FROM river_job WHERE id <> %s ORDER BY 1", [job_id]).fetchall()
    assert after == before
    assert len(after) == len(left) + len(ended)


def test_a_client_that_comes_back_at_the_last_moment_keeps_its_rows(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = generated()
    job_id = scene.claim(client)
    find = DeadClientRescuer._left
    back: list[psycopg.Connection] = []

    def left(self: DeadClientRescuer, *args: Any) -> Any:
        if not back:
            back.append(scene.living(client))
        return find(self, *args)

    monkeypatch.setattr(DeadClientRescuer, "_left", left)
    watcher = scene.watcher()
    while not back:
        watcher.looked.wait()
    looks(watcher, 15)
    assert column(scene.conn, job_id, "state") == "running"
    back[0].close()
    scene.wait_state(job_id, "available")


def test_the_watchers_own_rows_are_not_a_dead_clients(scene: Scene) -> None:
    """Its fetcher may be without a connection, and so without its lock, while it works on."""
    me = generated()
    job_id = scene.claim(me)
    watcher = scene.watcher(me)
    looks(watcher, 15)
    assert column(scene.conn, job_id, "state") == "running"


def test_a_row_that_is_locked_or_refused_keeps_no_other(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    client = generated()
    only_available = {"unique_key": b"k" * 32, "unique_states": "00000001"}
    insert(scene.conn, "available", **only_available)
    refused, locked = scene.claim(client, **only_available), scene.claim(client)
    others = [scene.claim(client) for _ in range(5)]
    with psycopg.connect(scene.dsn, options=f"-c search_path={scene.schema}") as theirs:
        theirs.execute("SELECT FROM river_job WHERE id = %s FOR UPDATE", [locked])
        watcher = scene.watcher()
        for job_id in others:
            scene.wait_state(job_id, "available")
        looks(watcher, 2)
        assert column(scene.conn, locked, "state") == "running"
    scene.wait_state(locked, "available")
    looks(watcher, 3)
    assert column(scene.conn, refused, "state") == "running"
    assert caplog.text.count(f"job {refused} is stranded") == 1


def test_thousands_of_rows_of_a_dead_client_are_freed(scene: Scene) -> None:
    client = generated()
    scene.conn.execute(
        "INSERT INTO river_job (args, kind, state, attempt, attempted_at, attempted_by)"
        " SELECT '{}', 'k1', 'running', 1, clock_timestamp(), ARRAY[%s] FROM generate_series(1, 2500)", [client],
    )
    watcher = scene.watcher()
    watcher.rescued.wait()
    assert watcher.stats() == {"dead_clients_rescued": 2500}
    assert scene.conn.execute("SELECT DISTINCT state::text, attempt FROM river_job").fetchall() == [("available", 1)]


# One watcher.


def holders(scene: Scene) -> int:
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = %s AND objid = %s"
    key = watcher_key(scene.schema)
    row = scene.conn.execute(query, [key >> 32, key & 0xFFFFFFFF]).fetchone()
    assert row is not None
    return int(row[0])


def test_one_watches_and_another_takes_over(scene: Scene) -> None:
    first = scene.watcher("first")
    assert first.watching.wait()
    second = scene.watcher("second")
    looks(first, 10)
    with pytest.raises(TimeoutError):
        second.watching.wait(0)
    assert holders(scene) == 1
    assert first.stop(20)
    assert second.watching.wait()
    job_id = scene.claim(generated())
    scene.wait_state(job_id, "available")


def test_a_watcher_that_lost_its_connection_trusts_nothing_it_saw_before(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vigils: list[Vigil] = []
    look = Vigil.look
    monkeypatch.setattr(Vigil, "look", lambda self, sight: (vigils.append(self), look(self, sight))[1])
    monkeypatch.setattr("river_fast.maintenance.dead_client_rescuer.DEAD_AFTER", 1e9)
    scene.claim(generated())
    watcher = scene.watcher()
    looks(watcher, 3)
    assert watcher.watching.wait()
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'river_fast/watcher'"
    assert scene.conn.execute(ended).fetchall()
    assert not watcher.watching.wait()
    assert watcher.watching.wait(), "it tries again"
    looks(watcher, 2)
    assert len({id(vigil) for vigil in vigils}) == 2
    assert caplog.text.count("cannot look for dead clients") == 1


def test_a_look_that_fails_is_told_of_once_and_tried_again(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "river_fast")
    job_id = scene.claim(generated())
    scene.conn.execute("ALTER TABLE river_job RENAME TO gone")
    scene.watcher()
    while caplog.text.count("cannot look for dead clients") < 3:
        threading.Event().wait(0.01)
    scene.conn.execute("ALTER TABLE gone RENAME TO river_job")
    scene.wait_state(job_id, "available")
    told = [record.levelno for record in caplog.records if "cannot look for dead clients" in record.message]
    assert told.count(logging.WARNING) == 1


# Registered clients: line fast.


def test_a_given_ids_rows_are_freed_when_it_is_registered_and_its_lock_is_free(fast: Scene) -> None:
    key = lock_key("worker-1", fast.schema)
    session = fast.living("worker-1")
    fast.register("worker-1", key, locks=True, age=3600.0)
    job_id, unregistered = fast.claim("worker-1"), fast.claim("worker-2")
    watcher = fast.watcher(migrated=True)
    looks(watcher, 30)
    assert column(fast.conn, job_id, "state") == "running", "it has its lock: what it says otherwise does not matter"
    session.close()
    fast.wait_state(job_id, "available")
    fast.wait_registered()
    assert column(fast.conn, unregistered, "state") == "running"


def test_a_client_that_beats_is_dead_when_its_heart_stands_still(fast: Scene) -> None:
    beating, still = generated(locks=False), generated(locks=False)
    fast.register(beating, 1)
    fast.register(still, 2)
    living, dead = fast.claim(beating), fast.claim(still)
    watcher = fast.watcher(migrated=True)
    while column(fast.conn, dead, "state") == "running":
        fast.beat(beating)
        watcher.looked.wait()
    assert column(fast.conn, living, "state") == "running"
    fast.wait_registered((beating, 1))
    fast.wait_state(living, "available")
    fast.wait_registered()


def test_a_heartbeat_at_the_last_moment_keeps_the_rows(fast: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    fast.register("worker-1", 7)
    job_id = fast.claim("worker-1")
    find, beats = DeadClientRescuer._left, []

    def left(self: DeadClientRescuer, *args: Any) -> Any:
        if len(beats) < 3:
            beats.append(fast.beat("worker-1"))
        return find(self, *args)

    monkeypatch.setattr(DeadClientRescuer, "_left", left)
    watcher = fast.watcher(migrated=True)
    while len(beats) < 3:
        watcher.looked.wait()
        assert column(fast.conn, job_id, "state") == "running"
    fast.wait_state(job_id, "available")


def test_what_a_new_start_under_the_same_id_claimed_is_not_the_dead_ones(fast: Scene) -> None:
    fast.register("worker-1", 1, age=60.0)
    theirs = fast.claim("worker-1")
    fast.register("worker-1", 2)
    ours = fast.claim("worker-1")
    watcher = fast.watcher(migrated=True)
    while column(fast.conn, theirs, "state") == "running":
        fast.conn.execute("UPDATE river_fast_client SET heartbeat_at = clock_timestamp() WHERE key = 2")
        watcher.looked.wait()
    assert column(fast.conn, ours, "state") == "running"
    fast.wait_registered(("worker-1", 2))


def test_without_session_locks_the_first_of_the_living_acts(fast: Scene, without_locks: None) -> None:
    fast.register("a", 1)
    fast.register("b", 2)
    first, second = fast.watcher("a", 1, migrated=True), fast.watcher("b", 2, migrated=True)
    fast.register("c", 3)
    jobs = [fast.claim("c")]
    while column(fast.conn, jobs[0], "state") == "running":
        fast.beat("a")
        fast.beat("b")
    assert first.rescued.wait() == "c"
    with pytest.raises(TimeoutError):
        second.looked.wait(0)  # it looks on, and does nothing
    assert first.stop(20)
    jobs.append(fast.claim("a"))
    while column(fast.conn, jobs[1], "state") == "running":
        fast.beat("b")
    assert second.rescued.wait() == "a"


def test_without_session_locks_nobody_acts_while_somebody_with_them_watches(fast: Scene, without_locks: None) -> None:
    watching = fast.stack.enter_context(psycopg.connect(fast.dsn, autocommit=True))
    watching.execute("SELECT pg_advisory_lock(%s)", [watcher_key(fast.schema)])
    fast.register("a", 1)
    fast.register("b", 2)
    job_id = fast.claim("b")
    watcher = fast.watcher("a", 1, migrated=True)
    for _ in range(100):
        fast.beat("a")
    with pytest.raises(TimeoutError):
        watcher.looked.wait(1.0)
    assert column(fast.conn, job_id, "state") == "running"
    watching.close()
    while column(fast.conn, job_id, "state") == "running":
        fast.beat("a")


def test_where_the_table_went_away_generated_ids_are_watched_over_still(
    fast: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    fast.conn.execute("DROP TABLE river_fast_client")
    job_id = fast.claim(generated())
    fast.watcher(migrated=True)
    fast.wait_state(job_id, "available")
    assert caplog.text.count("cannot look for dead clients that are registered") == 1


@pytest.mark.parametrize("locks", [True, False])
def test_the_dead_client_rescuer_stands_starts_and_stops_from_many_threads(
    dsn: str, schema: str, scene: Scene, locks: bool, request: pytest.FixtureRequest
) -> None:
    if not locks:
        request.getfixturevalue("fast")
        request.getfixturevalue("without_locks")

    def make() -> DeadClientRescuer:
        service = DeadClientRescuer(scene.driver, "me", migrated=not locks)
        service._stagger = 0.0
        return service

    hammer(make, cycles=100)


def test_the_driver_gives_a_session_of_its_own(dsn: str, schema: str) -> None:
    driver = PsycopgDriver(dsn, schema)
    with driver.session("watcher", 5.0) as one, driver.session("watcher", 5.0) as other:
        assert one is not other
    driver.close()
