"""The fetcher's C without Python: a queue's lanes under load, and what other people write, as it is and sanitized."""

from __future__ import annotations

import pytest

from tests.fix_c import MODES, Fault, compile_c, compiled_c, run_c

FLAGS = ("-D_GNU_SOURCE", "-Wno-unused-function", "-ldl")
LOST_SUCCESSOR = Fault(
    "queue.h",
    "atomic_compare_exchange_strong(&queue->lane[kind], &lane, next);",
    "atomic_store(&queue->lane[kind], queue->own.newest[kind]);",
)
DEAF_MARK = Fault("queue.h", "rf_wake_signal(queue->fetcher);", ";")
FREE_SLOTS = Fault("queue.h", "if (!rf_queue_take_slot(queue)) return RF_NO_SLOT;", "rf_queue_take_slot(queue);")
FULL_IS_LOST = Fault(
    "queue.h",
    "if (rf_job_ring_try_push(&lane->ring, &cell) == RF_PUSHED) return true;",
    "rf_job_ring_try_push(&lane->ring, &cell); if (tries >= 0) return true;",
)
GIVES_UP = Fault("pace.h", "now < pace->unsaid_until && gap <= RF_RECHECK_FIRST", "false")
NEVER_GIVES_UP = Fault("pace.h", "now < pace->unsaid_until && gap <= RF_RECHECK_FIRST", "true")
PAST_THE_END = Fault("rows.h", "if (position + 4 > length) return false;", "")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", ["queue_stress", "rows_fuzz", "pace_check"])
def test_the_c_of_the_fetcher_is_clean(program, mode):
    for seed in (1, 2, 3):
        outcome = run_c(compiled_c(program, *FLAGS, mode=mode), 600, seed)
        assert outcome.ok, outcome.output


@pytest.mark.parametrize(
    ("program", "mode", "fault"),
    [
        ("queue_stress", "plain", LOST_SUCCESSOR),
        ("queue_stress", "plain", DEAF_MARK),
        ("queue_stress", "plain", FREE_SLOTS),
        ("queue_stress", "tsan", FULL_IS_LOST),
        ("rows_fuzz", "asan", PAST_THE_END),
        ("pace_check", "plain", GIVES_UP),
        ("pace_check", "plain", NEVER_GIVES_UP),
    ],
    ids=["lost successor", "deaf mark", "free slots", "full is lost", "past the end", "gives up", "never gives up"],
)
def test_a_planted_bug_is_found(tmp_path, program, mode, fault):
    binary = compile_c(program, tmp_path, *FLAGS, mode=mode, fault=fault)
    assert any(not run_c(binary, 600, seed, patience=5).ok for seed in range(1, 101))
