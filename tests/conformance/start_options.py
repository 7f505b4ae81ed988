"""The options of `start` as a `Config`: River's where the suite says nothing, tightened to what it expects of adapters.

Pure but for what it is handed; the request loop's thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import river_fast as river
from river_fast.config import DEFAULT_JOB_TIMEOUT
from river_fast.maintenance.intervals import MaintenanceIntervals
from tests.conformance.built_in_job import EchoArgs
from tests.conformance.errors import rejected, unsupported
from tests.conformance.runtime_stats import RuntimeStats

FETCH_COOLDOWN = 0.001
FETCH_POLL_INTERVAL = 0.010
MAX_WORKERS = 4
ELECT_INTERVAL_MOST = 10.0  # the lease is 15 s
PERIODIC_ID = "conformance-periodic"
MARKER_ID = "conformance-periodic-marker"
HOURLY = 3600.0
DURATION_MOST = 1e9  # seconds; longer is for ever


@dataclass(frozen=True, slots=True)
class FixedDelay:
    """The retry policy of `retry_delay_ms`."""

    delay: timedelta

    def next_retry(self, job: river.Job[Any]) -> datetime:
        return datetime.now(UTC) + self.delay


def milliseconds(value: int) -> float:
    """Seconds; -1 stays what it means."""
    return river.NEVER if value == -1 else min(value / 1000, DURATION_MOST)


def config_of(options: Mapping[str, Any], workers: river.Workers, extensions: Mapping[str, Any]) -> river.Config:
    """`extensions`: hooks, middleware and handlers, as `Config` takes them."""
    poll = milliseconds(options.get("fetch_poll_interval_ms", 10))
    queues = options.get("queues") or [options.get("queue", "default")]
    queue = river.QueueConfig(max_workers=options.get("max_workers", MAX_WORKERS), prefetch=0)
    settings: dict[str, Any] = {
        "id": options["client_id"],
        "schema": options.get("schema") or None,
        "queues": dict.fromkeys(queues, queue),
        "workers": workers,
        "fetch_cooldown": min(FETCH_COOLDOWN, poll),
        "fetch_poll_interval": poll,
        "poll_only": options.get("poll_only", False),
        "leader_election_disabled": options.get("leader_election_disabled", False),
        "rescue_unknown_kinds": "discard",
        "skip_unknown_job_check": True,
        "test_only": True,
        "periodic_jobs": periodic_jobs(options),
        **timeouts(options),
        **extensions,
    }
    for state in ("cancelled", "completed", "discarded"):
        if f"{state}_job_retention_ms" in options:
            settings[f"{state}_job_retention_period"] = milliseconds(options[f"{state}_job_retention_ms"])
    if "retry_delay_ms" in options:
        settings["retry_policy"] = FixedDelay(timedelta(seconds=milliseconds(options["retry_delay_ms"])))
    if "reindexer_index_names" in options:
        settings["reindexer_index_names"] = options["reindexer_index_names"]
    if options.get("fetch_only_known_kinds"):
        settings["fetch_only_known_kinds"] = True
    return river.Config(**settings)


def timeouts(options: Mapping[str, Any]) -> dict[str, Any]:
    """A rescue that may come before the default timeout is up needs a timeout that is up by then."""
    found: dict[str, Any] = {}
    if options.get("job_timeout_disabled"):
        found["job_timeout"] = river.NEVER
    elif "job_timeout_ms" in options:
        found["job_timeout"] = milliseconds(options["job_timeout_ms"])
    if "rescue_after_ms" in options:
        found["rescue_stuck_jobs_after"] = rescue_after = milliseconds(options["rescue_after_ms"])
        found.setdefault("job_timeout", min(DEFAULT_JOB_TIMEOUT, rescue_after))
    if "job_stuck_threshold_ms" in options:
        found["job_stuck_threshold"] = milliseconds(options["job_stuck_threshold_ms"])
    return found


def periodic_jobs(options: Mapping[str, Any]) -> list[Any]:
    if not options.get("periodic_run_on_start"):
        if options.get("periodic_unique"):
            raise rejected("periodic_unique needs periodic_run_on_start")
        return []
    unique = river.UniqueOpts(by_args=True, by_queue=True) if options.get("periodic_unique") else None
    made = [_periodic(PERIODIC_ID, "periodic run on start", river.InsertOpts(unique=unique))]
    if unique is not None:
        made.append(_periodic(MARKER_ID, "periodic marker", river.InsertOpts()))
    return made


def _periodic(name: str, message: str, opts: river.InsertOpts) -> Any:
    every = river.PeriodicInterval(HOURLY)
    return river.PeriodicJob(every, lambda: (EchoArgs(message=message), opts), id=name, run_on_start=True)


def intervals_of(options: Mapping[str, Any]) -> MaintenanceIntervals:
    """Those that the options name; others stay River's."""
    found = {}
    for option, field in (
        ("elect_interval_ms", "elector"),
        ("job_cleaner_interval_ms", "job_cleaner"),
        ("rescuer_interval_ms", "job_rescuer"),
        ("scheduler_interval_ms", "job_scheduler"),
        ("queue_cleaner_interval_ms", "queue_cleaner"),
        ("reindexer_interval_ms", "reindexer"),
    ):
        if option in options:
            found[field] = max(milliseconds(options[option]), 0.001)
    if found.get("elector", 0.0) > ELECT_INTERVAL_MOST:
        raise unsupported(f"elect_interval_ms above {ELECT_INTERVAL_MOST:g} s, beyond what a lease allows")
    return MaintenanceIntervals(**found)


def extensions_of(options: Mapping[str, Any], stats: RuntimeStats, *, count_starts: bool) -> dict[str, Any]:
    """What `instrumented`, `error_handler_cancel` and the counters need. `count_starts`: instrumented or not."""

    def handle_error(job: river.Job[Any], error: BaseException) -> river.ErrorHandlerResult:
        stats.count("error_handler_calls")
        return river.ErrorHandlerResult(set_cancelled=True)

    def stuck(params: river.JobStuckHandlerParams) -> river.JobStuckHandlerResult:
        stats.count("stuck_jobs")
        return river.JobStuckHandlerResult(add_worker_slot=False)

    found: dict[str, Any] = {"job_stuck_handler": stuck}
    if options.get("error_handler_cancel"):
        found["error_handler"] = handle_error
    if options.get("instrumented"):
        found["plugins"] = [_tracing(stats)]
    elif count_starts:
        found["hooks"] = [river.Plugin(periodic_jobs_start=lambda params: stats.count("periodic_starts"))]
    return found


def _tracing(stats: RuntimeStats) -> river.Plugin:
    def insert_many(params: Any, inner: Any) -> Any:
        stats.trace("middleware:insert_before")
        try:
            return inner(params)
        finally:
            stats.trace("middleware:insert_after")

    def work(job: river.Job[Any], inner: Any) -> Any:
        stats.trace("middleware:work_before")
        try:
            return inner()
        finally:
            stats.trace("middleware:work_after")

    def periodic_start(params: Any) -> None:
        stats.count("periodic_starts")
        stats.trace("hook:periodic_start")

    return river.Plugin(
        insert_begin=lambda params: stats.trace("hook:insert_begin"),
        insert_many=insert_many,
        work_begin=lambda job: stats.trace("hook:work_begin"),
        work_end=lambda job, error: stats.trace("hook:work_end"),
        work=work,
        periodic_jobs_start=periodic_start,
    )
