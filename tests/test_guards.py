"""Each named regression fails once its guard is taken out: in a copy of the package, run by a process of its own.

The guards in C are planted_faults.py's. A guard that was rewritten must be named anew here: its text is looked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REGRESSIONS = "tests/acceptance/test_regressions.py::test_regression_"


@dataclass(frozen=True)
class Guard:
    """In `file`, each `true` becomes its `false`; then `test` fails, and says `told`."""

    file: str
    changes: tuple[tuple[str, str], ...]
    test: str
    told: str

    def take_out(self, copy: Path) -> None:
        path = copy / self.file
        text = path.read_text("utf-8")
        for true, false in self.changes:
            assert text.count(true) == 1, f"{self.file} holds {text.count(true)} times: {true}"
            text = text.replace(true, false)
        path.write_text(text, "utf-8")


_WAIT_FOR_JOBS = "        self._step(self._wait_for_jobs, None)\n"
_CLOSE_COMPLETER = "        self._step(lambda: self._close_completer(unrecorded), None)\n"
_UNRECORDED = "        unrecorded: list[UnrecordedOutcome] = []\n"
_CLOSED_TOO_SOON = (
    (_WAIT_FOR_JOBS, ""),
    (_CLOSE_COMPLETER, ""),
    (_UNRECORDED, _UNRECORDED + _CLOSE_COMPLETER + _WAIT_FOR_JOBS),
)
_SHARED = "        self._requests.put(StopRequest("
_ONE_EACH = """        self._take(StopRequest(now, now + 10.0))
        self._report = self._stop()
        self._done.set()
        queue.SimpleQueue().put(StopRequest("""
_IF_RUNNING = "            if self._phase in (Phase.STARTED, Phase.STOPPING):\n                return\n"
_IF_NOT_RUNNING = "            if self._phase is not Phase.STARTED:\n                return\n"
_LOCKED_START = 'as if never started."""\n        with self._lifecycle:'

GUARDS = {
    "jobs end before the completer is closed (batch)": Guard(
        "river_fast/shutdown.py", _CLOSED_TOO_SOON,
        REGRESSIONS + "send_on_closed_channel_by_a_job_that_still_runs[batch]", "{'running': 10} == {'completed': 10}"),
    "jobs end before the completer is closed (async)": Guard(
        "river_fast/shutdown.py", _CLOSED_TOO_SOON,
        REGRESSIONS + "send_on_closed_channel_by_a_job_that_still_runs[async]", "{'running': 10} == {'completed': 10}"),
    "a full subscription drops its oldest event": Guard(
        "river_fast/subscription_manager.py",
        (("            full = len(self._events) >= self._size\n",
          "            full = not self._changed.wait_for(lambda: len(self._events) < self._size or self._closed)\n"),),
        REGRESSIONS + "completer_blocked_by_a_subscriber_that_never_reads", "an event dropped for each"),
    "the stop waits a second for the last events": Guard(
        "river_fast/subscription_manager.py", (("reader[0].join(DETACH_TIMEOUT)", "reader[0].join()"),),
        REGRESSIONS + "completer_blocked_by_a_subscription_that_hangs", "the stop waits for a subscription"),
    "all who ask for a stop share one": Guard(
        "river_fast/shutdown.py", ((_SHARED, _ONE_EACH),),
        REGRESSIONS + "double_close_of_a_client_that_runs", "'close_connections': 10"),
    "a service that runs is not started again": Guard(
        "river_fast/startstop.py", ((_IF_RUNNING, ""),),
        "tests/test_startstop.py::test_start_and_stop_from_many_threads", "tests/stress.py:"),
    "a service that does not run is not stopped": Guard(
        "river_fast/startstop.py", ((_IF_NOT_RUNNING, ""),),
        "tests/test_startstop.py::test_start_and_stop_from_many_threads", "tests/stress.py:"),
    "two starts of a service wait for each other": Guard(
        "river_fast/startstop.py", ((_LOCKED_START, _LOCKED_START.replace("with self._lifecycle", "if True")),),
        "tests/test_startstop.py::test_start_and_stop_from_many_threads", "tests/stress.py:"),
    "the holder of a unique key is not its own rival": Guard(
        "river_fast/sql/job_schedule.sql", (("OR holds_key OR (", "OR ("), ("AND other.id <> due.id", "")),
        REGRESSIONS + "unique_scheduled_job_discarded_as_its_own_duplicate", "'discarded'> == 'completed'"),
    "a client that never leads has no periodic jobs": Guard(
        "river_fast/client_periodic_jobs.py", (("    if not client._queues:\n", "    if client is None:\n"),),
        REGRESSIONS + "periodic_jobs_on_an_insert_only_client", "DID NOT RAISE"),
}  # fmt: skip


def copy_of_the_tree(folder: Path) -> Path:
    """What these tests need of it. What hangs without its guard is not waited for as long as where it has it."""
    ignore = shutil.ignore_patterns("__pycache__", "interop", "sanitize", "c", "data")
    for name in ("river_fast", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    regressions = folder / "tests" / "acceptance" / "test_regressions.py"
    text = regressions.read_text("utf-8")
    assert text.count("\nHANGS = 20.0") == 1
    regressions.write_text(text.replace("\nHANGS = 20.0", "\nHANGS = 2.0"), "utf-8")
    return folder


def run_test(copy: Path, test: str, dsn: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", test, "-x", "-p", "no:cacheprovider", "--show-capture=no", "-vv"]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.timeout(300)
def test_regression_fails_without_its_guard(name: str, tmp_path: Path, dsn: str) -> None:
    guard = GUARDS[name]
    copy = copy_of_the_tree(tmp_path)
    guard.take_out(copy)
    ended = run_test(copy, guard.test, dsn)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"FAILED {guard.test}" in ended.stdout, ended.stdout
    assert guard.told in ended.stdout, ended.stdout
