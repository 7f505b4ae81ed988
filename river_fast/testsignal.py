"""A signal that production code may give and only tests wait for. River: testsignal.

Inactive (the default) it costs one attribute test and keeps nothing.
"""

from __future__ import annotations

import queue
from typing import Generic, TypeVar

T = TypeVar("T")


class TestSignal(Generic[T]):
    """`signal(value)` in the service; `activate()` then `wait()` in its test. Any thread."""

    __test__ = False  # not a test class, whatever its name says to pytest
    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: queue.SimpleQueue[T] | None = None

    def activate(self) -> TestSignal[T]:
        self._values = queue.SimpleQueue()
        return self

    def signal(self, value: T) -> None:
        if self._values is not None:
            self._values.put(value)

    def wait(self, timeout: float = 30.0) -> T:
        """The next value given; `TimeoutError` after `timeout` seconds."""
        if self._values is None:
            raise RuntimeError("TestSignal.wait before activate")
        try:
            return self._values.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no signal within {timeout:g} s") from None
