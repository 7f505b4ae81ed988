"""The writers of PostgreSQL's binary forms and the mender of JSON texts, in C, under sanitizers, with planted bugs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fix_c import Fault, compile_c, compiled_c, run_c

MODES = ("plain", "asan")
PLANTS = {
    "a buffer a byte too small": (Fault("pgcopy.h", "while (capacity < need)", "while (capacity < need - 1)"), "asan"),
    "a buffer never freed": (Fault("pgcopy.h", "free(buffer->data);", ""), "asan"),
    "a failed buffer goes on": (Fault("pgcopy.h", "if (buffer->failed) return false;", ""), "plain"),
    "an id cut to 32 bits": (Fault("pgcopy.h", "bits = (uint64_t)value;", "bits = (uint32_t)value;"), "plain"),
    "NUL is left": (Fault("sanitise.h", "if (c == 0) {", "if (0) {"), "plain"),
    "surrogates are left": (Fault("sanitise.h", "|| (code >= 0xd800 && code <= 0xdfff)", ""), "plain"),
    "overlong UTF-8 is taken": (Fault("sanitise.h", "p[0] >= 0xc2", "p[0] >= 0xc0"), "plain"),
    "UTF-8 surrogates are taken": (
        Fault("sanitise.h", "if (p[0] == 0xed && p[1] > 0x9f) return 0;", ""), "plain",
    ),
    "a character is read past the end": (Fault("sanitise.h", "left < 3 || ", ""), "asan"),
    "strings are not cut": (Fault("sanitise.h", "written + length > max", "0"), "plain"),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_true_code_gives_no_report(mode: str) -> None:
    outcome = run_c(compiled_c("pgcopy_check", mode=mode), 200)
    assert outcome.ok, outcome.output
    print(f"pgcopy_check {mode}: n={outcome.checked}, 0 reports")


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    fault, mode = PLANTS[name]
    outcome = run_c(compile_c("pgcopy_check", tmp_path, mode=mode, fault=fault), 200, patience=20)
    assert not outcome.ok, f"{name} was not found in n={outcome.checked}"
