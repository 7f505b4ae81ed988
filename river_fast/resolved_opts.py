"""How one or many jobs are inserted: options after inheritance, checked, in PostgreSQL's form. River: InsertOpts.

Pure; any thread reads. What a caller can get wrong in them is found here, before any I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from river_fast import pg_binary
from river_fast.config import DEFAULT_PRIORITY, DEFAULT_QUEUE, check_queue_name
from river_fast.encoding import check_raw, decode, encode_object
from river_fast.errors import ConfigError, ValidationError
from river_fast.insert_opts import InsertOpts, UniqueOpts
from river_fast.job import JobState
from river_fast.unique import UniqueRule, unique_rule

TAG: Final = re.compile(r"\A\w[\w\-]+\w\Z", re.ASCII)
TAG_MAX = 255
TAGS_MAX = 256

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RESERVED_METADATA = frozenset({"cancel_attempted_at", "snoozes"})


class ResolvedOpts:
    """Options after inheritance, checked, and already in PostgreSQL's form; shared by all jobs they apply to."""

    __slots__ = (
        "internal",
        "max_attempts",
        "metadata",
        "priority",
        "queue",
        "queue_name",
        "rule",
        "scheduled_at",
        "scheduled_us",
        "sent",
        "state",
        "state_element",
        "tags",
        "tags_array",
        "unique_states",
    )

    def __init__(self, base: InsertOpts, opts: InsertOpts, max_attempts: int, limit: int, internal: bool) -> None:
        self.queue_name = _queue(opts.queue if opts.queue is not None else base.queue)
        self.queue = pg_binary.text_element(self.queue_name.encode())
        self.priority = pg_binary.int2_element(_priority(opts.priority if opts.priority is not None else base.priority))
        attempts = opts.max_attempts if opts.max_attempts is not None else base.max_attempts
        self.max_attempts = pg_binary.int2_element(_max_attempts(attempts, max_attempts))
        tags = _tags(opts.tags if opts.tags is not None else base.tags)
        self.tags = pg_binary.text_element(("{" + ",".join(f'"{tag}"' for tag in tags) + "}").encode())
        # As River has it: metadata and pending count only where the insert itself gives them
        self.metadata = pg_binary.jsonb_element(_metadata(opts.metadata, limit, internal))
        scheduled_at = opts.scheduled_at if opts.scheduled_at is not None else base.scheduled_at
        self.scheduled_at = None if scheduled_at is None else _scheduled_at(scheduled_at)
        microseconds = None if self.scheduled_at is None else (self.scheduled_at - _POSTGRES_EPOCH) // _MICROSECOND
        self.scheduled_us = pg_binary.int8_element(microseconds)
        if not isinstance(opts.pending, bool):
            raise ValidationError("pending", f"must be a bool, got {opts.pending!r:.80}")
        self.internal = internal
        state = JobState.SCHEDULED if scheduled_at is not None else JobState.AVAILABLE
        self.set_state(JobState.PENDING if opts.pending else state)
        unique = _unique(opts.unique) or _unique(base.unique)
        self.rule: UniqueRule | None = None if unique is None else unique_rule(unique)
        self.unique_states = pg_binary.int4_element(None if self.rule is None else self.rule.states)
        self.tags_array = tuple(tag.encode() for tag in tags)
        self.sent: dict[str, Any] = {}  # what others have made of it, for the next call

    def set_state(self, state: JobState) -> None:
        self.state, self.state_element = state, pg_binary.text_element(state.encode())


def _queue(queue: Any) -> str:
    if queue is None:
        return DEFAULT_QUEUE
    try:
        return check_queue_name(queue)
    except ConfigError as error:
        raise ValidationError("queue", str(error)) from None


def _priority(priority: Any) -> int:
    if priority is None:
        return DEFAULT_PRIORITY
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 4:
        raise ValidationError("priority", f"must be an int from 1 (first) to 4, got {priority!r:.80}")
    return int(priority) or DEFAULT_PRIORITY


def _max_attempts(value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 32767:
        raise ValidationError("max_attempts", f"must be an int from 1 to 32767, got {value!r:.80}")
    return int(value) or default


def _tags(tags: Any) -> list[str]:
    if tags is None:
        return []
    if not isinstance(tags, list | tuple):
        raise ValidationError("tags", f"must be a list of strings, got {type(tags).__name__}")
    if len(tags) > TAGS_MAX:
        raise ValidationError("tags", f"at most {TAGS_MAX} tags, got {len(tags)}")
    for tag in tags:
        if not isinstance(tag, str) or len(tag) > TAG_MAX or not TAG.match(tag):
            raise ValidationError(
                "tags", f"{tag!r:.80} must be 3 to {TAG_MAX} ASCII letters, digits, '_' or '-', no '-' at either end"
            )
    if len(set(tags)) != len(tags):
        raise ValidationError("tags", "a tag is given twice")
    return [str(tag) for tag in tags]


def _metadata(metadata: Any, limit: int, internal: bool) -> bytes:
    if metadata is None:
        return b"{}"
    if isinstance(metadata, bytes | bytearray | memoryview):
        raw = check_raw(metadata, field="metadata", limit=limit)
        keys: Iterable[Any] = decode(raw)
    elif isinstance(metadata, Mapping):
        value = metadata if isinstance(metadata, dict) else dict(metadata)
        raw = encode_object(value, field="metadata", limit=limit)
        keys = dict.keys(value)
    else:
        raise ValidationError("metadata", f"must be a mapping or a JSON object as bytes, got {type(metadata).__name__}")
    for key in () if internal else keys:
        if key in _RESERVED_METADATA or key.startswith("river:"):
            raise ValidationError("metadata", f"key {key!r:.80} is reserved for River itself")
    return raw


def _scheduled_at(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise ValidationError("scheduled_at", f"must be an aware datetime, got {type(value).__name__}")
    try:
        moment = value.astimezone(UTC) if value.utcoffset() is not None else None
    except Exception as error:  # out of range, or whatever the zone raises
        raise ValidationError("scheduled_at", f"cannot be expressed in UTC: {error!r:.80}") from error
    if moment is None:
        raise ValidationError("scheduled_at", "must be aware: give it a time zone, for example datetime.now(UTC)")
    return moment


def _unique(opts: Any) -> UniqueOpts | None:
    if opts is None:
        return None
    if not isinstance(opts, UniqueOpts):
        raise ValidationError("unique", f"must be UniqueOpts, got {type(opts).__name__}")
    return None if opts.is_empty() else opts
