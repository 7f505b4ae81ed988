"""The migrator in bad company: rivals, crashes, locks, missing rights; the schema is left at a whole version."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest
from psycopg import sql

from river_fast.errors import DatabaseError, MigrationError
from river_fast.migrate import EVERYTHING, Migrator
from tests.fix_migrate import RIVERS, UP, acting_as, admin, described, made_role, migrator, migrator_of, versions

__all__ = ["admin", "migrator"]


def test_two_at_once_do_the_work_of_one(dsn: str, admin: psycopg.Connection[Any], empty_schema: str) -> None:
    done: list[int] = []
    failures: list[BaseException] = []
    gate = threading.Barrier(6)

    def migrate() -> None:
        try:
            with migrator_of(dsn, empty_schema) as migrator:
                gate.wait(30)
                done.extend(versions(migrator.migrate_up()))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert sorted(done) == UP, "each version by one of them"
    assert described(admin, empty_schema) == RIVERS["up 8"]


def test_up_and_down_at_once_leave_a_whole_version(dsn: str, admin: psycopg.Connection[Any], empty_schema: str) -> None:
    failures: list[BaseException] = []
    deadline = time.monotonic() + 2

    def walk(way: str) -> None:
        with migrator_of(dsn, empty_schema) as migrator:
            while time.monotonic() < deadline:
                try:
                    if way == "up":
                        migrator.migrate_up()
                    else:
                        migrator.migrate_down(target_version=EVERYTHING)
                except MigrationError:
                    continue  # the other one went the other way: told, and nothing done
                except BaseException as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=walk, args=(way,)) for way in ("up", "down", "up", "down")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    with migrator_of(dsn, empty_schema) as migrator:
        applied = migrator.existing_versions()
        assert applied == UP[: len(applied)]
        migrator.migrate_up()
    assert described(admin, empty_schema) == RIVERS["up 8"]


def test_a_migration_killed_in_the_middle_leaves_the_version_before_it(
    dsn: str, admin: psycopg.Connection[Any], migrator: Migrator, empty_schema: str
) -> None:
    migrator.migrate_up(target_version=3)
    failures: list[BaseException] = []

    def migrate() -> None:
        try:
            migrator.migrate_up()
        except BaseException as error:
            failures.append(error)

    with psycopg.connect(dsn) as blocker:
        # version 4 makes river_queue and changes river_job before it comes to the leader's table
        blocker.execute(f'LOCK TABLE "{empty_schema}".river_leader IN ACCESS SHARE MODE')
        thread = threading.Thread(target=migrate)
        thread.start()
        waiting = (
            "SELECT l.pid FROM pg_locks AS l WHERE NOT l.granted AND l.locktype = 'relation'"
            f" AND l.relation = '\"{empty_schema}\".river_leader'::regclass"
        )
        deadline = time.monotonic() + 30
        while (row := admin.execute(waiting).fetchone()) is None:
            assert time.monotonic() < deadline, "the migration did not come to its lock"
        admin.execute("SELECT pg_terminate_backend(%s)", row)
        thread.join(20)
    assert [type(error) for error in failures], "the kill was not noticed"
    assert isinstance(failures[0], DatabaseError)
    assert described(admin, empty_schema) == RIVERS["up 3"]
    assert versions(migrator.migrate_up()) == [4, 5, 6, 7, 8]
    assert described(admin, empty_schema) == RIVERS["up 8"]


def test_a_migration_waits_for_locks_longer_than_a_statement_of_ours_may(
    dsn: str, admin: psycopg.Connection[Any], empty_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from river_fast.driver import psycopg_session as driver_module

    settings = tuple((k, "1500" if k == "statement_timeout" else v) for k, v in driver_module.SESSION)
    monkeypatch.setattr(driver_module, "SESSION", settings)
    driver_module.session_sql.cache_clear()
    try:
        with migrator_of(dsn, empty_schema) as migrator:
            migrator.migrate_up(target_version=2)
            results: list[Any] = []
            with psycopg.connect(dsn) as blocker:
                blocker.execute(f'LOCK TABLE "{empty_schema}".river_job IN ACCESS SHARE MODE')
                thread = threading.Thread(target=lambda: results.extend(migrator.migrate_up()))
                thread.start()
                thread.join(3)
                assert thread.is_alive()
            thread.join(20)
        assert versions(results) == [3, 4, 5, 6, 7, 8]
    finally:
        driver_module.session_sql.cache_clear()


def test_half_made_objects_are_refused_and_left_alone(
    migrator: Migrator, admin: psycopg.Connection[Any], empty_schema: str
) -> None:
    admin.execute(f'CREATE TABLE "{empty_schema}".river_leader ()')
    with pytest.raises(MigrationError, match=r"cannot migrate up version 2 .*already exists.*42P07"):
        migrator.migrate_up()
    assert migrator.existing_versions() == [1]
    admin.execute(f'DROP TABLE "{empty_schema}".river_leader')
    assert described(admin, empty_schema) == RIVERS["up 1"], "all else of version 2 was rolled back"


def test_a_role_that_may_not_create_or_read_is_told_so(
    dsn: str, admin: psycopg.Connection[Any], empty_schema: str
) -> None:
    with made_role(admin) as role, migrator_of(acting_as(dsn, role), empty_schema) as migrator:
        with pytest.raises(MigrationError, match="GRANT USAGE ON SCHEMA"):
            migrator.migrate_up()
        admin.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(empty_schema), role))
        with pytest.raises(MigrationError, match=r"42501.*migrate as the owner"):
            migrator.migrate_up()
        assert described(admin, empty_schema) == RIVERS["down 0"]


def test_tables_of_another_owner_are_left_at_a_whole_version(
    dsn: str, admin: psycopg.Connection[Any], empty_schema: str, migrator: Migrator
) -> None:
    migrator.migrate_up(target_version=2)
    with made_role(admin) as role, migrator_of(acting_as(dsn, role), empty_schema) as other:
        admin.execute(
            sql.SQL("GRANT ALL ON SCHEMA {0} TO {1}; GRANT ALL ON ALL TABLES IN SCHEMA {0} TO {1}").format(
                sql.Identifier(empty_schema), role
            )
        )
        with pytest.raises(MigrationError, match=r"version 3 .*42501.*migrate as the owner"):
            other.migrate_up()
        with pytest.raises(MigrationError, match=r"version 2 .*42501"):
            other.migrate_down()
        admin.execute(
            sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA {} FROM {}").format(sql.Identifier(empty_schema), role)
        )
        with pytest.raises(MigrationError, match="42501"):
            other.validate()
    assert described(admin, empty_schema) == RIVERS["up 2"]


def test_a_server_that_is_not_there_stays_a_database_error() -> None:
    nowhere = migrator_of("host=127.0.0.1 port=1 dbname=x connect_timeout=2", "s")
    with nowhere as migrator, pytest.raises(DatabaseError):
        migrator.migrate_up()
