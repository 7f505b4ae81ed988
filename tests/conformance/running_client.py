"""A client that the suite has started, with what it watches and holds.

The request loop's thread. Made by `start`, used up by `stop`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import river_fast as river
from tests.conformance.barriers import Barriers
from tests.conformance.built_in_job import KIND, BuiltInJob
from tests.conformance.claim_barrier import ClaimBarrier
from tests.conformance.runtime_stats import RuntimeStats
from tests.conformance.start_options import config_of, extensions_of, intervals_of

CLAIMED_MOST = 0.25  # seconds
STOP_TIMEOUT = 9.0  # seconds of the ten that a stop may take
STOP_HARD_TIMEOUT = 6.0  # seconds after which what ignores its cancellation is abandoned


class RunningClient:
    """`connect` gives connections for the jobs' own transactions, `cancel_requested` reads a row."""

    def __init__(
        self,
        conninfo: str,
        options: Mapping[str, Any],
        *,
        barriers: Barriers,
        connect: Callable[[], AbstractContextManager[Any]],
        cancel_requested: Callable[[int], bool],
        pool_size: int,
        args_most: int,
        generation: str = "A",
    ) -> None:
        self.stats = RuntimeStats()
        self._claim_barrier: ClaimBarrier | None = None
        if "claim_barrier" in options:
            barrier = barriers.get(options["claim_barrier"])
            assert barrier is not None, "checked by start"
            self._claim_barrier = ClaimBarrier(barrier, cancel_requested)
        job = BuiltInJob(barriers, self.stats, connect, self._claim_barrier, interruptible_sleep=generation == "B")
        workers = job.workers(tuple(options.get("worker_kinds") or (KIND,)))
        config = config_of(options, workers, extensions_of(options, self.stats, count_starts=generation == "B"))
        config = replace(config, pool_size=pool_size, max_args_bytes=args_most)
        self.client = river.Client(conninfo, config)
        self.client._intervals = intervals_of(options)
        self.schema = config.schema

    def start(self) -> None:
        """Raises what the client's start raised; then nothing is left running."""
        self.stats.watch(self.client)
        self.client.start()

    def stop(self, *, hard: bool) -> None:
        """Within ten seconds, whatever the jobs do."""
        self._begin_claimed()
        if self._claim_barrier is not None:
            self._claim_barrier.stop()
        if hard:
            self.client.stop_and_cancel(STOP_HARD_TIMEOUT)
        else:
            self.client.stop(STOP_TIMEOUT)

    def _begin_claimed(self) -> None:
        """River begins at once what it claims, and the suite sees no more than the row: what still waits for its thread
        here would be given back by the stop, as if it had never been running."""
        services, until = self.client._services, time.monotonic() + CLAIMED_MOST
        while services is not None and services.producer.fetcher.unstarted(CLAIMED_MOST) and time.monotonic() < until:
            time.sleep(0.001)
