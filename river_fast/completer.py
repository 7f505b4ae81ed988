"""Records what became of every attempt. River: BatchCompleter, InlineCompleter, AsyncCompleter.

Three threads: the compiled completer's (no GIL: ring, connection, COPY and array statements, retries), its relief's,
which sleeps until that one is behind, and this service's own small one, which hands on what they have to say. Owns all;
the executor pushes, on any thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable

from river_fast._ext import completer as compiled
from river_fast.driver import Driver
from river_fast.job_row import Row
from river_fast.job_set_state import JobSetState, Reason
from river_fast.startstop import Service
from river_fast.stop_report import UnrecordedOutcome

CLOSE_TIMEOUT = 10.0  # of a plain `stop()`; the client's stop says how long it may take
ROOM_LOOK = 0.001     # how often a loop with a full ring looks for room: the completer empties it 5,000 at a time
JOIN_GRACE = 0.25     # past the deadline: the operation in flight sees it and ends

# (the row as stored; Reason; run_ns; complete_ns; us from due to fetched or -1): what the compiled part hands out.
Recorded = tuple[tuple[bytes | None, ...], int, int, int, int]

# The statements of the compiled part: what it calls them -> (the file, the forms whose lines are switched on).
STATEMENTS = {
    "completer_session": ("completer_session",),
    "outcome_staging": ("outcome_staging",),
    "outcome_copy": ("outcome_copy",),
    "outcome_copy_unlocked": ("outcome_copy_unlocked",),
    "outcome_freeze": ("outcome_freeze",),
    "job_complete_many": ("job_complete_many",),
    "job_complete_many_unlocked": ("job_complete_many", "unlocked"),
    "job_set_state_many": ("job_set_state_many",),
    "job_set_state_many_unlocked": ("job_set_state_many", "unlocked"),
    "job_set_state_many_rows": ("job_set_state_many", "rows"),
    "job_set_state_many_rows_unlocked": ("job_set_state_many", "unlocked", "rows"),
    "job_outcome_read": ("job_outcome_read",),
    "job_outcome_read_rows": ("job_outcome_read", "rows"),
}


def completer_statements(driver: Driver) -> dict[str, bytes]:
    """The texts for the compiled completer, on the driver's schema."""
    texts = {}
    for name, (file, *forms) in STATEMENTS.items():
        text = driver.statement_text(file)
        for form in forms:
            text = text.replace(b"\n--%s " % form.encode(), b"\n")
        texts[name] = text
    return texts


class Completer(Service):
    """Start before the producer, `close` after it. A start after a close makes a new ring, with new `push_completed`s.

    `mode`: "batch" | "inline" (a slot is freed only when its outcome is committed) | "async" (flushes whenever the
    connection is free). `copy` False: the array form for everything, where there can be no temp tables.
    `on_hold(True)`: too many outcomes wait, stop fetching; `on_hold(False)`: go on.
    """

    name = "completer"

    def __init__(
        self,
        driver: Driver,
        *,
        mode: str = "batch",
        copy: bool = True,
        on_hold: Callable[[bool], None] = lambda on: None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__()
        self._on_hold = on_hold
        self._logger = logger or logging.getLogger("river_fast.completer")
        self._fetcher: object = None
        self._driver = driver
        self._mode = mode
        self._copy = copy
        compiled.load_libpq(driver.libpq_path())
        self._make()

    def _make(self) -> None:
        self._compiled = compiled.Completer(
            conninfo=self._driver.hot_conninfo("completer"),
            setup=self._driver.hot_setup("completer"),
            statements=completer_statements(self._driver),
            mode=self._mode,
            copy=self._copy,
            begin=self._driver.hot_begin("completer"),
        )
        self._compiled_thread: threading.Thread | None = None
        self._relief_thread: threading.Thread | None = None
        self._close_deadline = math.inf
        # The straight path of a job that succeeds: no frame of ours between the executor and the ring.
        self.push_completed: Callable[[int], int] = self._compiled.push_completed
        self.try_push_completed: Callable[[int], int] = self._compiled.try_push_completed

    def keep(self, fetcher: object) -> None:
        """Hold on to the fetcher: the claims that are pushed point into it, and inline slots are freed late."""
        self._fetcher = fetcher

    # Pushing: any thread.

    def push(self, claim: int, outcome: JobSetState) -> int:
        """PUSHED or CLOSED; waits while there is no room."""
        return self._compiled.push(claim, *_spread(outcome))

    def try_push(self, claim: int, outcome: JobSetState) -> int:
        """PUSHED, CLOSED or FULL; never waits."""
        return self._compiled.try_push(claim, *_spread(outcome))

    async def push_async(self, claim: int, outcome: JobSetState | None) -> int:
        """For the event loop: as `push`, awaiting room instead of blocking. None: a bare completion."""
        while True:
            pushed = self.try_push_completed(claim) if outcome is None else self.try_push(claim, outcome)
            if pushed != compiled.FULL:
                return pushed
            try:
                await asyncio.sleep(ROOM_LOOK)
            except asyncio.CancelledError:
                # whoever cancels the task of a job that has ended is too late: the outcome must not be lost
                continue

    def give_up(self, row: Row, outcome: JobSetState) -> int:
        """The outcome of a job that a stop leaves behind while it still runs; its own later one is refused.

        PUSHED, CLOSED or FULL; never waits: with the server down nobody makes room.
        """
        claim: int = row.claim  # type: ignore[attr-defined]  # what runs here was fetched here
        return self.try_push(claim, outcome)

    # Asking: any thread.

    def pending(self, timeout: float = 1.0) -> list[tuple[int, int]] | None:
        """(id, attempted_at in PostgreSQL's microseconds) of each outcome pushed and not yet acknowledged."""
        return self._compiled.pending(timeout)

    def moved(self, moves: Iterable[tuple[int, int, int]]) -> None:
        """This client's renewals of attempted_at, (id, from, to): an outcome pushed with the one finds the other."""
        self._compiled.moved(moves)

    def stats(self) -> dict[str, int]:
        return self._compiled.stats()

    # For the subscription manager: any thread, `take_recorded` one.

    def want_rows(self, on: bool) -> None:
        """Whether recorded rows are read back for `take_recorded`."""
        self._compiled.want_rows(on)

    def take_recorded(self, timeout: float) -> list[Recorded] | None:
        """Rows recorded since the last call; None once closed and drained."""
        return self._compiled.take_recorded(timeout)

    # Ending.

    def close(self, timeout: float) -> list[UnrecordedOutcome]:
        """No more pushes; what was accepted is written, at the latest after `timeout` seconds. What could not be."""
        self.begin_close(timeout)
        self.wait_closed(math.inf)
        return self.unrecorded()

    def begin_close(self, timeout: float) -> None:
        """The first half of `close`, which returns at once; again: the nearest deadline counts."""
        self._close_deadline = min(self._close_deadline, time.monotonic() + max(timeout, 0.0))
        self._compiled.close(max(timeout, 0.0))
        self.request_stop()

    def wait_closed(self, patience: float) -> bool:
        """The second half; False: `patience` ended before the deadline did."""
        thread = self._compiled_thread
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            left = max(self._close_deadline - time.monotonic(), 0.0) + JOIN_GRACE
            thread.join(min(left, patience))
            if thread.is_alive() and patience < left:
                return False
        if self._relief_thread is not None and self._relief_thread.ident is not None:
            self._relief_thread.join(JOIN_GRACE)
        self.wait_stopped(JOIN_GRACE)
        return True

    def unrecorded(self) -> list[UnrecordedOutcome]:
        """After `close`: outcomes that could not be written."""
        return [
            UnrecordedOutcome(job_id, attempt, Reason(reason).name.lower(), why)
            for job_id, attempt, reason, why in self._compiled.unrecorded()
        ]

    # The service's own thread.

    def _start(self) -> None:
        if self._compiled_thread is not None:
            self._make()
        self._compiled_thread = threading.Thread(
            target=self._compiled.run, name="river_fast.completer.compiled", daemon=True
        )
        relief = threading.Thread(target=self._compiled.relieve, name="river_fast.completer.relief", daemon=True)
        self._compiled_thread.start()
        try:
            relief.start()
        except RuntimeError:
            self._logger.warning("no more threads can be started; the completer goes on without its relief")
        self._relief_thread = relief

    def _run(self) -> None:
        """Until the compiled part has ended and said its last."""
        thread = self._compiled_thread
        assert thread is not None
        alive = True
        while alive:
            alive = thread.is_alive()  # before the look: what was said before the end is seen after it
            for what, number, text in self._compiled.take_attention(1.0 if alive else 0.0):
                self._attend(what, number, text)

    def _attend(self, what: int, number: int, text: str) -> None:
        if what == compiled.NOTICE:
            self._logger.log(number, "%s", text)
        elif what == compiled.HOLD:
            try:
                self._on_hold(bool(number))
            except Exception:  # the fetcher's side; the next hold must still be passed on
                self._logger.exception("back-pressure could not be passed on")

    def _wake(self) -> None:
        if math.isinf(self._close_deadline):
            self._compiled.close(CLOSE_TIMEOUT)


def _spread(outcome: JobSetState) -> tuple[str, int, int, bool, bytes | None, bytes | None]:
    delay = outcome.delay
    return (
        outcome.state,
        outcome.reason,
        -1 if delay is None else min(round(delay * 1e6), 2**62),
        outcome.restore_attempt,
        outcome.error,
        outcome.metadata,
    )
