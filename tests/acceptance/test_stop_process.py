"""The stop and the process: signals, the exit, forks."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import psycopg
import pytest

from tests.fix_rows import states

PROGRAM = """
import os, signal, sys, threading, time
import river_fast as river

workers = river.Workers()
started = threading.Event()

@workers.work("slow")
def slow(job):
    started.set()
    {body}

client = river.Client({dsn!r}, river.Config(
    schema={schema!r}, workers=workers, queues={{"default": river.QueueConfig(max_workers=2)}}, stop_timeout=30))
client.insert(river.RawArgs("slow", {{}}))
{main}
"""


def run_program(dsn: str, schema: str, body: str, main: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    text = PROGRAM.format(body=body, main=textwrap.dedent(main), dsn=dsn, schema=schema)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=timeout)


def test_stop_from_a_signal_handler_while_main_waits_in_stop(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    done = run_program(
        dsn,
        schema,
        "job.wait_cancelled(30); job.raise_if_cancelled()",
        """
        def handler(number, frame):
            report = client.stop_and_cancel(20)
            print("in handler", report.finished)
        signal.signal(signal.SIGUSR1, handler)
        client.start()
        started.wait(20)

        def strike():
            while threading.main_thread().ident not in client._inside:  # until it waits in stop
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGUSR1)

        threading.Thread(target=strike).start()
        report = client.stop()
        print("graceful", report.graceful)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "in handler False" in done.stdout
    assert "graceful True" in done.stdout
    assert states(conn) == {"available": 1}


def test_exit_without_stop_stops_in_order(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    done = run_program(dsn, schema, "time.sleep(0.3)", "client.start(); started.wait(20); sys.exit(7)")
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""
    assert states(conn) == {"completed": 1}


def test_stop_in_atexit(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    done = run_program(
        dsn,
        schema,
        "time.sleep(0.3)",
        "import atexit; atexit.register(lambda: print(client.stop(20).graceful)); client.start(); started.wait(20)",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    assert states(conn) == {"completed": 1}


def test_forked_child_cannot_use_or_harm_the_parents_client(dsn: str, schema: str, conn: psycopg.Connection) -> None:
    done = run_program(
        dsn,
        schema,
        "time.sleep(0.5)",
        """
        client.start()
        started.wait(20)
        pid = os.fork()
        if pid == 0:
            try:
                client.insert(river.RawArgs("slow", {}))
            except river.ForkedClientError:
                print("refused", client.stop(1).finished, flush=True)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        job = client.insert(river.RawArgs("slow", {})).job
        print(client.wait(job, 20).state)
        print(client.stop(20).graceful)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["refused True", "completed", "True"]
    assert states(conn) == {"completed": 2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_in_a_with_block_stops_in_order(
    dsn: str, schema: str, conn: psycopg.Connection, number: signal.Signals
) -> None:
    done = run_program(
        dsn,
        schema,
        "time.sleep(0.3)",
        f"""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with client:
                started.wait(20)
                os.kill(os.getpid(), {int(number)})
                time.sleep(20)
        except KeyboardInterrupt:
            print("interrupted")
        """,
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert states(conn) == {"completed": 1}
