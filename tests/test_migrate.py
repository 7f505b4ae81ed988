"""The migrator: River's catalogue at every version, targets and lines, and errors that say what to do."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import MigrationError, NotFoundError
from river_fast.migrate import EVERYTHING, Migrator, has_version, lines, require_migrated, require_version
from tests import catalogue
from tests.fix_migrate import RIVERS, UP, admin, described, made_schema, migrator, migrator_of, versions

__all__ = ["admin", "migrator"]

# The catalogue.


@pytest.mark.parametrize("pattern", ["t_{}", "Mixed Case {}", 'quo"te\'s {}', "order {}"])
def test_every_version_is_rivers_to_the_catalogue_up_and_down(
    dsn: str, admin: psycopg.Connection[Any], pattern: str
) -> None:
    with made_schema(admin, pattern.format(uuid.uuid4().hex[:8])) as schema, migrator_of(dsn, schema) as migrator:
        for way, version in catalogue.STEPS:
            if way == "up":
                migrator.migrate_up(target_version=version)
            else:
                migrator.migrate_down(target_version=version or EVERYTHING)
            assert described(admin, schema) == RIVERS[f"{way} {version}"], f"{way} {version}"
        assert versions(migrator.migrate_up()) == UP
        assert described(admin, schema) == RIVERS["up 8"], "a second time up"


def test_a_name_that_would_break_out_of_our_scripts_is_refused(dsn: str, admin: psycopg.Connection[Any]) -> None:
    with made_schema(admin, f"$river$ {uuid.uuid4().hex[:8]}") as schema, migrator_of(dsn, schema) as migrator:
        with pytest.raises(MigrationError, match="cannot be migrated"):
            migrator.migrate_up()
        assert described(admin, schema) == RIVERS["down 0"]


def test_the_description_can_tell_a_difference(admin: psycopg.Connection[Any], schema: str) -> None:
    assert described(admin, schema) == RIVERS["up 8"]
    changes = [
        ("columns", "ALTER TABLE {}.river_job ALTER COLUMN max_attempts SET DEFAULT 24"),
        ("relations", "ALTER TABLE {}.river_leader SET LOGGED"),
        ("constraints", "ALTER TABLE {}.river_queue RENAME CONSTRAINT river_queue_pkey TO other"),
        ("indexes", "DROP INDEX {}.river_job_args_index"),
        ("functions", "ALTER FUNCTION {}.river_job_state_in_bitmask STABLE"),
        ("sequences", "ALTER SEQUENCE {}.river_job_id_seq OWNED BY NONE"),
        ("types", "ALTER TYPE {}.river_job_state ADD VALUE 'new'"),
    ]
    for part, change in changes:
        admin.execute(sql.SQL(change).format(sql.Identifier(schema)))  # type: ignore[arg-type]
        assert described(admin, schema)[part] != RIVERS["up 8"][part], part


def test_bitmask_function_reads_each_states_bit(conn: psycopg.Connection[Any]) -> None:
    bits = ["scheduled", "running", "retryable", "pending", "discarded", "completed", "cancelled", "available"]
    rows = conn.execute(
        "SELECT mask::int, s::text, river_job_state_in_bitmask(mask::int::bit(8), s)"
        " FROM generate_series(0, 255) AS mask, unnest(enum_range(NULL::river_job_state)) AS s"
    ).fetchall()
    assert len(rows) == 256 * 8
    for mask, state, found in rows:
        assert found is bool(mask >> (7 - bits.index(state)) & 1), (mask, state)
    null = conn.execute("SELECT river_job_state_in_bitmask(NULL, 'running')").fetchone()
    assert null == (None,)


def test_trigger_of_the_first_versions_tells_of_available_jobs(
    dsn: str, admin: psycopg.Connection[Any], migrator: Migrator, empty_schema: str
) -> None:
    for _ in ("as made by version 2", "as made again by going back from version 4"):
        migrator.migrate_up(target_version=3)
        with psycopg.connect(dsn, autocommit=True) as listener:
            listener.execute("LISTEN river_insert")
            for state in ("scheduled", "available"):
                admin.execute(
                    sql.SQL("INSERT INTO {} (kind, max_attempts, queue, state) VALUES ('k', 1, %s, %s)").format(
                        sql.Identifier(empty_schema, "river_job")
                    ),
                    (empty_schema, state),
                )
            for notify in listener.notifies(timeout=30):
                told = json.loads(notify.payload)
                assert told in ({"queue": empty_schema}, {"queue": "default"}), told
                if told == {"queue": empty_schema}:
                    break
            else:
                pytest.fail("nothing was told")
        migrator.migrate_up(target_version=4)
        migrator.migrate_down()


def test_raw_insert_needs_args_and_kind_only(conn: psycopg.Connection[Any]) -> None:
    row = conn.execute(
        "INSERT INTO river_job (args, kind) VALUES ('{}', 'k')"
        " RETURNING state::text, attempt, max_attempts, priority, queue, tags, metadata, scheduled_at = created_at"
    ).fetchone()
    assert row == ("available", 0, 25, 1, "default", [], {}, True)


# Targets, steps, dry runs.


def test_results_name_each_step(migrator: Migrator) -> None:
    results = migrator.migrate_up()
    assert versions(results) == UP
    assert [result.name for result in results][:2] == ["create river migration", "initial schema"]
    assert all(result.duration > 0 for result in results)
    assert migrator.existing_versions() == UP


def test_up_goes_to_its_target_and_no_further(migrator: Migrator) -> None:
    assert versions(migrator.migrate_up(target_version=3)) == [1, 2, 3]
    assert migrator.migrate_up(target_version=3) == []
    assert migrator.migrate_up(target_version=2) == [], "applied already: nothing, though later ones are pending"
    assert versions(migrator.migrate_up(max_steps=2)) == [4, 5]
    assert versions(migrator.migrate_up(target_version=8, max_steps=1)) == [6]
    assert migrator.migrate_up(max_steps=0) == migrator.migrate_up(max_steps=-1) == []
    assert versions(migrator.migrate_up()) == [7, 8]
    assert migrator.migrate_up() == []


def test_down_goes_one_step_or_to_just_after_its_target(migrator: Migrator) -> None:
    assert migrator.migrate_down() == []
    migrator.migrate_up()
    assert versions(migrator.migrate_down()) == [8]
    assert versions(migrator.migrate_down(target_version=5)) == [7, 6]
    assert migrator.migrate_down(target_version=5) == []
    assert versions(migrator.migrate_down(max_steps=2)) == [5, 4]
    assert versions(migrator.migrate_down(target_version=EVERYTHING, max_steps=1)) == [3]
    assert versions(migrator.migrate_down(target_version=EVERYTHING)) == [2, 1]
    assert migrator.existing_versions() == []


def test_dry_run_says_what_would_be_done_and_does_nothing(
    migrator: Migrator, admin: psycopg.Connection[Any], empty_schema: str
) -> None:
    results = migrator.migrate_up(dry_run=True)
    assert (versions(results), {result.duration for result in results}) == (UP, {0.0})
    assert described(admin, empty_schema) == RIVERS["down 0"]
    migrator.migrate_up()
    assert versions(migrator.migrate_down(target_version=6, dry_run=True)) == [8, 7]
    assert described(admin, empty_schema) == RIVERS["up 8"]


@pytest.mark.parametrize("target", [0, 9, 999, -2])
def test_a_version_that_does_not_exist_is_refused_and_changes_nothing(
    migrator: Migrator, admin: psycopg.Connection[Any], empty_schema: str, target: int
) -> None:
    migrator.migrate_up(target_version=6)
    for migrate in (migrator.migrate_up, migrator.migrate_down, migrator.validate):
        with pytest.raises(MigrationError, match=f"has no version {target}; there are 1 to 8"):
            migrate(target_version=target)
    with pytest.raises(MigrationError, match="max_steps"):
        migrator.migrate_up(max_steps=-2)
    assert described(admin, empty_schema) == RIVERS["up 6"]


def test_down_to_a_version_that_is_not_applied_is_refused(migrator: Migrator) -> None:
    migrator.migrate_up(target_version=4)
    with pytest.raises(MigrationError, match="version 6 of line main is not applied"):
        migrator.migrate_down(target_version=6)
    assert migrator.existing_versions() == [1, 2, 3, 4]


def test_a_version_left_out_is_filled_in(migrator: Migrator, admin: psycopg.Connection[Any], empty_schema: str) -> None:
    migrator.migrate_up()
    admin.execute(
        sql.SQL("DELETE FROM {} WHERE version = 8").format(sql.Identifier(empty_schema, "river_migration"))
    )
    assert migrator.validate().messages == ("Unapplied migrations: [8]",)
    assert versions(migrator.migrate_up()) == [8]


# Validation.


def test_validate_lists_what_is_missing_up_to_the_target(migrator: Migrator) -> None:
    assert migrator.validate().messages == ("Unapplied migrations: [1 2 3 4 5 6 7 8]",)
    migrator.migrate_up(target_version=6)
    assert migrator.validate().messages == ("Unapplied migrations: [7 8]",)
    assert not migrator.validate().ok
    assert migrator.validate(target_version=6).ok
    assert migrator.validate(target_version=7).messages == ("Unapplied migrations: [7]",)
    migrator.migrate_up()
    assert migrator.validate() == migrator.validate(target_version=8)
    assert migrator.validate().ok


def test_require_migrated_names_the_command(dsn: str, migrator: Migrator, empty_schema: str) -> None:
    driver = PsycopgDriver(dsn, empty_schema)
    try:
        for target in (None, 3, 7):
            if target is not None:
                migrator.migrate_up(target_version=target)
            with pytest.raises(MigrationError, match=f"run: river-fast migrate-up --schema {empty_schema}"):
                require_migrated(driver)
        migrator.migrate_up()
        require_migrated(driver)
    finally:
        driver.close()


def test_a_missing_schema_is_named_with_the_commands(dsn: str) -> None:
    with migrator_of(dsn, "no_such_schema") as migrator:
        for act in (migrator.migrate_up, migrator.migrate_down, migrator.validate, migrator.existing_versions):
            with pytest.raises(MigrationError, match=r'CREATE SCHEMA "no_such_schema".*river-fast migrate-up --schema'):
                act()


def test_a_schema_from_the_connections_search_path_is_migrated(
    dsn: str, admin: psycopg.Connection[Any], empty_schema: str
) -> None:
    with migrator_of(make_conninfo(dsn, options=f"-c search_path={empty_schema}"), None) as migrator:
        migrator.migrate_up()
    assert described(admin, empty_schema) == RIVERS["up 8"]


def test_a_temporary_search_path_object_is_never_taken_for_rivers(
    dsn: str, admin: psycopg.Connection[Any], schema: str, migrator: Migrator
) -> None:
    """The book of another schema, first on the search_path, is not ours."""
    with made_schema(admin, f"t_{uuid.uuid4().hex[:8]}") as other:
        with migrator_of(make_conninfo(dsn, options=f"-c search_path={schema}"), other) as migrator:
            assert migrator.existing_versions() == []
            assert versions(migrator.migrate_up()) == UP
        assert described(admin, other) == RIVERS["up 8"]


# Versions and lines.


def test_get_version_gives_sql_with_the_schema_filled_in(migrator: Migrator, empty_schema: str) -> None:
    migration = migrator.get_version(2)
    assert (migration.line, migration.version, migration.name) == ("main", 2, "initial schema")
    assert f'CREATE TABLE "{empty_schema}".river_job' in migration.sql_up
    assert f'DROP TABLE "{empty_schema}".river_job' in migration.sql_down
    assert [found.version for found in migrator.all_versions()] == UP
    assert not any("@" in found.sql_up + found.sql_down for found in migrator.all_versions())
    with pytest.raises(NotFoundError):
        migrator.get_version(9)


def test_the_sql_alone_makes_the_schema_where_another_tool_keeps_the_book(
    migrator: Migrator, admin: psycopg.Connection[Any], empty_schema: str
) -> None:
    for migration in migrator.all_versions()[1:]:
        admin.execute(migration.sql_up)
    ours, rivers = described(admin, empty_schema), RIVERS["up 8"]
    for part in rivers:
        without_book = {name: found for name, found in rivers[part].items() if not name.startswith("river_migration")}
        assert ours[part] == (without_book if part != "bookkeeping" else {}), part
    for migration in reversed(migrator.all_versions()[1:]):
        admin.execute(migration.sql_down)
    assert described(admin, empty_schema) == RIVERS["down 0"]


def test_columns_and_indexes_made_beforehand_are_taken(
    migrator: Migrator, admin: psycopg.Connection[Any], empty_schema: str
) -> None:
    migrator.migrate_up(target_version=4)
    admin.execute(f'ALTER TABLE "{empty_schema}".river_job ADD COLUMN unique_key bytea')
    admin.execute(
        f"CREATE UNIQUE INDEX CONCURRENTLY river_job_kind_unique_key_idx"
        f' ON "{empty_schema}".river_job (kind, unique_key) WHERE unique_key IS NOT NULL'
    )
    migrator.migrate_up()
    assert described(admin, empty_schema) == RIVERS["up 8"]


def test_an_unknown_line_is_refused_with_a_hint(dsn: str) -> None:
    driver = PsycopgDriver(dsn)
    with pytest.raises(MigrationError, match='line "mian" does not exist; did you mean "main"'):
        Migrator(driver, "mian")
    with pytest.raises(MigrationError, match="there are: fast, main"):
        Migrator(driver, "xyzzy")
    assert list(lines()["main"]) == UP


def test_versions_of_a_newer_release_are_tolerated(
    dsn: str, migrator: Migrator, admin: psycopg.Connection[Any], empty_schema: str
) -> None:
    migrator.migrate_up()
    admin.execute(f'INSERT INTO "{empty_schema}".river_migration (line, version) VALUES (\'main\', 9)')
    assert migrator.migrate_up() == []
    assert migrator.validate().ok
    assert migrator.existing_versions() == [*UP, 9]
    with pytest.raises(MigrationError, match=r"versions \[9\] .* newer release"):
        migrator.migrate_down()
    assert migrator.existing_versions() == [*UP, 9]


def test_main_below_5_is_refused_while_another_line_stands(
    migrator: Migrator, admin: psycopg.Connection[Any], empty_schema: str
) -> None:
    migrator.migrate_up()
    admin.execute(f'INSERT INTO "{empty_schema}".river_migration (line, version) VALUES (\'lean\', 1)')
    before = described(admin, empty_schema)
    for target in (4, 1, EVERYTHING):
        with pytest.raises(MigrationError, match=r"below version 5 .*lean.*migrate-down --line lean"):
            migrator.migrate_down(target_version=target)
    assert described(admin, empty_schema) == before, "not one step was taken"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):  # nor does the SQL by itself
        admin.execute(migrator.get_version(5).sql_down)
    assert versions(migrator.migrate_down(target_version=5)) == [8, 7, 6]


# The line `fast`, which is ours alone.


@pytest.fixture
def fast(dsn: str, migrator: Migrator, empty_schema: str) -> Iterator[Migrator]:
    """Main is migrated, `fast` is not."""
    migrator.migrate_up()
    driver = PsycopgDriver(dsn, empty_schema)
    yield Migrator(driver, "fast")
    driver.close()


def test_fast_goes_up_and_down_and_leaves_rivers_schema_as_it_was(
    migrator: Migrator, fast: Migrator, admin: psycopg.Connection[Any], empty_schema: str
) -> None:
    all_of_it = list(lines()["fast"])
    assert fast.existing_versions() == [], "migrate_up alone does main only"
    assert not fast.validate().ok
    assert versions(fast.migrate_up()) == all_of_it
    assert fast.validate().ok
    assert fast.migrate_up() == []
    assert migrator.existing_versions() == UP
    ours = described(admin, empty_schema)
    assert versions(fast.migrate_down()) == all_of_it[-1:]
    assert versions(fast.migrate_down(target_version=EVERYTHING)) == all_of_it[-2::-1]
    assert described(admin, empty_schema) == RIVERS["up 8"]
    fast.migrate_up()
    assert described(admin, empty_schema) == ours


def test_fast_needs_the_lines_of_main(dsn: str, empty_schema: str) -> None:
    driver = PsycopgDriver(dsn, empty_schema)
    try:
        with pytest.raises(MigrationError, match="line fast needs version 5 of line main; run: river-fast migrate-up"):
            Migrator(driver, "fast").migrate_up()
        Migrator(driver).migrate_up(target_version=4)
        with pytest.raises(MigrationError, match="line fast needs version 5 of line main"):
            Migrator(driver, "fast").migrate_up()
    finally:
        driver.close()


def test_main_goes_below_5_only_when_fast_has_gone(migrator: Migrator, fast: Migrator) -> None:
    fast.migrate_up()
    with pytest.raises(MigrationError, match="first run: river-fast migrate-down --line fast --target-version -1"):
        migrator.migrate_down(target_version=EVERYTHING)
    assert migrator.existing_versions() == UP
    fast.migrate_down(target_version=EVERYTHING)
    migrator.migrate_down(target_version=EVERYTHING)
    assert migrator.existing_versions() == []


def test_what_needs_fast_is_told_how_to_have_it(dsn: str, fast: Migrator, empty_schema: str) -> None:
    driver = PsycopgDriver(dsn, empty_schema)
    try:
        assert not has_version(driver, "fast", 1)
        command = f"run: river-fast migrate-up --line fast --schema {empty_schema}"
        with pytest.raises(MigrationError, match=f"^a thing needs version 1 of line fast, .*{command}"):
            require_version(driver, "fast", 1, "a thing")
        fast.migrate_up()
        assert has_version(driver, "fast", 1)
        require_version(driver, "fast", 1, "a thing")
    finally:
        driver.close()
