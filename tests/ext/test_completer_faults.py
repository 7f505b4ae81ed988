"""The completer against a server that refuses, locks, dies and lies: nothing is lost, nothing is recorded twice."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import psycopg
import pytest

from river_fast._ext import completer as compiled
from river_fast.completer import completer_statements
from river_fast.job_set_state import JobSetState
from tests.ext.completer_rig import Rig, error_entry, proxy, rig, row, start_jobs, states, until

both_forms = pytest.mark.parametrize("copy", [True, False], ids=["copy", "arrays"])
Conn = psycopg.Connection[Any]
MANY = 200


# ---- poison ----

POISON = {
    "NUL": JobSetState.discarded(b'{"at":"2026-01-01T00:00:00Z","attempt":1,"error":"a\\u0000b","trace":""}'),
    "surrogate": JobSetState.discarded(b'{"at":"2026-01-01T00:00:00Z","attempt":1,"error":"a\\ud800b","trace":""}'),
    "utf-8": JobSetState.discarded(b'{"at":"2026-01-01T00:00:00Z","attempt":1,"error":"a\xffb","trace":""}'),
    "30 MB": JobSetState.discarded(
        b'{"at":"2026-01-01T00:00:00Z","attempt":1,"error":"a' + b"x" * 30_000_000 + b'","trace":""}'
    ),
    "no JSON": JobSetState.discarded(b"{it is no JSON"),
    "no object": JobSetState.discarded(b'"text"'),
    "metadata NUL": JobSetState.completed(b'{"output":"a\\u0000b"}'),
    "metadata utf-8": JobSetState.completed(b'{"output":"a\xc3("}'),
    "metadata no object": JobSetState.completed(b"[1, 2]"),
    "metadata no JSON": JobSetState.completed(b'{"output":'),
    "metadata number": JobSetState.completed(b'{"output": 1e999999}'),
}
STORED = {"NUL": "a\\u0000b", "surrogate": "a\\ud800b", "utf-8": "a\\xffb"}


@both_forms
@pytest.mark.parametrize("peers", ["errors", "completed"])
@pytest.mark.parametrize("kind", POISON)
def test_poison_outcome_is_recorded_sanitised_and_the_other_4999_in_few_statements(
    dsn: str, schema: str, conn: Conn, copy: bool, peers: str, kind: str
) -> None:
    poison = POISON[kind]
    claims = start_jobs(conn, 5000)
    bad = claims.pop(2345)
    with rig(dsn, schema, copy=copy, started=False) as completer:
        for n, claim in enumerate(claims):
            if n == 2345:
                assert completer.push(bad, poison) == compiled.PUSHED
            if peers == "errors":
                completer.push(claim, JobSetState.error_retryable(60, error_entry(f"error {n}")))
            else:
                completer.complete([claim])
        completer.start()
        stats = completer.settled()
    sent = stats["copy_flushes"] + stats["array_flushes"] + stats["retries"]
    assert sent < 100, f"looked for in halves, not in each row by itself: {stats}"
    assert stats["recorded"] == 5000
    assert stats["rejected"] == 1
    stored = row(conn, bad.id)
    assert stored["state"] == poison.state
    if poison.error is not None:
        (entry,) = stored["errors"]
        assert len(json.dumps(entry)) < 20_000
        if kind in STORED:
            assert entry == {"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": STORED[kind], "trace": ""}
        elif kind == "30 MB":
            assert entry["error"] == "a" + "x" * (16 * 1024 - 1)
        else:
            assert "it is no JSON" in entry["error"] or "text" in entry["error"]
            assert entry["attempt"] == 1
    elif kind == "metadata NUL":
        assert stored["metadata"] == {"output": "a\\u0000b"}
    elif kind == "metadata utf-8":
        assert stored["metadata"] == {"output": "a\\xc3("}
    elif stored["metadata"] == {}:
        assert "metadata" in stored["errors"][0]["error"]


@both_forms
def test_many_poison_outcomes_in_one_flush_are_all_recorded(dsn: str, schema: str, conn: Conn, copy: bool) -> None:
    claims = start_jobs(conn, 1000)
    with rig(dsn, schema, copy=copy, started=False) as completer:
        for n, claim in enumerate(claims):
            completer.push(claim, POISON["NUL"] if n % 10 == 0 else JobSetState.discarded(error_entry()))
        completer.start()
        stats = completer.settled(60)
    assert states(conn) == {"discarded": 1000}
    assert (stats["recorded"], stats["rejected"]) == (1000, 100)


@both_forms
def test_outcomes_of_many_megabytes_are_split_over_statements(dsn: str, schema: str, conn: Conn, copy: bool) -> None:
    claims = start_jobs(conn, 12)
    output = b'{"output":"' + b"y" * 3_000_000 + b'"}'
    with rig(dsn, schema, copy=copy, started=False) as completer:
        for claim in claims:
            completer.push(claim, JobSetState.completed(output))
        completer.start()
        stats = completer.settled()
    assert stats["array_flushes"] >= 5
    assert conn.execute(
        "SELECT count(*) FROM river_job WHERE state = 'completed' AND length(metadata->>'output') = 3000000"
    ).fetchone() == (12,)


# ---- rows and servers that refuse ----


@both_forms
@pytest.mark.parametrize("sort", ["bare", "rich"])
def test_locked_row_holds_up_none_of_the_others_and_is_recorded_once_free(
    dsn: str, schema: str, conn: Conn, copy: bool, sort: str
) -> None:
    claims = start_jobs(conn, MANY)
    outcome = JobSetState.completed() if sort == "bare" else JobSetState.discarded(error_entry())
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as locker, rig(
        dsn, schema, copy=copy, started=False
    ) as completer:
        locker.execute("SELECT 1 FROM river_job WHERE id = %s FOR UPDATE", (claims[50].id,))
        for claim in claims:
            completer.complete([claim]) if sort == "bare" else completer.push(claim, outcome)
        completer.start()
        until(lambda: states(conn).get(outcome.state, 0) == MANY - 1)
        until(lambda: completer.stats()["set_aside"] >= 2)  # it is tried again, and waits again
        until(lambda: completer.compiled.pending(1) == [(claims[50].id, claims[50].attempted_at)])
        assert row(conn, claims[50].id)["state"] == "running"
        more = start_jobs(conn, MANY)
        completer.complete(more)  # flushes go on meanwhile
        until(lambda: states(conn).get("completed", 0) >= MANY)
        locker.rollback()
        stats = completer.settled()
    assert stats["recorded"] == 2 * MANY
    assert states(conn).get("running") is None


@both_forms
def test_locked_table_is_waited_for(dsn: str, schema: str, conn: Conn, copy: bool) -> None:
    claims = start_jobs(conn, MANY)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as locker, rig(dsn, schema, copy=copy) as completer:
        until(lambda: (compiled.CONNECTED, 1, "") in completer.attend())
        locker.execute("LOCK TABLE river_job IN SHARE MODE")
        completer.complete(claims)
        until(lambda: completer.stats()["retries"] >= 2)
        locker.rollback()
        assert completer.settled()["recorded"] == MANY
    assert states(conn) == {"completed": MANY}


TRIGGER = """
CREATE SEQUENCE refusals;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {condition} THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON river_job FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@both_forms
@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "53200", "57014", "55000", "42501", "58030"])
def test_passing_refusals_are_retried_and_every_outcome_is_recorded_once(
    dsn: str, schema: str, conn: Conn, copy: bool, sqlstate: str
) -> None:
    claims = start_jobs(conn, MANY)
    # sequences do not roll back: the first three statements fail
    conn.execute(TRIGGER.format(condition=f"nextval('{schema}.refusals') <= 3", sqlstate=sqlstate))
    with rig(dsn, schema, copy=copy, started=False) as completer:
        for claim in claims[:100]:
            completer.complete([claim])
        for claim in claims[100:]:
            completer.push(claim, JobSetState.discarded(error_entry()))
        completer.start()
        stats = completer.settled()
    assert states(conn) == {"completed": 100, "discarded": 100}
    assert stats["retries"] >= 3
    assert (stats["recorded"], stats["rejected"]) == (MANY, 0)
    assert conn.execute("SELECT max(array_length(errors, 1)) FROM river_job").fetchone() == (1,)


@both_forms
@pytest.mark.parametrize("mode", ["batch", "inline"])
def test_row_no_form_of_whose_outcome_is_accepted_waits_by_itself_until_it_is(
    dsn: str, schema: str, conn: Conn, copy: bool, mode: str
) -> None:
    claims = start_jobs(conn, MANY)
    stubborn = claims[77]
    conn.execute(TRIGGER.format(condition=f"NEW.id = {stubborn.id}", sqlstate="P0001"))
    with rig(dsn, schema, copy=copy, started=False, mode=mode) as completer:
        completer.complete(claims)
        completer.start()
        until(lambda: states(conn).get("completed", 0) == MANY - 1)
        until(lambda: completer.stats()["set_aside"] >= 1)
        until(lambda: completer.compiled.pending(1) == [(stubborn.id, stubborn.attempted_at)])
        conn.execute("DROP TRIGGER refuse ON river_job")
        completer.settled()
    assert row(conn, stubborn.id)["state"] == "completed"
    assert "P0001" in row(conn, stubborn.id)["errors"][0]["error"]


@both_forms
def test_outcome_that_was_never_accepted_is_told_at_the_end_with_its_reason(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    claims = start_jobs(conn, MANY)
    stubborn = claims[77]
    conn.execute(TRIGGER.format(condition=f"NEW.id = {stubborn.id}", sqlstate="P0001"))
    with rig(dsn, schema, copy=copy) as completer:
        completer.complete(claims)
        until(lambda: completer.stats()["set_aside"] >= 1)
        began = time.monotonic()
        (lost,) = completer.close(60.0)
        assert time.monotonic() - began < 40, "a stop does not wait for what nobody will mend"
    assert lost[:3] == (stubborn.id, 1, 0)
    assert "P0001" in lost[3]
    assert states(conn) == {"completed": MANY - 1, "running": 1}


def test_server_without_temp_tables_gets_the_array_form(dsn: str, schema: str, conn: Conn) -> None:
    made = Rig(dsn, schema)
    statements = completer_statements(made.driver) | {"outcome_staging": b"CREATE TEMPORARY TABLE pg_catalog.no ()"}
    made.compiled = compiled.Completer(
        conninfo=made.driver.hot_conninfo("completer"), setup=made.driver.hot_setup("completer"), statements=statements
    )
    made.thread = threading.Thread(target=made.compiled.run)
    claims = start_jobs(conn, 1200)
    made.start()
    made.complete(claims)
    stats = made.settled()
    assert made.close() == []
    assert (stats["recorded"], stats["copy_flushes"]) == (1200, 0)
    assert any("array form" in text for _, _, text in made.attend())


# ---- connections that are lost ----


@both_forms
@pytest.mark.parametrize("sort", ["bare", "rich"])
def test_reply_lost_after_the_commit_is_found_out_and_nothing_is_recorded_twice(
    dsn: str, schema: str, conn: Conn, copy: bool, sort: str
) -> None:
    claims = start_jobs(conn, MANY, attempt="2")
    rich = [
        JobSetState.error_retryable(60, error_entry()), JobSetState.snoozed(60, b'{"snoozes":1}'),
        JobSetState.interrupted(), JobSetState.completed(b'{"output":1}'),
    ]  # fmt: skip
    with proxy(dsn) as cutter, rig(dsn, schema, through=cutter.dsn, copy=copy, started=False) as completer:
        completer.compiled.want_rows(sort == "rich")
        for n, claim in enumerate(claims):
            completer.complete([claim]) if sort == "bare" else completer.push(claim, rich[n % 4])
        cutter.cut_after(b"UPDATE ")
        completer.start()
        stats = completer.settled()
        assert cutter.cuts == 1
        rows = [] if sort == "bare" else completer.compiled.take_recorded(1)
    assert stats["reconnects"] == 1
    assert (stats["recorded"], stats["fenced"], stats["gone"], stats["finished_elsewhere"]) == (MANY, 0, 0, 0)
    if sort == "bare":
        assert states(conn) == {"completed": MANY}
    else:
        quarter = MANY // 4
        assert states(conn) == {
            "retryable": quarter, "scheduled": quarter, "available": quarter, "completed": quarter,
        }  # fmt: skip
        assert rows is not None
        assert len(rows) == MANY, "each outcome is told once"
        assert conn.execute("SELECT count(*) FROM river_job WHERE array_length(errors, 1) > 1").fetchone() == (0,)
        assert conn.execute("SELECT min(attempt) FROM river_job").fetchone() == (1,)


@both_forms
def test_backend_killed_fifty_times_in_mid_load_loses_and_doubles_nothing(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    kills, batch = 50, 100
    with rig(dsn, schema, copy=copy) as completer:
        claims = start_jobs(conn, kills * batch)
        stop = threading.Event()
        killed: set[int] = set()

        def kill() -> None:
            with psycopg.connect(dsn, autocommit=True) as killer:
                while not stop.is_set() and len(killed) < kills:
                    pid = completer.backend(killer)
                    if pid is not None and pid not in killed:
                        killer.execute("SELECT pg_terminate_backend(%s)", (pid,))
                        killed.add(pid)
                    stop.wait(0.001)

        killer = threading.Thread(target=kill)
        killer.start()
        for n, claim in enumerate(claims):
            if n % 3 == 0:
                completer.push(claim, JobSetState.error_retryable(60, error_entry(f"{claim.id}")))
            else:
                completer.complete([claim])
            if n % batch == 0:  # a load that lasts as long as the killing does
                until(lambda n=n: len(killed) >= n // batch, 60, lambda: f"{len(killed)} kills")
        killer.join(60)
        stop.set()
        stats = completer.settled(60)
    assert len(killed) == kills
    assert stats["recorded"] == kills * batch
    assert stats["fenced"] == stats["gone"] == stats["finished_elsewhere"] == stats["rejected"] == 0
    retryable = (kills * batch + 2) // 3
    assert states(conn) == {"retryable": retryable, "completed": kills * batch - retryable}
    assert conn.execute(
        "SELECT count(*) FROM river_job WHERE state = 'retryable' AND array_length(errors, 1) = 1"
    ).fetchone() == (retryable,)


@both_forms
def test_outage_is_waited_out_and_everything_recorded_afterwards(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    with proxy(dsn) as link, rig(dsn, schema, through=link.dsn, copy=copy) as completer:
        claims = start_jobs(conn, MANY)
        until(lambda: (compiled.CONNECTED, 1, "") in completer.attend())
        link.down(True)
        completer.complete(claims)
        until(lambda: any(what == compiled.LOST for what, _, _ in completer.attend()))
        until(lambda: len(completer.compiled.pending(1) or []) == MANY)
        link.down(False)
        stats = completer.settled()
    assert stats["recorded"] == MANY
    assert states(conn) == {"completed": MANY}


@both_forms
def test_close_while_the_server_is_down_returns_by_the_deadline_and_lists_all(
    dsn: str, schema: str, conn: Conn, copy: bool
) -> None:
    claims = start_jobs(conn, 12_000)
    with proxy(dsn) as link:
        link.down(True)
        with rig(dsn, schema, through=link.dsn, copy=copy) as completer:
            completer.complete(claims)
            began = time.monotonic()
            lost = completer.close(1.0)
            assert time.monotonic() - began < 20
    assert sorted(entry[0] for entry in lost) == [claim.id for claim in claims]
    assert {entry[1:3] for entry in lost} == {(1, 0)}
    assert all("deadline" in entry[3] for entry in lost)
    assert states(conn) == {"running": 12_000}


def test_close_ends_a_statement_that_hangs(dsn: str, schema: str, conn: Conn) -> None:
    claims = start_jobs(conn, MANY)
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as locker:
        with rig(dsn, schema) as completer:
            until(lambda: (compiled.CONNECTED, 1, "") in completer.attend())
            locker.execute("LOCK TABLE river_job IN SHARE MODE")
            completer.complete(claims)
            until(lambda: completer.stats()["copy_flushes"] >= 1)
            began = time.monotonic()
            lost = completer.close(0.2)
            assert time.monotonic() - began < 20
        locker.rollback()
    assert len(lost) == MANY


def test_reconnects_come_at_most_twice_a_second(dsn: str, schema: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.settimeout(0.05)
        with rig(dsn, schema, through=psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=port)):
            accepted, began, took = 0, time.monotonic(), 0.0
            while took < 2.2 or (accepted < 2 and took < 30):
                try:
                    listener.accept()[0].close()
                    accepted += 1
                except TimeoutError:
                    pass
                took = time.monotonic() - began
    assert 2 <= accepted <= 2 * (1 + 2 * took)  # libpq tries once more without TLS for each attempt of ours
