"""What a client is told once: `Config` and `QueueConfig`, checked when the client is made. River: Config, QueueConfig.

Pure values. Durations are seconds (float) or timedelta; `NEVER` means "no timeout" or "keep for ever" (River's -1).
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, get_args

from river_fast.errors import ConfigError
from river_fast.periodic_job_bundle import check_periodic_jobs
from river_fast.plugin import Extensions, check_takes, extensions, form_of
from river_fast.retry_policy import DefaultRetryPolicy, RetryPolicy

if TYPE_CHECKING:
    from river_fast.error_handler import ErrorHandler, ErrorHandlerResult
    from river_fast.job import Job
    from river_fast.job_stuck_handler import JobStuckHandler
    from river_fast.periodic_job import PeriodicJob
    from river_fast.worker import Workers

Duration = float | timedelta
UnknownKinds = Literal["retry", "discard", "ignore"]

NEVER: Final = -1.0

# River's rules (river.md 5.1, 5.2), in forms that Python's `re` runs in linear time: River's own queue pattern is
# exponential here (reliability.md, finding 7).
QUEUE_NAME = re.compile(r"\A[a-z0-9]+(?:[_|\-][a-z0-9]+)*\Z", re.ASCII)
KIND_NAME = re.compile(r"\A\w[\w\-\[\]<>/.·:+]+\Z", re.ASCII)
SCHEMA_NAME = re.compile(r"\A[a-zA-Z_][a-zA-Z0-9_]*\Z", re.ASCII)
QUEUE_NAME_MAX = 64
KIND_MAX = 127
SCHEMA_MAX = 46  # NOTIFY channels hold 63 bytes: schema, a dot, and "river_leadership"
CLIENT_ID_MAX = 100
MAX_WORKERS_MAX = 10_000

DEFAULT_FETCH_COOLDOWN = 0.002
DEFAULT_FETCH_POLL_INTERVAL = 1.0
DEFAULT_JOB_TIMEOUT = 60.0
DEFAULT_MAX_ATTEMPTS = 25
DEFAULT_PRIORITY = 1
DEFAULT_QUEUE = "default"
DEFAULT_RESCUE_STUCK_JOBS_AFTER = 3600.0
DEFAULT_RETENTION = 24 * 3600.0
DEFAULT_DISCARDED_RETENTION = 7 * 24 * 3600.0
DEFAULT_JOB_CLEANER_TIMEOUT = 30.0
DEFAULT_REINDEXER_TIMEOUT = 60.0
DEFAULT_REINDEXER_INDEX_NAMES = (
    "river_job_args_index",
    "river_job_kind",
    "river_job_metadata_index",
    "river_job_pkey",
    "river_job_prioritized_fetching_index",
    "river_job_state_and_finalized_at_index",
    "river_job_unique_idx",
)
INDEX_NAME_MAX = 63  # bytes; PostgreSQL's
SCHEDULER_INTERVAL = 5.0  # delays up to this become `available` at once, longer ones wait for the scheduler


def seconds(name: str, value: Duration, *, minimum: float = 0.0, never: bool = False) -> float:
    """`value` as seconds; `ConfigError` unless it is finite and at least `minimum` (or `NEVER` where allowed)."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} must be seconds or a timedelta, got {value!r}")
    if never and value == NEVER:
        return NEVER
    if not math.isfinite(value) or value > 1e9:
        raise ConfigError(f"{name} must be a finite number of seconds up to 1e9, got {value!r}")
    if value < minimum:
        raise ConfigError(f"{name} must be at least {minimum:g} s{' (or NEVER)' if never else ''}, got {value!r}")
    return float(value)


class ReindexerSchedule(Protocol):
    """When the reindexer runs: a periodic job's schedule will do. River: PeriodicSchedule."""

    def next(self, after: datetime, /) -> datetime | None:
        """The first run later than `after`, both aware; None: there is none any more."""
        ...


def check_queue_name(name: object) -> str:
    """River's rule; `ConfigError` otherwise."""
    if not isinstance(name, str) or len(name) > QUEUE_NAME_MAX or not QUEUE_NAME.match(name):
        raise ConfigError(
            f"queue name {_short(name)} must be 1 to {QUEUE_NAME_MAX} characters of a-z and 0-9, "
            "with single '_', '-' or '|' between them"
        )
    return name


def check_kind(kind: object) -> str:
    """River's rule for registered kinds; `ConfigError` otherwise."""
    if not isinstance(kind, str) or len(kind) > KIND_MAX or not KIND_NAME.match(kind):
        raise ConfigError(
            f"job kind {_short(kind)} must be 2 to {KIND_MAX} ASCII letters, digits or any of _ - [ ] < > / . : +, "
            "the first a letter, a digit or _"
        )
    return kind


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """One queue's settings. River: QueueConfig.

    `max_workers`: jobs that run at once, 1 to 10,000. `fetch_cooldown`, `fetch_poll_interval`: seconds, None inherits
    the client's. `prefetch`: "auto" (what starts within 20 ms; nothing for jobs that run longer than that), 0 (never:
    River's rule), or the most to prefetch.
    """

    max_workers: int
    fetch_cooldown: Duration | None = None
    fetch_poll_interval: Duration | None = None
    prefetch: Literal["auto"] | int = "auto"

    def checked(self, name: str, config: Config) -> QueueConfig:
        """With inherited values filled in; `ConfigError` naming what is wrong."""
        if isinstance(self.max_workers, bool) or not isinstance(self.max_workers, int):
            raise ConfigError(f"queue {name!r}: max_workers must be an int, got {self.max_workers!r}")
        if not 1 <= self.max_workers <= MAX_WORKERS_MAX:
            raise ConfigError(f"queue {name!r}: max_workers must be 1 to {MAX_WORKERS_MAX}, got {self.max_workers}")
        cooldown = config.fetch_cooldown if self.fetch_cooldown is None else self.fetch_cooldown
        poll = config.fetch_poll_interval if self.fetch_poll_interval is None else self.fetch_poll_interval
        cooldown = seconds(f"queue {name!r}: fetch_cooldown", cooldown, minimum=0.001)
        poll = seconds(f"queue {name!r}: fetch_poll_interval", poll, minimum=0.001)
        if poll < cooldown:
            raise ConfigError(
                f"queue {name!r}: fetch_poll_interval {poll:g} s must not be below fetch_cooldown {cooldown:g} s"
            )
        most = self.prefetch
        if most != "auto" and (isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= MAX_WORKERS_MAX):
            raise ConfigError(f"queue {name!r}: prefetch must be 'auto' or 0 to {MAX_WORKERS_MAX}, got {most!r}")
        return replace(self, fetch_cooldown=cooldown, fetch_poll_interval=poll)


@dataclass(frozen=True, slots=True)
class Config:
    """A client's settings, River's names in Python spelling; see docs for one table with River's defaults beside ours.

    No `queues`: the client inserts only. `workers` is needed with `queues`. `schema` None: the connection's own
    `current_schema()`. `completer`: "batch" | "inline" | "async". `stop_timeout`: what `with client:` waits at its end.
    `soft_stop_timeout`: when a stop cancels running jobs (None: at 0.8 of the stop's timeout). `pool_size`: connections
    for everything but fetching, completing and listening, at most (None: 4), one of them, where there are two, for the
    leader's election alone; a pool given to `from_pool` keeps its own.
    `pooler`: how a PgBouncer before the database, if there is one, lends its sessions: "auto" finds out. In transaction
    mode nothing is kept in a session: the client polls, prepares nothing, and takes no session's lock.
    `fetch_only_known_kinds`: jobs of kinds without a worker here, as they are at the start, are left alone.
    `asynchronous_fetch`: True (default False) lets the fetcher's session, and no other, commit without waiting for the
    disk (`synchronous_commit = off`): a job starts sooner by the time of one flush. Where a flush took 5 ms the median
    fell from 5.8 ms after the insert to 0.2, and 100 workers did 23,200 jobs of 1 ms a second, not 15,000; where it
    took 0.3 ms, 0.45 to 0.32 ms, and 27,200, not 25,700. Its price: after a crash of the *server* the claims of
    the last moments (three times its `wal_writer_delay`, 0.6 s) may be forgotten. Their jobs are available again and
    run again, though they were worked, and that first start is not counted in `attempt`. Nothing is lost: inserts and
    outcomes are flushed as ever, and an outcome's flush is its claim's too. A giving back of those moments may be
    forgotten likewise: such rows are reclaimed as those of a dead client. A crash of a client costs nothing more than
    without it.
    `cancelled_`, `completed_` and `discarded_job_retention_period`: how long jobs that ended so are kept (24 h, 24 h, 7
    days); 0 deletes them at the leader's next look, `NEVER` keeps them for ever. `job_cleaner_timeout`: how long one of
    its statements may take (30 s, or `NEVER`).
    `rescue_stuck_jobs_after`: how long after its start a job that still runs is taken for stranded by the leader (None:
    1 h, plus `job_timeout` where you set one), unless its own timeout is longer or `NEVER`. `rescue_unknown_kinds`:
    what becomes of it where the leader has no worker for its kind: "retry" (default), "discard" (as River), "ignore".
    `refresh_long_jobs`: True (default False) renews `attempted_at` of this client's running jobs at a third of that,
    for leaders of other languages: River's rescue, or discard, by age alone what this client still works.
    `reindexer_index_names`: what the leader rebuilds (None: River's seven, [] none), when `reindexer_schedule` says so
    (None: at midnight UTC; `NEVER`; else an object with `next(after)`), each within `reindexer_timeout` (60 s, or
    `NEVER`). `periodic_jobs`: what this client inserts by a schedule while it leads; give every client that may lead
    the same ones. `test_only`: the leader's services begin at once, not within a second at random.
    `hooks`, `middleware`, `plugins`: what is called around inserts and work (docs/extending.md), in order; plugins
    before the others. `error_handler`: `ErrorHandler`, told of failed attempts. `job_stuck_handler`: told of jobs that
    ignore their timeout by more than `job_stuck_threshold`; without one their slots serve other jobs.
    """

    queues: Mapping[str, QueueConfig] = field(default_factory=dict)
    workers: Workers | None = None
    id: str | None = None
    schema: str | None = None
    fetch_cooldown: Duration = DEFAULT_FETCH_COOLDOWN
    fetch_only_known_kinds: bool = False
    fetch_poll_interval: Duration = DEFAULT_FETCH_POLL_INTERVAL
    job_timeout: Duration = DEFAULT_JOB_TIMEOUT
    job_stuck_threshold: Duration = 10.0
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    poll_only: bool = False
    retry_policy: RetryPolicy = field(default_factory=DefaultRetryPolicy)
    rescue_stuck_jobs_after: Duration | None = None
    rescue_unknown_kinds: UnknownKinds = "retry"
    cancelled_job_retention_period: Duration = DEFAULT_RETENTION
    completed_job_retention_period: Duration = DEFAULT_RETENTION
    discarded_job_retention_period: Duration = DEFAULT_DISCARDED_RETENTION
    job_cleaner_timeout: Duration = DEFAULT_JOB_CLEANER_TIMEOUT
    reindexer_index_names: Sequence[str] | None = None
    reindexer_schedule: ReindexerSchedule | float | None = None
    reindexer_timeout: Duration = DEFAULT_REINDEXER_TIMEOUT
    test_only: bool = False
    completer: Literal["batch", "inline", "async"] = "batch"
    stop_timeout: Duration = 30.0
    soft_stop_timeout: Duration | None = None
    skip_unknown_job_check: bool = False
    max_args_bytes: int = 1024 * 1024
    leader_election_disabled: bool = False
    periodic_jobs: Sequence[PeriodicJob] = ()
    require_tls: bool = False
    pool_size: int | None = None
    pooler: Literal["auto", "session", "transaction"] = "auto"
    asynchronous_fetch: bool = False
    refresh_long_jobs: bool = False
    logger: logging.Logger | None = None
    hooks: Sequence[Any] = ()
    middleware: Sequence[Any] = ()
    plugins: Sequence[Any] = ()
    error_handler: ErrorHandler | Callable[[Job[Any], BaseException], ErrorHandlerResult | None] | None = None
    job_stuck_handler: JobStuckHandler | None = None

    def extensions(self) -> Extensions:
        """Hooks, middleware and plugins, by role. `ConfigError` for what is none, or cannot be called."""
        found = extensions("Config", hooks=self.hooks, middleware=self.middleware, plugins=self.plugins)
        awaited = [role.name for role in (*found.insert_begin, *found.insert_many) if role.form == "async def"]
        calling = [role.name for role in found.insert_many if role.form == "def"]
        if awaited and calling:
            raise ConfigError(
                f"{awaited[0]} is an `async def`, {calling[0]} a `def` that calls inner: no insert can run both;"
                " write one like the other, or the middleware as generators with one yield, which serve every insert"
            )
        return found

    def checked(self) -> Config:
        """With defaults filled in and every rule of river.md 5.1 held; `ConfigError` naming what is wrong."""
        cooldown = seconds("fetch_cooldown", self.fetch_cooldown, minimum=0.001)
        poll = seconds("fetch_poll_interval", self.fetch_poll_interval, minimum=0.001)
        if poll < cooldown:
            raise ConfigError(f"fetch_poll_interval {poll:g} s must not be below fetch_cooldown {cooldown:g} s")
        timeout = seconds("job_timeout", self.job_timeout, never=True)
        timeout = DEFAULT_JOB_TIMEOUT if timeout == 0 else timeout
        rescue_after = self._rescue_after(timeout)
        stuck_threshold = seconds("job_stuck_threshold", self.job_stuck_threshold)
        seconds("stop_timeout", self.stop_timeout)
        if self.soft_stop_timeout is not None:
            seconds("soft_stop_timeout", self.soft_stop_timeout)
        most = self.max_attempts
        if isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= 32767:
            raise ConfigError(f"max_attempts must be an int from 0 (River's default, 25) to 32767, got {most!r}")
        if self.schema is not None:
            check_schema(self.schema)
        name = self.id
        if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= CLIENT_ID_MAX or "\0" in name):
            raise ConfigError(f"id must be a string of 1 to {CLIENT_ID_MAX} characters without NUL, got {_short(name)}")
        if self.completer not in ("batch", "inline", "async"):
            raise ConfigError(f"completer must be 'batch', 'inline' or 'async', got {self.completer!r}")
        size = self.pool_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError(f"pool_size must be an int of at least 1, or None (4), got {size!r}")
        if self.pooler not in ("auto", "session", "transaction"):
            raise ConfigError(f"pooler must be 'auto', 'session' or 'transaction', got {self.pooler!r}")
        for name in ("asynchronous_fetch", "fetch_only_known_kinds", "refresh_long_jobs"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {_short(value)}")
        self.extensions()
        _check_handler("error_handler", getattr(self.error_handler, "handle_error", self.error_handler), "job, error")
        _check_handler("job_stuck_handler", self.job_stuck_handler, "params")
        if self.queues and self.workers is None:
            raise ConfigError("queues need workers: give Config(workers=Workers()) with at least one worker added")
        checked = replace(
            self,
            fetch_cooldown=cooldown,
            fetch_poll_interval=poll,
            job_timeout=timeout,
            job_stuck_threshold=stuck_threshold,
            rescue_stuck_jobs_after=rescue_after,
            max_attempts=self.max_attempts or DEFAULT_MAX_ATTEMPTS,
            periodic_jobs=self._periodic_jobs(),
            **self._maintenance(),
        )
        queues = {check_queue_name(name): queue.checked(name, checked) for name, queue in self.queues.items()}
        return replace(checked, queues=queues)

    def _periodic_jobs(self) -> tuple[PeriodicJob, ...]:
        """Checked, as are the ways in which they could never run."""
        jobs = self.periodic_jobs
        if isinstance(jobs, str | bytes) or not isinstance(jobs, Sequence):
            raise ConfigError(f"periodic_jobs must be a list of PeriodicJob, got {_short(jobs)}")
        check_periodic_jobs(jobs)
        if jobs and self.leader_election_disabled:
            raise ConfigError("periodic_jobs are inserted by the leader: not with leader_election_disabled=True")
        if jobs and not self.queues:
            raise ConfigError(
                "periodic_jobs are inserted by the leader, which a client without queues never is: give them to the"
                " clients that work queues, or define durable ones (client.durable_periodic_jobs.define)"
            )
        return tuple(jobs)

    def _maintenance(self) -> dict[str, Any]:
        """What the leader's services are told, checked."""
        if self.rescue_unknown_kinds not in get_args(UnknownKinds):
            known = ", ".join(map(repr, get_args(UnknownKinds)))
            raise ConfigError(f"rescue_unknown_kinds must be one of {known}, got {_short(self.rescue_unknown_kinds)}")
        if not isinstance(self.test_only, bool):
            raise ConfigError(f"test_only must be True or False, got {_short(self.test_only)}")
        schedule = self.reindexer_schedule
        if schedule is not None and schedule != NEVER and not callable(getattr(schedule, "next", None)):
            raise ConfigError(
                "reindexer_schedule must be None (midnight UTC), NEVER, or an object with next(after) -> datetime,"
                f" got {_short(schedule)}"
            )
        periods = [f"{state}_job_retention_period" for state in ("cancelled", "completed", "discarded")]
        limits = ("job_cleaner_timeout", "reindexer_timeout")  # 0 would end each statement before it began
        return {
            "reindexer_index_names": check_index_names(self.reindexer_index_names),
            **{name: seconds(name, getattr(self, name), never=True) for name in periods},
            **{name: seconds(name, getattr(self, name), minimum=0.001, never=True) for name in limits},
        }

    def _rescue_after(self, job_timeout: float) -> float:
        if self.rescue_stuck_jobs_after is None:
            return DEFAULT_RESCUE_STUCK_JOBS_AFTER + max(job_timeout, 0.0) if job_timeout != DEFAULT_JOB_TIMEOUT else (
                DEFAULT_RESCUE_STUCK_JOBS_AFTER
            )
        value = seconds("rescue_stuck_jobs_after", self.rescue_stuck_jobs_after)
        if value < job_timeout:
            raise ConfigError(f"rescue_stuck_jobs_after {value:g} s must not be below job_timeout {job_timeout:g} s")
        return value


def check_index_names(names: object) -> tuple[str, ...]:
    """Of indexes in the client's schema, each once; None: River's. `ConfigError` for what can be no index's name."""
    if names is None:
        return DEFAULT_REINDEXER_INDEX_NAMES
    if isinstance(names, str | bytes) or not isinstance(names, Sequence):
        raise ConfigError(f"reindexer_index_names must be a list of index names, or None, got {_short(names)}")
    for name in names:
        if not isinstance(name, str) or "\0" in name or not 1 <= len(name.encode("utf-8", "replace")) <= INDEX_NAME_MAX:
            raise ConfigError(
                f"reindexer_index_names must hold names of 1 to {INDEX_NAME_MAX} bytes without NUL, got {_short(name)}"
            )
    return tuple(dict.fromkeys(names))


def _check_handler(name: str, handler: Any, parameters: str) -> None:
    if handler is None:
        return
    if not callable(handler):
        raise ConfigError(f"{name} must be a function of ({parameters}), got {_short(handler)}")
    if form_of(handler) != "def":
        raise ConfigError(f"{name} must be written with `def`: it is called where nothing can be awaited")
    check_takes(handler, parameters.count(",") + 1, name, parameters)


def check_schema(schema: object) -> str:
    """River's rule; `ConfigError` otherwise. Case is kept: we always quote."""
    if not isinstance(schema, str) or len(schema) > SCHEMA_MAX or not SCHEMA_NAME.match(schema):
        raise ConfigError(
            f"schema {_short(schema)} must be 1 to {SCHEMA_MAX} ASCII letters, digits or '_', not starting with a digit"
        )
    return schema


# A generated id carries a random 63-bit key in this form; other river_fast clients recognise it and can tell by the
# advisory lock of that key whether its client lives (hotpath.md 7). With "hb" it has no lock, only heartbeats at most.
GENERATED_ID = re.compile(
    r"\A.{1,60}_\d{4}_\d\d_\d\dT\d\d_\d\d_\d\d_\d{6}_(?P<form>rf|hb)(?P<key>[0-9a-f]{16})\Z", re.ASCII
)


def generate_client_id() -> str:
    """River's `<host>_<time>` form with our key behind it."""
    host = socket.gethostname().replace(".", "_")[:60] or "unknown_host"
    key = int.from_bytes(os.urandom(8), "big") >> 1
    return f"{host}_{datetime.now(UTC):%Y_%m_%dT%H_%M_%S_%f}_rf{key:016x}"


def id_that_tells(client_id: str, locks: bool) -> str:
    """A generated id in the form that says whether its client holds the lock of its key."""
    assert GENERATED_ID.match(client_id), client_id
    return f"{client_id[:-18]}{'rf' if locks else 'hb'}{client_id[-16:]}"
