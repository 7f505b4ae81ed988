"""Every error river_fast raises on purpose, and the two exceptions a job raises to steer itself.

Runs on any thread; owns nothing. A message names the value and the remedy, and never holds a password.
"""

from __future__ import annotations

from datetime import timedelta


class RiverError(Exception):
    """Base of every error river_fast raises on purpose."""


class ConfigError(RiverError):
    """A `Config`, a worker registration or a connection string that cannot work; raised before anything is written."""


class ValidationError(RiverError, ValueError):
    """A value given to one call that cannot be accepted; raised before anything is written.

    `field` is the option's name (`"priority"`, `"args"`), `reason` what is wrong and what would do,
    `index` the position in the list given to an `insert_many`, else None.
    """

    def __init__(self, field: str, reason: str, index: int | None = None) -> None:
        self.field = field
        self.reason = reason
        self.index = index
        where = field if index is None else f"params[{index}].{field}"
        super().__init__(f"{where}: {reason}")


class EncodeError(ValidationError):
    """Args, metadata or an output that cannot be written as the JSON PostgreSQL stores."""


class DecodeError(RiverError, ValueError):
    """A stored value that cannot be read as the type it is asked for."""


class NotFoundError(RiverError, LookupError):
    """The job, queue or migration asked for does not exist. River: ErrNotFound."""


class JobRunningError(RiverError):
    """The job is running and therefore cannot be deleted. River: ErrJobRunning."""


class JobLostError(RiverError):
    """The row is no longer this attempt's: another hand finished, freed or re-claimed it (the fence)."""


class UnknownJobKindError(RiverError):
    """No worker is registered for the job's kind. River: UnknownJobKindError."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(f"job kind is not registered in the client's Workers bundle: {kind}")  # River's text


class ResumableError(RiverError):
    """Steps of a resumable job that cannot be run as they are: a name twice, one inside another, or saved progress
    whose step is not there any more. The attempt fails with it."""


class UniqueConflictError(RiverError):
    """A change of state, or a COPY insert, would break a unique job's uniqueness."""


class QueueNotFoundError(RiverError, LookupError):
    """The client does not work that queue. River: QueueNotFoundError."""


class QueueAlreadyAddedError(RiverError):
    """The client works that queue already. River: QueueAlreadyAddedError."""


class InsertOutcomeUnknownError(RiverError):
    """The connection was lost after the insert was sent: it may or may not have been committed.

    Never retried by river_fast. Safe to retry when the jobs carry unique options.
    """


class ForkedClientError(RiverError):
    """The client was started before a `fork()`; a child must make its own."""


class MigrationError(RiverError):
    """The schema is not at the version that is needed, or cannot be brought to it; names the command to run."""


class DatabaseError(RiverError):
    """PostgreSQL refused; `sqlstate` says why (None: the connection was lost or never made)."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        self.sqlstate = sqlstate
        super().__init__(message if sqlstate is None else f"{message} (SQLSTATE {sqlstate})")


class ClientStoppedError(RiverError):
    """The client is not started, or was stopped, and the call needs it running."""


class JobCancelError(Exception):
    """Raise in a job to cancel it for good: no retry, the error is kept. River: JobCancel."""


class JobSnoozeError(Exception):
    """Raise in a job to run it again later without counting the attempt. River: JobSnooze.

    `duration`: seconds (float, 0 or more) or a timedelta.
    """

    def __init__(self, duration: float | timedelta) -> None:
        self.seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
        super().__init__(f"snoozed for {self.seconds:g} s")


class JobTimeoutError(Exception):
    """What a job that ran past its timeout is told: `job.raise_if_cancelled()` raises it."""


class JobCancelledRemotelyError(JobCancelError):
    """The job was cancelled by `job_cancel`. River: ErrJobCancelledRemotely."""

    def __init__(self) -> None:
        super().__init__("job cancelled remotely")


class JobInterruptedError(Exception):
    """The client is being stopped hard: the job ends as interrupted, its attempt given back. River: ErrStop."""

    def __init__(self) -> None:
        super().__init__("client is stopping")
