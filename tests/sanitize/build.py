"""A copy of the project whose compiled part is built under a sanitizer; the working tree stays as it is.

Copies stand in build/sanitize. Python itself is not instrumented: the sanitizer's library is loaded before it, and
PYTHONMALLOC=malloc shows every object to ASan.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fix_c import REPORT, ROOT, Fault, compiler

# glibc frees a library's thread-local memory when it hands a stack to a new thread, which TSan cannot order.
SUPPRESSIONS = "race:_dl_deallocate_tls\n"
LIBRARIES = {"address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
OPTIONS = "log_path={log}:exitcode=66:halt_on_error=0:handle_segv=1"
MODULES = ("fetcher", "completer")


@dataclass(frozen=True, slots=True)
class Run:
    """How a run in a sanitized copy ended."""

    status: int
    output: str
    reports: str

    @property
    def ours(self) -> list[str]:
        """The reports that name our libraries or their sources."""
        parts = re.split(r"(?m)^=+$", self.reports)
        names = re.compile(r"/_ext/|(fetcher|completer)\.cpython")
        return [part for part in parts if REPORT.search(part) and names.search(part)]


@dataclass(frozen=True, slots=True)
class Copy:
    """A built copy; `run` starts Python in it."""

    folder: Path
    sanitizer: str

    def run(self, arguments: Sequence[str], timeout: float, **environment: str) -> Run:
        log = self.folder / "reports" / "log"
        shutil.rmtree(log.parent, ignore_errors=True)
        log.parent.mkdir()
        options = OPTIONS.format(log=log)
        settings = {
            "LD_PRELOAD": " ".join(_library(name) for name in LIBRARIES[self.sanitizer]),
            "PYTHONMALLOC": "malloc" if "address" in self.sanitizer else "pymalloc",
            "ASAN_OPTIONS": f"{options}:detect_leaks=0",
            "UBSAN_OPTIONS": f"{options}:print_stacktrace=1",
            "TSAN_OPTIONS": f"{options}:report_signal_unsafe=0:suppressions={self.folder}/suppressions",
            "PYTHONFAULTHANDLER": "1",
        }
        ended = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env={**os.environ, **settings, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=timeout,
        )  # fmt: skip
        reports = "".join(path.read_text(errors="replace") for path in sorted(log.parent.iterdir()))
        return Run(ended.returncode, ended.stdout, reports)


def copy_built(sanitizer: str, fault: Fault | None = None) -> Copy:
    """Builds all of it anew: half a minute."""
    name = sanitizer.partition(",")[0] + ("-planted" if fault else "")
    folder = ROOT / "build" / "sanitize" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in ("river_fast", "tests", "_ext"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for part in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / part).exists():
            shutil.copy(ROOT / part, folder / part)
    (folder / "suppressions").write_text(SUPPRESSIONS)
    if fault is not None:
        fault.plant(folder / "_ext")
    environment = {**os.environ, "RIVER_FAST_SANITIZE": sanitizer, "CC": compiler()[0]}
    built = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    for module in MODULES:
        assert list((folder / "river_fast" / "_ext").glob(f"{module}.*.so")), built.stderr
    return Copy(folder, sanitizer)


def _library(name: str) -> str:
    found = subprocess.run([*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    assert os.path.isabs(path), f"the compiler has no {name}"
    return path
