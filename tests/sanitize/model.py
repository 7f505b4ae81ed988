"""ring.h and wakeup.h, letter for letter, in an exhaustive search of interleavings and memory orders (relacy).

Run by `make sanitize`: needs relacy's headers (Debian: relacy-dev) and g++ or clang++. What TSan cannot see on x86, a
weakened order of the wake-ups, is found here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.fix_c import C_TESTS, HEADERS, Fault
from tests.planted_faults import PLANTS

MODEL = C_TESTS / "model"
PROGRAMS = ("ring_model", "park_model", "wake_model")
ORDER = "memory_order_seq_cst"


def _order(header: str, before: str, order: str) -> Fault:
    return Fault(header, before + order, before + "memory_order_relaxed")


FAULTS = {
    name: ("ring_model", PLANTS[name].fault)
    for name in (
        "push publishes relaxed",
        "pop takes relaxed",
        "pop frees relaxed",
        "push takes a free slot relaxed",
        "pop frees before it reads",
        "two pops take one value",
        "close skips the drain",
        "close overwrites a push",
    )
} | {
    "close relaxed": ("ring_model", _order("ring.h", "RF_CLOSED_BIT, ", "memory_order_acq_rel")),
    "unpark leaves the epoch": ("park_model", PLANTS["unpark leaves the epoch"].fault),
    "epoch read relaxed": ("park_model", _order("wakeup.h", "load_explicit(&park->epoch, ", ORDER)),
    "unpark looks for sleepers relaxed": ("park_model", _order("wakeup.h", "load_explicit(&park->parked, ", ORDER)),
    "clear lowers without the write": ("wake_model", PLANTS["clear lowers without the write"].fault),
    "clear stores where it should exchange": (
        "wake_model",
        Fault("wakeup.h", "(void)atomic_exchange_explicit(&wake->pending", "atomic_store_explicit(&wake->pending"),
    ),
}


def searched(program: str, folder: Path, fault: Fault | None = None) -> tuple[int, str]:
    """Builds and runs a model; its status and what it wrote."""
    if fault is not None:
        fault.plant(folder)
    binary = folder / program
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    command = [*compiler, "-std=gnu++11", "-O2", "-w", "-D_Static_assert=static_assert", f"-I{MODEL}"]
    command += ["-iquote", str(folder), "-iquote", str(HEADERS), str(MODEL / f"{program}.cpp"), "-o", str(binary)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    ended = subprocess.run([str(binary)], capture_output=True, text=True, check=False, timeout=1500)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_execution_breaks_a_claim(program: str, tmp_path: Path) -> None:
    status, output = searched(program, tmp_path)
    assert status == 0, output[-3000:]
    print("\n".join(re.findall(r"^.*: \d+ executions$", output, re.MULTILINE)))


@pytest.mark.parametrize("name", FAULTS)
def test_planted_bug_has_an_execution(name: str, tmp_path: Path) -> None:
    program, fault = FAULTS[name]
    status, output = searched(program, tmp_path, fault)
    assert status != 0
    found = re.search(r"^FAILED .*$", output, re.MULTILINE)
    assert found, output[-3000:]
    print(found[0])
