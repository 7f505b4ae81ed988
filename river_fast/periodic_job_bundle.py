"""The periodic jobs a client would insert if it led. River: PeriodicJobBundle.

Any thread; owns the jobs and their handles. They outlive a stop of the client; the enqueuer of a term looks at them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from river_fast.errors import ConfigError
from river_fast.periodic_job import PeriodicJob


class PeriodicJobBundle:
    """Handles are whole numbers from 0, never used again."""

    def __init__(self, jobs: Iterable[PeriodicJob] = ()) -> None:
        self._lock = threading.Lock()  # guards all below
        self._jobs: Mapping[int, PeriodicJob] = MappingProxyType({})  # replaced at each change
        self._next_handle = 0
        self._on_change: list[list[Callable[[], None]]] = []
        self.add_many(jobs)

    @property
    def jobs(self) -> Mapping[int, PeriodicJob]:
        """By handle, in the order added; does not change any more."""
        return self._jobs

    def add_many(self, jobs: Iterable[PeriodicJob]) -> list[int]:
        """All or none; their handles. `ConfigError` for an id that is there already."""
        added = list(jobs)
        with self._lock:
            check_periodic_jobs(added, {job.id for job in self._jobs.values()})
            handles = list(range(self._next_handle, self._next_handle + len(added)))
            self._next_handle += len(added)
            self._jobs = MappingProxyType({**self._jobs, **dict(zip(handles, added, strict=True))})
        self._changed()
        return handles

    def remove_where(self, unwanted: Callable[[int, PeriodicJob], bool]) -> int:
        """How many there were."""
        with self._lock:
            kept = {handle: job for handle, job in self._jobs.items() if not unwanted(handle, job)}
            removed = len(self._jobs) - len(kept)
            self._jobs = MappingProxyType(kept)
        if removed:
            self._changed()
        return removed

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback`, which must be quick, after each change, on whatever thread; returns its removal."""
        entry = [callback]
        with self._lock:
            self._on_change.append(entry)

        def remove() -> None:
            with self._lock:
                self._on_change[:] = [other for other in self._on_change if other is not entry]

        return remove

    def _changed(self) -> None:
        with self._lock:
            callbacks = [callback for (callback,) in self._on_change]
        for callback in callbacks:
            callback()


def check_periodic_jobs(jobs: Iterable[object], taken: Iterable[str | None] = ()) -> None:
    """`ConfigError` for what is no `PeriodicJob`, and for an id used twice."""
    ids = set(taken)
    for job in jobs:
        if not isinstance(job, PeriodicJob):
            raise ConfigError(f"periodic jobs must be PeriodicJob values, got {job!r:.80}")
        if job.id is not None and job.id in ids:
            raise ConfigError(f"a periodic job with id {job.id!r} is there already; ids are unique in a client")
        ids.add(job.id)
