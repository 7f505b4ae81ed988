"""`river-fast queue ...`, in this process."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.test_cli_job import Command, command

__all__ = ["command"]

LONG_NUMBER = "0.12345678901234567890123456789"


@pytest.fixture(autouse=True)
def queues(conn: psycopg.Connection) -> None:
    conn.execute(
        "INSERT INTO river_queue (name, created_at, metadata, updated_at) VALUES"
        " ('q2', '2026-01-02T03:04:05.5Z', %s, '2026-01-02T03:04:06Z'), ('q1', now(), '{}', now())",
        [f'{{"n": {LONG_NUMBER}}}'],
    )


def paused(conn: psycopg.Connection) -> list[str]:
    rows = conn.execute("SELECT name FROM river_queue WHERE paused_at IS NOT NULL ORDER BY name").fetchall()
    return [name for (name,) in rows]


def test_get_and_list_give_what_is_stored_with_every_digit(command: Command) -> None:
    status, out, err = command("queue", "get", "q2", "--json")
    assert (status, err) == (0, "")
    assert LONG_NUMBER in out
    assert json.loads(out)["queues"] == [
        {
            "name": "q2", "paused_at": None, "metadata": {"n": float(LONG_NUMBER)},
            "created_at": "2026-01-02T03:04:05.5Z", "updated_at": "2026-01-02T03:04:06Z",
        }
    ]  # fmt: skip
    assert LONG_NUMBER in command("queue", "get", "q2")[1]
    assert [queue["name"] for queue in json.loads(command("queue", "list", "--json")[1])["queues"]] == ["q1", "q2"]
    status, out, err = command("queue", "list", "--limit", "1")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "q1"]
    assert "--limit" in err


def test_pause_and_resume_do_what_they_can_and_tell_what_they_cannot(
    command: Command, conn: psycopg.Connection
) -> None:
    status, out, err = command("queue", "pause", "q1", "None Such")
    assert (status, out) == (1, "queue q1: paused\n")
    assert err.startswith("river-fast: queue 'None Such' does not exist")
    assert paused(conn) == ["q1"]
    shown = json.loads(command("queue", "pause", "*", "--json")[1])["queues"]
    assert [queue["paused_at"] is not None for queue in shown] == [True, True]
    assert paused(conn) == ["q1", "q2"]
    assert command("queue", "resume", "*") == (0, "every queue: resumed\n", "")
    assert paused(conn) == []
    shown = json.loads(command("queue", "resume", "q1", "--json")[1])["queues"]
    assert [(queue["name"], queue["paused_at"]) for queue in shown] == [("q1", None)]


@pytest.mark.parametrize("verb", ["get", "pause", "resume"])
def test_a_queue_that_there_is_not_is_status_1(command: Command, verb: str) -> None:
    status, out, err = command("queue", verb, "Nope\x1b")
    assert (status, out) == (1, "")
    assert "\x1b" not in err


@pytest.mark.parametrize(
    "arguments",
    [("queue",), ("queue", "get"), ("queue", "destroy", "q1"), ("queue", "list", "--limit", "0")],
    ids=" ".join,
)
def test_wrong_use_is_status_2(command: Command, arguments: tuple[str, ...]) -> None:
    assert command(*arguments)[0] == 2
