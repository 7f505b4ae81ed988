"""One run of one contestant: its processes are started, let go, watched until the database says done, told to stop."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contestants import LIMIT, RIVER_FAST, THREADS, CannotRun, Peer, PeerSchema, environment, last_line
from gauge import Cost, Gauge
from harness import BenchSchema, percentile, run_limit

Figures = dict[str, Any]
RUN_TIMEOUT_S = 300.0
POLL_S = 0.003  # how often the database is asked whether a job is left, once every job was entered
SHAPE = (*range(0, 100, 5), 97, 99, 99.5, 99.9, 100)  # the percentiles that are kept of a run's latencies


@dataclass(frozen=True)
class Arena:
    """What all runs of a session share."""

    url: str
    gauge: Gauge


class Process:
    """A contestant's process, and the lines it has said."""

    def __init__(self, peer: Peer, url: str, arguments: Sequence[str]) -> None:
        self.worked = 0
        self.last: Figures = {}
        self._lines = threading.Condition()
        self._ready = self._ended = False
        self._complaints: list[str] = []
        self._process = subprocess.Popen(
            [*peer.command(), *arguments], env=environment(url), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._readers = [threading.Thread(target=read) for read in (self._read, self._read_complaints)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            fields = json.loads(line)
            with self._lines:
                self._ready = self._ready or "ready" in fields
                self.worked = fields.get("worked", self.worked)
                self.last = fields
                self._lines.notify_all()
        with self._lines:
            self._ended = True
            self._lines.notify_all()

    def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        self._complaints.extend(self._process.stderr)

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it said last tells why
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def await_ready(self) -> None:
        with self._lines:
            self._lines.wait_for(lambda: self._ready or self._ended, RUN_TIMEOUT_S)
        if not self._ready:
            raise self.failure("it did not start")

    def await_end(self) -> Figures:
        """What it said last."""
        with self._lines:
            self._lines.wait_for(lambda: self._ended, RUN_TIMEOUT_S)
        if not self._ended:
            raise self.failure(f"it did not end within {RUN_TIMEOUT_S:.0f} s")
        if self._process.wait(10) != 0:
            raise self.failure(f"it ended with status {self._process.returncode}")
        return self.last

    def await_said(self, field: str) -> None:
        with self._lines:
            self._lines.wait_for(lambda: field in self.last or self._ended, RUN_TIMEOUT_S)
        if field not in self.last:
            raise self.failure(f"it never said {field}")

    @property
    def is_over(self) -> bool:
        return self._ended

    def failure(self, what: str) -> CannotRun:
        return CannotRun(f"{what}: {last_line(''.join(self._complaints))[:300]}")

    def peak_mb(self) -> float | None:
        """The most it ever had resident; asked while it lives."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return None if found is None else round(int(found[1]) * 1024 / 1e6, 1)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@contextlib.contextmanager
def processes(peer: Peer, url: str, count: int, arguments: Sequence[str]) -> Iterator[list[Process]]:
    started: list[Process] = []
    try:
        for _ in range(count):
            started.append(Process(peer, url, arguments))
        for process in started:
            process.await_ready()
        yield started
    finally:
        for process in started:
            process.close()


def wait(started: list[Process], reached: Any, poll_s: float) -> float:
    """Until it is; returns that moment, as epoch seconds."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while not reached():
        if time.monotonic() > deadline:
            raise CannotRun(f"not done within {RUN_TIMEOUT_S:.0f} s")
        for process in started:
            if process.is_over:
                raise process.failure("it ended early")
        time.sleep(poll_s)
    return time.time()


def work(arena: Arena, peer: Peer, arguments: Sequence[str], jobs: int, count: int = 1) -> Figures:
    """Jobs inserted beforehand, worked by `count` processes; from the first fetch to the last completed row."""
    costs: list[Cost] = []
    with PeerSchema(arena.url, peer) as schema:
        schema.prepare(jobs)
        with processes(peer, arena.url, count, ["work", "--schema", schema.name, *arguments]) as started:
            with arena.gauge.measuring(costs):
                told = time.time()
                for process in started:
                    process.tell("go")
                wait(started, lambda: sum(process.worked for process in started) >= jobs, 0.002)
                ended = wait(started, lambda: not schema.is_left(), POLL_S)
                peaks = [process.peak_mb() for process in started]
                for process in started:
                    process.tell("stop")
            said = [process.await_end() for process in started]
        claimed, finished = schema.span()
        entered = min((float(fields["first"]) for fields in said if fields.get("first")), default=told)
        seconds = ended - (entered if claimed is None else claimed)
        return {
            **per_job(costs[0], sum(fields["cpu_s"] for fields in said), jobs),
            "jobs": jobs,
            "jobs_per_s": schema.done(jobs) / seconds,
            "seconds": seconds,
            "row_seconds": None if claimed is None or finished is None else finished - claimed,
            "peak_mb": None if None in peaks else sum(peak for peak in peaks if peak is not None),
            "unfinished": jobs - schema.done(jobs),
            "most_at_once": max(fields.get("most", 0) for fields in said) or None,
            "idle_ms": said[0].get("idle_ms"),
            "worked": sum(fields["worked"] for fields in said),
        }


def limit(arena: Arena, loops: int, rows: int, jobs: int) -> Figures:
    """The ceiling's program, which says itself when its first fetch was sent and its last completion acknowledged."""
    costs: list[Cost] = []
    with BenchSchema(arena.url) as river:
        river.fill(jobs)
        river.settle()
        with arena.gauge.measuring(costs):
            result = run_limit(river, loops, rows)
        done = river.by_state().get("completed", 0)
    return {
        **per_job(costs[0], result["client_cpu_us_per_job"] * jobs / 1e6, jobs),
        "jobs": jobs,
        "jobs_per_s": done / result["seconds"],
        "seconds": result["seconds"],
        "peak_mb": None,
        "unfinished": jobs - done,
    }


def per_job(cost: Cost, client_cpu: float, jobs: int) -> Figures:
    def each(total: float | None) -> float | None:
        return None if total is None else total / jobs

    return {
        "client_cpu_us": client_cpu * 1e6 / jobs,
        "postgres_cpu_us": None if cost.postgres_cpu is None else cost.postgres_cpu * 1e6 / jobs,
        "wal_bytes": each(cost.wal),
        "full_page_bytes": each(cost.full_page),
        "statements": each(cost.statements),
    }


def threads(arena: Arena, arguments: Sequence[str], seconds: float) -> Figures:
    """Python threads that sleep in a loop: turns a second."""
    with processes(THREADS, arena.url, 1, ["work", "--schema", "none", *arguments]) as (process,):
        process.tell("go")
        time.sleep(seconds)
        process.tell("stop")
        said = process.await_end()
    return {
        "jobs_per_s": said["worked"] / (seconds + said["stop_s"]),
        "client_cpu_us": said["cpu_s"] * 1e6 / said["worked"],
    }


def insert(arena: Arena, peer: Peer, arguments: Sequence[str], jobs: int, batch: int) -> Figures:
    """An insert-only client; nothing works the jobs. Counted in the table."""
    costs: list[Cost] = []
    numbers = ["--jobs", str(jobs), "--batch", str(batch)]
    with PeerSchema(arena.url, peer) as schema:
        schema.prepare(0)
        command = ["insert", "--schema", schema.name, *arguments, *numbers]
        with processes(peer, arena.url, 1, command) as (process,):
            with arena.gauge.measuring(costs):
                process.tell("go")
                process.await_said("inserted")
            said = process.await_end()
        stored = schema.total()
    if stored != said["inserted"] + said["warmed"]:
        raise CannotRun(f"{stored} rows where {said['inserted'] + said['warmed']} were inserted")
    inserted = said["inserted"]
    return {**per_job(costs[0], said["cpu_s"], inserted), "jobs": inserted, "jobs_per_s": inserted / said["seconds"]}


def latency(arena: Arena, peer: Peer, arguments: Sequence[str], rate: float, seconds: float) -> Figures:
    """Insert returned to work function entered, client and worker in one process."""
    numbers = ["--rate", str(rate), "--seconds", str(seconds)]
    with PeerSchema(arena.url, peer) as schema:
        schema.prepare(0)
        with processes(peer, arena.url, 1, ["latency", "--schema", schema.name, *arguments, *numbers]) as (process,):
            process.tell("go")
            said = process.await_end()
    waited = said["waited_ms"]
    return {
        "jobs": len(waited),
        **{f"p{percent}": percentile(waited, percent) for percent in (50, 95, 99)},
        "max": max(waited),
        "insert_p50": percentile(said["insert_ms"], 50),
        "shape": [percentile(waited, percent) for percent in SHAPE],
    }


def stop(arena: Arena, peer: Peer, arguments: Sequence[str], jobs: int) -> Figures:
    """Told to stop when half of the jobs were entered: how long until it has, and what is left claimed."""
    with PeerSchema(arena.url, peer) as schema:
        schema.prepare(jobs)
        with processes(peer, arena.url, 1, ["work", "--schema", schema.name, *arguments]) as (process,):
            process.tell("go")
            wait([process], lambda: process.worked >= jobs // 2, 0.001)
            process.tell("stop")
            said = process.await_end()
        return {
            "jobs": jobs,
            "stop_ms": said["stop_s"] * 1000,
            "left_running": schema.running(),
            "done": schema.done(jobs),
        }


def is_ours(peer: Peer) -> bool:
    return peer in (RIVER_FAST, LIMIT)
