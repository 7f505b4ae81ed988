"""Concurrent inserts of one job share statements and commits: group commit. Each caller gets its own row, or its error.

Any thread (`InsertCombiner`) or one event loop (`AsyncInsertCombiner`). An insert that finds a free lane goes at once;
while all lanes are busy the others gather, and are sent as one when a lane falls free. Nobody waits for company.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from river_fast.errors import (
    ConfigError,
    DatabaseError,
    EncodeError,
    InsertOutcomeUnknownError,
    MigrationError,
    UniqueConflictError,
)
from river_fast.insert_opts import JobInsertResult
from river_fast.insert_params import InsertBatch

LANES: Final = 2  # groups on their way at once: one is built while the other commits
GROUP_MAX: Final = 1_000
PATIENCE_S: Final = 1.0  # a call that gathered for so long goes by itself: the lanes are held up by something
ANSWER_MAX_S: Final = 30.0  # longer than any group may take: whoever sent it was killed or interrupted

REFUSALS: Final = (DatabaseError, UniqueConflictError, MigrationError, ConfigError, EncodeError)  # of `insert_error`
LOCK_NOT_AVAILABLE: Final = "55P03"
INTERRUPTED: Final = (
    "the insert was sent together with others, and whoever sent them was interrupted: it may or may not have been"
    " committed; look before you insert again, or give the jobs unique options"
)

Send = Callable[[Sequence[InsertBatch]], list[JobInsertResult]]
SendAsync = Callable[[Sequence[InsertBatch]], Awaitable[list[JobInsertResult]]]
_AsyncCall = tuple[InsertBatch, asyncio.Future[JobInsertResult | None]]


class _Call:
    """One caller's insert while it waits. Guarded by the combiner's lock until it is in a group."""

    __slots__ = ("batch", "error", "group", "result", "wake")

    def __init__(self, batch: InsertBatch) -> None:
        self.batch = batch
        self.wake = threading.Lock()
        self.wake.acquire()
        self.group: list[_Call] | None = None  # set: this caller sends them all
        self.result: JobInsertResult | None = None
        self.error: Exception | None = None


class InsertCombiner:
    """`send` inserts a group, all or none; `alone` one job, however long its row is locked by others."""

    def __init__(self, send: Send, alone: Send) -> None:
        self._send = send
        self._alone = alone
        self._lock = threading.Lock()  # guards what follows
        self._free = LANES
        self._gathered: deque[_Call] = deque()

    def insert(self, batch: InsertBatch) -> JobInsertResult:
        """Returns, or raises the insert's own error, after its commit."""
        call = _Call(batch)
        with self._lock:
            if self._free:
                self._free -= 1
                call.group = [call]
            else:
                self._gathered.append(call)
        if call.group is None:
            self._wait(call)
        if call.group is not None:
            self._lead(call, call.group)
        if call.error is not None:
            raise call.error
        return call.result if call.result is not None else self._alone([batch])[0]

    def _wait(self, call: _Call) -> None:
        """Until it was sent, or is to send (`call.group`), or waited too long to go on waiting."""
        try:
            if call.wake.acquire(timeout=PATIENCE_S):
                return
            with self._lock:
                if call in self._gathered:
                    self._gathered.remove(call)
                    return
            if not call.wake.acquire(timeout=ANSWER_MAX_S):
                call.error = InsertOutcomeUnknownError(INTERRUPTED)
        except BaseException:  # Ctrl-C: what others depend on goes on without this caller
            with self._lock:
                if call in self._gathered:
                    self._gathered.remove(call)
                elif call.group is not None:
                    self._gathered.extendleft(reversed(call.group[1:]))
                    self._pass_on()
            raise

    def _lead(self, call: _Call, group: list[_Call]) -> None:
        """Sends the group; who finds neither result nor error afterwards sends itself."""
        failed: Exception | None = InsertOutcomeUnknownError(INTERRUPTED)
        try:
            results = self._send([member.batch for member in group])
            for member, result in zip(group, results, strict=True):
                member.result = result
            failed = None
        except Exception as error:
            failed = None if _each_alone(error, len(group)) else error
        finally:
            with self._lock:
                self._pass_on()
            for member in group:
                if failed is not None:
                    member.error = _own(failed, call is member)
                if member is not call:
                    member.wake.release()

    def _pass_on(self) -> None:
        """The lane goes to those that gathered, or is free. Under the lock."""
        if not self._gathered:
            self._free += 1
            return
        group = [self._gathered.popleft() for _ in range(min(len(self._gathered), GROUP_MAX))]
        group[0].group = group
        group[0].wake.release()


class AsyncInsertCombiner:
    """The same for the tasks of one event loop. A cancelled caller's insert is not sent, or stands."""

    def __init__(self, send: SendAsync, alone: SendAsync) -> None:
        self._send = send
        self._alone = alone
        self._busy = 0
        self._lanes: set[asyncio.Task[None]] = set()  # strong references; what runs is counted by `_busy`
        self._gathered: deque[_AsyncCall] = deque()

    async def insert(self, batch: InsertBatch) -> JobInsertResult:
        """Returns, or raises the insert's own error, after its commit."""
        answer: asyncio.Future[JobInsertResult | None] = asyncio.get_running_loop().create_future()
        self._gathered.append((batch, answer))
        if self._busy < LANES:
            self._busy += 1
            lane = asyncio.create_task(self._run_lane(), name="river_fast.insert")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        result = await answer
        return result if result is not None else (await self._alone([batch]))[0]

    async def _run_lane(self) -> None:
        try:
            while self._gathered:
                taken = [self._gathered.popleft() for _ in range(min(len(self._gathered), GROUP_MAX))]
                group = [call for call in taken if not call[1].done()]  # without those that were cancelled
                if group:
                    await self._send_group(group)
        finally:
            self._busy -= 1

    async def _send_group(self, group: list[_AsyncCall]) -> None:
        results: Sequence[JobInsertResult | None] = [None] * len(group)
        failed: Exception | None = InsertOutcomeUnknownError(INTERRUPTED)
        try:
            results = await self._send([batch for batch, _ in group])
            failed = None
        except Exception as error:
            failed = None if _each_alone(error, len(group)) else error
        finally:
            for (_, answer), result in zip(group, results, strict=True):
                if not answer.done():
                    if failed is not None:
                        answer.set_exception(_own(failed, len(group) == 1))
                    else:
                        answer.set_result(result)


def _each_alone(error: Exception, count: int) -> bool:
    """Whether the server refused the group as a whole, nothing inserted: then each tries by itself, for its own error.

    One alone tries again only where it waited for a rival's lock: the group's time for that is short. What is not the
    server's refusal may have struck after the commit: sending again would insert twice.
    """
    if not isinstance(error, REFUSALS) or (isinstance(error, DatabaseError) and error.sqlstate is None):
        return False
    return count > 1 or (isinstance(error, DatabaseError) and error.sqlstate == LOCK_NOT_AVAILABLE)


def _own(error: Exception, same: bool) -> Exception:
    """Each caller raises an exception of its own: tracebacks grow with each raise."""
    if same:
        return error
    known = isinstance(error, DatabaseError | InsertOutcomeUnknownError)
    own = copy.copy(error) if known else InsertOutcomeUnknownError(INTERRUPTED)
    own.__cause__ = error
    return own
