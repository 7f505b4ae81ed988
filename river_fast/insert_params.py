"""Jobs about to be inserted: options resolved and checked, args encoded, keys computed. River: JobInsertParams.

Pure but for the clock given; any thread. What a caller can get wrong is found here, before any I/O, with its index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from river_fast import pg_binary
from river_fast.config import DEFAULT_PRIORITY, DEFAULT_QUEUE, check_queue_name
from river_fast.encoding import HARD_MAX_BYTES, check_raw, decode, encode_object
from river_fast.errors import ConfigError, UnknownJobKindError, ValidationError
from river_fast.insert_opts import InsertManyParams, InsertOpts, UniqueOpts
from river_fast.job import JobState
from river_fast.job_args import ArgsInfo, RawArgs, args_info
from river_fast.unique import UniqueRule, unique_key, unique_rule

TAG: Final = re.compile(r"\A\w[\w\-]+\w\Z", re.ASCII)
TAG_MAX = 255
TAGS_MAX = 256
MAX_JOBS: Final = 1_000_000  # in one call: it is one transaction, and validated as a whole before it begins
MAX_BATCH_BYTES: Final = 1024 * 1024 * 1024
PLAIN_MAX: Final = 1_000  # kinds whose resolved options are kept
CHUNK: Final = 500  # jobs that are encoded together ...
CHUNK_BYTES: Final = 16 * 1024 * 1024  # ... and about so many bytes

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RESERVED_METADATA = frozenset({"cancel_attempted_at", "snoozes"})
_EMPTY = InsertOpts()


class ResolvedOpts:
    """Options after inheritance, checked, and already in PostgreSQL's form; shared by all jobs they apply to."""

    __slots__ = (
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
        state = JobState.SCHEDULED if scheduled_at is not None else JobState.AVAILABLE
        self.state = JobState.PENDING if opts.pending else state
        unique = _unique(opts.unique) or _unique(base.unique)
        self.rule: UniqueRule | None = None if unique is None else unique_rule(unique)
        self.state_element = pg_binary.text_element(self.state.encode())
        self.unique_states = pg_binary.int4_element(None if self.rule is None else self.rule.states)
        self.tags_array = tuple(tag.encode() for tag in tags)
        self.sent: dict[str, Any] = {}  # what `insert_statements` has made of it, for the next call


class InsertBatch:
    """The jobs of one call, as columns."""

    __slots__ = ("args", "duplicate_of", "infos", "keys", "opts", "size", "unique")

    def __init__(self) -> None:
        self.args: list[bytes] = []
        self.infos: list[ArgsInfo] = []
        self.opts: list[ResolvedOpts] = []
        self.keys: list[bytes | None] = []
        self.size = 0  # bytes of args
        self.unique: dict[bytes, int] = {}  # key -> position of its first job
        self.duplicate_of: dict[int, int] = {}  # position of a repeated key -> position of its first

    def __len__(self) -> int:
        return len(self.args)

    def append(self, args: bytes, info: ArgsInfo, opts: ResolvedOpts, key: bytes | None) -> None:
        self.size += len(args)
        self.args.append(args)
        self.infos.append(info)
        self.opts.append(opts)
        self.keys.append(key)

    def extend(self, args: Sequence[bytes], info: ArgsInfo, opts: ResolvedOpts) -> None:
        """Jobs without a key that differ in their args alone."""
        self.size += sum(map(len, args))
        self.args += args
        self.infos += [info] * len(args)
        self.opts += [opts] * len(args)
        self.keys += [None] * len(args)

    def is_alike(self) -> bool:
        """Whether the jobs differ in their args alone, and none is unique."""
        infos, opts, count = self.infos, self.opts, len(self.args)
        return not self.unique and opts.count(opts[0]) == count and infos.count(infos[0]) == count

    @classmethod
    def joined(cls, batches: Sequence[InsertBatch]) -> InsertBatch:
        """One batch of several, in their order; none of them has repeated keys of its own."""
        if len(batches) == 1:
            return batches[0]
        whole = cls()
        for batch in batches:
            for key, position in batch.unique.items():
                first = whole.unique.setdefault(key, len(whole) + position)
                if first != len(whole) + position:
                    whole.duplicate_of[len(whole) + position] = first
            whole.size += batch.size
            whole.args += batch.args
            whole.infos += batch.infos
            whole.opts += batch.opts
            whole.keys += batch.keys
        return whole

    def queues(self) -> list[str]:
        """The distinct queues that get available jobs, in order of appearance."""
        return list({opts.queue_name: None for opts in dict.fromkeys(self.opts) if opts.state is JobState.AVAILABLE})


class InsertBuilder:
    """Makes batches for one client. `known_kinds`: what may be inserted, None for anything; `now`: the server's clock.
    """

    def __init__(
        self,
        *,
        max_attempts: int,
        max_args_bytes: int,
        known_kinds: Callable[[], Collection[str] | None],
        now: Callable[[], datetime],
    ) -> None:
        self._max_attempts = max_attempts
        self._limit = min(max_args_bytes, HARD_MAX_BYTES)
        self._known_kinds = known_kinds
        self._now = now
        self._plain: dict[int, tuple[ArgsInfo, ResolvedOpts]] = {}  # by id(info): kinds inserted without options

    def one(self, args: Any, opts: InsertOpts | None = None, *, internal: bool = False) -> InsertBatch:
        """A batch of one job; errors name no index. `internal` allows metadata that is River's own."""
        batch = InsertBatch()
        self._add(batch, args, opts, {}, self._known_kinds(), internal)
        return batch

    def many(self, params: Iterable[Any], *, internal: bool = False) -> InsertBatch:
        """A batch of args or `InsertManyParams`; raises the first error, with its index, and nothing is built."""
        if isinstance(params, str | bytes | Mapping) or not isinstance(params, Iterable):
            raise ValidationError("params", f"must be a list of args or InsertManyParams, got {type(params).__name__}")
        batch = InsertBatch()
        known = self._known_kinds()
        cache: dict[tuple[int, int], tuple[ResolvedOpts, ArgsInfo, InsertOpts | None]] = {}
        simple: dict[type[Any], tuple[ArgsInfo, ResolvedOpts]] = {}  # types whose jobs differ in their args alone
        # The first tells what the others may be like. What makes its items one by one may change those it made before.
        rest, count, is_made = iter(params), 1, isinstance(params, list | tuple)
        while items := list(islice(rest, count)):
            if len(batch) + len(items) > MAX_JOBS:
                raise ValidationError("params", f"more than {MAX_JOBS} jobs in one call: insert them in several")
            entry = simple.get(type(items[0]))
            if entry is not None and (together := _encoded_together(items, entry[0], self._limit)) is not None:
                batch.extend(together, *entry)
                _check_size(batch)
            else:
                self._add_each(batch, items, cache, simple, known, internal)
            if is_made:
                count = max(min(CHUNK, CHUNK_BYTES * len(batch) // max(batch.size, 1)), 1)
        if not batch.args:
            raise ValidationError("params", "no jobs to insert")
        return batch

    def _add_each(
        self,
        batch: InsertBatch,
        items: Sequence[Any],
        cache: dict[tuple[int, int], tuple[ResolvedOpts, ArgsInfo, InsertOpts | None]],
        simple: dict[type[Any], tuple[ArgsInfo, ResolvedOpts]],
        known: Collection[str] | None,
        internal: bool,
    ) -> None:
        """One by one, until the first error."""
        for item in items:
            index = len(batch)
            try:
                entry = simple.get(type(item))
                if entry is not None:
                    batch.append(entry[0].codec.encode(item, self._limit), entry[0], entry[1], None)
                elif type(item) is InsertManyParams:
                    self._add(batch, item.args, item.opts, cache, known, internal)
                else:
                    self._add(batch, item, None, cache, known, internal)
                    info, resolved = batch.infos[-1], batch.opts[-1]
                    if resolved.rule is None and not callable(info.insert_opts) and type(item) is not RawArgs:
                        simple[type(item)] = (info, resolved)
            except ValidationError as error:
                raise type(error)(error.field, error.reason, index) from error
            _check_size(batch)

    def _add(
        self,
        batch: InsertBatch,
        args: Any,
        opts: InsertOpts | None,
        cache: dict[tuple[int, int], tuple[ResolvedOpts, ArgsInfo, InsertOpts | None]],
        known: Collection[str] | None,
        internal: bool,
    ) -> None:
        info = _info_of(args)
        if known is not None and info.kind not in known:
            raise UnknownJobKindError(info.kind)
        raw = info.codec.encode(args, self._limit)
        resolved = self._resolved(info, args, opts, cache, internal)
        key = None
        rule = resolved.rule
        position = len(batch.args)
        if rule is not None:
            key = unique_key(
                rule,
                kind=info.kind,
                queue=resolved.queue_name,
                args=raw,
                at=resolved.scheduled_at or self._now(),
                paths=info.codec.unique_paths,
                go_floats=info.go_floats,
            )
            first = batch.unique.setdefault(key, position)
            if first != position:
                batch.duplicate_of[position] = first
        batch.append(raw, info, resolved, key)

    def _resolved(
        self,
        info: ArgsInfo,
        args: Any,
        opts: InsertOpts | None,
        cache: dict[tuple[int, int], tuple[ResolvedOpts, ArgsInfo, InsertOpts | None]],
        internal: bool,
    ) -> ResolvedOpts:
        """Once for each kind and options, where the kind's own do not depend on the args."""
        if callable(info.insert_opts):
            return self._resolve(info, args, opts, internal)
        if opts is None:
            plain = self._plain.get(id(info))
            if plain is None:
                if len(self._plain) >= PLAIN_MAX:
                    self._plain.clear()  # kinds may be made at will (RawArgs)
                plain = self._plain[id(info)] = (info, self._resolve(info, args, None, internal))
            return plain[1]
        entry = cache.get((id(info), id(opts)))
        if entry is None:
            # holds both, so that no other takes their ids
            entry = cache[id(info), id(opts)] = (self._resolve(info, args, opts, internal), info, opts)
        return entry[0]

    def _resolve(self, info: ArgsInfo, args: Any, opts: InsertOpts | None, internal: bool) -> ResolvedOpts:
        base = info.insert_opts
        if base is not None and not isinstance(base, InsertOpts):
            base = base(args)
        if base is not None and not isinstance(base, InsertOpts):
            raise ValidationError("opts", f"insert_opts of kind {info.kind} gave {type(base).__name__}, not InsertOpts")
        if opts is not None and not isinstance(opts, InsertOpts):
            raise ValidationError("opts", f"must be InsertOpts, got {type(opts).__name__}")
        return ResolvedOpts(base or _EMPTY, opts or _EMPTY, self._max_attempts, self._limit, internal)


def _check_size(batch: InsertBatch) -> None:
    if batch.size > MAX_BATCH_BYTES:
        raise ValidationError("params", f"more than {MAX_BATCH_BYTES} bytes of args: use several calls")


def _encoded_together(items: Sequence[Any], info: ArgsInfo, limit: int) -> Sequence[bytes] | None:
    """None where they must go one by one: of several types, or not all as simple as that, or one of them bad."""
    if len(set(map(type, items))) > 1:
        return None
    return info.codec.encode_many(items, limit)


def _info_of(args: Any) -> ArgsInfo:
    if isinstance(args, type):
        raise ValidationError("args", f"must be a value, got the type {args.__qualname__}")
    try:
        return args_info(args)
    except ConfigError as error:
        raise ValidationError("args", str(error)) from error


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
