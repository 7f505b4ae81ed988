"""A job that a test expects to have been inserted, and how one that was differs from it. River: ExpectedJob.

Pure values; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from river_fast.errors import ValidationError
from river_fast.job import Job, JobState
from river_fast.job_args import RawArgs, args_info


@dataclass(frozen=True, slots=True)
class ExpectedJob:
    """What is expected; None: whatever it is. River: ExpectedJob with RequireInsertedOpts.

    `args`: an args type, a bare kind, or an args value: then what was inserted must equal it. `metadata`: members that
    must be there, among others maybe. `scheduled_at` is compared to the microsecond; `tags` in order.
    """

    args: Any
    max_attempts: int | None = None
    metadata: Mapping[str, Any] | None = None
    priority: int | None = None
    queue: str | None = None
    scheduled_at: datetime | None = None
    state: JobState | str | None = None
    tags: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.scheduled_at is not None and self.scheduled_at.tzinfo is None:
            raise ValidationError("scheduled_at", "must be aware: give it a time zone, for example datetime.now(UTC)")
        if self.state is not None and self.state not in set(JobState):
            raise ValidationError("state", f"{self.state!r} is not one of {', '.join(JobState)}")

    @property
    def kind(self) -> str:
        """The kind that is expected."""
        if isinstance(self.args, str):
            return self.args
        if isinstance(self.args, RawArgs):
            return self.args.kind
        return args_info(self.args if isinstance(self.args, type) else type(self.args)).kind

    def decoded(self, job: Job[Any]) -> Job[Any]:
        """The job with its args as the expected type; plain JSON for a bare kind."""
        return job if isinstance(self.args, str | RawArgs) else Job(job._row, _Type(self.args))

    def compared(self, job: Job[Any]) -> list[tuple[str, bool, str]]:
        """What is expected, property by property: its name, whether the job has it, and what it has beside."""
        found: list[tuple[str, bool, str]] = []

        def compare(name: str, equal: bool, actual: Any, expected: Any) -> None:
            found.append((name, equal, f"{name} {actual!r}, expected {expected!r}"))

        for name in ("max_attempts", "priority", "queue", "scheduled_at", "state", "tags"):
            expected, actual = getattr(self, name), getattr(job, name)
            if expected is not None:
                expected = list(expected) if name == "tags" else expected
                compare(name, actual == expected, str(actual) if name == "state" else actual, expected)
        if self.metadata is not None:
            stored = job.metadata
            for key, value in self.metadata.items():
                compare(f"metadata[{key!r}]", key in stored and stored[key] == value, stored.get(key), value)
        if not isinstance(self.args, str | type):
            actual = self.decoded(job).args
            expected = self.args.args if isinstance(self.args, RawArgs) else self.args
            compare("args", actual == expected, actual, expected)
        return found


class _Type:
    """How to read args of an expected type, for a job that runs nowhere."""

    def __init__(self, args: Any) -> None:
        self.decode_args = args_info(args if isinstance(args, type) else type(args)).decode

    def run_of(self, job: Job[Any]) -> Any:
        raise RuntimeError(f"job {job.id} is not running in this process")


def expected(value: Any) -> ExpectedJob:
    """Of what a test names: an `ExpectedJob`, or the args of one."""
    return value if isinstance(value, ExpectedJob) else ExpectedJob(value)
