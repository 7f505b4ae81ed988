"""Jobs about to be inserted: options resolved and checked, args encoded, keys computed. River: JobInsertParams.

Pure but for the clock given; any thread. What a caller can get wrong is found here, before any I/O, with its index.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from river_fast.config import SCHEDULER_INTERVAL
from river_fast.encoding import HARD_MAX_BYTES
from river_fast.errors import ConfigError, UnknownJobKindError, ValidationError
from river_fast.insert_opts import InsertManyParams, InsertOpts
from river_fast.job import JobState
from river_fast.job_args import ArgsInfo, RawArgs, args_info, is_known_raw
from river_fast.resolved_opts import ResolvedOpts
from river_fast.unique import unique_key

MAX_JOBS: Final = 1_000_000  # in one call: it is one transaction, and validated as a whole before it begins
MAX_BATCH_BYTES: Final = 1024 * 1024 * 1024
PLAIN_MAX: Final = 1_000  # kinds whose resolved options are kept
CHUNK: Final = 500  # jobs that are encoded together ...
CHUNK_BYTES: Final = 16 * 1024 * 1024  # ... and about so many bytes

_EMPTY = InsertOpts()
_SOON = timedelta(seconds=SCHEDULER_INTERVAL)


class InsertBatch:
    """The jobs of one call, as columns. `values`: where hooks or middleware want them, the args given, by position."""

    __slots__ = ("args", "duplicate_of", "infos", "keys", "opts", "size", "unique", "values")

    def __init__(self) -> None:
        self.args: list[bytes] = []
        self.infos: list[ArgsInfo] = []
        self.opts: list[ResolvedOpts] = []
        self.keys: list[bytes | None] = []
        self.size = 0  # bytes of args
        self.unique: dict[bytes, int] = {}  # key -> position of its first job
        self.duplicate_of: dict[int, int] = {}  # position of a repeated key -> position of its first
        self.values: dict[int, Any] | None = None

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
    """Makes batches for one client. `known_kinds`: what may be inserted, None for anything; `now`: the server's clock;
    `extended`: hooks or middleware see every job, not only those whose kind has its own.
    """

    def __init__(
        self,
        *,
        max_attempts: int,
        max_args_bytes: int,
        known_kinds: Callable[[], Collection[str] | None],
        now: Callable[[], datetime],
        extended: bool = False,
    ) -> None:
        self._max_attempts = max_attempts
        self.limit = min(max_args_bytes, HARD_MAX_BYTES)
        self._extended = extended
        self._known_kinds = known_kinds
        self._now = now
        self._plain: dict[int, tuple[ArgsInfo, ResolvedOpts]] = {}  # by id(info): kinds inserted without options

    def one(self, args: Any, opts: InsertOpts | None = None, *, internal: bool = False) -> InsertBatch:
        """A batch of one job; errors name no index. `internal`: metadata may be River's own, and
        what was due, or is soon, is available."""
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
            if entry is not None and (together := _encoded_together(items, entry[0], self.limit)) is not None:
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
                    batch.append(entry[0].codec.encode(item, self.limit), entry[0], entry[1], None)
                elif type(item) is InsertManyParams:
                    self._add(batch, item.args, item.opts, cache, known, internal)
                else:
                    self._add(batch, item, None, cache, known, internal)
                    info, resolved = batch.infos[-1], batch.opts[-1]
                    alike = resolved.rule is None and not callable(info.insert_opts) and type(item) is not RawArgs
                    if alike and batch.values is None:
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
        if known is not None and info.kind not in known and not (internal and is_known_raw(args)):
            raise UnknownJobKindError(info.kind)
        raw = info.codec.encode(args, self.limit)
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
        if self._extended or info.extensions is not None:
            batch.values = {} if batch.values is None else batch.values
            batch.values[position] = args
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
        if opts is None and not internal:
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
        resolved = ResolvedOpts(base or _EMPTY, opts or _EMPTY, self._max_attempts, self.limit, internal)
        at = resolved.scheduled_at
        if internal and at is not None and at <= self._now() + _SOON and resolved.state is JobState.SCHEDULED:
            resolved.set_state(JobState.AVAILABLE)
        return resolved


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
