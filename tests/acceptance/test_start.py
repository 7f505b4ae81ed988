"""The start: whatever goes wrong on the way, nothing is left behind, and another start works."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.client_services import ClientServices
from tests.fix_client import Args, eventually, workers_of


def ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("river_fast", "pool-"))]


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    # a test before this one may have stopped a client whose server did not answer: its last thread has a deadline
    eventually(lambda: not ours(), 20, f"the end of {ours()}")
    yield
    eventually(lambda: not ours(), 20, f"the end of {ours()}")


SERVICES = (
    "completer", "notifier", "keeper", "_checker", "_liveness", "_dead_client_rescuer", "producer", "QueueMaintainer",
    "Elector",
)


def service_of(services: ClientServices, name: str) -> Any:
    leading = {type(service).__name__: service for service in services._leading}
    return leading.get(name) or getattr(services, name)


@pytest.mark.parametrize("after", [False, True], ids=["instead", "afterwards"])
@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("error", [RuntimeError("not now"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_start_that_fails_at_any_service_leaves_nothing_behind_and_can_be_repeated(
    make_client: Any, monkeypatch: Any, no_thread_left: None, name: str, after: bool, error: BaseException
) -> None:
    async def work(job: river.Job[Args]) -> None:
        pass

    client = make_client(workers_of(work))
    whole = ClientServices.__init__

    def init(self: ClientServices, *args: Any, **named: Any) -> None:
        whole(self, *args, **named)
        service = service_of(self, name)
        start = service.start

        def fail() -> None:
            if after:
                start()
            raise error

        service.start = fail

    monkeypatch.setattr(ClientServices, "__init__", init)
    with pytest.raises(type(error)):
        client.start()
    eventually(lambda: not ours(), 20, f"the end of {ours()}")
    monkeypatch.undo()
    client.start()
    assert client.wait(client.insert(Args(1)).job, 20).state == "completed"
    assert client.stop(20).graceful


def test_start_on_a_schema_that_is_not_migrated_leaves_no_connection_open(
    dsn: str, empty_schema: str, no_thread_left: None
) -> None:
    client = river.Client(
        dsn,
        river.Config(
            schema=empty_schema,
            workers=workers_of(lambda job: None),
            queues={"default": river.QueueConfig(max_workers=1)},
        ),
    )
    with pytest.raises(river.MigrationError):
        client.start()
    eventually(lambda: not ours(), 20, f"the end of {ours()}")


def test_stop_during_a_start_is_kept_to_when_the_start_is_over(
    make_client: Any, monkeypatch: Any, no_thread_left: None
) -> None:
    client = make_client(workers_of(lambda job: None))
    inside, go_on = threading.Event(), threading.Event()
    whole = ClientServices.start

    def slow(self: ClientServices, queues: Any) -> None:
        inside.set()
        assert go_on.wait(20)
        whole(self, queues)

    monkeypatch.setattr(ClientServices, "start", slow)
    starting = threading.Thread(target=client.start)
    starting.start()
    assert inside.wait(20)
    assert not client.stop(0.1).finished
    assert starting.is_alive(), "it did not wait for the start"
    go_on.set()
    starting.join(20)
    assert client.wait_stopped(20)
    assert client.stop(20).graceful


def test_queue_added_during_a_start_is_worked(make_client: Any, monkeypatch: Any) -> None:
    client = make_client(workers_of(lambda job: None))
    inside, go_on = threading.Event(), threading.Event()
    whole = ClientServices.start

    def slow(self: ClientServices, queues: Any) -> None:
        whole(self, queues)
        inside.set()
        assert go_on.wait(20)

    monkeypatch.setattr(ClientServices, "start", slow)
    starting = threading.Thread(target=client.start)
    starting.start()
    assert inside.wait(20)
    adding = threading.Thread(target=client.queues.add, args=("other", river.QueueConfig(max_workers=1)))
    adding.start()
    go_on.set()
    starting.join(20)
    adding.join(20)
    job = client.insert(Args(1), river.InsertOpts(queue="other")).job
    assert client.wait(job, 20).state == "completed"


def test_queue_added_during_a_stop_is_worked_after_the_next_start(make_client: Any) -> None:
    started, release = threading.Event(), threading.Event()

    def work(job: river.Job[Args]) -> None:
        started.set()
        assert release.wait(20)

    client = make_client(workers_of(work))
    client.insert(Args(1))
    client.start()
    assert started.wait(20)
    client.request_stop()
    client.queues.add("other", river.QueueConfig(max_workers=1))
    release.set()
    assert client.wait_stopped(10)
    assert client.stop().graceful
    client.start()
    job = client.insert(Args(1), river.InsertOpts(queue="other")).job
    assert client.wait(job, 20).state == "completed"


def test_start_and_stop_are_said_at_info_and_normal_work_says_nothing(make_client: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "river_fast")
    client = make_client(workers_of(lambda job: None))
    client.start()
    for _ in range(20):
        assert client.wait(client.insert(Args(1)).job, 20).state == "completed"
    assert client.stop(20).graceful
    ours = [record for record in caplog.records if record.name.startswith("river_fast")]
    said = [(record.levelname, record.getMessage()) for record in ours if record.name != "river_fast.elector"]
    assert [level for level, _ in said] == ["INFO", "INFO"], said
    assert said[0][1] == f"client {client.id} started; queues: default"
    assert "stopped gracefully" in said[1][1]


def test_timedeltas_are_taken_for_every_duration(make_client: Any) -> None:
    second = timedelta(seconds=1)
    client = make_client(
        workers_of(lambda job: None, timeout=second),
        fetch_cooldown=second / 1000,
        fetch_poll_interval=second,
        job_timeout=second,
        job_stuck_threshold=second,
        rescue_stuck_jobs_after=second * 3600,
        stop_timeout=second * 20,
        soft_stop_timeout=second,
    )
    with client:
        assert client.wait(client.insert(Args(1)).job, 20).state == "completed"
    assert client.stop(second * 20).graceful


PROGRAM = """
import os, signal, sys, threading, time
import river_fast as river

workers = river.Workers()

@workers.work("quick")
async def quick(job):
    pass

client = river.Client({dsn!r}, river.Config(
    schema={schema!r}, workers=workers, queues={{"default": river.QueueConfig(max_workers=2)}}, stop_timeout=5))
{main}
"""


def run_program(dsn: str, schema: str, main: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    text = PROGRAM.format(main=textwrap.dedent(main), dsn=dsn, schema=schema)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=timeout)


def test_ctrl_c_at_any_moment_of_a_start_leaves_nothing_behind(dsn: str, schema: str) -> None:
    done = run_program(
        dsn,
        schema,
        """
        import random
        random.seed(4)
        interrupted = 0
        for turn in range(40):
            timer = threading.Timer(random.uniform(0, 0.06), os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                client.start()
                timer.join()
                time.sleep(1)  # the signal was sent: it strikes here, if it did not before
            except KeyboardInterrupt:
                interrupted += 1
            timer.join()
            report = client.stop(20)
            assert report.finished, (turn, report)
            left = [t.name for t in threading.enumerate() if t.name.startswith("river_fast")]
            assert not left, (turn, left)
        client.start()
        assert client.wait(client.insert(river.RawArgs("quick", {})).job, 20).state == "completed"
        assert client.stop(20).graceful
        print("interrupted", interrupted >= 35, interrupted)  # Python drops what strikes in a finalizer
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("interrupted True "), done.stdout


@pytest.mark.parametrize("when", ["before the thread", "after the thread"])
def test_ctrl_c_about_the_birth_of_the_starting_thread_does_not_hang(
    make_client: Any, monkeypatch: Any, no_thread_left: None, when: str
) -> None:
    client = make_client(workers_of(lambda job: None))
    whole = threading.Thread.start

    def struck(thread: threading.Thread) -> None:
        if thread.name != "river_fast.start":
            whole(thread)
            return
        if when == "after the thread":
            whole(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", struck)
    with pytest.raises(KeyboardInterrupt):
        client.start()
    monkeypatch.undo()
    eventually(lambda: not ours(), 20, f"the end of {ours()}")
    client.start()
    assert client.wait(client.insert(Args(1)).job, 20).state == "completed"
    assert client.stop(20).graceful


def test_forked_child_ends_at_once_and_is_told_what_it_is(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    done = run_program(
        dsn,
        schema,
        """
        import asyncio
        aclient = river.AsyncClient({dsn!r}, river.Config(schema={schema!r}))
        client.start()
        pid = os.fork()
        if pid == 0:
            refused = 0
            for call in (client.start, client.stats, lambda: client.schema, lambda: client.job_get(1), client.subscribe,
                         lambda: asyncio.run(aclient.job_get(1)), lambda: asyncio.run(aclient.queue_list()),
                         lambda: client.queues.add("other", river.QueueConfig(max_workers=1))):
                try:
                    call()
                except river.ForkedClientError:
                    refused += 1
            assert client.wait_stopped()
            client.request_stop()
            assert client.stop().finished
            assert client.stop_and_cancel(0).finished
            print("refused", refused, flush=True)
            sys.exit(0)
        began = time.monotonic()
        assert os.waitpid(pid, 0)[1] == 0
        assert time.monotonic() - began < 40, "it waited for what is the parent's"
        assert client.wait(client.insert(river.RawArgs("quick", {{}})).job, 20).state == "completed"
        assert client.stats()["reconnects"] == 0
        assert client.stats()["completer_reconnects"] == 0
        assert client.stop(20).graceful
        print("parent fine")
        """.replace("{dsn!r}", repr(dsn)).replace("{schema!r}", repr(schema)).replace("{{}}", "{}"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused 8\nparent fine\n"


async def test_cancelled_async_start_is_stopped_again(dsn: str, schema: str, monkeypatch: Any) -> None:
    for cancel_inside in (False, True):
        client = river.AsyncClient(
            dsn,
            river.Config(
                schema=schema,
                workers=workers_of(lambda job: None),
                queues={"default": river.QueueConfig(max_workers=1)},
            ),
        )
        inside, go_on = threading.Event(), threading.Event()
        whole = ClientServices.start

        def slow(
            self: ClientServices, queues: Any, inside: Any = inside, go_on: Any = go_on, whole: Any = whole
        ) -> None:
            inside.set()
            assert go_on.wait(20)
            whole(self, queues)

        monkeypatch.setattr(ClientServices, "start", slow)
        starting = asyncio.create_task(client.start())
        if cancel_inside:
            while not inside.is_set():
                await asyncio.sleep(0.001)
        else:  # the start waits for a thread of the loop's executor
            busy = threading.Event()
            executor = ThreadPoolExecutor(1)
            asyncio.get_running_loop().set_default_executor(executor)
            executor.submit(busy.wait, 20)
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        if not cancel_inside:
            busy.set()
        go_on.set()
        await asyncio.wait([client._starting])
        assert inside.is_set() is cancel_inside, "what was given up before it began is not begun"
        assert await client.wait_stopped(20), "nobody but the cancelled start asks for the stop"
        assert (await client.stop(20)).graceful
        monkeypatch.undo()
        eventually(lambda: not [name for name in ours() if name.startswith("river_fast")], 20)


def test_async_start_cut_off_by_the_end_of_its_loop_is_stopped_again(
    dsn: str, schema: str, monkeypatch: Any
) -> None:
    client = river.AsyncClient(
        dsn,
        river.Config(
            schema=schema, workers=workers_of(lambda job: None), queues={"default": river.QueueConfig(max_workers=1)}
        ),
    )
    inside = threading.Event()
    whole = ClientServices.start

    def slow(self: ClientServices, queues: Any) -> None:
        inside.set()
        time.sleep(0.2)
        whole(self, queues)

    monkeypatch.setattr(ClientServices, "start", slow)

    async def main() -> None:
        task = asyncio.create_task(client.start())
        await asyncio.to_thread(inside.wait, 20)
        del task

    asyncio.run(main())
    eventually(lambda: not [name for name in ours() if name.startswith("river_fast")], 20)
