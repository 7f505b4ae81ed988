"""What every `Service`'s test ends with: starts and stops from many threads, and an orderly service after it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from river_fast.startstop import Phase, Service

THREADS = 10
CYCLES = 50


def hammer(service_factory: Callable[[], Service], threads: int = THREADS, cycles: int = CYCLES) -> None:
    """`threads` threads start and stop one service `cycles` times each; then it starts and stops once more."""
    service = service_factory()
    failures: list[BaseException] = []
    gate = threading.Barrier(threads)

    def cycle(number: int) -> None:
        try:
            gate.wait(10)
            for turn in range(cycles):
                if (number + turn) % 3 == 0:
                    service.request_stop()
                service.start()
                if (number + turn) % 2 == 0:
                    assert service.stop(20), "stop did not end in 20 s"
                else:
                    service.request_stop()
        except BaseException as error:
            failures.append(error)

    hammers = [threading.Thread(target=cycle, args=(number,)) for number in range(threads)]
    for thread in hammers:
        thread.start()
    for thread in hammers:
        thread.join(60)
        assert not thread.is_alive(), f"{service.name} hangs between start and stop"
    assert not failures, failures
    assert service.stop(20)
    assert service.phase is Phase.STOPPED
    service.start()
    assert service.phase is Phase.STARTED
    assert service.stop(20)
    assert service.stop(20), "a second stop is as good as the first"
    for thread in threading.enumerate():
        if thread.name == f"river_fast.{service.name}":
            thread.join(5)
            assert not thread.is_alive(), "a thread was left behind"
