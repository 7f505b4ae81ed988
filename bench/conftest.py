"""How the micro benchmarks measure: whole loops, reported by the item."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.harness import RESULTS, ROOT, compile_c

PerItem = Callable[[Callable[[], Any], int], Any]


@pytest.fixture
def per_item(benchmark: Any) -> Iterator[PerItem]:
    """`per_item(function, items)`: times `function`, which handles `items` things; returns what it returned."""

    def measure(function: Callable[[], Any], items: int) -> Any:
        result = benchmark.pedantic(function, rounds=30, warmup_rounds=3)
        if benchmark.stats is not None:  # None under --benchmark-disable
            benchmark.extra_info["items"] = items
            benchmark.extra_info["ns_per_item"] = round(benchmark.stats.stats.median / items * 1e9, 2)
        return result

    return measure


@pytest.fixture(scope="session")
def micro() -> ctypes.CDLL:
    """`micro.c`, compiled."""
    library = RESULTS / "micro.so"
    compile_c(ROOT / "bench" / "micro.c", library, "-fPIC", "-shared")
    loaded = ctypes.CDLL(str(Path(library)))
    for name in ("ring_alone", "ring_between", "copy_rows", "jsonb_array"):
        getattr(loaded, name).restype = ctypes.c_int64
    return loaded
