"""Both on a server that says it is YugabyteDB: nobody is notified, and each tells the other's duplicates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.fix_yugabyte import VERSION, hear_nothing
from tests.interop.conftest import Make
from tests.interop.control import CANCELLED, WAYS, blocked
from tests.interop.leadership import LEADER
from tests.interop.unique_keys import check_pair, combinations, job_of


@pytest.fixture(autouse=True)
def yugabyte(dsn: str, schema: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both sides' drivers know PGOPTIONS, and ask for version() by its bare name."""
    with psycopg.connect(dsn, autocommit=True) as listener:
        conn.execute(VERSION)
        hear_nothing(listener, schema)
        monkeypatch.setenv("PGOPTIONS", f"-c search_path={schema},pg_catalog")
        yield
        assert list(listener.notifies(timeout=0)) == []


@WAYS
def test_duplicates_are_told(make: Make, conn: psycopg.Connection, asks: str, works: str) -> None:
    one, other = make(asks), make(works)
    for number, unique in enumerate(combinations()):
        check_pair(one, other, conn, job_of(number, unique))
    plain = {"kind": "interop", "args": {"k": 1}, "opts": {"metadata": {"river": "mine"}}}
    unique = {**plain, "opts": {"unique": {"by_args": True}}}
    assert not one.insert(**unique)["duplicate"]
    results = other.insert_many(jobs=[plain, unique, plain])
    assert [result["duplicate"] for result in results] == [False, True, False]
    metadata = json.loads(results[0]["job"]["metadata"])
    assert metadata["river"] == "mine"
    assert ("river:unique_nonce" in metadata) == (works == "go"), "by which River tells them; we need none"


@WAYS
def test_jobs_cancels_and_pauses_are_found_by_polling(make: Make, asks: str, works: str, until: Any) -> None:
    one, other = make(asks), make(works, queues={"default": 5, "second": 5})
    job_id = blocked(one, other)
    one.job_cancel(id=job_id)
    cancelled = other.event("job_cancelled", job_id)["job"]
    assert [error["error"] for error in cancelled["errors"]] == [CANCELLED]
    one.queue_pause(name="default")
    assert other.event("queue_paused")["queue"] == "default"
    waits = one.insert(kind="interop", args={})["job"]["id"]
    other.event("job_completed", one.insert(kind="interop", args={}, opts={"queue": "second"})["job"]["id"])
    one.queue_resume(name="default")
    assert other.event("queue_resumed")["queue"] == "default"
    other.event("job_completed", waits)


@WAYS
def test_leader_is_followed_at_the_next_election(
    make: Make, conn: psycopg.Connection, asks: str, works: str, until: Any
) -> None:
    one = make(asks, id="one", queues={"default": 1})
    until(LEADER, "one", 30)
    other = make(works, id="other", queues={"default": 1})
    other.request_resign()  # reaches nobody
    one.stop()
    until(LEADER, "other", 30)
    conn.execute("INSERT INTO river_job (kind, args, state) VALUES ('interop', '{}', 'scheduled')")
    until("SELECT state::text FROM river_job", "completed", 30)
