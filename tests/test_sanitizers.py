"""The C of ring and wake-ups under ASan, UBSan and TSan: true code gives no report, each planted bug is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fix_c import MODES, compile_c, compiled_c, run_c
from tests.planted_faults import PLANTS, Plant

PROGRAMS = ("ring_stress", "ring_linear", "park_stress", "wake_stress")
SIZE = 600
# A planted bug that loses something ends by the program's own alarm; the true code needs a fraction of this.
PATIENCE = 1
SEEDS = 24  # enough for a machine with few cores, or busy ones


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_true_code_gives_no_report(program: str, mode: str) -> None:
    outcome = run_c(compiled_c(program, mode=mode), SIZE)
    assert outcome.ok, outcome.output
    print(f"{program} {mode}: n={outcome.checked}, 0 reports")


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    plant: Plant = PLANTS[name]
    binary = compile_c(plant.program, tmp_path, *plant.flags, mode=plant.mode, fault=plant.fault)
    for seed in range(1, SEEDS + 1):
        outcome = run_c(binary, SIZE, seed, PATIENCE if plant.mode == "plain" else 30)  # a report needs no alarm
        if outcome.reports > 0 if plant.mode != "plain" else not outcome.ok:
            print(f"{name}: found by seed {seed}: {outcome.output.strip().splitlines()[0]}")
            return
    pytest.fail(f"not found in {SEEDS} runs of {plant.program} ({plant.mode})")
