"""The compiled fetcher: one thread, one connection, all queues of a client; see `_ext/fetcher.pyx`."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import Any, Final, final

from river_fast.job import Job

def load_libpq(path: str) -> None: ...

# What `take_attention` hands out: (what, queue index, number, text)
GROW: Final[int]     # start `number` more worker threads for the queue
NOTICE: Final[int]   # log `text` at logging level `number`
CONNECTED: Final[int]  # the connection is (again) there, lock had; `number` 1 = first time
LOST: Final[int]     # the connection was lost

@final
class FetchedRow:
    """The row of a fetched job (river_fast.job.Row), and the one run of it that this process holds."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...  # raises TypeError: the fetcher makes them
    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def encoded_args(self) -> bytes: ...
    def field(self, column: int) -> bytes | None: ...
    @property
    def kind_index(self) -> int:
        """Position in the fetcher's `kinds`, -1 for a kind that is not there."""
    @property
    def queue_index(self) -> int: ...
    @property
    def attempted_at_us(self) -> int:
        """Microseconds since 2000-01-01 UTC: with id and attempt, the fence."""
    @property
    def renewing_us(self) -> int:
        """What a renewal that is under way, or whose outcome is not known, would make of attempted_at_us; 0: none."""
    def renew(self, attempted_at_us: int) -> None:
        """A renewal is about to be sent: until `renewed`, the row may have either time."""
    def renewed(self, committed: bool) -> None:
        """What became of it: the fence follows, or stays."""
    @property
    def claim(self) -> int:
        """Address of the rf_claim, for the completer; good while the row lives."""
    @property
    def asked_ns(self) -> int:
        """Monotonic clock (`time.monotonic_ns`) when the fetch that brought the job was sent."""
    @property
    def fetched_ns(self) -> int:
        """Monotonic clock (`time.monotonic_ns`) when its reply was there."""
    @property
    def started_ns(self) -> int:
        """Monotonic clock (`time.monotonic_ns`) when the job was popped."""
    @property
    def cancelled(self) -> bool:
        """A remote cancel came while the job waited in the ring."""
    @property
    def plain(self) -> bool:
        """Neither cancelled, undecodable nor resumed: the job may simply run."""
    @property
    def resumed(self) -> bool:
        """An earlier attempt left progress in the metadata (river_fast/resumable.py)."""
    def begin(self) -> None:
        """Its run begins now, not when it was popped: an async job's, whose Task had to wait for its first step."""
    @property
    def undecodable(self) -> str | None:
        """Name of the column whose stored value cannot be used, None for a good row."""

@final
class WorkLoop:
    """What the worker threads of a client share: how each kind is worked, and where outcomes go."""

    def __init__(
        self,
        units: Sequence[Any],                                     # by kind index, the last for unknown kinds; each
                                                                  # with `work`, and `plain`: needs no preparation
        context: Context,                                         # each job runs in a copy
        push_completed: Callable[[int], int],                     # (claim)
        execute: Callable[[Job[Any], dict[int, Job[Any]]], None],  # (job, active): one that is not plain
        settle: Callable[[Job[Any], dict[int, Job[Any]], BaseException | None], None],  # it raised or staged something
    ) -> None: ...
    def run(self, fetcher: Fetcher, queue: int) -> None:
        """A worker thread's body: pops jobs and works them until the thread shall end."""

@final
class Fetcher:
    """Owns the fetch connection, the job rings and the slots. Methods are for any thread unless they say otherwise."""

    def __new__(
        cls,
        *,
        conninfo: bytes,
        setup: bytes,                      # session settings and LISTEN, one simple message, sent after each connect
        statements: Mapping[str, bytes],   # sql/ name -> text with $n: job_get_available, job_give_back, queue_poll ...
        client_id: str,
        lock_key: int,                     # the liveness lock; 0: none (no session locks on this server)
        kinds: Sequence[str],              # registered kinds and aliases
        async_kinds: Sequence[bool],       # which of them have an `async def`: their jobs go to the loop's ring
        job_type: type[Job[Any]],
        notify: bool = True,               # whether the server has NOTIFY: for the queues of what is given back
        begin: bytes = b"",                # opens each operation's transaction where sessions are shared; else none
        heartbeat_key: int = 0,            # of the client's row in river_fast_client; 0: it has none
        only_known: bool = False,          # job_get_available and queue_poll take `kinds` as their last parameter
    ) -> Fetcher: ...
    def run(self) -> None:
        """The fetcher thread's body, without the GIL: connect, lock, fetch, until `close`. Call once, in its thread."""
    def add_queue(
        self,
        name: str,
        max_workers: int,
        fetch_cooldown: float,             # seconds
        fetch_poll_interval: float,        # seconds
        prefetch: int,                     # -1: automatic, within hotpath.md's bounds; 0: never; n: at most n
        active: dict[int, Job[Any]],       # pop puts the job in, the executor takes it out
        paused: bool = False,
        max_threads: int = 0,              # 0: max_workers
        ring_wait: float = 0.0,            # seconds a job may wait unstarted; 0: 50 ms (hotpath.md 2)
    ) -> int:
        """A queue's index, for all calls below. Indexes are never used again."""
    def remove_queue(self, queue: int) -> None:
        """No more fetches; unstarted jobs are given back; `pop` returns None to each of its threads."""
    def pause(self, queue: int) -> None:
        """No more fetches, unstarted jobs are given back; running ones go on."""
    def resume(self, queue: int) -> None: ...
    def notify(self, queue: int) -> None:
        """As an insert notification for the queue: fetch now."""
    def cancel(self, job_id: int) -> None:
        """Remember a remote cancel: a job in a ring, or in the fetch in flight, will start `cancelled`."""
    def pop(self, queue: int) -> Job[Any] | None:
        """A worker thread's next job, its slot taken; waits without the GIL. None: the thread shall end."""
    def try_pop(self, queue: int, running: int = 0) -> Job[Any] | None:
        """The event loop's next job of the queue, if there is one and a slot for it. Else the loop is woken for the
        next free slot, unless `running` jobs of its own hold them all: it knows when one ends."""
    def worker_started(self, queue: int, count: int) -> None:
        """Before starting `count` worker threads: each will call `pop` until it returns None.
        A negative count takes it back: threads that could not be started, or whose job is stuck."""
    def loop_fileno(self) -> int:
        """Readable when `take_loop_ready` has something; for `loop.add_reader`."""
    def take_loop_ready(self) -> list[int]:
        """The queues whose loop ring may have something, each once."""
    def take_attention(self, timeout: float) -> list[tuple[int, int, int, str]]:
        """What Python must do: (GROW | NOTICE | ..., queue, number, text); waits without the GIL. One thread."""
    def finish(self, row: FetchedRow) -> None:
        """The run ended without an outcome for the completer (`complete_tx`): give the slot back."""
    def release_slot(self, row: FetchedRow) -> None:
        """A stuck job: its slot serves others; its outcome will not release it again. Idempotent."""
    def hold(self, on: bool) -> None:
        """Back-pressure from the completer: while on, nothing is fetched."""
    def unstarted(self, timeout: float) -> list[tuple[int, int]] | None:
        """(id, attempted_at_us) of all jobs in the rings, told by the fetcher thread between two operations;
        None when it did not answer in time (it is inside an operation, or the connection is down)."""
    def stop_fetching(self, timeout: float) -> StopFetch:
        """Steps 1 and 2 of the stop: the fetch in flight is received (until `timeout`, then cancelled), unstarted jobs
        are given back except those with a remote cancel, the rings are closed. The connection and its lock stay.
        Idempotent; waits without the GIL, `timeout` and half a second at most; works before `run` and after `close`."""
    def close(self) -> None:
        """`run` ends: connection closed. Idempotent. Returns at once; join the thread."""
    def stats(self) -> dict[str, int]:
        """Counters since start: fetches, fetched, empty_fetches, given_back, wakeups, reconnects, notifications ..."""
    def queue_stats(self, queue: int) -> dict[str, int]:
        """started, limit, done, ring, loop_ring, threads, prefetch, mean_run_ns (-1: none ended yet)."""

def keep_metrics(fetcher: Fetcher) -> None:
    """Measure every fetch, for `take_metrics`; before `run`."""

def take_metrics(fetcher: Fetcher) -> list[tuple[int, int, int]]:
    """(queue index, jobs, nanoseconds) of each fetch since the last call, oldest first; one thread."""

@final
class StopFetch:
    """What `stop_fetching` did."""
    given_back: int
    unresolved: bool      # a fetch in flight, or the giving back, has an unknown outcome
