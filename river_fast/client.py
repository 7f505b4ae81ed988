"""The client for threads: insert jobs, work them, stop in order. River: Client.

Any thread. A thin face: inserting is the inserter's, starting and stopping `client_life.py`'s, working the services'
(`client_services.py`). A stopped client may be started again.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from river_fast.client_admin import ClientAdmin
from river_fast.client_durable_periodic_jobs import ClientDurablePeriodicJobs
from river_fast.client_life import ClientLife, current_client
from river_fast.client_notify import ClientNotify
from river_fast.client_periodic_jobs import ClientPeriodicJobs, periodic_jobs_of
from river_fast.client_queues import ClientQueues
from river_fast.client_verbs import ClientVerbs
from river_fast.config import Config, Duration, generate_client_id, seconds
from river_fast.control import ControlMessage
from river_fast.driver import Driver
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import ConfigError, DatabaseError, RiverError
from river_fast.inserter import Inserter
from river_fast.job import FINAL_STATES, Job
from river_fast.job_admin import JobAdmin
from river_fast.periodic_job_bundle import PeriodicJobBundle
from river_fast.queue_admin import QueueAdmin
from river_fast.subscription_manager import Subscription, SubscriptionManager

if TYPE_CHECKING:
    from river_fast.event import EventKind

WAIT_POLL_FIRST = 0.02  # `wait` polls from so often ...
WAIT_POLL_LAST = 1.0  # ... to so seldom where nothing tells it


def client_from_context() -> Client:
    """The client that runs the current job. Raises `RiverError` outside a job. River: ClientFromContext."""
    try:
        return current_client.get()
    except LookupError:
        raise RiverError("client_from_context was called outside a job") from None


class Client(ClientLife, ClientVerbs, ClientAdmin):
    """`Client(database_url=None, config=None)`; no url: `DATABASE_URL`, then libpq's own `PG*` variables.

    Without queues the client only inserts. Raises `ConfigError` for a configuration that cannot work; connects at
    `start`, or at the first call that needs the database.
    """

    def __init__(self, database_url: str | None = None, config: Config | None = None) -> None:
        config = (config or Config()).checked()
        url = database_url if database_url is not None else os.environ.get("DATABASE_URL", "")
        self._set_up(PsycopgDriver.configured(url, config), config)

    @classmethod
    def from_pool(cls, pool: Any, config: Config | None = None) -> Self:
        """A client on the caller's open `psycopg_pool.ConnectionPool`, whose connection string serves the hot
        connections. `ConfigError` for a `pool_size`, and with `require_tls` for a pool that may do without."""
        config = (config or Config()).checked()
        client = cls.__new__(cls)
        client._set_up(PsycopgDriver.from_pool(pool, config.schema, config), config)
        return client

    def _set_up(self, driver: Driver, config: Config) -> None:
        self._driver = driver
        self._config = config
        self._logger = config.logger or logging.getLogger("river_fast")
        self._id = config.id or generate_client_id()
        self._subscriptions = SubscriptionManager(self._logger.getChild("subscription_manager"))
        self._inserter = Inserter(
            driver, config, known_kinds=self._known_kinds, poke=self._poke_inserted, current=self._as_current
        )
        self._jobs = JobAdmin(driver, poke=self._poke, poke_queues=self._poke_inserted)
        self._queue_rows = QueueAdmin(driver, poke=self._poke)
        context = contextvars.copy_context()
        context.run(current_client.set, self)
        self._set_up_life(context)
        self.queues = ClientQueues(self)
        self._periodic_jobs = PeriodicJobBundle(config.periodic_jobs)
        self.durable_periodic_jobs = ClientDurablePeriodicJobs(self)
        self.notify = ClientNotify(self)

    @property
    def id(self) -> str:
        """This client's id, as it stands in `attempted_by`. One that was generated is told only at `start` whether the
        server has session locks: behind a PgBouncer in transaction mode it has `_hb` where it had `_rf`."""
        return self._id

    @property
    def schema(self) -> str:
        """The schema in use; makes the first contact with the database if need be."""
        self._check_process()
        self._driver.open()
        return self._driver.schema

    @property
    def periodic_jobs(self) -> ClientPeriodicJobs:
        """What this client inserts by a schedule while it leads; `ConfigError` on one that never leads. River:
        PeriodicJobs."""
        return periodic_jobs_of(self)

    @contextlib.contextmanager
    def _as_current(self) -> Iterator[None]:
        """Inside, `client_from_context` gives this client."""
        before = current_client.set(self)
        try:
            yield
        finally:
            current_client.reset(before)

    def _known_kinds(self) -> frozenset[str] | None:
        """What may be inserted: the kinds of the workers, anything on a client without."""
        workers = self._config.workers
        return None if workers is None else frozenset(workers.kinds())

    def _poke_inserted(self, queues: Sequence[str]) -> None:
        if self._is_running() and self._services is not None:
            self._services.producer.notify(queues)

    def _poke(self, message: ControlMessage) -> None:
        """What this client did to a job or queue, told to its own services where no notification can."""
        if self._is_running() and self._services is not None and self._services.notifier is None:
            self._services.control(message)

    # Watching.

    def subscribe(self, *kinds: EventKind | str, buffer_size: int = 1000) -> Subscription:
        """Events of this client's own jobs and queues; no kinds: all. Iterable, async-iterable, a context manager.

        A reader that lags loses the oldest events (`dropped` counts them); nothing ever waits for it. Raises
        `ConfigError` on a client without queues, for an unknown kind and for a `buffer_size` below 1. River: Subscribe.
        """
        self._check_process()
        if not self._queues:
            raise ConfigError("a client without queues works no jobs and has no events; subscribe on one that does")
        return self._subscriptions.subscribe(*kinds, buffer_size=buffer_size)

    def wait(self, job: Job[Any] | int, timeout: Duration | None = None) -> Job[Any]:
        """The job, once it is completed, cancelled or discarded. Raises `TimeoutError`, `NotFoundError`.

        Told by this client's own completer where that records it, else polled: every 20 ms at first, 1 s at last.
        """
        job_id = job.id if isinstance(job, Job) else job
        limit = None if timeout is None else seconds("timeout", timeout)
        deadline = None if limit is None else time.monotonic() + limit
        pause = WAIT_POLL_FIRST
        with self._subscriptions.waiting_for(job_id) as told:
            while True:
                stored = self._stored(job_id)
                if stored.state in FINAL_STATES:
                    return stored
                left = pause if deadline is None else min(pause, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"job {job_id} is {stored.state} and not final after {limit:g} s")
                told.wait(left)
                told.clear()
                pause = min(pause * 1.5, WAIT_POLL_LAST)

    def _stored(self, job_id: int) -> Job[Any]:
        """`job_get`; once more where a stop of this client closed its connections in the middle of it."""
        run = self._shutdown
        try:
            return self.job_get(job_id)
        except DatabaseError:
            if run is self._shutdown and (run is None or not run.begun):
                raise
            return self.job_get(job_id)

    def stats(self) -> dict[str, int]:
        """Counters since the start, of fetching and completing. Raises `ClientStoppedError` unless the client runs."""
        return self._running_services().stats()
