"""`river-fast job ...`, in this process: what it says to people and to programs, and with what status it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from river_fast.cli import main
from tests.fix_rows import column, insert

Command = Callable[..., tuple[int, str, str]]
LONG_NUMBER = "0.12345678901234567890123456789"


@pytest.fixture
def command(dsn: str, schema: str, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on the test's schema: status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["--database-url", dsn, "--schema", schema, *arguments])
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def told(command: Command) -> Callable[..., Any]:
    """The JSON of a command that ends well."""

    def run(*arguments: str) -> Any:
        status, out, err = command("--json", *arguments)
        assert (status, err) == (0, "")
        return json.loads(out)

    return run


def test_json_is_all_that_is_stored_with_every_digit(command: Command, conn: psycopg.Connection) -> None:
    job_id = insert(
        conn, "discarded", attempt=3, max_attempts=3, kind="email", queue="q1", priority=2, tags=["a", "b"],
        args=f'{{"n": {LONG_NUMBER}, "big": 12345678901234567890123}}', metadata='{"m": 1e400}',
        created_at="2026-01-02T05:04:05.120000+02:00", scheduled_at="2026-01-02T03:04:05Z", attempted_by=["c1", "c2"],
        attempted_at="2026-01-02T03:04:06.123456Z", finalized_at="2026-01-02T03:04:07Z",
        errors=['{"at": "2026-01-02T05:04:05.5+02:00", "attempt": 3, "error": "boom", "trace": "t"}'],
    )  # fmt: skip
    status, out, err = command("job", "get", str(job_id), "--json")
    assert (status, err) == (0, "")
    assert f'"n": {LONG_NUMBER}' in out
    assert "12345678901234567890123" in out
    assert json.loads(out)["jobs"] == [
        {
            "id": job_id, "kind": "email", "queue": "q1", "state": "discarded", "attempt": 3, "max_attempts": 3,
            "priority": 2, "args": {"n": float(LONG_NUMBER), "big": 12345678901234567890123},
            "metadata": {"m": 10**400}, "tags": ["a", "b"],
            "created_at": "2026-01-02T03:04:05.12Z", "scheduled_at": "2026-01-02T03:04:05Z",
            "attempted_at": "2026-01-02T03:04:06.123456Z", "finalized_at": "2026-01-02T03:04:07Z",
            "attempted_by": ["c1", "c2"],
            "errors": [{"at": "2026-01-02T03:04:05.5Z", "attempt": 3, "error": "boom", "trace": "t"}],
        }
    ]  # fmt: skip


def test_list_takes_every_filter_and_order(told: Callable[..., Any], conn: psycopg.Connection) -> None:
    first = insert(conn, kind="k1", queue="q1", priority=1, tags=["one", "two"], metadata='{"x": {"y": 1}}')
    second = insert(conn, "running", kind="k2", queue="q2", priority=2, tags=["two"])
    third = insert(conn, "completed", kind="k3", queue="q1", priority=2)

    def ids(*arguments: str) -> list[int]:
        return [job["id"] for job in told("job", "list", *arguments)["jobs"]]

    assert ids() == [first, second, third]
    assert ids("--descending") == [third, second, first]
    assert ids("--id", str(third), "--id", str(first)) == [first, third]
    assert ids("--kind", "k1", "--kind", "k2") == [first, second]
    assert ids("--queue", "q1") == [first, third]
    assert ids("--priority", "2") == [second, third]
    assert ids("--state", "completed", "--state", "running") == [second, third]
    assert ids("--tag-all", "one", "--tag-all", "two") == [first]
    assert ids("--tag-any", "one", "--tag-any", "two") == [first, second]
    assert ids("--metadata", '{"x": {"y": 1}}') == [first]
    assert ids("--state", "completed", "--order-by", "finalized_at") == [third]
    assert ids("--kind", "none") == []


def test_list_is_paged_by_its_cursor(told: Callable[..., Any], command: Command, conn: psycopg.Connection) -> None:
    made = [insert(conn) for _ in range(5)]
    found, after = [], []
    while (page := told("job", "list", "--limit", "2", "--order-by", "time", *after))["jobs"]:
        found += [job["id"] for job in page["jobs"]]
        after = ["--after", page["last_cursor"]]
    assert page == {"jobs": [], "last_cursor": None}
    assert found == made
    _, out, err = command("job", "list", "--limit", "2")
    assert len(out.splitlines()) == 3
    cursor = err.split("--after ")[1].strip()
    assert [job["id"] for job in told("job", "list", "--after", cursor)["jobs"]] == made[2:]


def test_list_shows_a_table_that_nothing_stored_can_disturb(command: Command, conn: psycopg.Connection) -> None:
    insert(conn, kind="\x1b[2Jevil\nkind", queue="日本")
    insert(conn, "running", kind="k", attempted_at="2026-01-02T03:04:05.999Z", max_attempts=7)
    status, out, err = command("job", "list")
    assert (status, err) == (0, "")
    head, first, second = out.splitlines()
    assert head.split("  ")[0].strip() == "ID"
    assert "\x1b" not in out
    assert "\\x1b[2Jevil\\nkind" in first
    assert "1/7" in second
    assert "2026-01-02T03:04:05Z" in second
    assert head.index("QUEUE") == second.index("default")


def test_get_shows_the_fields_and_the_traces_when_asked(command: Command, conn: psycopg.Connection) -> None:
    error = '{"attempt": 1, "error": "boom", "trace": "line one\\nline two"}'
    job_id = insert(conn, "retryable", args='{"to": "ada"}', errors=[error])
    status, out, _ = command("job", "get", str(job_id))
    assert status == 0
    assert '{"to": "ada"}' in out
    assert "boom" in out
    assert "line two" not in out
    assert "line two" in command("job", "get", str(job_id), "-v")[1]


def test_verbs_do_what_they_can_and_tell_what_they_cannot(command: Command, conn: psycopg.Connection) -> None:
    waits, runs, done = insert(conn), insert(conn, "running"), insert(conn, "completed")
    status, out, err = command("job", "cancel", str(waits), "4242", str(runs), str(done))
    assert status == 1
    assert out.splitlines() == [
        f"job {waits}: cancelled", f"job {runs}: running, and told to end", f"job {done}: completed, left as it is",
    ]  # fmt: skip
    assert err == "river-fast: job 4242 does not exist\n"
    assert column(conn, waits, "state") == "cancelled"

    assert command("job", "retry", str(waits))[:2] == (0, f"job {waits}: available\n")
    assert command("job", "retry", str(runs))[:2] == (0, f"job {runs}: running, left as it is\n")

    status, out, err = command("job", "delete", str(runs), str(done))
    assert (status, out) == (1, f"job {done}: deleted\n")
    assert "running" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("verb", "state"), [("cancel", "cancelled"), ("delete", "deleted")])
def test_what_was_done_before_an_error_is_told(
    command: Command, dsn: str, schema: str, conn: psycopg.Connection, verb: str, state: str
) -> None:
    for form in (False, True):
        ids = [insert(conn, "available") for _ in range(3)]
        with psycopg.connect(dsn, options=f"-c search_path={schema}") as other:
            other.execute("SELECT FROM river_job WHERE id = %s FOR UPDATE", (ids[1],))
            arguments = ("job", verb, *map(str, ids), "--statement-timeout", "0.2", *(["--json"] if form else []))
            status, out, err = command(*arguments)
        assert (status, "57014" in err) == (1, True)
        if form:
            assert [job["id"] for job in json.loads(out)["jobs"]] == ids[:1]
        else:
            assert out == f"job {ids[0]}: {state}\n"


def test_retry_beside_an_equal_unique_job_is_refused(command: Command, conn: psycopg.Connection) -> None:
    unique = {"unique_key": b"k" * 32, "unique_states": "11110101"}
    old = insert(conn, "discarded", **unique)
    insert(conn, **unique)
    status, out, err = command("job", "retry", str(old), "--json")
    assert (status, json.loads(out)) == (1, {"jobs": []})
    assert err.startswith(f"river-fast: job {old}: ")


def test_delete_by_filters_is_careful(command: Command, told: Callable[..., Any], conn: psycopg.Connection) -> None:
    done = [insert(conn, "completed", kind=kind) for kind in ("k1", "k1", "k2")]
    running = insert(conn, "running")
    assert command("job", "delete")[0] == 2
    assert command("job", "delete", "--limit", "5")[0] == 2
    assert command("job", "delete", str(done[0]), "--kind", "k1")[0] == 2
    assert command("job", "delete", "--unsafe-all", "--kind", "k1")[0] == 2
    assert command("job", "delete", "--state", "completed", "--kind", "k1", "--limit", "1") == (
        0, "deleted 1 job\n", "as many as --limit allows: there may be more\n",
    )  # fmt: skip
    assert [job["id"] for job in told("job", "delete", "--unsafe-all")["jobs"]] == done[1:]
    assert column(conn, running, "state") == "running"


@pytest.mark.parametrize(
    "arguments",
    [
        ("job",),
        ("job", "destroy"),
        ("job", "get"),
        ("job", "get", "one"),
        ("job", "list", "--state", "nonsense"),
        ("job", "list", "--limit", "0"),
        ("job", "list", "--limit", "10001"),
        ("job", "list", "--after", "nonsense"),
        ("job", "list", "--metadata", "[1]"),
        ("job", "list", "--metadata", "nonsense"),
        ("job", "list", "--order-by", "kind"),
        ("job", "list", "--order-by", "finalized_at", "--state", "running"),
        ("job", "list", "--lim", "5"),
        ("job", "list", "--statement-timeout", "-1"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_status_2_and_told_in_one_line(command: Command, arguments: tuple[str, ...]) -> None:
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("river-fast")]) == 1


def test_a_statement_that_takes_too_long_is_given_up(command: Command, conn: psycopg.Connection, schema: str) -> None:
    insert(conn)
    with psycopg.connect(conn.info.dsn, password=conn.info.password or None) as other:
        other.execute(f'LOCK TABLE "{schema}".river_job IN ACCESS EXCLUSIVE MODE')
        status, out, err = command("job", "list", "--statement-timeout", "0.05")
    assert (status, out) == (1, "")
    assert "57014" in err
    assert command("job", "list", "--statement-timeout", "0")[0] == 0


def test_a_schema_that_is_not_migrated_is_told_with_the_remedy(
    dsn: str, empty_schema: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--database-url", dsn, "--schema", empty_schema, "job", "list"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "migrate-up" in err
    assert len(err.splitlines()) == 1
