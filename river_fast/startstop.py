"""The one lifecycle of every long-lived thing. River: rivershared/startstop.

Any thread may call `start`, `stop`, `request_stop` and `wait_stopped`, any number of times, in any order.
A service writes only `_start` (may fail: then nothing is left behind), `_run` (its thread's body) and, if the thread
waits on something else than `self._stopping`, `_wake`.
"""

from __future__ import annotations

import threading
from enum import Enum


class Phase(Enum):
    """`NEW` or `STOPPED` -> `STARTED` -> `STOPPING` -> `STOPPED`."""

    NEW = "new"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Service:
    """A thread with a name and an orderly end; start is synchronous, stop idempotent, restart allowed."""

    name = "service"

    def __init__(self) -> None:
        self._lifecycle = threading.Lock()  # guards _phase and _thread; held through start, never while waiting
        self._phase = Phase.NEW
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._stopped.set()

    @property
    def phase(self) -> Phase:
        return self._phase

    def start(self) -> None:
        """Returns when the service works; raises what `_start` raised, and then it is as if never started."""
        with self._lifecycle:
            if self._phase in (Phase.STARTED, Phase.STOPPING):
                return
            self._stopping.clear()
            self._start()
            self._stopped.clear()
            self._thread = threading.Thread(target=self._body, name=f"river_fast.{self.name}", daemon=True)
            self._phase = Phase.STARTED
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                self._phase = Phase.STOPPED
                self._stopped.set()
                self._finish()
                raise

    def request_stop(self) -> None:
        """Begin to stop; returns at once; fine on a service that never ran."""
        with self._lifecycle:
            if self._phase is not Phase.STARTED:
                return
            self._phase = Phase.STOPPING
            self._stopping.set()
        self._wake()

    def wait_stopped(self, timeout: float | None = None) -> bool:
        """True once the thread has ended (or never ran). From the service's own thread: False at once."""
        if self._thread is threading.current_thread():
            return False
        return self._stopped.wait(timeout)

    def stop(self, timeout: float | None = None) -> bool:
        """`request_stop`, then `wait_stopped`."""
        self.request_stop()
        return self.wait_stopped(timeout)

    def _body(self) -> None:
        try:
            self._run()
        finally:
            try:
                self._finish()
            finally:
                with self._lifecycle:
                    self._phase = Phase.STOPPED
                    self._stopping.set()
                    self._stopped.set()

    def _start(self) -> None:
        """Make what the thread needs; raise to refuse."""

    def _run(self) -> None:
        """The thread's body; returns soon after `self._stopping` is set."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Wake the thread if it waits on something else than `self._stopping`."""

    def _finish(self) -> None:
        """Release what `_start` made; runs in the thread, once per start."""
