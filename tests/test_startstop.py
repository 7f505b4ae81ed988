"""The one lifecycle: synchronous start that may fail, idempotent stop, restart, no self-wait."""

from __future__ import annotations

import threading

import pytest

from river_fast.startstop import Phase, Service
from tests.stress import hammer


class Loop(Service):
    name = "loop"

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.made = self.released = 0

    def _start(self) -> None:
        if self.fails:
            raise RuntimeError("cannot start")
        self.made += 1

    def _run(self) -> None:
        self._stopping.wait()

    def _finish(self) -> None:
        self.released += 1


def test_stop_tolerates_never_started_and_stopped_twice() -> None:
    service = Loop()
    assert service.stop(1)
    service.start()
    service.start()
    assert service.made == 1
    assert service.phase is Phase.STARTED
    assert service.stop(5)
    assert service.stop(5)
    assert service.phase is Phase.STOPPED
    assert service.released == 1


def test_failed_start_leaves_nothing_and_may_be_repeated() -> None:
    service = Loop(fails=True)
    with pytest.raises(RuntimeError, match="cannot start"):
        service.start()
    assert service.stop(1)
    service.fails = False
    service.start()
    assert service.stop(5)
    assert (service.made, service.released) == (1, 1)


def test_stop_from_its_own_thread_does_not_wait_for_itself() -> None:
    answers: list[bool] = []

    class Suicidal(Service):
        def _run(self) -> None:
            answers.append(self.stop(10))

    service = Suicidal()
    service.start()
    assert service.wait_stopped(5)
    assert answers == [False]


def test_body_that_raises_still_ends_as_stopped() -> None:
    class Broken(Loop):
        def _run(self) -> None:
            raise ValueError("broken")

    seen: list[object] = []
    hook, threading.excepthook = threading.excepthook, lambda args: seen.append(args.exc_value)
    try:
        service = Broken()
        service.start()
        assert service.wait_stopped(5)
    finally:
        threading.excepthook = hook
    assert service.phase is Phase.STOPPED
    assert service.released == 1
    assert len(seen) == 1


def test_start_and_stop_from_many_threads() -> None:
    hammer(Loop)
