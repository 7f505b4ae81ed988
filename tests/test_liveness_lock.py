"""The liveness lock: whose key it is, and what may be freed without it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.registration import lock_key
from tests.fix_liveness import GENERATED, World, driver, make_world, quick, world
from tests.fix_rows import column

__all__ = ["driver", "make_world", "quick", "world"]


def test_the_lock_of_a_generated_id_is_the_key_in_it() -> None:
    assert lock_key(GENERATED, "any") == int(GENERATED[-16:], 16)
    assert lock_key("h_2026_01_01T00_00_00_000000_rf0000000000000000", "s") == 1, "0 means no lock"


def test_the_lock_of_a_given_id_is_its_schemas_own_and_fits_a_bigint() -> None:
    keys = {lock_key(name, schema) for name in ("a", "b", "worker-1") for schema in ("s", "t")}
    assert len(keys) == 6
    assert all(0 < key < 2**63 for key in keys)
    assert lock_key("worker-1", "public") == 72170271689110040, "other processes must find the same one"


def test_before_the_lock_is_had_nothing_is_freed(quick: None, make_world: Callable[[], World]) -> None:
    """Its holder, a namesake or a dead process's backend, may still work them."""
    world = make_world()
    world.liveness.start()
    job_id = world.claim()
    threading.Event().wait(0.5)  # ten times what freeing takes here
    assert column(world.conn, job_id, "state") == "running"
    world.liveness.lock_taken()
    world.wait_state(job_id, "available")
    world.wait_stats(reclaimed=0, rescued=1)


def test_while_the_lock_is_lost_a_given_ids_rows_are_left(world: World) -> None:
    world.look(1)
    world.liveness.lock_lost()
    job_id = world.claim()
    threading.Event().wait(0.5)
    assert column(world.conn, job_id, "state") == "running"
    world.liveness.lock_taken()
    world.wait_state(job_id, "available")
    world.wait_stats(reclaimed=1, rescued=0)  # the incarnation is the same


def test_the_servers_time_of_the_lock_decides_where_the_fetcher_tells_it(
    quick: None, make_world: Callable[[], World]
) -> None:
    world = make_world()
    world.liveness.start()
    before, ours = world.claim(attempt=1), world.claim(attempt=1)
    world.liveness.lock_taken(column(world.conn, ours, "attempted_at"))
    world.wait_state(ours, "available")
    world.wait_state(before, "available")
    assert column(world.conn, ours, "attempt") == 0
    assert column(world.conn, before, "attempt") == 1


def test_without_session_locks_a_given_id_frees_nothing(
    quick: None, make_world: Callable[[], World], driver: PsycopgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(driver, monkeypatch)
    world = make_world()
    world.liveness.start()
    job_id = world.claim()
    world.liveness.lock_taken()
    threading.Event().wait(0.5)
    assert column(world.conn, job_id, "state") == "running"


def test_without_session_locks_a_generated_id_frees_what_it_claimed_itself(
    quick: None, make_world: Callable[[str], World], driver: PsycopgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(driver, monkeypatch)
    world = make_world(GENERATED)
    older = world.claim(before="1 h")
    world.liveness.start()
    job_id = world.claim()
    world.wait_state(job_id, "available")
    world.look(3)
    assert column(world.conn, older, "state") == "running"


def without_locks(driver: PsycopgDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = replace(driver.open(), session_locks=False)
    monkeypatch.setattr(driver, "open", lambda: capabilities)
