"""Concurrent single inserts: shared commits, and for each caller its own row, error or flag."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from river_fast import insert_combiner
from river_fast.config import Config
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import DatabaseError, InsertOutcomeUnknownError, UniqueConflictError
from river_fast.insert_combiner import LANES, AsyncInsertCombiner, InsertCombiner
from river_fast.insert_opts import InsertOpts, JobInsertResult, UniqueOpts
from river_fast.insert_params import InsertBatch
from river_fast.inserter import Inserter
from river_fast.job import Job
from tests.fix_inserter import EmailArgs, count, driver, inserter

__all__ = ["count", "driver", "inserter"]

UNIQUE = InsertOpts(unique=UniqueOpts(by_args=True))


def eventually(holds: Callable[[], object], what: str, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.002)


class Sender:
    """Stands where the database is: groups are sent when the test lets them go."""

    def __init__(self) -> None:
        self.groups: list[list[InsertBatch]] = []
        self.alone: list[InsertBatch] = []
        self.open = threading.Event()
        self.raises: list[BaseException] = []
        self.combiner = InsertCombiner(self.send, self.send_alone)

    def send(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        self.groups.append(list(batches))
        assert self.open.wait(20)
        if self.raises:
            raise self.raises.pop()
        return [result_of(batch) for batch in batches]

    def send_alone(self, batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        [batch] = batches
        self.alone.append(batch)
        return [result_of(batch)]

    def busy(self, pool: ThreadPoolExecutor) -> list[Any]:
        """Every lane taken by one insert each."""
        first = []
        for lane in range(LANES):
            first.append(pool.submit(self.combiner.insert, batch_of(-lane)))
            eventually(lambda taken=lane + 1: len(self.groups) == taken, "a lane taken")
        return first

    def gather(self, pool: ThreadPoolExecutor, number: int) -> list[Any]:
        """`number` more that find no lane."""
        calls = [pool.submit(self.combiner.insert, batch_of(index)) for index in range(number)]
        eventually(lambda: len(self.combiner._gathered) == number, "all gathered")
        return calls


def batch_of(number: int) -> InsertBatch:
    batch = InsertBatch()
    batch.args.append(str(number).encode())
    return batch


def result_of(batch: InsertBatch) -> JobInsertResult:
    return JobInsertResult(Job(batch.args[0]))  # type: ignore[arg-type]  # stands for the row


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(insert_combiner, "PATIENCE_S", 60.0)  # what gathers stays gathered, however busy the machine
    with ThreadPoolExecutor(64) as pool:
        yield pool


def test_inserts_gather_while_the_lanes_are_busy_and_go_as_one(pool: ThreadPoolExecutor) -> None:
    sender = Sender()
    first = sender.busy(pool)
    calls = sender.gather(pool, 20)
    sender.open.set()
    assert [call.result(20).job._row for call in calls] == [str(number).encode() for number in range(20)]
    assert all(call.result(20) for call in first)
    assert sorted(len(group) for group in sender.groups) == [1] * LANES + [20]
    assert sender.combiner._free == LANES


def test_a_refused_group_is_sent_one_by_one(pool: ThreadPoolExecutor) -> None:
    sender = Sender()
    first = sender.busy(pool)
    calls = sender.gather(pool, 20)
    sender.send = None  # type: ignore[assignment]
    sender.combiner._send = refuse_groups(sender)
    sender.open.set()
    assert all(call.result(20) for call in (*first, *calls))
    assert sorted(batch.args[0] for batch in sender.alone) == sorted(str(number).encode() for number in range(20))
    assert sender.combiner._free == LANES


def refuse_groups(sender: Sender) -> Callable[[Sequence[InsertBatch]], list[JobInsertResult]]:
    def send(batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        sender.groups.append(list(batches))
        raise DatabaseError("one of them breaks a rule", "23514")

    return send


def test_one_alone_gets_its_error_without_a_second_try() -> None:
    sender = Sender()
    sender.open.set()
    sender.raises = [UniqueConflictError("once")]
    with pytest.raises(UniqueConflictError, match="once"):
        sender.combiner.insert(batch_of(1))
    assert not sender.alone


def test_one_alone_that_waited_for_a_lock_tries_again_with_patience() -> None:
    sender = Sender()
    sender.open.set()
    sender.raises = [DatabaseError("canceling statement due to lock timeout", "55P03")]
    assert sender.combiner.insert(batch_of(1))
    assert len(sender.alone) == 1


@pytest.mark.parametrize(
    "error", [InsertOutcomeUnknownError("cut"), DatabaseError("no server"), KeyboardInterrupt()], ids=str
)
def test_what_the_whole_group_met_each_of_it_raises(error: BaseException, pool: ThreadPoolExecutor) -> None:
    sender = Sender()
    first = sender.busy(pool)
    calls = sender.gather(pool, 10)

    def send(batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
        raise error

    sender.combiner._send = send
    sender.open.set()
    raised = [call.exception(20) for call in calls]
    expected = DatabaseError if isinstance(error, DatabaseError) else InsertOutcomeUnknownError
    leader_too = raised if not isinstance(error, KeyboardInterrupt) else [one for one in raised if one is not error]
    assert all(type(one) is expected for one in leader_too)
    assert len(leader_too) >= 9
    assert len(set(map(id, leader_too))) == len(leader_too), "each its own: tracebacks grow"
    assert not sender.alone, "what may have been committed is not sent again"
    assert all(call.result(20) for call in first)
    assert sender.combiner._free == LANES


def test_what_fails_after_the_commit_is_not_sent_again(
    driver: PsycopgDriver, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inserter = Inserter(driver, Config().checked())
    failed = RuntimeError("after the commit")

    def fail(plan: Any) -> None:
        raise failed

    async def run() -> list[Any]:
        try:
            return await asyncio.gather(
                *(inserter.insert_async(EmailArgs(number)) for number in range(20)), return_exceptions=True
            )
        finally:
            await driver.close_async()

    monkeypatch.setattr(inserter, "_acknowledged", fail)
    raised = asyncio.run(run())
    assert count() == 20
    assert all(one is failed or type(one) is InsertOutcomeUnknownError for one in raised)
    with pytest.raises(RuntimeError):
        inserter.insert(EmailArgs("one"))
    assert count() == 21


def test_lanes_that_hang_hold_nobody_up(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insert_combiner, "PATIENCE_S", 0.05)
    sender = Sender()
    first = sender.busy(pool)
    calls = [pool.submit(sender.combiner.insert, batch_of(number)) for number in range(20)]
    assert all(call.result(20) for call in calls)
    assert len(sender.alone) == 20
    sender.open.set()
    assert all(call.result(20) for call in first)


def test_whoever_is_interrupted_leaves_the_others_their_way(pool: ThreadPoolExecutor) -> None:
    sender = Sender()
    first = sender.busy(pool)
    interrupted = threading.Event()

    class Struck(insert_combiner._Call):
        """Interrupted as it wakes up, elected to send the group."""

    def struck() -> None:
        call = Struck(batch_of(99))
        sender.combiner._gathered.append(call)
        wake = call.wake

        class Wake:
            def acquire(self, timeout: float) -> bool:
                assert wake.acquire(timeout=timeout)
                interrupted.set()
                raise KeyboardInterrupt

            def release(self) -> None:
                wake.release()

        call.wake = Wake()  # type: ignore[assignment]
        sender.combiner._wait(call)

    victim = pool.submit(struck)
    eventually(lambda: len(sender.combiner._gathered) == 1, "the victim first in line")
    calls = [pool.submit(sender.combiner.insert, batch_of(number)) for number in range(10)]
    eventually(lambda: len(sender.combiner._gathered) == 11, "the others behind it")
    sender.open.set()
    assert isinstance(victim.exception(20), KeyboardInterrupt)
    assert interrupted.is_set()
    assert all(call.result(20) for call in (*first, *calls))
    assert b"99" not in [batch.args[0] for group in sender.groups for batch in group], "never sent"
    eventually(lambda: sender.combiner._free == LANES, "the lanes are free again")


# On a real PostgreSQL


def many_at_once(inserter: Inserter, threads: int, each: int, opts: InsertOpts | None = None) -> list[JobInsertResult]:
    gate = threading.Barrier(threads)

    def insert(thread: int) -> list[JobInsertResult]:
        gate.wait(20)
        results = []
        for number in range(each):
            result = inserter.insert(EmailArgs(f"{thread}:{number}"), opts)
            assert result.job.args.to == f"{thread}:{number}", "its own row"
            results.append(result)
        return results

    with ThreadPoolExecutor(threads) as pool:
        return [result for found in pool.map(insert, range(threads)) for result in found]


@pytest.mark.parametrize("opts", [None, UNIQUE], ids=["plain", "unique"])
def test_many_threads_each_get_their_own_row(
    opts: InsertOpts | None, inserter: Inserter, count: Callable[[], int], conn: psycopg.Connection[Any]
) -> None:
    results = many_at_once(inserter, 32, 20, opts)
    assert len({result.job.id for result in results}) == count() == 640
    assert not any(result.unique_skipped_as_duplicate for result in results)
    [(commits,)] = conn.execute("SELECT count(DISTINCT xmin::text) FROM river_job").fetchall()
    assert commits < 640, "some shared a commit"


def test_many_tasks_each_get_their_own_row(inserter: Inserter, driver: PsycopgDriver, count: Callable[[], int]) -> None:
    async def run() -> list[JobInsertResult]:
        try:
            return await asyncio.gather(*(inserter.insert_async(EmailArgs(number)) for number in range(300)))
        finally:
            await driver.close_async()

    results = asyncio.run(run())
    assert [result.job.args.to for result in results] == list(range(300))
    assert len({result.job.id for result in results}) == count() == 300


def test_callers_with_one_key_get_one_row_and_one_of_them_made_it(
    inserter: Inserter, count: Callable[[], int]
) -> None:
    gate = threading.Barrier(32)

    def insert(number: int) -> list[JobInsertResult]:
        gate.wait(20)
        return [inserter.insert(EmailArgs(f"key {key}"), UNIQUE) for key in range(10)]

    with ThreadPoolExecutor(32) as pool:
        results = [result for found in pool.map(insert, range(32)) for result in found]
    assert count() == 10
    assert sum(not result.unique_skipped_as_duplicate for result in results) == 10
    by_key = {str(result.job.args.to): result.job.id for result in results}
    assert all(by_key[str(result.job.args.to)] == result.job.id for result in results)


def test_only_the_caller_with_the_bad_row_gets_an_error(
    inserter: Inserter, conn: psycopg.Connection[Any], count: Callable[[], int]
) -> None:
    conn.execute("ALTER TABLE river_job ADD CONSTRAINT no_bad CHECK (args->>'to' <> 'bad')")
    gate = threading.Barrier(32)

    def insert(number: int) -> JobInsertResult | DatabaseError:
        gate.wait(20)
        try:
            return inserter.insert(EmailArgs("bad" if number % 8 == 0 else f"good {number}"))
        except DatabaseError as error:
            return error

    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(insert, range(32)))
    for number, result in enumerate(results):
        if number % 8 == 0:
            assert isinstance(result, DatabaseError)
            assert result.sqlstate == "23514"
        else:
            assert isinstance(result, JobInsertResult)
            assert result.job.args.to == f"good {number}"
    assert count() == 28


def test_a_rivals_lock_holds_up_its_own_key_alone(
    inserter: Inserter, driver: PsycopgDriver, dsn: str, schema: str, count: Callable[[], int]
) -> None:
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as rival, ThreadPoolExecutor(33) as pool:
        mine = inserter.insert_tx(rival, EmailArgs("held"), UNIQUE)
        held = pool.submit(inserter.insert, EmailArgs("held"), UNIQUE)
        others = [pool.submit(inserter.insert, EmailArgs(f"free {number}"), UNIQUE) for number in range(32)]
        assert not any(other.result(20).unique_skipped_as_duplicate for other in others)
        assert not held.done(), "waits for the rival, as a single insert always did"
        rival.commit()
        result = held.result(20)
    assert result.unique_skipped_as_duplicate
    assert result.job.id == mine.job.id
    assert count() == 33
    with driver.autocommit() as executor:
        assert executor._conn.execute("SHOW lock_timeout").fetchone() == ("0",), "the group's limit was its own"


def test_a_cancelled_tasks_insert_is_not_sent_or_stands() -> None:
    async def run() -> None:
        groups: list[list[bytes]] = []
        gate = asyncio.Event()

        async def send(batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
            groups.append([batch.args[0] for batch in batches])
            await gate.wait()
            return [result_of(batch) for batch in batches]

        combiner = AsyncInsertCombiner(send, send)
        tasks = []
        for number in range(LANES):
            tasks.append(asyncio.create_task(combiner.insert(batch_of(number))))
            while len(groups) <= number:
                await asyncio.sleep(0)
        waiting = [asyncio.create_task(combiner.insert(batch_of(10 + number))) for number in range(5)]
        while len(combiner._gathered) < 5:
            await asyncio.sleep(0)
        waiting[2].cancel()
        tasks[0].cancel()
        gate.set()
        done = await asyncio.gather(*tasks, *waiting, return_exceptions=True)
        cancelled = [isinstance(one, asyncio.CancelledError) for one in done]
        assert cancelled == [True] + [False] * (LANES - 1) + [False, False, True, False, False]
        assert sorted(args for group in groups for args in group) == [b"0", b"1", b"10", b"11", b"13", b"14"]
        assert combiner._busy == 0
        assert await combiner.insert(batch_of(7))

    asyncio.run(run())


def test_tasks_of_a_refused_group_go_one_by_one_and_a_lost_one_is_told_to_all() -> None:
    async def run() -> None:
        errors: list[Exception] = []

        async def send(batches: Sequence[InsertBatch]) -> list[JobInsertResult]:
            if len(batches) > 1 and errors:
                raise errors.pop()
            return [result_of(batch) for batch in batches]

        combiner = AsyncInsertCombiner(send, send)
        errors.append(DatabaseError("refused", "23514"))
        found = await asyncio.gather(*(combiner.insert(batch_of(number)) for number in range(20)))
        assert [result.job._row for result in found] == [str(number).encode() for number in range(20)]
        assert not errors
        errors.append(InsertOutcomeUnknownError("cut"))
        raised = await asyncio.gather(
            *(combiner.insert(batch_of(number)) for number in range(20)), return_exceptions=True
        )
        assert all(type(one) is InsertOutcomeUnknownError for one in raised)
        assert len(set(map(id, raised))) == 20

    asyncio.run(run())
