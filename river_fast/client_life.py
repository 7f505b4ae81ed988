"""A client's life: started, stopped in order, started again. River: Client.Start, Stop, StopAndCancel, Stopped.

Any thread. What runs is `client_services.py`'s, the order of the stop the shutdown's; here is who may ask for either,
when, and how often: at once, from a job, a signal handler or a forked child, in the middle of one another.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from river_fast.client_services import ClientServices
from river_fast.config import Config, Duration, QueueConfig, id_that_tells, seconds
from river_fast.driver import Capabilities, Driver
from river_fast.errors import ClientStoppedError, ConfigError, ForkedClientError
from river_fast.inserter import Inserter
from river_fast.maintenance.intervals import MaintenanceIntervals
from river_fast.migrate import require_migrated
from river_fast.periodic_job_bundle import PeriodicJobBundle
from river_fast.shutdown import Shutdown
from river_fast.stop_report import StopReport
from river_fast.subscription_manager import SubscriptionManager

if TYPE_CHECKING:
    from river_fast.client import Client

INTERRUPTED_MOST = 5.0  # how long a start that Ctrl-C interrupted waits for the stop of what it had started
BEGUN_MOST = 1.0  # the same, for the first step of the thread that starts it
LOCK_MARGIN = 0.5  # of the second that `stop` may take beyond its timeout: for a start that is under way
WAIT_MARGIN = 0.9  # the same, for a shutdown on a busy machine

current_client: contextvars.ContextVar[Client] = contextvars.ContextVar("river_fast.client")
_started: weakref.WeakSet[ClientLife] = weakref.WeakSet()


class ClientLife:
    """Mixed into `Client`, which sets `_driver`, `_config`, `_logger`, `_id` and `_subscriptions` first."""

    _driver: Driver
    _config: Config
    _logger: logging.Logger
    _id: str
    _subscriptions: SubscriptionManager
    _inserter: Inserter
    _periodic_jobs: PeriodicJobBundle

    def _set_up_life(self, context: contextvars.Context) -> None:
        """`context`: what jobs run in."""
        self._context = context
        self._lock = threading.Lock()  # guards start against start; never held while a stop is waited for
        self._queues_lock = threading.RLock()  # guards _queues; held through start, so that no queue is forgotten
        self._inside: set[int] = set()  # threads inside start or stop: a signal handler may interrupt them
        self._intervals = MaintenanceIntervals()  # before a start, tests put others here
        self._queues: dict[str, QueueConfig] = dict(self._config.queues)
        self._services: ClientServices | None = None
        self._shutdown: Shutdown | None = None
        self._starting = False
        self._stop_wanted: tuple[float | None, bool] | None = None  # asked for since the last start began
        self._pid = os.getpid()

    @property
    def stop_timeout(self) -> float:
        """`Config.stop_timeout` in seconds: what `with client:` and `river-fast work` give their stop."""
        return seconds("stop_timeout", self._config.stop_timeout)

    def start(self) -> None:
        """Fetch and work jobs. Returns when the services run; no-op on a client that runs.

        Raises `ConfigError` without queues or workers, `DatabaseError` without a server, `MigrationError` on a schema
        that is not migrated; then nothing is left running, and `start` may be called again.
        """
        if threading.get_ident() in self._inside:
            return  # a signal handler that interrupted a start or stop
        began, given_up, done = threading.Event(), threading.Event(), threading.Event()
        raised: list[BaseException] = []

        def start() -> None:
            began.set()
            try:
                self._start(None, given_up)
            except BaseException as error:
                raised.append(error)
            finally:
                done.set()

        with self._entered():
            try:
                # On a thread of its own: what a signal handler raises (Ctrl-C) cannot strike in the middle of it.
                threading.Thread(target=start, name="river_fast.start", daemon=True).start()
                done.wait()
            except BaseException:
                given_up.set()  # for a start that goes on; the request is for one that is over
                self.request_stop(hard=True)
                if began.wait(BEGUN_MOST):  # else it struck before there was a thread; one that comes yet does nothing
                    done.wait()
                self.wait_stopped(INTERRUPTED_MOST)
                raise
        if raised:
            raise raised[0]

    def _start(self, loop: asyncio.AbstractEventLoop | None, given_up: threading.Event | None = None) -> None:
        """`given_up`, once set: whoever asked for the start is gone, so it is stopped again."""
        self._check_process()
        if not self._queues or self._config.workers is None or len(self._config.workers) == 0:
            raise ConfigError(
                "client Queues and Workers must be configured for a client to start working: give Config(queues={...},"
                " workers=...) with at least one worker added"
            )
        with self._entered(), self._lock, self._queues_lock:
            if self._is_running() or (given_up is not None and given_up.is_set()):
                return
            self._stop_wanted = None
            self._starting = True
            try:
                capabilities = self._driver.open()
                require_migrated(self._driver)
                if self._config.id is None:
                    self._id = id_that_tells(self._id, capabilities.session_locks)
                self._start_services(capabilities, loop)
            except BaseException:
                self._services = self._shutdown = None
                self._driver.close()
                raise
            finally:
                self._starting = False  # once the shutdown can be seen
            _started.add(self)
            self._logger.info("client %s started; queues: %s", self._id, ", ".join(sorted(self._queues)))
            wanted = (None, True) if given_up is not None and given_up.is_set() else self._stop_wanted
            if wanted is not None:
                self.request_stop(wanted[0], hard=wanted[1])

    def _start_services(self, capabilities: Capabilities, loop: asyncio.AbstractEventLoop | None) -> None:
        services = ClientServices(
            self._driver,
            self._config,
            capabilities,
            self._id,
            self._context,
            self._subscriptions,
            self._logger,
            loop=loop,
            intervals=self._intervals,
            periodic_jobs=self._periodic_jobs,
            insert=self._inserter.insert_internal,
        )
        limit = None if (soft := self._config.soft_stop_timeout) is None else seconds("soft_stop_timeout", soft)
        shutdown = Shutdown(services, limit, self._logger.getChild("shutdown"))
        try:
            services.start(self._queues)
            shutdown.start()
            self._services, self._shutdown = services, shutdown
        except BaseException:
            services.undo_start()
            shutdown.request(0.0, True)  # its thread, if it was made, ends
            raise

    def stop(self, timeout: Duration | None = None) -> StopReport:
        """Stop in order: no new fetches, unstarted jobs given back, running jobs awaited, outcomes stored.

        `timeout` seconds or timedelta: returns within it + 1 s; running jobs are cancelled at 0.8 of it (or at
        `Config.soft_stop_timeout`) and abandoned at its end. None waits for running jobs without limit. Idempotent:
        every call returns the same report. From a job, a callback, or a signal handler that interrupted a stop, it acts
        as `request_stop` and returns a report with `finished=False`. River: Stop.
        """
        return self._stop(timeout, hard=False)

    def stop_and_cancel(self, timeout: Duration | None = None) -> StopReport:
        """As `stop`, and running jobs are cancelled at once. River: StopAndCancel."""
        return self._stop(timeout, hard=True)

    def request_stop(self, timeout: Duration | None = None, *, hard: bool = False) -> None:
        """Begin to stop and return at once; for a job, a callback, a signal handler. No-op unless the client runs."""
        limit = None if timeout is None else seconds("timeout", timeout)
        if self._pid != os.getpid():
            return  # a forked child has nothing of its own to stop
        self._stop_wanted = (limit, hard)  # before the look: a start under way looks once its shutdown can be seen
        shutdown = self._shutdown
        if shutdown is not None:
            shutdown.request(limit, hard)

    def wait_stopped(self, timeout: Duration | None = None) -> bool:
        """True once the client has stopped (or never ran), False after `timeout`. River: Stopped."""
        limit = None if timeout is None else seconds("timeout", timeout)
        shutdown = self._shutdown
        return shutdown is None or self._pid != os.getpid() or shutdown.wait(limit)

    @contextlib.contextmanager
    def telling_when_stopped(self, callback: Callable[[], object]) -> Iterator[None]:
        """While inside, `callback` is called once, on whatever thread, when `wait_stopped` would return True."""
        shutdown = self._shutdown
        if shutdown is None or self._pid != os.getpid():
            callback()
            yield
            return
        shutdown.when_done(callback)
        try:
            yield
        finally:
            shutdown.forget(callback)

    def _stop(self, timeout: Duration | None, hard: bool) -> StopReport:
        began = time.monotonic()
        limit = None if timeout is None else seconds("timeout", timeout)
        self.request_stop(limit, hard=hard)
        if self._pid != os.getpid() or self.would_wait_for_itself():
            # a start that is not through when its first jobs run will heed the request
            return StopReport(False, 0.0, finished=False) if self._starting else self.stop_report()
        with self._entered():
            # a start under way is seen through first; then its shutdown has our request
            if not self._lock.acquire(timeout=-1 if limit is None else limit + LOCK_MARGIN):
                return StopReport(graceful=False, duration=time.monotonic() - began, finished=False)
            try:
                shutdown = self._shutdown
                if shutdown is None or shutdown.report is not None:
                    self._driver.close()  # a client that does not run may still have been asked for something
                    return self.stop_report()
            finally:
                self._lock.release()
            # the shutdown keeps to the limit itself; the rest is for a machine too busy to let it
            shutdown.wait(None if limit is None else max(began + limit + WAIT_MARGIN - time.monotonic(), 0.0))
        return self.stop_report()

    def stop_report(self) -> StopReport:
        """The last stop's report; `finished=False` while it goes on."""
        shutdown = self._shutdown
        if shutdown is None or self._pid != os.getpid():
            return StopReport(graceful=True, duration=0.0)
        return shutdown.report or StopReport(graceful=False, duration=shutdown.duration(), finished=False)

    def __enter__(self) -> Self:
        if self._queues:
            self.start()
        else:
            self._driver.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(self._config.stop_timeout)

    def _is_running(self) -> bool:
        return self._shutdown is not None and self._shutdown.report is None

    def would_wait_for_itself(self) -> bool:
        """Whether a stop waits for the caller itself: a job, a service's thread, an interrupted start or stop."""
        thread = threading.current_thread()
        return (
            thread.ident in self._inside  # a signal handler inside start or stop of this very thread
            or thread.name.startswith("river_fast.")
            or current_client.get(None) is self  # a job, or a thread or task it made
        )

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        ident = threading.get_ident()
        added = ident not in self._inside
        try:
            self._inside.add(ident)  # in here: Ctrl-C may strike as it returns
            yield
        finally:
            if added:
                self._inside.discard(ident)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ForkedClientError("this client was made before a fork(); a child process must make its own Client")

    def _working_services(self) -> ClientServices | None:
        """None unless the client runs and nobody asked it to stop."""
        shutdown = self._shutdown
        return None if shutdown is None or shutdown.begun else self._services

    def _running_services(self) -> ClientServices:
        self._check_process()
        if self._services is None or not self._is_running():
            raise ClientStoppedError("the client is not started")
        return self._services


@atexit.register
def _stop_all() -> None:
    """A program that ends without stopping its clients still stops them in order."""
    for client in list(_started):
        if client._pid == os.getpid() and client._is_running():
            client.stop(client._config.stop_timeout)
