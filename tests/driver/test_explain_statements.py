"""Every statement in `sql/` is one that the server accepts: parsed, its tables, columns and functions found.

Nothing is executed; a statement that no other test happens to reach must not be read for the first time in production.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.pq import ExecStatus

from river_fast.driver.psycopg import SQL, PsycopgDriver, sql_text
from river_fast.migrate import Migrator
from tests.fix_plans import Table, drop_table, make_table

STATEMENTS = sorted(path.stem for path in SQL.glob("*.sql"))
# Where the text leaves a parameter's type open, psycopg says it: indeterminate datatype, ambiguous function
OPEN_TYPES = ("42P18", "42725")


def numbered(text: str) -> str:
    """`%(name)s` as `$n`, as psycopg sends it."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return re.sub(r"%\((\w+)\)s", number, text).replace("%%", "%")


def commands(text: str) -> list[str]:
    """One text may hold several commands, each on lines of its own."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).replace("@identifier@", '"river_job_kind"')
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return [command for command in re.split(r";\s*(?:\n|\Z)", code) if command.strip()]


def forms(name: str, schema: str) -> list[str]:
    """With each kind of line that begins with `--word`, and without any."""
    words = sorted(set(re.findall(r"^--(\w+) ", sql_text(name, schema), re.MULTILINE)))
    return [sql_text(name, schema, ()), *(sql_text(name, schema, (word,)) for word in words)]


@pytest.fixture(scope="module")
def table(dsn: str) -> Iterator[Table]:
    made = make_table(dsn, "small", 0)
    driver = PsycopgDriver(dsn, made.schema)
    Migrator(driver, "fast").migrate_up()
    driver.close()
    yield made
    drop_table(made)


@pytest.fixture
def conn(table: Table) -> Iterator[psycopg.Connection]:
    """With the completer's staging table, which some statements name."""
    with psycopg.connect(table.dsn, autocommit=True) as conn:
        conn.execute(sql_text("outcome_staging", table.schema))
        yield conn


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_is_accepted_by_the_server(conn: psycopg.Connection, table: Table, name: str) -> None:
    for form in forms(name, table.schema):
        for command in commands(numbered(form)):
            result = conn.pgconn.prepare(b"", command.encode(), None)
            accepted = result.status == ExecStatus.COMMAND_OK
            sqlstate = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
            assert accepted or sqlstate in OPEN_TYPES, f"{result.error_message.decode()}\n{command}"


def test_a_statement_with_a_misspelt_column_is_not_accepted(conn: psycopg.Connection, table: Table) -> None:
    text = sql_text("job_get_available", table.schema).replace("scheduled_at", "sheduled_at")
    assert conn.pgconn.prepare(b"", text.encode(), None).status == ExecStatus.FATAL_ERROR


def test_hot_connections_never_scan_a_table_sequentially_and_never_compile(table: Table) -> None:
    driver = PsycopgDriver(table.dsn, table.schema)
    try:
        for role in ("fetcher", "completer"):
            with psycopg.connect(driver.hot_conninfo(role).decode(), autocommit=True) as hot:
                hot.execute(driver.hot_setup(role))
                for setting in ("enable_seqscan", "jit"):
                    assert hot.execute(f"SHOW {setting}").fetchone() == ("off",), (role, setting)
    finally:
        driver.close()
