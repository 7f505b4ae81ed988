"""What a measured piece of work costs: CPU of this process, CPU of the PostgreSQL server, WAL bytes, peak memory.

One thread, the caller's; owns nothing but numbers. The server's CPU is read from /proc and therefore only where the
server is a process of this machine; what cannot be measured is None, never a guess.
"""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from river_fast.driver import Driver, RawRow, Statement
from river_fast.errors import DatabaseError

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment; only differences mean something."""

    at: float  # monotonic seconds
    client_cpu: float  # seconds
    postgres_cpu: float | None  # seconds, of the whole server: its backends, its writers, its autovacuum
    wal: int | None  # bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What lay between two readings."""

    seconds: float
    client_cpu: float
    postgres_cpu: float | None
    wal: int | None

    def client_cpu_us(self, jobs: int) -> float | None:
        return per_job(self.client_cpu * 1e6, jobs)

    def postgres_cpu_us(self, jobs: int) -> float | None:
        return per_job(None if self.postgres_cpu is None else self.postgres_cpu * 1e6, jobs)

    def wal_bytes(self, jobs: int) -> float | None:
        return per_job(self.wal, jobs)


def per_job(total: float | None, jobs: int) -> float | None:
    """None where nothing was measured or no job was worked."""
    return None if total is None or jobs <= 0 else round(total / jobs, 3)


class Meter:
    """Reads this process and the driver's server."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._postmaster = self._find_postmaster()

    @property
    def is_local(self) -> bool:
        """The server runs on this machine, so its clock is ours."""
        return self._postmaster is not None

    def read(self) -> Reading:
        postgres_cpu = None if self._postmaster is None else family_cpu(self._postmaster)
        return Reading(time.monotonic(), time.process_time(), postgres_cpu, self._wal())

    def since(self, start: Reading) -> Usage:
        now = self.read()
        return Usage(
            now.at - start.at,
            now.client_cpu - start.client_cpu,
            None if now.postgres_cpu is None or start.postgres_cpu is None else now.postgres_cpu - start.postgres_cpu,
            None if now.wal is None or start.wal is None else now.wal - start.wal,
        )

    def _find_postmaster(self) -> int | None:
        with self._driver.autocommit() as executor:
            pid, port = executor.run(Statement("bench_server", parse=_two_numbers))
            return local_postmaster(pid, port)

    def _wal(self) -> int | None:
        try:
            with self._driver.autocommit() as executor:
                return executor.run(Statement("bench_wal", parse=_one_number))
        except DatabaseError as error:
            if error.sqlstate is None:
                raise
            return None  # a server without such a log (YugabyteDB), or a role that may not ask


def local_postmaster(backend: int, client_port: int) -> int | None:
    """The parent of process `backend`, if that is the very backend of our connection, on this machine.

    A pid of another machine or container may be anybody's here, so the process title must name our own end of the
    connection: `(port)`, or `[local]` for a Unix socket, which cannot be remote.
    """
    try:
        title = (PROC / str(backend) / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        if not title.startswith("postgres: ") or (f"({client_port})" if client_port > 0 else "[local]") not in title:
            return None
        return _stat(backend)[0]
    except (OSError, ValueError):
        return None


def family_cpu(postmaster: int) -> float | None:
    """CPU seconds of the postmaster, its living children, and its dead ones; None when it is gone."""
    for _ in range(100):  # a child that was buried meanwhile is in neither sum: look again
        try:
            _, own, dead_children = _stat(postmaster)
            ticks = own + dead_children + _living_ticks(postmaster)
            if _stat(postmaster)[2] == dead_children:
                break
        except (OSError, ValueError):
            return None
    return ticks / os.sysconf("SC_CLK_TCK")


def _living_ticks(postmaster: int) -> int:
    ticks = 0
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                parent, used, _ = _stat(int(entry.name))
            except (OSError, ValueError):
                continue  # it ended between the listing and the look
            if parent == postmaster:
                ticks += used
    return ticks


def _stat(pid: int) -> tuple[int, int, int]:
    """Parent, ticks used, ticks used by children that ended. The name may hold anything, so count from its end."""
    fields = (PROC / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


def peak_rss_mb() -> float | None:
    """The most memory this process ever had resident, in MB of 1,000,000 bytes."""
    try:
        # not ru_maxrss first: on Linux that survives exec, so it may be the peak of whoever started us
        match = re.search(r"^VmHWM:\s+(\d+) kB", (PROC / "self" / "status").read_text("ascii", "replace"), re.MULTILINE)
        if match is not None:
            return round(int(match[1]) * 1024 / 1e6, 1)
    except OSError:
        pass
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def _one_number(rows: list[RawRow], count: int) -> int:
    return int(rows[0][0] or b"0")


def _two_numbers(rows: list[RawRow], count: int) -> tuple[int, int]:
    return int(rows[0][0] or b"0"), int(rows[0][1] or b"0")
