"""`river-fast periodic ...`, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_periodic import Ping, driver, fast
from tests.test_cli_job import Command, command

__all__ = ["command", "driver", "fast"]

LONG_NUMBER = "0.12345678901234567890123456789"


@pytest.fixture
def jobs(fast: None, dsn: str, schema: str) -> Iterator[Any]:
    client = river.Client(dsn, river.Config(schema=schema))
    jobs = client.durable_periodic_jobs
    jobs.define("bb", "0 9 * * *", Ping("b"), river.InsertOpts(queue="q"), zone="Europe/Berlin", catch_up=3)
    jobs.define("aa", "@every 1h", river.RawArgs("raw_kind", f'{{"n": {LONG_NUMBER}}}'))
    yield jobs
    client.stop()


def test_list_shows_them_by_id_with_every_digit(command: Command, jobs: Any) -> None:
    status, out, err = command("periodic", "list", "--json")
    assert (status, err) == (0, "")
    assert LONG_NUMBER in out
    first, second = json.loads(out)["periodic_jobs"]
    assert (first["id"], first["kind"], first["schedule"], first["zone"]) == ("aa", "raw_kind", "@every 1h", None)
    assert (second["zone"], second["queue"], second["catch_up"]) == ("Europe/Berlin", "q", 3)
    assert second["args"] == {"name": "b"}
    assert second["next_run_at"].endswith("Z")
    assert second["last_run_at"] is None
    status, out, err = command("periodic", "list")
    assert [line.split()[0] for line in out.splitlines()] == ["ID", "aa", "bb"]
    assert "0 9 * * * (Europe/Berlin)" in out
    status, out, err = command("periodic", "list", "--limit", "1", "--after", "aa")
    assert [line.split()[0] for line in out.splitlines()] == ["ID", "bb"]
    assert "--limit" in err


def test_pause_and_resume_do_what_they_can_and_tell_what_they_cannot(command: Command, jobs: Any) -> None:
    status, out, err = command("periodic", "pause", "aa", "none-such")
    assert (status, out) == (1, "periodic job aa: paused\n")
    assert err.startswith("river-fast: durable periodic job 'none-such' does not exist")
    assert jobs.get("aa").paused_at is not None
    assert "paused" in command("periodic", "list")[1]
    assert command("periodic", "resume", "aa") == (0, "periodic job aa: resumed\n", "")
    (shown,) = json.loads(command("periodic", "pause", "aa", "--json")[1])["periodic_jobs"]
    assert shown["paused_at"] is not None


def test_run_inserts_a_job_now(command: Command, jobs: Any, conn: psycopg.Connection[Any]) -> None:
    status, out, err = command("periodic", "run", "aa", "bb")
    assert (status, err) == (0, "")
    ids = [id for (id,) in conn.execute("SELECT id FROM river_job ORDER BY id").fetchall()]
    assert out == f"periodic job aa: job {ids[0]} inserted\nperiodic job bb: job {ids[1]} inserted\n"
    (shown,) = json.loads(command("periodic", "run", "bb", "--json")[1])["jobs"]
    assert (shown["kind"], shown["metadata"]["river:periodic_job_id"]) == ("periodic_ping", "bb")
    assert command("periodic", "run", "none-such")[0] == 1


def test_without_the_line_the_command_is_named(command: Command, schema: str) -> None:
    for arguments in (("list",), ("pause", "aa"), ("resume", "aa"), ("run", "aa")):
        status, out, err = command("periodic", *arguments)
        assert (status, out) == (1, "")
        assert f"river-fast migrate-up --line fast --schema {schema}" in err


@pytest.mark.parametrize(
    "arguments",
    [("periodic",), ("periodic", "pause"), ("periodic", "run"), ("periodic", "list", "--limit", "0"),
     ("periodic", "pause", "x"), ("periodic", "destroy", "aa")],
    ids=" ".join,
)  # fmt: skip
def test_wrong_use_is_status_2(command: Command, fast: None, arguments: tuple[str, ...]) -> None:
    assert command(*arguments)[0] == 2
