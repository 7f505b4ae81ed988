"""The completer's C against a made-up libpq that loses connections, under sanitizers, with planted bugs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fix_c import MODES, Fault, compile_c, compiled_c, run_c

FLAGS = ("-Wno-error", "-Wno-unused-function", "-ldl")  # TSan is told of fences it does not model: a warning
PLANTS = {  # in completer_run.h: the headers under it find each other beside themselves
    "a gathered outcome is forgotten": (
        Fault("completer_run.h", "        c->batch_count++;\n", "        if (c->batch_count < 99) c->batch_count++;\n"),
        "plain",
    ),
    "what the relief leaves is forgotten": (
        Fault("completer_run.h", "    rf_relief_take_left(c);\n", ""), "plain",
    ),
    "gathering takes no lock": (
        Fault("completer_run.h", "    int popped = RF_POPPED;\n    pthread_mutex_lock(&c->mutex);\n",
              "    int popped = RF_POPPED;\n"), "tsan",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_true_code_gives_no_report_and_loses_nothing(mode: str) -> None:
    for seed in (1, 2, 3):  # each another mode of the completer
        outcome = run_c(compiled_c("completer_stress", *FLAGS, mode=mode), 100, seed)
        assert outcome.ok, outcome.output
        print(f"completer_stress {mode}: n={outcome.checked}, 0 reports")


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    fault, mode = PLANTS[name]
    binary = compile_c("completer_stress", tmp_path, *FLAGS, mode=mode, fault=fault)
    assert not all(run_c(binary, 100, seed, patience=5).ok for seed in range(1, 13)), f"{name} was not found"
