"""rf_wake and rf_park: no wake-up is lost, on Linux's eventfd and futex, and on the pipe and condition elsewhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fix_c import HEADERS, compiled_c, compiler, run_c

SYSTEMS = {"linux": (), "elsewhere": ("-U__linux__",)}
# What macOS declares and Linux does not.
DARWIN = """
#include <pthread.h>
int pthread_cond_timedwait_relative_np(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
#include "wakeup.h"
"""


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("program", ["park_stress", "wake_stress"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_no_wake_up_is_lost(system: str, program: str, seed: int) -> None:
    outcome = run_c(compiled_c(program, *SYSTEMS[system]), 3000, seed)
    assert outcome.ok, outcome.output
    print(f"n={outcome.checked}")


def test_macos_branch_compiles(tmp_path: Path) -> None:
    source = tmp_path / "darwin.c"
    source.write_text(DARWIN)
    flags = ["-std=gnu11", "-U__linux__", "-D__APPLE__", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run([*compiler(), *flags, "-Wno-unused-function", f"-I{HEADERS}", str(source)], check=True)
