"""The ring: its claims in C at full speed and with counters near a wrap, and the disassembly of what is shipped."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import river_fast._ext.completer
import river_fast._ext.fetcher
from tests.fix_c import HEADERS, compiled_c, compiler, run_c

# The positions before which a word of 32, 31 or 63 bits, or one shifted by one, would wrap.
STARTS = ("(UINT64_C(1)<<31)-9", "(UINT64_C(1)<<32)-9", "(UINT64_C(1)<<62)-9", "(UINT64_C(1)<<63)-9", "UINT64_MAX-9")
MODULES = {"rf_job_ring": river_fast._ext.fetcher.__file__, "rf_outcome_ring": river_fast._ext.completer.__file__}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_accepted_push_is_popped_once_and_whole(seed: int) -> None:
    outcome = run_c(compiled_c("ring_stress"), 2000, seed)
    assert outcome.ok, outcome.output
    print(f"n={outcome.checked}")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_small_history_has_an_order(seed: int) -> None:
    outcome = run_c(compiled_c("ring_linear"), 4000, seed)
    assert outcome.ok, outcome.output
    print(f"n={outcome.checked}")


@pytest.mark.parametrize("start", STARTS)
def test_counters_wrap(start: str) -> None:
    flag = f"-DRF_RING_START=({start})"
    for program in ("ring_stress", "ring_linear"):
        outcome = run_c(compiled_c(program, flag), 200)
        assert outcome.ok, outcome.output


def test_header_is_plain_c11(tmp_path: Path) -> None:
    source = tmp_path / "ring.c"
    source.write_text('#include "ring.h"\nRF_RING_DEFINE(ring, int)\nint main(void) { return 0; }\n')
    flags = ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-fsyntax-only", "-iquote"]
    subprocess.run([*compiler(), *flags, str(HEADERS), str(source)], check=True)


def instructions(library: str, function: str) -> list[str]:
    """The mnemonic and operands of each instruction of an exported function."""
    command = ["objdump", "--no-show-raw-insn", f"--disassemble={function}", library]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^ +[0-9a-f]+:\t(.+)$", listing, re.MULTILINE)


@pytest.mark.parametrize("operation", ["try_push", "pop"])
@pytest.mark.parametrize("ring", MODULES)
def test_shipped_operation_makes_no_call(ring: str, operation: str) -> None:
    library = MODULES[ring]
    assert library is not None
    found = instructions(library, f"{ring}_{operation}_copy")
    assert any(re.match(r"lock cmpxchg|cas|ldxr|ldaxr|ldrexd", line) for line in found), found
    # a jump out of the function is a call as well (a tail call): it names a symbol without an offset in it
    outside = rf"<(?!{ring}_{operation}_copy[+>])"
    calls = [line for line in found if re.match(r"(call|bl|blx|blr)\b|syscall|svc", line) or re.search(outside, line)]
    assert not calls


def test_disassembly_test_sees_a_call(tmp_path: Path) -> None:
    """The test above would notice: a value too large to be copied by moves makes gcc call memcpy."""
    source, library = tmp_path / "big.c", tmp_path / "big.so"
    source.write_text(
        '#include "ring_copies.h"\ntypedef struct { char byte[100000]; } big;\n'
        "RF_RING_DEFINE(ring, big)\nRF_RING_COPIES(ring, big)\n"
    )
    subprocess.run(
        [*compiler(), "-shared", "-fPIC", "-O2", "-iquote", str(HEADERS), str(source), "-o", str(library)], check=True
    )
    assert any(re.search(r"memcpy|rep movs", line) for line in instructions(str(library), "ring_try_push_copy"))
