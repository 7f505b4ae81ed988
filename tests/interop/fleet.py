"""A mixed fleet on one queue: every job worked exactly once, and none lost when either is killed in the middle."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest

from tests.interop.conftest import Make
from tests.interop.peers import Peer

JOBS = 3_000
SIDES = ("go", "ours apart")
WORKS: dict[str, Any] = {"queues": {"default": 20}, "cooldown_ms": 5}  # River's own cooldown is 100 ms


def insert(peer: Peer, count: int) -> None:
    peer.insert_many_fast(jobs=[{"kind": "interop", "args": {"do": "sleep", "ms": 5}} for _ in range(count)])


def worked(*peers: Peer) -> Counter[tuple[int, int]]:
    """How often each attempt of each job was begun, by what the workers themselves said."""
    return Counter((line["job"]["id"], line["job"]["attempt"]) for peer in peers for line in peer.all_events("working"))


def test_every_job_is_worked_exactly_once(make: Make, conn: psycopg.Connection, until: Any) -> None:
    peers = [make(side, **WORKS) for side in SIDES]
    for _ in range(JOBS // 1000):  # both insert, while both work
        for peer in peers:
            insert(peer, 500)
    until("SELECT count(*) FROM river_job WHERE state = 'completed'", JOBS, 60)
    begun = worked(*peers)
    assert len(begun) == JOBS
    assert set(begun.values()) == {1}
    assert {attempt for _, attempt in begun} == {1}
    each = Counter(row[0] for row in conn.execute("SELECT attempted_by[1] FROM river_job").fetchall())
    assert len(each) == 2
    assert min(each.values()) >= 20, f"both take their part: {each}"
    assert conn.execute("SELECT max(cardinality(attempted_by)) FROM river_job").fetchone() == (1,)


@pytest.mark.parametrize("victim", SIDES)
def test_kill_in_mid_load_loses_nothing(make: Make, conn: psycopg.Connection, until: Any, victim: str) -> None:
    """What the victim ran is rescued by whoever leads then, of the other side; all else was worked once."""
    (survivor_side,) = (side for side in SIDES if side != victim)
    killed = make(victim, id="victim", **WORKS, follows=True)
    survivor = make(survivor_side, id="survivor", **WORKS, follows=True)
    insert(killed, JOBS)
    while not all(len(peer.all_events("working")) > 40 for peer in (killed, survivor)):
        row = conn.execute("SELECT count(*) < 1000 FROM river_job WHERE state = 'available'").fetchone()
        if row == (True,):
            insert(survivor, 1000)
    killed.kill()
    until("SELECT count(*) FROM river_job WHERE state = 'available'", 0, 60)
    until("SELECT count(*) FROM river_job WHERE state = 'running' AND attempted_by[1] = 'survivor'", 0)
    stranded = conn.execute("SELECT count(*) FROM river_job WHERE state = 'running'").fetchone()
    assert stranded is not None
    assert stranded[0] > 0
    until("SELECT bool_and(attempted_at < now() - interval '1.5 s') FROM river_job WHERE state = 'running'", True)
    rescuer = make(survivor_side, id="rescuer", **WORKS, rescue_ms=1_000, timeout_ms=1_000, retry_ms=1)
    until("SELECT count(*) FROM river_job WHERE state <> 'completed'", 0, 60)
    begun = worked(killed, survivor, rescuer)
    assert set(begun.values()) == {1}, "no attempt of any job ran twice"
    assert {job_id for job_id, _ in begun} == {row[0] for row in conn.execute("SELECT id FROM river_job").fetchall()}
    again = conn.execute("SELECT count(*) FROM river_job WHERE attempt > 1").fetchone()
    assert again == stranded, "what had been recorded was not worked again"
