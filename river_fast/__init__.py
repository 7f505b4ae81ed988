"""river_fast: River's job queue on PostgreSQL, for Python services that need throughput.

Insert jobs, work them with threads or on an event loop, and stop in order; side by side with River's clients in other
languages, on the same tables. `import river_fast as river`.
"""

from river_fast.async_client import AsyncClient
from river_fast.attempt_error import AttemptError
from river_fast.client import Client, client_from_context
from river_fast.config import NEVER, Config, QueueConfig
from river_fast.cron_schedule import cron
from river_fast.durable_periodic_job import DurablePeriodicJob
from river_fast.error_handler import ErrorHandler, ErrorHandlerResult
from river_fast.errors import (
    ClientStoppedError,
    ConfigError,
    DatabaseError,
    DecodeError,
    EncodeError,
    ForkedClientError,
    InsertOutcomeUnknownError,
    JobCancelError,
    JobCancelledRemotelyError,
    JobInterruptedError,
    JobLostError,
    JobRunningError,
    JobSnoozeError,
    JobTimeoutError,
    MigrationError,
    NotFoundError,
    QueueAlreadyAddedError,
    QueueNotFoundError,
    ResumableError,
    RiverError,
    UniqueConflictError,
    UnknownJobKindError,
    ValidationError,
)
from river_fast.event import Event, EventKind, JobStats
from river_fast.insert_opts import InsertManyParams, InsertOpts, JobInsertResult, UniqueOpts
from river_fast.job import Job, JobState
from river_fast.job_args import JobArgs, RawArgs, job_args, unique
from river_fast.job_insert_params import JobInsertParams
from river_fast.job_list import JobListResult
from river_fast.job_list_cursor import JobListCursor
from river_fast.job_log import JobLogHandler
from river_fast.job_row import FAR_FUTURE, FAR_PAST
from river_fast.job_stuck_handler import JobStuckHandler, JobStuckHandlerParams, JobStuckHandlerResult
from river_fast.migrate import Migrator
from river_fast.periodic_job import NeverSchedule, PeriodicInterval, PeriodicJob, PeriodicSchedule, ScheduleFunc
from river_fast.plugin import (
    InsertBeginHook,
    InsertMiddleware,
    Metric,
    MetricEmitHook,
    PeriodicJobsStartHook,
    PeriodicJobsStartParams,
    Plugin,
    WorkBeginHook,
    WorkEndHook,
    WorkMiddleware,
)
from river_fast.queue import Queue
from river_fast.retry_policy import DefaultRetryPolicy, RetryPolicy
from river_fast.stop_report import StopReport, UnrecordedOutcome
from river_fast.subscription_manager import Subscription
from river_fast.version import __version__
from river_fast.worker import Worker, Workers

__all__ = [
    "FAR_FUTURE",
    "FAR_PAST",
    "NEVER",
    "AsyncClient",
    "AttemptError",
    "Client",
    "ClientStoppedError",
    "Config",
    "ConfigError",
    "DatabaseError",
    "DecodeError",
    "DefaultRetryPolicy",
    "DurablePeriodicJob",
    "EncodeError",
    "ErrorHandler",
    "ErrorHandlerResult",
    "Event",
    "EventKind",
    "ForkedClientError",
    "InsertBeginHook",
    "InsertManyParams",
    "InsertMiddleware",
    "InsertOpts",
    "InsertOutcomeUnknownError",
    "Job",
    "JobArgs",
    "JobCancelError",
    "JobCancelledRemotelyError",
    "JobInsertParams",
    "JobInsertResult",
    "JobInterruptedError",
    "JobListCursor",
    "JobListResult",
    "JobLogHandler",
    "JobLostError",
    "JobRunningError",
    "JobSnoozeError",
    "JobState",
    "JobStats",
    "JobStuckHandler",
    "JobStuckHandlerParams",
    "JobStuckHandlerResult",
    "JobTimeoutError",
    "Metric",
    "MetricEmitHook",
    "MigrationError",
    "Migrator",
    "NeverSchedule",
    "NotFoundError",
    "PeriodicInterval",
    "PeriodicJob",
    "PeriodicJobsStartHook",
    "PeriodicJobsStartParams",
    "PeriodicSchedule",
    "Plugin",
    "Queue",
    "QueueAlreadyAddedError",
    "QueueConfig",
    "QueueNotFoundError",
    "RawArgs",
    "ResumableError",
    "RetryPolicy",
    "RiverError",
    "ScheduleFunc",
    "StopReport",
    "Subscription",
    "UniqueConflictError",
    "UniqueOpts",
    "UnknownJobKindError",
    "UnrecordedOutcome",
    "ValidationError",
    "WorkBeginHook",
    "WorkEndHook",
    "WorkMiddleware",
    "Worker",
    "Workers",
    "__version__",
    "client_from_context",
    "cron",
    "job_args",
    "unique",
]
