"""`river-fast work module:client`: run a program's client until it is told to stop.

Runs on the main thread. The first SIGINT or SIGTERM stops the client softly (running jobs may end, within
`Config.stop_timeout`), the second hard (they are cancelled). Exit status 0: stopped in order; 3: not gracefully.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import logging
import os
import queue
import signal
import sys
import traceback
from dataclasses import asdict
from types import FrameType
from typing import Any

from river_fast.async_client import AsyncClient
from river_fast.cli.database import warn
from river_fast.client import Client
from river_fast.errors import ConfigError
from river_fast.stop_report import StopReport

NOT_GRACEFUL = 3
HARD_STOP_TIMEOUT = 5.0  # seconds, after the second signal
SIGNALS = (signal.SIGINT, signal.SIGTERM)
WORKS = "client {id} works; Ctrl-C stops it"
SOFT = "{name}: letting running jobs end; once more cancels them"
HARD = "cancelling running jobs"
POLL = 0.5  # seconds between looks at a client that may have been stopped by one of its own jobs


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The `work` command."""
    parser = commands.add_parser(
        "work",
        help="work jobs with the client of a program",
        description="module:client names a river_fast Client or AsyncClient, or a function that makes one, in a module "
        "that can be imported from here. The first SIGINT or SIGTERM lets running jobs end, the second cancels them. "
        "Status: 0 stopped in order, 1 failed, 2 used wrongly, 3 jobs were abandoned or outcomes not stored.",
    )
    parser.add_argument("client", metavar="module:client")
    parser.set_defaults(run=run, ignores_environment=True)


def run(args: argparse.Namespace) -> int:
    """The exit status; leaves the process itself where a job would not end, for its thread cannot be ended."""
    if args.schema is not None:
        raise ConfigError("the schema of `work` stands in the program's own Config; --schema is not for it")
    if args.database_url is not None:
        os.environ["DATABASE_URL"] = args.database_url  # what a Client without a URL of its own uses
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    client = load_client(args.client)
    report = work(client) if isinstance(client, Client) else asyncio.run(work_async(client))
    _tell(report, args.json)
    status = 0 if report.graceful else NOT_GRACEFUL
    if report.abandoned or not report.finished:
        _leave(status)
    return status


def load_client(path: str) -> Client | AsyncClient:
    """The client that `module:name` names; `ConfigError` saying what is wrong with it."""
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"{path!r} must be module:name, as in myapp.jobs:client")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(f"cannot import {module_name}: {type(error).__name__}: {error}{_where(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"module {module_name} has no {name}")
        found = getattr(found, part)
    if callable(found):
        found = found()
    if not isinstance(found, Client | AsyncClient):
        raise ConfigError(f"{path} is a {type(found).__name__}, not a river_fast Client or AsyncClient")
    return found


def work(client: Client) -> StopReport:
    """Start the client, stop it when told to."""
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()  # the one thing that is safe in a signal handler

    def told(number: int, frame: FrameType | None) -> None:
        signals.put(number)

    def next_signal() -> int | None:
        while not client.wait_stopped(0):
            with contextlib.suppress(queue.Empty):
                return signals.get(timeout=POLL)
        return None

    before = {number: signal.signal(number, told) for number in SIGNALS}
    try:
        client.start()
        warn(WORKS.format(id=client.id))
        if (number := next_signal()) is not None:
            warn(SOFT.format(name=signal.Signals(number).name))
        client.request_stop(client.stop_timeout)
        if next_signal() is not None:
            warn(HARD)
            client.request_stop(HARD_STOP_TIMEOUT, hard=True)
        return client.stop(client.stop_timeout)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def work_async(client: AsyncClient) -> StopReport:
    """The same on an event loop, where the client's async jobs run."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def next_signal() -> int | None:
        while not await client.wait_stopped(0):
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(signals.get(), POLL)
        return None

    for number in SIGNALS:
        loop.add_signal_handler(number, signals.put_nowait, number)
    await client.start()
    warn(WORKS.format(id=client.id))
    if (told := await next_signal()) is not None:
        warn(SOFT.format(name=signal.Signals(told).name))
    client.request_stop(client.stop_timeout)
    if await next_signal() is not None:
        warn(HARD)
        client.request_stop(HARD_STOP_TIMEOUT, hard=True)
    return await client.stop(client.stop_timeout)


def _where(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if len(frames) > 1 else ""


def _tell(report: StopReport, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(report)))
        return
    how = "gracefully" if report.graceful else "NOT gracefully"
    print(f"stopped {how} in {report.duration:.1f} s")
    if report.abandoned:
        print(f"{len(report.abandoned)} jobs would not end and were given back: {list(report.abandoned[:20])}")
    for outcome in report.unrecorded[:20]:
        print(f"job {outcome.job_id}: attempt {outcome.attempt} ended {outcome.outcome}, not stored: {outcome.reason}")
    if report.unresolved_fetch:
        print("a fetch was cut short; rows it may have claimed are freed when the next client looks")


def _leave(status: int) -> None:
    """An abandoned job's thread would hold the interpreter's end up, or be cut off in the middle of it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    logging.shutdown()
    os._exit(status)
