"""A job's args: the kind they belong to, and how they are stored. River: JobArgs, JobArgsWithKindAliases.

Values and types, any thread. What is found out about an args type is found out once, at its first use, and kept on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from river_fast.args_codec import Codec, UniqueMarker, build_codec
from river_fast.canonical_json import Path
from river_fast.config import check_kind
from river_fast.encoding import HARD_MAX_BYTES, check_raw, decode, encode_object
from river_fast.errors import ConfigError, ValidationError
from river_fast.insert_opts import InsertOpts
from river_fast.pg_binary import text_element
from river_fast.plugin import Extensions, extensions

if TYPE_CHECKING:
    from river_fast.job import Job

C = TypeVar("C", bound=type[Any])

unique: Final = UniqueMarker()

_REGISTRATION = "__river_args__"
_INFO = "__river_args_info__"


@dataclass(frozen=True, slots=True)
class Registration:
    """What the author of an args type said of it."""

    kind: str
    aliases: tuple[str, ...]
    insert_opts: InsertOpts | Callable[[Any], InsertOpts | None] | None
    extensions: Extensions | None = None  # None: it has none of its own


class JobArgs:
    """Base of args types: `class EmailArgs(river.JobArgs, kind="email")`, with `@dataclass` above it.

    `aliases`: further kinds the worker answers to. `insert_opts`: options for every insert of it (a value, or a
    function of the args). `hooks`, `plugins`: as `Config`'s, for this kind alone, called after those (River:
    JobArgsWithHooks, JobArgsWithPlugins). Raises `ConfigError` for a kind that breaks River's rule.
    """

    def __init_subclass__(
        cls,
        kind: str | None = None,
        aliases: Sequence[str] = (),
        insert_opts: InsertOpts | Callable[[Any], InsertOpts | None] | None = None,
        hooks: Sequence[Any] = (),
        plugins: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            _register(cls, kind, aliases, insert_opts, hooks, plugins)
        elif aliases or insert_opts is not None or hooks or plugins:
            raise ConfigError(f"{cls.__qualname__} needs a kind: class {cls.__name__}(JobArgs, kind=...)")


def job_args(
    kind: str,
    aliases: Sequence[str] = (),
    insert_opts: InsertOpts | Callable[[Any], InsertOpts | None] | None = None,
    hooks: Sequence[Any] = (),
    plugins: Sequence[Any] = (),
) -> Callable[[C], C]:
    """Decorator that makes any dataclass, msgspec.Struct or pydantic model an args type; see `JobArgs`."""

    def register(cls: C) -> C:
        if not isinstance(cls, type):
            raise ConfigError(f"job_args decorates a class, got {cls!r}")
        _register(cls, kind, aliases, insert_opts, hooks, plugins)
        return cls

    return register


def _register(
    cls: type[Any],
    kind: str,
    aliases: Sequence[str],
    insert_opts: InsertOpts | Callable[[Any], InsertOpts | None] | None,
    hooks: Sequence[Any],
    plugins: Sequence[Any],
) -> None:
    if isinstance(aliases, str):
        raise ConfigError(f"aliases of {cls.__qualname__} must be a sequence of kinds, got the string {aliases!r}")
    if insert_opts is not None and not isinstance(insert_opts, InsertOpts) and not callable(insert_opts):
        raise ConfigError(f"insert_opts of {cls.__qualname__} must be InsertOpts or a function of the args giving them")
    names = tuple(check_kind(alias) for alias in aliases)
    own = extensions(cls.__qualname__, hooks=hooks, plugins=plugins) if hooks or plugins else None
    setattr(cls, _REGISTRATION, Registration(check_kind(kind), names, insert_opts, own))


class RawArgs:
    """Args of a kind that has no class: a dict, or the JSON text of an object.

    Raises `ValidationError` for a kind that breaks River's rule; args are checked by the insert.
    """

    __slots__ = ("_info", "args", "kind")

    def __init__(self, kind: str, args: Mapping[str, Any] | bytes | str) -> None:
        self._info: ArgsInfo | None = None
        try:
            self.kind = check_kind(kind)
        except ConfigError as error:
            raise ValidationError("kind", str(error)) from None
        self.args = args

    @classmethod
    def known(cls, info: ArgsInfo, args: bytes) -> RawArgs:
        """JSON text of a type that is not in this process, but whose unique members are known."""
        made = cls(info.kind, args)
        made._info = info
        return made

    def __repr__(self) -> str:
        return f"RawArgs({self.kind!r}, ...)"


@dataclass(frozen=True, slots=True)
class ArgsInfo:
    """One kind of args. `go_floats`: for unique keys, floats in its text must be rewritten as Go writes them.

    Serves inserted jobs as their `Unit`: they decode their args by it, and run nowhere.
    """

    kind: str
    aliases: tuple[str, ...]
    codec: Codec
    insert_opts: InsertOpts | Callable[[Any], InsertOpts | None] | None = None
    go_floats: bool = True
    extensions: Extensions | None = None
    kind_element: bytes = field(init=False, repr=False)  # the kind as an array's element

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind_element", text_element(self.kind.encode()))

    @property
    def unique_paths(self) -> tuple[Path, ...]:
        return self.codec.unique_paths

    def encode(self, args: Any, limit: int = HARD_MAX_BYTES) -> bytes:
        """JSON text of at most `limit` bytes; `EncodeError` or `ValidationError` naming what cannot be stored."""
        return self.codec.encode(args, limit)

    def decode(self, encoded: bytes) -> Any:
        """The args of stored JSON; `DecodeError` where they do not fit the type."""
        return self.codec.decode(encoded)

    def decode_args(self, encoded: bytes) -> Any:
        return self.codec.decode(encoded)

    def run_of(self, job: Job[Any]) -> NoReturn:
        raise RuntimeError(f"job {job.id} is not running in this process")


def is_known_raw(args: Any) -> bool:
    """Whether these are `RawArgs.known`: whoever made them has checked the kind."""
    return isinstance(args, RawArgs) and args._info is not None


def args_info(args: Any) -> ArgsInfo:
    """What is known of an args type, or of the type of an args value. `ConfigError` for what is no args type."""
    if isinstance(args, RawArgs):
        return args._info or _raw_info(args)
    cls = args if isinstance(args, type) else type(args)
    info = cls.__dict__.get(_INFO)
    if info is None:
        registration = cls.__dict__.get(_REGISTRATION)
        if registration is None:
            raise ConfigError(
                f"{cls.__qualname__} has no kind: derive it from JobArgs with kind=..., decorate it with "
                "@job_args(kind=...), or give RawArgs(kind, args)"
            )
        info = ArgsInfo(
            registration.kind,
            registration.aliases,
            build_codec(cls),
            registration.insert_opts,
            extensions=registration.extensions,
        )
        setattr(cls, _INFO, info)
    assert isinstance(info, ArgsInfo)
    return info


def _encode_raw_object(args: Any, limit: int) -> bytes:
    value = args.args
    if isinstance(value, dict):
        return encode_object(value, limit=limit)
    if isinstance(value, Mapping):
        return encode_object(dict(value), limit=limit)
    raise ValidationError("args", f"must be a mapping or the JSON text of an object, got {type(value).__name__}")


def _encode_raw_text(args: Any, limit: int) -> bytes:
    value = args.args
    if isinstance(value, str):
        try:
            value = value.encode()
        except UnicodeEncodeError as error:
            raise ValidationError("args", f"lone surrogate at character {error.start} cannot be stored") from None
    return check_raw(value, limit=limit)


_RAW_OBJECT = Codec(_encode_raw_object, decode)
_RAW_TEXT = Codec(_encode_raw_text, decode)


def _raw_info(args: RawArgs) -> ArgsInfo:
    return _info_of_raw_kind(args.kind, isinstance(args.args, bytes | bytearray | memoryview | str))


@lru_cache(maxsize=1024)
def _info_of_raw_kind(kind: str, is_text: bool) -> ArgsInfo:
    if is_text:
        return ArgsInfo(kind, (), _RAW_TEXT, None, False)  # another encoder's text is hashed as it stands
    return ArgsInfo(kind, (), _RAW_OBJECT)
