"""The compiled completer: outcomes in, COMMITs out; see `_ext/completer.pyx`."""

from collections.abc import Iterable, Mapping
from typing import Final, final

def load_libpq(path: str) -> None: ...

PUSHED: Final[int]
FULL: Final[int]
CLOSED: Final[int]

# What `take_attention` hands out: (what, number, text)
NOTICE: Final[int]   # log `text` at logging level `number`
HOLD: Final[int]     # number 1: the backlog is at its limit, stop fetching; 0: go on
CONNECTED: Final[int]
LOST: Final[int]

@final
class Completer:
    """Owns the completion ring and its connection. Methods are for any thread unless they say otherwise."""

    def __new__(
        cls,
        *,
        conninfo: bytes,
        setup: bytes,                     # session settings, one simple message, sent after each connect
        statements: Mapping[str, bytes],  # sql/ name -> text with $n
        mode: str = "batch",              # "batch" | "inline" | "async"
        copy: bool = True,                # False: the array form for everything (poolers, no TEMP, YugabyteDB)
        keepalive: object = None,         # the Fetcher, whose slots the claims point into
        freeze_after: float = 3600.0,     # seconds between two freezings of the staging table
        copy_min: int = 0,                # bare outcomes of a flush from which on COPY is used; 0: the measured default
        begin: bytes = b"",               # opens each operation's transaction where sessions are shared; else none
    ) -> Completer: ...
    def run(self) -> None:
        """The completer thread's body, without the GIL, until closed and drained or its deadline passed."""
    def relieve(self) -> None:
        """The relief's body, for a thread of its own, without the GIL, until closed: while more outcomes wait than one
        flush takes, it records some over a second connection. At once over where nothing is flushed by COPY."""
    def push_completed(self, claim: int) -> int:
        """A bare completion. PUSHED or CLOSED; waits without the GIL while the ring is full. Releases the slot
        (mode inline: when committed)."""
    def push(
        self,
        claim: int,
        state: str,
        reason: int,
        delay_us: int = -1,               # microseconds from the end of the attempt to scheduled_at; -1: left alone
        restore_attempt: bool = False,
        error: bytes | None = None,       # an AttemptError object
        metadata: bytes | None = None,    # an object, merged
    ) -> int:
        """Any other outcome. PUSHED or CLOSED; waits without the GIL while the ring is full."""
    def try_push_completed(self, claim: int) -> int:
        """As `push_completed`, never waits: FULL instead. For the event loop."""
    def try_push(
        self,
        claim: int,
        state: str,
        reason: int,
        delay_us: int = -1,
        restore_attempt: bool = False,
        error: bytes | None = None,
        metadata: bytes | None = None,
    ) -> int: ...
    def want_rows(self, on: bool) -> None:
        """While on, finished rows are read back (RETURNING) and kept for `take_recorded`."""
    def take_recorded(self, timeout: float) -> list[tuple[tuple[bytes | None, ...], int, int, int, int]] | None:
        """(the row as stored, in job.COLUMNS' order and binary; Reason; run_ns; complete_ns; microseconds from due to
        fetched, -1: scheduled_at still tells) of outcomes recorded since the last call, after their commit.
        Bounded: the oldest are dropped and counted. None: closed and drained.
        Waits without the GIL. One thread."""
    def take_attention(self, timeout: float) -> list[tuple[int, int, str]]:
        """What Python must do; waits without the GIL. One thread."""
    def pending(self, timeout: float) -> list[tuple[int, int]] | None:
        """(id, attempted_at_us) of all outcomes pushed and not acknowledged. Answers at once, whatever the completer
        thread does: None and `timeout` are kept for an implementation that must ask it."""
    def moved(self, moves: Iterable[tuple[int, int, int]]) -> None:
        """This client's renewals of attempted_at, (id, from, to) in microseconds since 2000: an outcome that was pushed
        with `from` is recorded where the row has `to`. Tell before one is sent; each call replaces the last."""
    def close(self, timeout: float) -> None:
        """No more pushes; `run` drains what was accepted and ends, at the latest after `timeout` seconds. Idempotent
        (the nearest deadline counts). Returns at once; join the thread."""
    def unrecorded(self) -> list[tuple[int, int, int, str]]:
        """After `run` ended: (id, attempt, reason, why) of each outcome that could not be written."""
    def stats(self) -> dict[str, int]:
        """Counters since start: flushes, copy_flushes, array_flushes, recorded, fenced (another attempt's row), gone,
        finished_elsewhere, rejected, set_aside, retries, reconnects, dropped_rows, dropped_notices; backlog, now."""
