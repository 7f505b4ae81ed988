"""Compiles and runs the plain C programs of tests/c: as they are, under sanitizers, and with planted faults.

Used by test_ring, test_wakeup, test_sanitizers. A planted fault is a change to the text of a header, made in a copy.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
C_TESTS = ROOT / "tests" / "c"
HEADERS = ROOT / "_ext"

MODES = {
    "plain": ("-O2",),
    "asan": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    "tsan": ("-O1", "-fsanitize=thread"),
}
# A report ends the run; ASan looks for leaks as well, since no Python is in these processes.
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:halt_on_error=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
REPORT = re.compile(r"(WARNING|ERROR): (Thread|Address|Leak|UndefinedBehavior)Sanitizer|runtime error:")


def compiler() -> list[str]:
    """The C compiler that Python's own build names, or CC's."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    status: int
    output: str

    @property
    def ok(self) -> bool:
        return self.status == 0 and self.reports == 0 and self.checked > 0

    @property
    def reports(self) -> int:
        return len(REPORT.findall(self.output))

    @property
    def checked(self) -> int:
        """The n that the program printed: operations checked."""
        found = re.search(r"^ok n=(\d+)$", self.output, re.MULTILINE)
        return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A bug to plant: in `header`, the one occurrence of `true` becomes `false`."""

    header: str
    true: str
    false: str

    def plant(self, folder: Path) -> None:
        """Writes the changed header to `folder`. A header laid out in a macro is matched without its margin."""
        text = re.sub(r"[ \t]*\\\n", "\\\n", (HEADERS / self.header).read_text())
        true, false = (part.replace("\n", "\\\n") if "\\\n" in text else part for part in (self.true, self.false))
        assert text.count(true) == 1, f"{self.header} holds {text.count(true)} times: {self.true}"
        (folder / self.header).write_text(text.replace(true, false))


@functools.cache
def compiled_c(program: str, *flags: str, mode: str = "plain") -> Path:
    """The program as it is; built once for all tests."""
    return compile_c(program, Path(tempfile.mkdtemp(dir=_scratch().name)), *flags, mode=mode)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="river_fast_c_")


def compile_c(program: str, folder: Path, *flags: str, mode: str = "plain", fault: Fault | None = None) -> Path:
    """Builds tests/c/`program`.c into `folder`, which also keeps the changed header of a `fault`."""
    if fault is not None:
        fault.plant(folder)
    binary = folder / f"{program}-{mode}"
    warnings = ("-Wall", "-Wextra", "-Werror") if fault is None else ("-w",)
    command = [*compiler(), "-std=gnu11", "-g", "-pthread", *warnings, *MODES[mode], *flags]
    command += [f"-I{folder}"] if fault is not None else []  # an include by quotes looks beside its own file first,
    command += [f"-I{HEADERS}", f"-I{C_TESTS}"]  # and these programs are not beside the headers
    command += [str(C_TESTS / f"{program}.c"), "-o", str(binary)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"{shlex.join(command)}\n{built.stderr}"
    return binary


def run_c(binary: Path, size: int, seed: int = 1, patience: int = 60) -> Outcome:
    """Runs it to its end, which it looks after itself: after `patience` seconds it fails by its own alarm."""
    settings = {"RF_SIZE": str(size), "RF_SEED": str(seed), "RF_PATIENCE": str(patience), **SANITIZER_OPTIONS}
    environment = {**os.environ, **settings}
    environment.pop("LD_PRELOAD", None)  # a sanitizer's, of the Python that runs this: the program has its own
    ended = subprocess.run(
        [str(binary)], capture_output=True, text=True, check=False, timeout=patience + 30, env=environment
    )
    return Outcome(ended.returncode, ended.stdout + ended.stderr)
