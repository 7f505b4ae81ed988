"""The completer's service: what the executor and the stop see of it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from river_fast._ext import completer as compiled
from river_fast.completer import STATEMENTS, Completer, completer_statements
from river_fast.driver.psycopg import SQL, PsycopgDriver
from river_fast.job_set_state import JobSetState
from tests.ext.completer_rig import RING, Claim, claims_of, error_entry, row, start_jobs, states, until
from tests.stress import hammer

Conn = psycopg.Connection[Any]


@pytest.fixture
def driver(dsn: str, schema: str) -> Iterator[PsycopgDriver]:
    made = PsycopgDriver(dsn, schema)
    yield made
    made.close()


@contextmanager
def running(driver: PsycopgDriver, **options: Any) -> Iterator[Completer]:
    completer = Completer(driver, **options)
    completer.start()
    try:
        yield completer
    finally:
        completer.close(30)


class Row:
    """A fetched row, as far as `give_up` looks."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self.claim = claim.address


def test_push_maps_every_part_of_an_outcome(driver: PsycopgDriver, conn: Conn) -> None:
    claims = start_jobs(conn, 3, attempt="2")
    with running(driver) as completer:
        assert completer.push_completed(claims[0].address) == compiled.PUSHED
        completer.push(claims[1].address, JobSetState.error_retryable(1.5e6, error_entry(), b'{"a":1}'))
        completer.try_push(claims[2].address, JobSetState.interrupted())
        assert completer.close(30) == []
    assert row(conn, claims[0].id)["state"] == "completed"
    stored = row(conn, claims[1].id)
    assert (stored["state"], stored["metadata"], len(stored["errors"])) == ("retryable", {"a": 1}, 1)
    assert row(conn, claims[2].id)["attempt"] == 1


@pytest.mark.parametrize("delay", [1e300, 1e12, 3.2e9])
def test_delay_beyond_what_a_timestamp_holds_becomes_a_hundred_years(
    driver: PsycopgDriver, conn: Conn, delay: float
) -> None:
    (claim,) = start_jobs(conn, 1)
    with running(driver) as completer:
        completer.push(claim.address, JobSetState.error_retryable(delay, error_entry()))
        assert completer.close(30) == []
    found = conn.execute("SELECT extract(year FROM scheduled_at) - extract(year FROM now()) FROM river_job")
    (years,) = found.fetchone() or ()
    assert 99 <= years <= 101


def test_push_async_awaits_room_and_leaves_the_loop_free(driver: PsycopgDriver, conn: Conn) -> None:
    claims = start_jobs(conn, RING + 2)
    completer = Completer(driver)  # not started: its ring fills up

    async def main() -> None:
        for claim in claims[:RING]:
            assert await completer.push_async(claim.address, None) == compiled.PUSHED
        late = [
            asyncio.create_task(completer.push_async(claims[RING].address, None)),
            asyncio.create_task(completer.push_async(claims[RING + 1].address, JobSetState.discarded(error_entry()))),
        ]
        for _ in range(3):
            await asyncio.sleep(0)  # the loop runs
        assert not any(task.done() for task in late)
        late[0].cancel()  # too late for a job that has ended: its outcome is still owed
        completer.start()
        assert await asyncio.wait_for(asyncio.gather(*late), 20) == [compiled.PUSHED] * 2

    asyncio.run(main())
    assert completer.close(30) == []
    assert states(conn) == {"completed": RING + 1, "discarded": 1}


def test_push_async_on_a_closed_completer_returns_closed(driver: PsycopgDriver, conn: Conn) -> None:
    (claim,) = start_jobs(conn, 1)
    completer = Completer(driver)
    assert completer.close(0) == []
    assert asyncio.run(completer.push_async(claim.address, None)) == compiled.CLOSED


def test_given_up_job_goes_back_and_its_later_outcome_is_refused(driver: PsycopgDriver, conn: Conn) -> None:
    (claim,) = start_jobs(conn, 1, attempt="3")
    (later,) = claims_of(conn)
    with running(driver) as completer:
        completer.give_up(Row(claim), JobSetState.interrupted())
        until(lambda: states(conn) == {"available": 1})
        completer.push_completed(later.address)
        until(lambda: not completer.pending())
    stored = row(conn, claim.id)
    assert (stored["state"], stored["attempt"], stored["errors"]) == ("available", 2, None)


def test_close_reports_what_could_not_be_written(driver: PsycopgDriver, conn: Conn) -> None:
    claims = start_jobs(conn, 2)
    with psycopg.connect(driver.conninfo("locker"), options=f"-c search_path={driver.schema}") as locker:
        locker.execute("SELECT 1 FROM river_job FOR UPDATE")
        completer = Completer(driver)
        completer.start()
        completer.push_completed(claims[0].address)
        completer.push(claims[1].address, JobSetState.error_retryable(60, error_entry()))
        until(lambda: completer.stats()["set_aside"] >= 2)
        began = time.monotonic()
        lost = completer.close(0.3)
        assert time.monotonic() - began < 20
    assert [(one.job_id, one.attempt, one.outcome) for one in lost] == [
        (claims[0].id, 1, "completed"), (claims[1].id, 1, "failed"),
    ]  # fmt: skip
    assert all(one.reason for one in lost)
    assert completer.close(0) == lost, "a second close says the same"


def test_back_pressure_reaches_the_fetcher(driver: PsycopgDriver, conn: Conn) -> None:
    claims = start_jobs(conn, 10_000)
    holds: list[bool] = []
    completer = Completer(driver, on_hold=holds.append)
    for claim in claims:
        completer.push_completed(claim.address)
    completer.start()
    until(lambda: holds == [True, False])
    assert completer.close(20) == []


def test_callback_that_raises_costs_neither_outcomes_nor_later_calls(
    driver: PsycopgDriver, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    claims = start_jobs(conn, 10_000)
    holds: list[bool] = []

    def hold(on: bool) -> None:
        holds.append(on)
        raise RuntimeError("no")

    completer = Completer(driver, on_hold=hold)
    for claim in claims:
        completer.push_completed(claim.address)
    completer.start()
    until(lambda: holds == [True, False])
    assert completer.close(20) == []
    assert states(conn) == {"completed": 10_000}


def test_fenced_outcomes_are_logged_and_nothing_else_is(
    driver: PsycopgDriver, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    good, fenced = start_jobs(conn, 2)
    with caplog.at_level(logging.INFO, "river_fast.completer"):
        with running(driver) as completer:
            completer.push_completed(good.address)
            until(lambda: not completer.pending())
        assert [record for record in caplog.records if record.name.startswith("river_fast")] == []
        conn.execute("UPDATE river_job SET attempt = 9 WHERE id = %s", (fenced.id,))
        with running(driver) as completer:
            completer.push_completed(fenced.address)
            until(lambda: not completer.pending())
    (record,) = [record for record in caplog.records if record.name == "river_fast.completer"]
    assert record.levelno == logging.WARNING
    assert f"job {fenced.id}" in record.getMessage()


def test_wrong_password_is_never_logged(driver: PsycopgDriver, caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2hunter2"

    class Wrong(PsycopgDriver):
        def hot_conninfo(self, role: str) -> bytes:
            return psycopg.conninfo.make_conninfo("", host="127.0.0.1", port=1, password=secret).encode()

    wrong = Wrong(driver.conninfo("test"), driver.schema)
    with caplog.at_level(logging.DEBUG), running(wrong):
        until(lambda: [record for record in caplog.records if "cannot connect" in record.getMessage()])
    wrong.close()
    assert secret not in caplog.text


def test_statements_are_texts_of_sql_with_their_forms(driver: PsycopgDriver) -> None:
    texts = completer_statements(driver)
    assert set(texts) == set(STATEMENTS)
    for name, (file, *forms) in STATEMENTS.items():
        assert (SQL / f"{file}.sql").exists(), name
        assert b"@schema@" not in texts[name]
        assert b"@" not in texts[name]
        plain = driver.statement_text(file)
        for form in forms:
            line = b"\n--%s " % form.encode()
            assert line in plain, f"{file} has no form {form}"
            assert line not in texts[name]
        assert (texts[name] == plain) is (not forms)
    assert b"\n--unlocked " in texts["job_set_state_many_rows"]
    assert b"\n--rows " in texts["job_set_state_many_unlocked"]


def test_service_stands_starts_and_stops_from_all_sides(driver: PsycopgDriver) -> None:
    hammer(lambda: Completer(driver))
    until(lambda: not [one for one in threading.enumerate() if one.name.startswith("river_fast.completer")])


def test_double_close_from_many_threads_is_one_close(driver: PsycopgDriver, conn: Conn) -> None:
    claims = start_jobs(conn, 500)
    completer = Completer(driver)
    completer.start()
    for claim in claims:
        completer.push_completed(claim.address)
    reports: list[Any] = []
    threads = [threading.Thread(target=lambda: reports.append(completer.close(20))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert reports == [[]] * 10
    assert states(conn) == {"completed": 500}


def test_completer_without_a_thread_for_its_relief_goes_on_alone(
    driver: PsycopgDriver, conn: Conn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "river_fast.completer.relief":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    claims = start_jobs(conn, 3)
    with running(driver) as completer:
        for claim in claims:
            completer.push_completed(claim.address)
        assert completer.close(30) == []
    assert states(conn) == {"completed": 3}
    assert "without its relief" in caplog.text
