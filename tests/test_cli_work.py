"""`river-fast work module:client`: what signals do, and what the status says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).parent.parent

PROGRAM = """
    import asyncio, os, threading, time
    from dataclasses import dataclass
    import river_fast as river

    @dataclass
    class Nap(river.JobArgs, kind="nap"):
        seconds: float
        stubborn: bool = False

    workers = river.Workers()

    @workers.work(Nap)
    def nap(job: river.Job[Nap]) -> None:
        print("job started", flush=True)
        if job.args.stubborn:
            time.sleep(job.args.seconds)
        elif job.wait_cancelled(job.args.seconds):
            job.raise_if_cancelled()

    queues = {"default": river.QueueConfig(max_workers=2)}
    config = river.Config(schema=os.environ["SCHEMA"], workers=workers, queues=queues, stop_timeout=20)
    client = river.Client(None, config)
    async_client = river.AsyncClient(None, config)

    def make():
        return client
"""


class Program:
    """A running `river-fast work`."""

    def __init__(self, folder: Path, name: str, dsn: str, schema: str) -> None:
        (folder / "program.py").write_text(textwrap.dedent(PROGRAM))
        self._dsn, self._schema = dsn, schema
        self.process = subprocess.Popen(
            [sys.executable, "-m", "river_fast", "work", f"program:{name}", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "DATABASE_URL": dsn, "SCHEMA": schema},
        )
        self.until_stderr("works; Ctrl-C stops it")

    def insert(self, seconds: float, stubborn: bool = False) -> None:
        """One job, and wait until it runs."""
        import river_fast as river

        with river.Client(self._dsn, river.Config(schema=self._schema)) as client:
            client.insert(river.RawArgs("nap", {"seconds": seconds, "stubborn": stubborn}))
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "job started\n"

    def until_stderr(self, text: str) -> None:
        assert self.process.stderr is not None
        seen = ""
        while text not in seen:
            line = self.process.stderr.readline()
            assert line, f"{text!r} was never said: {seen}"
            seen += line

    def ended(self) -> tuple[int, dict[str, object], str]:
        out, err = self.process.communicate(timeout=100)
        reports = re.findall(r"^\{.*\}$", out, re.MULTILINE)
        assert reports, err
        return self.process.returncode, json.loads(reports[-1]), err


Start = Callable[[str], Program]


@pytest.fixture
def start(tmp_path: Path, dsn: str, schema: str) -> Iterator[Start]:
    running: list[Program] = []

    def begin(name: str) -> Program:
        running.append(Program(tmp_path, name, dsn, schema))
        return running[-1]

    yield begin
    for program in running:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


def states(conn: psycopg.Connection[Any]) -> list[tuple[str, int]]:
    return conn.execute("SELECT state::text, attempt FROM river_job").fetchall()


@pytest.mark.parametrize("name", ["client", "async_client", "make"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_first_signal_lets_the_running_job_end(
    start: Start, conn: psycopg.Connection[Any], name: str, number: signal.Signals
) -> None:
    program = start(name)
    program.insert(0.5)
    program.process.send_signal(number)
    status, report, _ = program.ended()
    assert status == 0
    assert report["graceful"] is True
    assert states(conn) == [("completed", 1)]


@pytest.mark.parametrize("name", ["client", "async_client"])
def test_second_signal_cancels_the_running_job_and_gives_its_attempt_back(
    start: Start, conn: psycopg.Connection[Any], name: str
) -> None:
    program = start(name)
    program.insert(60)
    program.process.send_signal(signal.SIGTERM)
    program.until_stderr("once more cancels them")
    program.process.send_signal(signal.SIGTERM)
    status, report, _ = program.ended()
    assert status == 0
    assert report["abandoned"] == []
    assert states(conn) == [("available", 0)]


def test_job_that_would_not_end_is_left_behind_and_told_of(start: Start, conn: psycopg.Connection[Any]) -> None:
    program = start("client")
    program.insert(60, stubborn=True)
    program.process.send_signal(signal.SIGTERM)
    program.until_stderr("once more cancels them")
    program.process.send_signal(signal.SIGTERM)
    status, report, _ = program.ended()
    assert status == 3
    assert report["graceful"] is False
    assert isinstance(report["abandoned"], list)
    assert len(report["abandoned"]) == 1
    assert states(conn) == [("available", 0)]
