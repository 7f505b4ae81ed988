"""What every `Service`'s test ends with: starts and stops from many threads, and an orderly service after it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from river_fast.startstop import Phase, Service

THREADS = 10
CYCLES = 500  # of each thread
START_PAUSE = 0.0005  # a start is held up this long, for another one to come in between if it can


class Lives:
    """Counts what the one lifecycle promises: a life at a time, and an end for each beginning."""

    def __init__(self, service: Service) -> None:
        self._lock = threading.Lock()
        self._start, self._run, self._finish = service._start, service._run, service._finish
        self.begun = self.ended = self.running = self.most = 0
        service._start, service._run, service._finish = self.start, self.run, self.finish  # type: ignore[method-assign]

    def start(self) -> None:
        threading.Event().wait(START_PAUSE)
        self._start()
        with self._lock:
            self.begun += 1

    def run(self) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            self._run()
        finally:
            with self._lock:
                self.running -= 1

    def finish(self) -> None:
        try:
            self._finish()
        finally:
            with self._lock:
                self.ended += 1


def together(body: Callable[[int], None], threads: int = THREADS, name: str = "the service") -> None:
    """Runs `body(number)` on so many threads at once; what one of them raised fails the test."""
    failures: list[BaseException] = []
    gate = threading.Barrier(threads)

    def run(number: int) -> None:
        try:
            gate.wait(30)
            body(number)
        except BaseException as error:
            failures.append(error)

    hammers = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    for thread in hammers:
        thread.start()
    for thread in hammers:
        thread.join(90)
        assert not thread.is_alive(), f"{name} hangs between start and stop"
    assert not failures, failures


def hammer(service_factory: Callable[[], Service], threads: int = THREADS, cycles: int = CYCLES) -> None:
    """`threads` threads start and stop one service `cycles` times each; then it starts and stops once more."""
    service = service_factory()
    lives = Lives(service)

    def cycle(number: int) -> None:
        for turn in range(cycles):
            if (number + turn) % 3 == 0:
                service.request_stop()
            service.start()
            if (number + turn) % 2 == 0:
                assert service.stop(20), "stop did not end in 20 s"
            else:
                service.request_stop()

    together(cycle, threads, service.name)
    assert service.stop(20)
    assert service.phase is Phase.STOPPED
    service.start()
    assert service.phase is Phase.STARTED
    assert service.stop(20)
    assert service.stop(20), "a second stop is as good as the first"
    assert service.phase is Phase.STOPPED
    assert lives.most == 1, "two lives at once"
    assert lives.begun == lives.ended > 1
    for thread in threading.enumerate():
        if thread.name == f"river_fast.{service.name}":
            thread.join(5)
            assert not thread.is_alive(), "a thread was left behind"
