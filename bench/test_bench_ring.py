"""The ring: a push and a pop, in one thread and from one thread to another. `ring.c` measures it under contention."""

from __future__ import annotations

import ctypes

from bench.conftest import PerItem

ITEMS = 100_000
CAPACITY = 1024
SUM = ITEMS * (ITEMS - 1) // 2


def test_push_and_pop_in_one_thread(per_item: PerItem, micro: ctypes.CDLL) -> None:
    run = micro.ring_alone
    assert per_item(lambda: run(ctypes.c_int64(ITEMS), ctypes.c_int64(CAPACITY)), ITEMS) == SUM


def test_push_and_pop_between_two_threads(per_item: PerItem, micro: ctypes.CDLL) -> None:
    run = micro.ring_between
    assert per_item(lambda: run(ctypes.c_int64(ITEMS), ctypes.c_int64(CAPACITY)), ITEMS) == SUM
