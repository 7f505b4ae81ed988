"""The pytest plugin on projects of its users: schemas of each test's own, clients, and no cost where it is not used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import ConfigError
from river_fast.migrate import Migrator
from river_fast.migrate import lines as all_lines
from river_fast.testing.schema_supply import SchemaSupply
from tests.catalogue import describe

ROOT = Path(__file__).parent.parent
pytest_plugins = ["pytester"]

PROJECT = '''
from dataclasses import dataclass

import pytest

import river_fast as river
from river_fast.testing import require_inserted, require_not_inserted, work_job


@dataclass
class Email(river.JobArgs, kind="email"):
    to: str


workers = river.Workers()


@workers.work(Email)
def send(job):
    job.record_output(job.args.to)


@pytest.mark.parametrize("number", range(5))
def test_insert(river_client, river_schema, number, record_property):
    require_not_inserted(river_client, Email)
    river_client.insert(Email(str(number)))
    assert require_inserted(river_client, Email).args.to == str(number)
    assert river_client.schema == river_schema
    print("schema", river_schema)


def test_work(river_make_client, river_clock):
    result = work_job(river_make_client(workers), Email("a"), clock=river_clock)
    assert (result.output, result.job.finalized_at) == ("a", river_clock.now())


def test_run(river_make_client, river_conn):
    client = river_make_client(workers)
    with client:
        job = client.insert(Email("b")).job
        assert client.wait(job, 30).output == "b"
    assert river_conn.execute("SELECT state FROM river_job").fetchone() == ("completed",)


def test_client_left_running(river_make_client):
    river_make_client(workers).start()
'''


@pytest.fixture
def project(pytester: pytest.Pytester, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`project(text, *args)`: pytest run on a project of this one file."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(text: str, *args: str, url: bool = True) -> pytest.RunResult:
        pytester.makepyfile(test_project=text)
        given = (f"--river-database-url={dsn}",) if url else ()
        plugins = ("-p", "pytest_river_fast", "-p", "no:cacheprovider", "-p", "no:randomly")
        return pytester.runpytest_subprocess(*plugins, *given, *args, timeout=100)

    return run


def left(dsn: str, prefix: str = "river_test") -> list[str]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", [f"{prefix}_%"])
        return [row[0] for row in found]


def keys(output: str) -> set[str]:
    return set(re.findall(r"river_test_([0-9a-f]{8})_\d+", output))


def test_each_test_has_a_schema_of_its_own_and_none_is_left(project: Any, dsn: str) -> None:
    result = project(PROJECT, "-s")
    result.assert_outcomes(passed=8)
    schemas = re.findall(r"schema (river_test_\w+)", result.stdout.str())
    assert len(set(schemas)) == 5
    (key,) = keys(result.stdout.str())
    assert not [schema for schema in left(dsn) if key in schema]


def test_processes_of_one_run_do_not_meet(project: Any, dsn: str) -> None:
    """As pytest-xdist's workers: each is a session of its own."""
    pytest.importorskip("xdist")
    result = project(PROJECT, "-n", "2", "-rA")
    result.assert_outcomes(passed=8)
    found = keys(result.stdout.str())
    assert not [schema for schema in left(dsn) if any(key in schema for key in found)]


def test_two_runs_at_once_do_not_meet(pytester: pytest.Pytester, project: Any, dsn: str) -> None:
    pytester.makepyfile(test_project=PROJECT)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_river_fast", "-p", "no:cacheprovider",
               f"--river-database-url={dsn}", str(pytester.path)]  # fmt: skip
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    for run in runs:
        output, _ = run.communicate(timeout=100)
        assert run.returncode == 0, output


def test_the_embedded_server_serves_where_none_is_named(
    project: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("pg")
    monkeypatch.setenv("RIVER_FAST_PG_DATA", str(home))
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/not_looked_at")
    project(PROJECT, "-k", "test_insert", url=False).assert_outcomes(passed=5, deselected=3)
    assert not list(home.glob("*/data/postmaster.pid")), "the last one of the run stopped it"


def test_an_ini_value_names_the_server(project: Any, pytester: pytest.Pytester, dsn: str) -> None:
    pytester.makeini(f"[pytest]\nriver_database_url = {dsn}")
    text = "def test_url(river_database_url):\n    assert 'host' in river_database_url or '@' in river_database_url\n"
    project(text, url=False).assert_outcomes(passed=1)


def test_lines_may_be_more_than_main(project: Any, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\n\n@pytest.fixture(scope='session')\ndef river_migration_lines():\n    return ('main', 'fast')\n"
    )
    project(
        "def test_lines(river_conn):\n"
        "    found = river_conn.execute('SELECT DISTINCT line FROM river_migration ORDER BY 1').fetchall()\n"
        "    assert found == [('fast',), ('main',)]\n"
        "    river_conn.execute('SELECT FROM river_fast_client')\n"
    ).assert_outcomes(passed=1)


def test_a_server_that_is_not_there_is_said_in_each_test(project: Any) -> None:
    nowhere = "--river-database-url=postgresql://nobody@127.0.0.1:1/none"
    result = project(PROJECT, nowhere, "-k", "test_insert", url=False)
    result.assert_outcomes(errors=5, deselected=3)
    result.stdout.fnmatch_lines(["*connection failed*127.0.0.1*port 1*"])


def test_a_run_that_does_not_use_it_does_not_load_the_package(project: Any) -> None:
    result = project(
        "import sys\n\ndef test_nothing_is_loaded():\n"
        "    assert 'pytest_river_fast' in sys.modules\n"
        "    assert not [name for name in sys.modules if name.split('.')[0] in ('river_fast', 'psycopg')]\n"
    )
    result.assert_outcomes(passed=1)


# ---- the supply ----


@pytest.mark.parametrize("lines", [("main",), tuple(all_lines())], ids=["main", "all"])
def test_a_supplied_schema_is_as_the_migrator_makes_it(dsn: str, empty_schema: str, lines: tuple[str, ...]) -> None:
    supply = SchemaSupply(dsn, sorted(lines, key="main".__ne__), prefix="river_supply")
    migrated, driver = PsycopgDriver(dsn, empty_schema), PsycopgDriver(dsn, supply.take())
    try:
        for line in sorted(lines, key="main".__ne__):
            Migrator(migrated, line).migrate_up()
            assert Migrator(driver, line).validate().ok
            assert Migrator(driver, line).existing_versions() == Migrator(migrated, line).existing_versions()
        with psycopg.connect(dsn, autocommit=True) as conn:
            assert describe(conn, driver.schema) == describe(conn, empty_schema)
            for schema in (driver.schema, empty_schema):
                row = conn.execute(
                    "SELECT count(*) FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n"
                    " ON n.oid = relnamespace WHERE nspname = %s AND NOT tgisinternal", [schema]
                ).fetchone()  # fmt: skip
                assert row == (0,), "the text that makes a schema knows nothing of triggers yet"
    finally:
        driver.close()
        migrated.close()
        supply.close()


def test_schemas_of_a_run_that_was_killed_go_with_the_next_and_those_of_a_living_one_stay(dsn: str) -> None:
    prefix = "river_killed"
    killed = subprocess.run(
        [sys.executable, "-c", "import os, sys\nfrom river_fast.testing.schema_supply import SchemaSupply\n"
         "supply = SchemaSupply(sys.argv[1], prefix=sys.argv[2])\nprint(supply.take(), flush=True)\n"
         "os._exit(9)", dsn, prefix],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    dead = killed.stdout.strip()
    assert dead in left(dsn, prefix), killed.stderr
    living = SchemaSupply(dsn, prefix=prefix)
    name = living.take()
    other = SchemaSupply(dsn, prefix=prefix)
    try:
        other.take()
        found = left(dsn, prefix)
        assert name in found
        assert not [schema for schema in found if schema.rsplit("_", 1)[0] == dead.rsplit("_", 1)[0]]
    finally:
        other.close()
        living.close()
    assert left(dsn, prefix) == []
    living.close()
    with pytest.raises(ConfigError, match="is closed"):
        living.take()


def test_a_schema_that_is_held_is_left_and_said(dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr("river_fast.testing.schema_supply.DROP_TIMEOUT", "50ms")
    supply = SchemaSupply(dsn, prefix="river_held")
    name = supply.take()
    with psycopg.connect(dsn) as conn:
        conn.execute(f'SELECT FROM "{name}".river_job')
        supply.give_back(name)
        supply.close()
        assert f"the test schema {name} could not be dropped" in caplog.text
    assert left(dsn, "river_held") == [name]
    SchemaSupply(dsn, prefix="river_held").close()
    assert left(dsn, "river_held") == []


def test_lines_begin_with_main(dsn: str) -> None:
    with pytest.raises(ConfigError, match="begin with"):
        SchemaSupply(dsn, ("fast",))
