"""`client.periodic_jobs`: what this client inserts by a schedule while it leads. River: Client.PeriodicJobs().

Any thread; owns nothing: the jobs are the bundle's, in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from river_fast.errors import ConfigError
from river_fast.periodic_job import PeriodicJob
from river_fast.periodic_job_bundle import PeriodicJobBundle

if TYPE_CHECKING:
    from river_fast.client import Client

INSTEAD = (
    "add it to the clients that work queues, all of them, or define a durable one, which any client may:"
    " client.durable_periodic_jobs.define(id, schedule, args) (it needs river-fast migrate-up --line fast)"
)


class ClientPeriodicJobs:
    """The periodic jobs this client inserts while it leads, changed at any time. River: PeriodicJobBundle.

    Give every client that may lead the same ones. They take effect at once on the leader, elsewhere when it leads.
    """

    def __init__(self, bundle: PeriodicJobBundle) -> None:
        self._bundle = bundle

    def add(self, job: PeriodicJob) -> int:
        """Its handle, for `remove`. `ConfigError` for an id that another one has. River: Add, AddSafely."""
        return self._bundle.add_many([job])[0]

    def add_many(self, jobs: Iterable[PeriodicJob]) -> list[int]:
        """All or none; their handles in order. River: AddMany, AddManySafely."""
        return self._bundle.add_many(jobs)

    def remove(self, handle: int) -> bool:
        """Whether there was one. Jobs it inserted stay. River: Remove."""
        return self.remove_many([handle]) == 1

    def remove_many(self, handles: Iterable[int]) -> int:
        """How many there were. River: RemoveMany."""
        unwanted = frozenset(handles)
        return self._bundle.remove_where(lambda handle, job: handle in unwanted)

    def remove_by_id(self, id: str) -> bool:
        """Whether there was one. River: RemoveByID."""
        return self.remove_many_by_id([id]) == 1

    def remove_many_by_id(self, ids: Iterable[str]) -> int:
        """How many there were. River: RemoveManyByID."""
        if isinstance(ids, str):
            raise ConfigError(f"ids must be a list of them, got the string {ids!r:.80}")
        unwanted = frozenset(ids)
        return self._bundle.remove_where(lambda handle, job: job.id is not None and job.id in unwanted)

    def clear(self) -> None:
        """Remove them all. River: Clear."""
        self._bundle.remove_where(lambda handle, job: True)


def periodic_jobs_of(client: Client) -> ClientPeriodicJobs:
    """`ConfigError`, which says what to do instead, on a client that can never insert them."""
    client._check_process()
    if client._config.leader_election_disabled:
        raise ConfigError(f"with leader_election_disabled a client never leads, nor inserts periodic jobs; {INSTEAD}")
    if not client._queues:
        raise ConfigError(f"a client without queues never leads, nor inserts periodic jobs; {INSTEAD}")
    return ClientPeriodicJobs(client._periodic_jobs)
