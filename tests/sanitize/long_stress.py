"""The programs of tests/c, long: run by `make sanitize`; `make test` runs the same for a second each."""

from __future__ import annotations

import pytest

from tests.fix_c import MODES, compiled_c, run_c
from tests.test_sanitizers import PROGRAMS

SIZE = 20_000
SEEDS = 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_true_code_gives_no_report(program: str, mode: str) -> None:
    checked = 0
    for seed in range(100, 100 + SEEDS):
        outcome = run_c(compiled_c(program, mode=mode), SIZE, seed, patience=300)
        assert outcome.ok, outcome.output
        checked += outcome.checked
    print(f"{program} {mode}: n={checked}, 0 reports")
