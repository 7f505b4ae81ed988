"""The command line: statuses, one line instead of a traceback, and what each command says and does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import psycopg
import pytest

from tests.fix_rows import wait_for_lock

ROOT = Path(__file__).parent.parent
NAMING = ("DATABASE_URL", "RIVER_FAST_DSN", "PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT", "PGUSER")
ELSEWHERE = {"DATABASE_URL": "host=127.0.0.1 port=1"}


def river_fast(
    *arguments: str | bytes, stdout: int | IO[Any] = subprocess.PIPE, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command where no database is named and no PostgreSQL found, unless the test says otherwise."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMING}
    return subprocess.run(
        [sys.executable, "-m", "river_fast", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**clean, "PYTHONPATH": str(ROOT), "RIVER_FAST_PG_BIN": "/nowhere", **(environment or {})},
        cwd="/",
        timeout=100,
        check=False,
    )


def answered(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


WRONG_USES = {
    "nothing": (),
    "unknown command": ("destroy-everything",),
    "url twice": ("validate", "--database-url", "a=b", "--database-url", "c=d"),
    "schema that is no name": ("validate", "--schema", "x;y"),
    "schema too long": ("validate", "--schema", "s" * 64),
    "abbreviated option": ("validate", "--data", "x"),
    "argv that is not UTF-8": ("validate", "--database-url", b"postgresql://\xff\xfe/x"),
    "command that is not UTF-8": (b"\xff",),
    "line that does not exist": ("migrate-up", "--line"),
    "steps below zero": ("migrate-up", "--max-steps", "-1"),
    "url that libpq refuses": ("validate", "--database-url", "nonsense"),
    "schema for the demo": ("demo", "--schema", "public"),
    "client without a colon": ("work", "module"),
    "client that cannot be imported": ("work", "no_such_module_here:client"),
    "no PostgreSQL at all": ("validate",),
}


@pytest.mark.parametrize("arguments", WRONG_USES.values(), ids=WRONG_USES)
def test_wrong_use_ends_with_status_2_and_one_line(arguments: tuple[str | bytes, ...]) -> None:
    done = river_fast(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("river-fast") and "error" in line]
    assert len(told) == 1 or len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("migrate-up", "--help"), ("work", "--help"), ("job", "list", "-h"), ("version",), ("--version",)],
    ids=" ".join,
)
def test_help_and_version_need_no_database(arguments: tuple[str, ...]) -> None:
    done = river_fast(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_reader_that_goes_away_is_no_error_of_ours() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody_reads:
        done = river_fast("version", stdout=nobody_reads)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_reader_that_goes_away_from_a_list_is_no_error_of_ours(dsn: str, schema: str, form: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody_reads:
        done = river_fast("queue", "list", "--database-url", dsn, "--schema", schema, *form, stdout=nobody_reads)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [("version",), ("version", "--json")], ids=" ".join)
def test_full_disk_is_told_in_one_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = river_fast(*arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "river-fast: No space left on device\n"


def test_json_is_utf_8_wherever_it_is_printed_and_text_what_the_terminal_can(dsn: str, schema: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f'INSERT INTO "{schema}".river_queue (name) VALUES (%s)', ["żółć"])
    where = ("--database-url", dsn, "--schema", schema)
    poor = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    told = answered(river_fast("queue", "list", "--json", *where, environment=poor))
    assert told["queues"][0]["name"] == "żółć"
    assert "\\u017c" in river_fast("queue", "list", *where, environment=poor).stdout


def test_closed_stdout_and_stderr_are_survived() -> None:
    command = f'"{sys.executable}" -m river_fast version >&- 2>&-'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["/bin/sh", "-c", command], env=environment, check=False).returncode == 0


def test_password_on_the_command_line_is_warned_of_and_never_repeated() -> None:
    for url in ("postgresql://me:hunter2@127.0.0.1:1/x", "host=127.0.0.1 port=1 password=hunter2"):
        done = river_fast("validate", "--database-url", url)
        assert done.returncode == 1
        assert "PGPASSFILE" in done.stderr
        assert "hunter2" not in done.stderr + done.stdout


def test_password_in_the_environment_is_not_warned_of() -> None:
    done = river_fast("validate", environment={"DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/x"})
    assert done.returncode == 1
    assert "PGPASSFILE" not in done.stderr
    assert "hunter2" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_verbose_shows_where_it_failed() -> None:
    done = river_fast("validate", "--verbose", "--database-url", "host=127.0.0.1 port=1")
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("name", ["RIVER_FAST_DSN", "DATABASE_URL"])
def test_database_is_named_by_the_environment(name: str, dsn: str, empty_schema: str) -> None:
    done = river_fast("validate", "--schema", empty_schema, "--json", environment={name: dsn})
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False


def test_migrate_goes_up_and_down_and_says_so(dsn: str, empty_schema: str) -> None:
    where = ("--database-url", dsn, "--schema", empty_schema)
    planned = answered(river_fast("migrate-up", "--dry-run", "--json", *where))
    assert [step["version"] for step in planned["versions"]] == list(range(1, 9))
    assert answered(river_fast("migrate-list", "--json", *where))["current"] == 0

    done = answered(river_fast("migrate-up", "--max-steps", "3", "--json", *where))
    assert [step["version"] for step in done["versions"]] == [1, 2, 3]
    assert river_fast("validate", *where).returncode == 1
    assert "migrated main up 004" in river_fast("migrate-up", *where).stdout
    assert river_fast("validate", *where).returncode == 0
    assert "nothing to do" in river_fast("migrate-up", *where).stdout

    listed = river_fast("migrate-list", *where).stdout.splitlines()
    assert len(listed) == 8
    assert [line for line in listed if line.startswith("*")] == [listed[-1]]

    down = answered(river_fast("migrate-down", "--json", *where))
    assert [step["version"] for step in down["versions"]] == [8]
    down = answered(river_fast("migrate-down", "--target-version", "-1", "--json", *where))
    assert [step["version"] for step in down["versions"]] == [7, 6, 5, 4, 3, 2, 1]
    assert answered(river_fast("migrate-down", "--target-version", "0", "--json", *where))["versions"] == []


def test_options_may_stand_before_the_command(dsn: str, empty_schema: str) -> None:
    done = river_fast("--json", "--database-url", dsn, "--schema", empty_schema, "migrate-list")
    assert answered(done)["current"] == 0


def test_a_line_of_our_own_is_asked_for_by_name(dsn: str, empty_schema: str) -> None:
    where = ("--database-url", dsn, "--schema", empty_schema)
    river_fast("migrate-up", *where)
    assert river_fast("validate", "--line", "fast", *where).returncode == 1, "migrate-up alone does main"
    assert "migrated fast up 001" in river_fast("migrate-up", "--line", "fast", *where).stdout
    assert river_fast("validate", "--line", "fast", *where).returncode == 0
    assert "001 client" in river_fast("migrate-list", "--line", "fast", *where).stdout
    assert "river_fast_client" in river_fast("migrate-get", "--line", "fast", "--all", "--up", *where).stdout
    refused = river_fast("migrate-down", "--target-version", "4", *where)
    assert refused.returncode == 1
    assert "migrate-down --line fast --target-version -1" in refused.stderr
    river_fast("migrate-down", "--line", "fast", "--target-version", "-1", *where)
    assert river_fast("migrate-down", "--target-version", "4", *where).returncode == 0


def test_migrate_get_prints_sql_for_other_tools(dsn: str, empty_schema: str) -> None:
    where = ("--database-url", dsn, "--schema", empty_schema)
    script = river_fast("migrate-get", "--all", "--exclude-version", "8", "--up", *where).stdout
    with psycopg.connect(dsn, autocommit=True) as conn:
        # version by version: PostgreSQL lets no transaction use an enum's value that it added itself
        for step in script.split("-- River main migration")[1:]:
            conn.execute(b"-- " + step.encode())
        found = conn.execute("SELECT to_regclass(%s) IS NOT NULL", [f"{empty_schema}.river_job"]).fetchone()
    assert found == (True,)
    down = river_fast("migrate-get", "--version", "2,3", "--down", *where).stdout
    assert down.index("003 [down]") < down.index("002 [down]")
    told = answered(river_fast("migrate-get", "--version", "2", "--up", "--json", *where))
    assert "river_job" in told[0]["sql"]


def test_ctrl_c_ends_a_command_that_waits_for_the_database(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    with psycopg.connect(dsn) as other:
        other.execute(f'LOCK TABLE "{schema}".river_job IN ACCESS EXCLUSIVE MODE')
        process = subprocess.Popen(
            [sys.executable, "-m", "river_fast", "job", "list", "--database-url", dsn, "--schema", schema],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_lock(conn)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_demo_works_real_jobs_and_leaves_them_to_be_looked_at(dsn: str) -> None:
    done = river_fast("demo", "--json", "--database-url", dsn, environment=ELSEWHERE)
    told = answered(done)
    assert told["states"] == {"completed": told["jobs"]}
    assert told["jobs"] > 4_000
    assert told["worked_per_s"] > 0
    assert told["failed_once"] > 0
    with psycopg.connect(dsn) as conn:
        kinds = conn.execute("SELECT DISTINCT kind FROM river_fast_demo.river_job ORDER BY kind").fetchall()
        retried = conn.execute("SELECT count(*) FROM river_fast_demo.river_job WHERE attempt = 2").fetchone()
    assert [kind for (kind,) in kinds] == ["demo_email", "demo_report", "demo_thumbnail"]
    assert retried == (told["failed_once"],)


def test_demo_does_not_look_at_database_url() -> None:
    done = river_fast("demo", environment=ELSEWHERE)
    assert done.returncode == 2
    assert "RIVER_FAST_PG_BIN=/nowhere" in done.stderr


def test_demo_refuses_to_run_beside_another(dsn: str) -> None:
    from river_fast.cli.demo import LOCK_KEY

    with psycopg.connect(dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
        done = river_fast("demo", "--database-url", dsn)
    assert done.returncode == 1
    assert "already" in done.stderr
