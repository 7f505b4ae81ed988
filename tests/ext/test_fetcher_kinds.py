"""The fetcher that asks for known kinds alone: what it sends, and its rest behind jobs of others."""

import logging

import pytest

from river_fast._ext import fetcher as compiled
from river_fast.driver import Capabilities
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.producer import STATEMENTS, fetcher_statements
from tests.ext.fetch_rig import Rig, insert, states, wait_for


def texts(dsn, schema, only_known, is_yugabyte=False):
    driver = PsycopgDriver(dsn, schema)
    try:
        return fetcher_statements(driver, Capabilities(150000, is_yugabyte), only_known)
    finally:
        driver.close()


@pytest.mark.parametrize("is_yugabyte", [False, True])
def test_without_the_option_no_statement_asks_for_kinds(dsn, schema, is_yugabyte):
    plain, known = (texts(dsn, schema, only_known, is_yugabyte) for only_known in (False, True))
    code = {name: b"\n".join(line for line in text.splitlines() if not line.startswith(b"--"))
            for name, text in plain.items()}
    assert not any(b"CASE WHEN kind" in text for text in code.values())
    changed = [name for name in STATEMENTS if plain[name] != known[name]]
    assert changed == ["job_get_available", "queue_poll"]
    for name in changed:
        lines = set(known[name].splitlines()) - set(plain[name].splitlines())
        assert len(lines) == 1, lines
        assert b"kind = ANY" in lines.pop()


def test_the_common_poll_finds_no_queue_whose_jobs_are_all_of_others(dsn, schema, conn):
    insert(conn, 1, queue="foreign", kind="foreign")
    insert(conn, 1, queue="ours")
    conn.pgconn.prepare(b"poll", texts(dsn, schema, True)["queue_poll"], None)
    execute = "EXECUTE poll(ARRAY['empty', 'foreign', 'ours'], {})"
    assert conn.execute(execute.format("ARRAY['plain', 'loop']")).fetchall() == [(3,)]
    assert conn.execute(execute.format("ARRAY[]::text[]")).fetchall() == []


def test_no_kinds_at_all_fetch_nothing(dsn, schema, conn):
    insert(conn, 3)
    with Rig(dsn, schema, statements=texts(dsn, schema, True), kinds=(), only_known=True) as rig:
        rig.queue()
        wait_for("a fetch", lambda: rig.stats("empty_fetches") >= 2)
    assert states(conn) == {"available": 3}
    assert rig.stats("fetch_errors") == 0


def test_kinds_of_any_spelling_are_sent_whole(dsn, schema, conn):
    kinds = ("a" * 127, "ä·ö", "x{y,\"z\"}", "NULL", "with space")
    for kind in kinds:
        insert(conn, 1, kind=kind)
    insert(conn, 1, kind="foreign")
    with Rig(dsn, schema, statements=texts(dsn, schema, True), kinds=kinds, only_known=True) as rig:
        queue = rig.queue()
        assert {rig.pop(queue).kind for _ in kinds} == set(kinds)
    assert states(conn) == {"running": len(kinds), "available": 1}


def test_one_that_walks_far_rests_and_says_so(dsn, schema, conn):
    """The way past a backlog of others, as a slow statement: it is asked again, and not at once."""
    insert(conn, 3, kind="foreign")
    slow = texts(dsn, schema, True)
    slow["job_get_available"] = slow["job_get_available"].replace(
        b"CASE WHEN kind", b"pg_sleep(0.05) IS NOT NULL AND CASE WHEN kind"
    )
    with Rig(dsn, schema, statements=slow, only_known=True) as rig:
        queue = rig.queue(fetch_poll_interval=0.01)
        wait_for("the warning", lambda: [text for *_, text in rig.notices if "not known here" in text])
        wait_for("more fetches", lambda: rig.stats("empty_fetches") >= 3)
        [(what, _, level, text)] = [notice for notice in rig.notices if "not known here" in notice[3]]
        assert (what, level) == (compiled.NOTICE, logging.WARNING)
        assert "queue default" in text
        insert(conn, 1, notify=True)
        assert rig.pop(queue).kind == "plain"
