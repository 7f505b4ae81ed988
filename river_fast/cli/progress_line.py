"""The live line of a command that takes a while. One thread; owns the last line of stderr while it is open."""

from __future__ import annotations

import sys
import time


class ProgressLine:
    """One line on stderr that is written over on a terminal; elsewhere a line a second."""

    INTERVAL = 1.0

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_at = time.monotonic()
        self._count = 0
        self._open = False

    def is_due(self) -> bool:
        return time.monotonic() >= self._shown_at + self.INTERVAL

    def show_rate(self, count: int, text: str) -> None:
        """With the rate since the last time."""
        now = time.monotonic()
        rate = (count - self._count) / (now - self._shown_at)
        self._count = count
        self._write(f"{text}, {rate:,.0f} jobs/s", now)

    def show(self, text: str) -> None:
        if self.is_due():
            self._write(text, time.monotonic())

    def end(self) -> None:
        if self._open:
            sys.stderr.write("\n")
            self._open = False

    def _write(self, text: str, now: float) -> None:
        self._shown_at = now
        sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        sys.stderr.flush()
        self._open = self._terminal
