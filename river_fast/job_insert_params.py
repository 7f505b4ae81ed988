"""A job on its way into the database, as insert hooks and middleware see and change it. River: JobInsertParams.

Pure; used by the thread or Task that inserts. Made from a batch that was checked whole, and made a batch again: what
was not changed stays as it was, what was changed is checked like what a caller gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from river_fast.encoding import check_raw
from river_fast.errors import ConfigError, ValidationError
from river_fast.insert_opts import InsertOpts
from river_fast.insert_params import InsertBatch
from river_fast.job import JobState
from river_fast.job_args import ArgsInfo
from river_fast.job_row import loads_exact
from river_fast.plugin import Extensions
from river_fast.resolved_opts import ResolvedOpts

_EMPTY = InsertOpts()


class JobInsertParams:
    """One job of an insert call: options resolved, args encoded. River: JobInsertParams.

    To be changed, with the meaning they have in `InsertOpts`: `encoded_args` (JSON text, bytes or str), `max_attempts`,
    `metadata` (a dict), `pending`, `priority`, `queue`, `scheduled_at`, `tags`. Fixed: `args`, the value that was
    given, `kind`, and `unique_key`: as in River, it was computed before any hook or middleware ran.
    """

    __slots__ = (
        "_args",
        "_before",
        "_info",
        "_key",
        "_opts",
        "_raw",
        "encoded_args",
        "max_attempts",
        "metadata",
        "pending",
        "priority",
        "queue",
        "scheduled_at",
        "tags",
    )

    def __init__(self, info: ArgsInfo, resolved: ResolvedOpts, raw: bytes, key: bytes | None, args: Any) -> None:
        self._info, self._opts, self._raw, self._key, self._args = info, resolved, raw, key, args
        self._before = before = _opts_of(resolved)
        self.encoded_args = raw
        self.max_attempts = before.max_attempts
        # its own, to be changed in place
        self.metadata: dict[str, Any] = loads_exact(resolved.metadata[5:]) if before.metadata else {}
        self.pending = before.pending
        self.priority = before.priority
        self.queue = before.queue
        self.scheduled_at = before.scheduled_at
        self.tags: Sequence[str] = list(before.tags or ())

    @property
    def args(self) -> Any:
        """The args value that was given; to change what is stored set `encoded_args`."""
        return self._info.decode(self._raw) if self._args is None else self._args

    @property
    def kind(self) -> str:
        """The job's kind."""
        return self._info.kind

    @property
    def extensions(self) -> Extensions | None:
        """The hooks and middleware of its kind."""
        return self._info.extensions

    @property
    def unique_key(self) -> bytes | None:
        """The 32 bytes by which a unique job is known; None for others."""
        return self._key

    def __repr__(self) -> str:
        return f"JobInsertParams(kind={self.kind!r}, queue={self.queue!r}, ...)"

    def opts(self) -> InsertOpts:
        """What it is to be inserted with, as it stands now."""
        return InsertOpts(
            max_attempts=self.max_attempts,
            metadata=self.metadata,
            pending=self.pending,
            priority=self.priority,
            queue=self.queue,
            scheduled_at=self.scheduled_at,
            tags=self.tags,
        )


def params_of(batch: InsertBatch) -> list[JobInsertParams]:
    """One for each job of a batch, in its order."""
    values = batch.values or {}
    columns = zip(batch.infos, batch.opts, batch.args, batch.keys, strict=True)
    return [JobInsertParams(*row, values.get(position)) for position, row in enumerate(columns)]


def checked_params(params: Any) -> Sequence[JobInsertParams]:
    """What a middleware handed on; `ConfigError` for what is no list of jobs."""
    if isinstance(params, list | tuple) and all(type(each) is JobInsertParams for each in params):
        return params
    raise ConfigError(f"insert middleware must hand on the list of JobInsertParams it was given, got {params!r:.80}")


def batch_of(params: Sequence[JobInsertParams], limit: int) -> InsertBatch:
    """The batch that these jobs are now. `ValidationError`, with the index, for what they were changed to."""
    batch = InsertBatch()
    last: tuple[ResolvedOpts, InsertOpts, ResolvedOpts] | None = None  # most calls change all jobs in the same way
    for position, each in enumerate(params):
        try:
            opts, raw = each.opts(), each.encoded_args
            if raw is not each._raw:
                raw = _checked_text(raw, limit)
            if not isinstance(opts.metadata, dict):
                raise ValidationError("metadata", f"must be a dict, got {type(opts.metadata).__name__}")
            if opts == each._before:
                resolved = each._opts
            elif last is not None and last[0] is each._opts and last[1] == opts:
                resolved = last[2]
            else:
                resolved = ResolvedOpts(_EMPTY, opts, 0, limit, each._opts.internal)
                resolved.rule, resolved.unique_states = each._opts.rule, each._opts.unique_states
                if (opts.scheduled_at, opts.pending) == (each._before.scheduled_at, each._before.pending):
                    resolved.set_state(each._opts.state)
                last = each._opts, opts, resolved
        except ValidationError as error:
            raise type(error)(error.field, error.reason, position) from error
        if each._key is not None:
            first = batch.unique.setdefault(each._key, position)
            if first != position:
                batch.duplicate_of[position] = first
        batch.append(raw, each._info, resolved, each._key)
    return batch


def _checked_text(text: Any, limit: int) -> bytes:
    if not isinstance(text, bytes | bytearray | memoryview | str):
        raise ValidationError("args", f"must be JSON text, got {type(text).__name__}")
    return check_raw(text.encode(errors="surrogatepass") if isinstance(text, str) else text, limit=limit)


def _opts_of(resolved: ResolvedOpts) -> InsertOpts:
    """What the options came to; once for all jobs that share them."""
    found: InsertOpts | None = resolved.sent.get("opts")
    if found is None:
        found = resolved.sent["opts"] = InsertOpts(
            max_attempts=int.from_bytes(resolved.max_attempts[4:], "big"),
            metadata=loads_exact(resolved.metadata[5:]),
            pending=resolved.state is JobState.PENDING,
            priority=int.from_bytes(resolved.priority[4:], "big"),
            queue=resolved.queue_name,
            scheduled_at=resolved.scheduled_at,
            tags=[tag.decode() for tag in resolved.tags_array],
        )
    return found
