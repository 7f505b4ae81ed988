"""What a job logs, kept with it as River keeps it: `river:log`, which River UI shows. River: riverlog.Middleware.

The job's own thread or Task writes, and whatever runs in its context; read when the outcome is made. A `JobLog` owns
the text of one attempt, within bounds; a handler owns nothing of any job.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from river_fast.attempt_error import storable
from river_fast.encoding import raw_elements, raw_members
from river_fast.errors import ConfigError

if TYPE_CHECKING:
    from river_fast.job import Job

LOG_KEY = "river:log"
MAX_SIZE_BYTES = 2 * 1024 * 1024          # of one attempt: River's
MAX_TOTAL_BYTES = 8 * 1024 * 1024         # of all attempts of a job: River's
MAX_TOTAL_BYTES_MOST = 64 * 1024 * 1024   # River's too: the whole of a row's metadata must stay storable

_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
_logger = logging.getLogger("river_fast.job_log")
_working: ContextVar[tuple[Job[Any], JobLogHandler]] = ContextVar("river_fast.job_log")


def _checked(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a number of bytes of at least 1, got {value!r:.80}")
    return value


class JobLog:
    """The text that one attempt logged."""

    def __init__(self, handler: JobLogHandler) -> None:
        self.handler = handler
        self._lines: list[bytes] = []
        self._size = 0

    def write(self, text: str) -> None:
        """One record. What goes beyond the bound is counted, not kept."""
        line = storable(text).encode() + b"\n"
        if self._size < self.handler.max_size_bytes:
            self._lines.append(line)
        self._size += len(line)

    def member(self, job: Job[Any]) -> bytes | None:
        """The metadata's member with this attempt's text behind that of the earlier ones; None where there is none."""
        if not self._size:
            return None
        text = b"".join(list(self._lines))[: self.handler.max_size_bytes].decode("utf-8", "ignore")
        if self._size > self.handler.max_size_bytes:
            _logger.warning(
                "job %d logged %d bytes, the first %d of them are kept", job.id, self._size, self.handler.max_size_bytes
            )
        entry = json.dumps({"attempt": job.attempt, "log": text}, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            stored = raw_members(job.encoded_metadata).get(LOG_KEY, b"[]")
            earlier = raw_elements(stored)
        except (ValueError, RecursionError):
            _logger.warning("job %d has a %s that is no list: it stays, this log is dropped", job.id, LOG_KEY)
            return None
        kept = self._newest(earlier, len(entry))
        if len(kept) < len(earlier):
            _logger.warning(
                "the log of job %d would be longer than %d bytes: its oldest %d attempts are dropped",
                job.id, self.handler.max_total_bytes, len(earlier) - len(kept),
            )  # fmt: skip
        return b'"' + LOG_KEY.encode() + b'":[' + b",".join([*kept, entry]) + b"]"

    def _newest(self, earlier: list[bytes], taken: int) -> list[bytes]:
        """As many of the last of them as there is room for beside `taken` bytes."""
        left = self.handler.max_total_bytes - taken - len("[]")
        for position in range(len(earlier) - 1, -1, -1):
            left -= len(earlier[position]) + len(",")
            if left < 0:
                return earlier[position + 1 :]
        return earlier


class JobLogHandler(logging.Handler):
    """Keeps with each job what is logged while it runs: a `logging.Handler` for your loggers, a plugin for the client.

    `logging.getLogger("app").addHandler(handler)` and `Config(plugins=[handler])`. `level`: of records kept, INFO by
    default; `formatter`: time, level and message by default. `max_size_bytes`: of one attempt, 2 MB; what is beyond is
    cut off. `max_total_bytes`: of all attempts of a job, 8 MB, 64 at most; the oldest are dropped. `ConfigError`.
    """

    def __init__(
        self,
        level: int | str = logging.INFO,
        *,
        formatter: logging.Formatter | None = None,
        max_size_bytes: int = MAX_SIZE_BYTES,
        max_total_bytes: int = MAX_TOTAL_BYTES,
    ) -> None:
        super().__init__(level)
        self.setFormatter(formatter or _FORMAT)
        self.max_size_bytes = _checked("max_size_bytes", max_size_bytes)
        self.max_total_bytes = min(_checked("max_total_bytes", max_total_bytes), MAX_TOTAL_BYTES_MOST)

    def work(self, job: Job[Any]) -> Iterator[None]:
        """The plugin's part: says which job runs here."""
        token = _working.set((job, self))
        try:
            yield
        finally:
            _working.reset(token)

    def emit(self, record: logging.LogRecord) -> None:
        """The handler's part: to the job that runs here, if one does."""
        working = _working.get(None)
        if working is None:
            return
        job, handler = working
        try:
            job._running().log(handler).write(self.format(record))
        except Exception:  # as every handler: a record that cannot be written is told of, and no reason to fail
            self.handleError(record)


class JobLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic for type checkers alone before 3.11.4
    """`job.logger`: what it is given goes to the job, and nowhere else."""

    def __init__(self, job: Job[Any], log: JobLog) -> None:
        super().__init__(_job_logger, {"river_log": log})
        self.job = job
        self._level = log.handler.level

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """The log to write to, beside an `extra` of the caller's own."""
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs

    def isEnabledFor(self, level: int) -> bool:
        """By the handler's level."""
        return level >= self._level and super().isEnabledFor(level)


class _ToTheJob(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log: JobLog = record.river_log  # type: ignore[attr-defined]
        try:
            log.write(log.handler.format(record))
        except Exception:
            self.handleError(record)


_job_logger = logging.Logger("river_fast.job", logging.DEBUG)  # of no hierarchy: nothing is passed on
_job_logger.addHandler(_ToTheJob())
DEFAULT_HANDLER = JobLogHandler()  # bounds and format of jobs that run where none is installed


def working_handler(job: Job[Any]) -> JobLogHandler:
    """The one installed around the job that runs here, else the default."""
    working = _working.get(None)
    return working[1] if working is not None and working[0] is job else DEFAULT_HANDLER
