"""Everything a started client runs, put together, started and stopped in order. River: Client.Start and its stop.

Made anew at each start. Started in the order in which things are needed: what records and hears before what produces; a
failure stops whatever had started. The steps of the stop are called by `Shutdown`, on its thread, in its order.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from river_fast.cancel_checker import CancelChecker
from river_fast.completer import ROOM_LOOK, Completer
from river_fast.config import Config, QueueConfig
from river_fast.control import CONTROL_TOPIC, ControlAction, ControlMessage, parse_control
from river_fast.driver import Capabilities, Driver
from river_fast.elector import Elector
from river_fast.errors import QueueNotFoundError
from river_fast.event import Event, EventKind
from river_fast.job import Job
from river_fast.job_executor import FULL, JobExecutor
from river_fast.liveness import Liveness
from river_fast.long_job_refresher import LongJobRefresher
from river_fast.maintenance import MaintenanceService
from river_fast.maintenance.dead_client_rescuer import DeadClientRescuer
from river_fast.maintenance.intervals import MaintenanceIntervals
from river_fast.maintenance.job_cleaner import JobCleaner
from river_fast.maintenance.job_rescuer import JobRescuer
from river_fast.maintenance.job_scheduler import JobScheduler
from river_fast.maintenance.periodic_insert import Insert
from river_fast.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from river_fast.maintenance.queue_cleaner import QueueCleaner
from river_fast.maintenance.queue_maintainer import QueueMaintainer
from river_fast.maintenance.reindexer import Reindexer
from river_fast.notifier import Notifier
from river_fast.periodic_job_bundle import PeriodicJobBundle
from river_fast.producer import Producer
from river_fast.queue_keeper import QueueKeeper
from river_fast.registration import Registration
from river_fast.startstop import Service
from river_fast.stop_report import UnrecordedOutcome
from river_fast.subscription_manager import SubscriptionManager
from river_fast.worker import WorkUnit

REMOVE_TIMEOUT = 1.0  # seconds for this client's row, at the end of its stop


class ClientServices:
    """Construct, `start`, then the steps of `shutdown.Stoppable`; `subscriptions` outlives it (it is the client's)."""

    def __init__(
        self,
        driver: Driver,
        config: Config,
        capabilities: Capabilities,
        client_id: str,
        context: contextvars.Context,
        subscriptions: SubscriptionManager,
        logger: logging.Logger,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        intervals: MaintenanceIntervals | None = None,
        periodic_jobs: PeriodicJobBundle,
        insert: Insert,
    ) -> None:
        assert config.workers is not None
        self._driver = driver
        self._config = config
        self._intervals = intervals or MaintenanceIntervals()
        self._periodic_jobs = periodic_jobs
        self._insert = insert
        self._logger = logger
        self._subscriptions = subscriptions
        self._poll_only = config.poll_only or not capabilities.listen
        if capabilities.shared_sessions:
            logger.info(
                "a pooler shares its sessions (Config.pooler): this client polls, prepares nothing, and takes no"
                " session's lock"
            )
        self._registration = Registration(driver, capabilities, client_id, logger.getChild("registration"))
        self.completer = Completer(
            driver,
            mode=config.completer,
            copy=capabilities.temp_tables,
            on_hold=lambda on: self.producer.hold(on),
            logger=logger.getChild("completer"),
        )
        self.producer = Producer(
            driver,
            config,
            config.workers,
            capabilities,
            client_id,
            self._registration.lock_key,
            self._registration.key,
            executor=self._make_executor,
            context=context,
            logger=logger.getChild("producer"),
            loop=loop,
            on_connection=self._connection_changed,
        )
        self.completer.keep(self.producer.fetcher)
        self.keeper = QueueKeeper(
            driver, self._queue_changed, poll_only=self._poll_only, logger=logger.getChild("queue_keeper")
        )
        self.notifier = None if self._poll_only else Notifier(driver, logger=logger.getChild("notifier"))
        self._checker = CancelChecker(
            driver,
            self._active_runs,
            self.producer.cancel,
            poll_only=self._poll_only,
            logger=logger.getChild("cancel_checker"),
        )
        self._liveness, self._dead_client_rescuer = self._make_liveness(client_id)
        self._refresher = self._make_refresher(client_id) if config.refresh_long_jobs else None
        self._leading = () if config.leader_election_disabled else self._make_leading(client_id, capabilities)
        self._started: list[Service] = []

    def _make_liveness(self, client_id: str) -> tuple[Liveness, DeadClientRescuer]:
        """Who frees what this client left running, and what others did."""
        driver, notify, child = self._driver, self.producer.notify, self._logger.getChild
        rescuer = DeadClientRescuer(
            driver,
            client_id,
            self._registration.key,
            migrated=self._registration.migrated,
            freed=notify,
            logger=child("dead_client_rescuer"),
        )
        return Liveness(driver, client_id, self._held, notify, logger=child("liveness")), rescuer

    def _make_refresher(self, client_id: str) -> LongJobRefresher:
        return LongJobRefresher(
            self._driver,
            client_id,
            float(self._config.rescue_stuck_jobs_after),  # type: ignore[arg-type]  # `checked` filled it in
            self.producer.running,
            self.completer.pending,
            self.completer.moved,
            logger=self._logger.getChild("long_job_refresher"),
        )

    def _make_leading(self, client_id: str, capabilities: Capabilities) -> tuple[Service, ...]:
        """Who finds out whether this client leads, and who acts on it; in the order of their start."""
        child = self._logger.getChild
        elector = Elector(
            self._driver, client_id, self.notifier, interval=self._intervals.elector, logger=child("elector")
        )
        services = [*self._make_maintenance(capabilities), self._make_enqueuer(elector)]
        stagger = not self._config.test_only
        return QueueMaintainer(elector, services, stagger=stagger, logger=child("queue_maintainer")), elector

    def _make_maintenance(self, capabilities: Capabilities) -> list[MaintenanceService]:
        """What runs while this client leads."""
        driver, config, intervals, child = self._driver, self._config, self._intervals, self._logger.getChild
        return [
            JobScheduler(
                driver,
                notify=capabilities.notify,
                interval=intervals.job_scheduler,
                logger=child("job_scheduler"),
            ),
            JobRescuer(driver, config, interval=intervals.job_rescuer, logger=child("job_rescuer")),
            JobCleaner(driver, config, interval=intervals.job_cleaner, logger=child("job_cleaner")),
            Reindexer(driver, config, interval=intervals.reindexer, logger=child("reindexer")),
            QueueCleaner(driver, interval=intervals.queue_cleaner, logger=child("queue_cleaner")),
        ]

    def _make_enqueuer(self, elector: Elector) -> PeriodicJobEnqueuer:
        installed = self._config.extensions()
        return PeriodicJobEnqueuer(
            self._driver,
            self._periodic_jobs,
            self._insert,
            lambda: elector.term,
            start_hooks=installed.start_periodic_jobs if installed.periodic_jobs_start else None,
            logger=self._logger.getChild("periodic_job_enqueuer"),
        )

    def start(self, queues: Mapping[str, QueueConfig]) -> None:
        """Raises what the first service that could not start raised; then `undo_start`."""
        self._subscriptions.attach(self.completer)
        self.completer.start()
        if self.notifier is not None:
            self.notifier.subscribe(CONTROL_TOPIC, self._control)
            self.notifier.on_reconnect(self.keeper.check_soon)
            self.notifier.on_reconnect(self._checker.check_soon)
            self._start_service(self.notifier)
        for name, queue in queues.items():
            self.add_queue(name, queue)
        always = (self.keeper, self._checker, self._liveness, self._dead_client_rescuer)
        refresher = () if self._refresher is None else (self._refresher,)
        for service in (*always, *refresher, *self._leading):
            self._start_service(service)
        self.producer.start()

    def undo_start(self) -> None:
        """After a `start` that raised, or was interrupted, at whatever point: nothing is left running."""
        self.stop_fetching(1.0)
        self.close_completer(1.0, 2.0)
        self.close_services(2.0)
        self.close_connections(2.0)

    def _start_service(self, service: Service) -> None:
        self._started.append(service)  # first: a start that a signal interrupts may have made the thread already
        service.start()

    def add_queue(self, name: str, config: QueueConfig) -> None:
        """Work the queue, as its row says (it may be paused); makes the row if there is none."""
        self.keeper.register(name, lambda row: self.producer.add_queue(name, config, row.paused))

    def remove_queue(self, name: str) -> None:
        """Fetch from it no more; may be called again."""
        with contextlib.suppress(QueueNotFoundError):
            self.producer.remove_queue(name)
        self.keeper.unregister(name)

    def queue_has_ended(self, name: str) -> bool:
        """Whether nothing runs any more of a queue that was removed."""
        return self.producer.queue_has_ended(name)

    def control(self, message: ControlMessage) -> None:
        """A control message, from the notifier or from this client itself where nobody can listen. Any thread."""
        if message.action is ControlAction.CANCEL:
            self.producer.cancel(message.job_id)
        else:
            self.keeper.handle(message)

    def stats(self) -> dict[str, int]:
        return {**self.producer.stats(), **{f"completer_{key}": value for key, value in self.completer.stats().items()}}

    # The steps of the stop.

    def stop_fetching(self, timeout: float) -> bool:
        return not self.producer.stop_fetching(timeout).unresolved

    def awaited(self) -> list[Job[Any]]:
        return self.producer.awaited()

    def cancel_running(self) -> None:
        self.producer.cancel_all()

    def abandon(self, timeout: float) -> tuple[list[Job[Any]], list[UnrecordedOutcome]]:
        """Rows of jobs that would not end go back as interrupted; the fence refuses what they say later."""
        deadline = time.monotonic() + timeout
        abandoned = self.producer.abandon()
        unrecorded = []
        for job in abandoned:
            outcome = self.producer.interrupted(job)
            while (pushed := self.completer.give_up(job._row, outcome)) == FULL and time.monotonic() < deadline:
                time.sleep(ROOM_LOOK)
            if pushed == FULL:
                reason = "the outcomes that wait for the database left no room"
                unrecorded.append(UnrecordedOutcome(job.id, job.attempt, outcome.reason.name.lower(), reason))
        return abandoned, unrecorded

    def close_completer(self, timeout: float, patience: float) -> list[UnrecordedOutcome] | None:
        for service in reversed(self._started):
            service.request_stop()  # none of them is needed any more: they end while the completer does
        self.completer.begin_close(timeout)
        return self.completer.unrecorded() if self.completer.wait_closed(patience) else None

    def close_services(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for service in reversed(self._started):
            if not service.stop(max(deadline - time.monotonic(), 0.01)):
                self._logger.warning("%s did not stop in time", service.name)
        self._started.clear()
        self._subscriptions.detach()

    def close_connections(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        if not self.producer.close(timeout):
            self._logger.warning("a thread of the producer did not end in time")
        # a pool that is just connecting to a server that hangs takes a second to close: not of the stop's time
        closing = threading.Thread(target=self._close_driver, name="river_fast.closing", daemon=True)
        closing.start()
        closing.join(max(deadline - time.monotonic(), 0.05))

    def _close_driver(self) -> None:
        self._registration.remove(REMOVE_TIMEOUT)
        self._driver.close()

    # What the services tell each other.

    def _make_executor(self, units: Sequence[WorkUnit], context: contextvars.Context) -> JobExecutor:
        return JobExecutor(
            units,
            self._driver,
            self.completer,
            job_timeout=float(self._config.job_timeout),  # type: ignore[arg-type]  # `checked` made it seconds
            retry_policy=self._config.retry_policy,
            context=context,
            logger=self._logger.getChild("job_executor"),
            scheduler_interval=self._intervals.job_scheduler,
            installed=self._config.extensions(),
            error_handler=self._config.error_handler,
        )

    def _control(self, payload: dict[str, Any]) -> None:
        message = parse_control(payload)
        if message is None:
            self._logger.debug("ignored a control message of an unknown form")
        else:
            self.control(message)

    def _queue_changed(self, name: str, paused: bool, metadata: Mapping[str, Any]) -> None:
        for changed in self.producer.set_paused(name, paused):
            kind = EventKind.QUEUE_PAUSED if paused else EventKind.QUEUE_RESUMED
            self._subscriptions.distribute(Event(kind, queue=changed))

    def _active_runs(self) -> list[tuple[int, int]]:
        runs = [(job.id, job._row.attempted_at_us) for job in self.producer.running()]  # type: ignore[attr-defined]
        return runs if self._refresher is None else runs + self._refresher.also(runs)

    def _held(self) -> set[tuple[int, int]] | None:
        """Ring, running, completer, in the direction in which jobs travel: none can slip through between two looks."""
        held = self.producer.held()
        pending = None if held is None else self.completer.pending(1.0)
        if held is None or pending is None:
            return None
        held.update(pending)
        return held if self._refresher is None else held.union(self._refresher.also(held))

    def _connection_changed(self, connected: bool, since: datetime | None) -> None:
        if connected:
            self._liveness.lock_taken(since)
        else:
            self._liveness.lock_lost()
