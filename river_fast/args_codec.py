"""How one args type is written to JSON and read back: dataclass, msgspec.Struct, pydantic model, or raw.

Built once per type, then pure functions for any thread. msgspec and pydantic are imported only for types of theirs.
"""

from __future__ import annotations

import operator
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from river_fast.canonical_json import Path, sort_paths
from river_fast.encoding import (
    HARD_MAX_BYTES,
    PLAIN,
    check_raw,
    decode,
    encode_object,
    encode_plain,
    encode_plain_many,
    refuse_non_finite,
)
from river_fast.errors import ConfigError, DecodeError, EncodeError, RiverError

Converter = Callable[[Any], Any]


class UniqueMarker:
    """`Annotated[str, river.unique]`: the field counts for `by_args` uniqueness. River: the `river:"unique"` tag."""

    def __repr__(self) -> str:
        return "river_fast.unique"


@dataclass(frozen=True, slots=True)
class Codec:
    """`encode(args, limit)` the JSON text of an object of at most `limit` bytes; `decode` raises `DecodeError`.

    `encode_many` the texts of many, or None where only `encode`, one by one, can tell what is to be said of them.
    """

    encode: Callable[[Any, int], bytes]
    decode: Callable[[bytes], Any]
    unique_paths: tuple[Path, ...] = ()
    encode_many: Callable[[Sequence[Any], int], Sequence[bytes] | None] = lambda many, limit: None


def build_codec(cls: type[Any]) -> Codec:
    """`ConfigError` for a type that is none of the three."""
    if is_dataclass(cls):
        return _dataclass_codec(cls)
    if _is_msgspec(cls):
        return _msgspec_codec(cls)
    if _is_pydantic(cls):
        return _pydantic_codec(cls)
    raise ConfigError(f"{cls.__qualname__} cannot be args: make it a dataclass, a msgspec.Struct or a pydantic model")


def _is_msgspec(cls: type[Any]) -> bool:
    module = sys.modules.get("msgspec")
    return module is not None and issubclass(cls, module.Struct)


def _is_pydantic(cls: type[Any]) -> bool:
    module = sys.modules.get("pydantic")
    return module is not None and issubclass(cls, module.BaseModel)


# --- dataclasses


def _dataclass_codec(cls: type[Any]) -> Codec:
    names = tuple(f.name for f in fields(cls))
    read = _reader(names)

    def encode(args: Any, limit: int = HARD_MAX_BYTES) -> bytes:
        try:
            values = read(args)
        except Exception as error:  # an unset slot, or a property that raises
            raise EncodeError("args", f"a field of {cls.__qualname__} cannot be read: {error!r}") from error
        members = dict(zip(names, values))  # noqa: B905 (as long as each other by construction)
        if PLAIN.issuperset(map(type, values)):  # almost all args of a busy service are this simple
            return encode_plain(members, "args", limit)
        return encode_object(members, limit=limit, structs=True)

    getters = [operator.attrgetter(name) for name in names]

    def encode_many(many: Sequence[Any], limit: int = HARD_MAX_BYTES) -> Sequence[bytes] | None:
        try:
            columns = [list(map(get, many)) for get in getters]
        except Exception:  # `encode` says which
            return None
        return encode_plain_many(names, columns, len(many), limit)

    convert = dataclass_converter(cls)

    def decode_args(raw: bytes) -> Any:
        return convert(decode(raw))

    return Codec(encode, decode_args, unique_paths(cls), encode_many)


def _reader(names: Sequence[str]) -> Callable[[Any], Sequence[Any]]:
    if not names:
        return lambda args: ()
    if len(names) == 1:
        get = operator.attrgetter(names[0])
        return lambda args: (get(args),)
    return operator.attrgetter(*names)


def type_hints(cls: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(
            f"an annotation of {cls.__qualname__} cannot be resolved ({error}): define what it names at module level"
        ) from error


def dataclass_converter(cls: type[Any]) -> Converter:
    """From a decoded object to the dataclass: unknown members are ignored, missing ones take their defaults."""
    hints = type_hints(cls)
    parts = [
        (f.name, _converter(hints[f.name]), f.default is MISSING and f.default_factory is MISSING)
        for f in fields(cls)
        if f.init
    ]

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise DecodeError(f"{cls.__qualname__} needs a JSON object, got {_name(value)}")
        arguments = {}
        for name, convert_field, required in parts:
            if name in value:
                try:
                    arguments[name] = convert_field(value[name])
                except DecodeError as error:
                    raise DecodeError(f"{cls.__qualname__}.{name}: {error}") from None
            elif required:
                raise DecodeError(f"{cls.__qualname__}.{name} is missing")
        try:
            return cls(**arguments)
        except Exception as error:  # the type's own __post_init__
            raise DecodeError(f"{cls.__qualname__} refused the stored args: {error!r}") from error

    return convert


def _converter(hint: Any) -> Converter:
    """Checks what JSON can tell, and builds nested dataclasses; types it does not know pass as they are."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _converter(get_args(hint)[0])
    if origin is Union or origin is types.UnionType:
        return _union(hint)
    if hint is None or hint is type(None):
        return _scalar(type(None))
    if hint in (str, bool):
        return _scalar(hint)
    if hint is int:
        return _to_int
    if hint is float:
        return _to_float
    container = origin or hint
    if container in (list, Sequence, tuple, set, frozenset):
        return _array(container, get_args(hint))
    if container in (dict, Mapping):
        return _map(get_args(hint))
    if isinstance(hint, type) and is_dataclass(hint):
        return _later(hint)
    return lambda value: value


def _later(cls: type[Any]) -> Converter:
    """A nested dataclass's converter, built at first use: types may refer to themselves."""
    built: list[Converter] = []

    def convert(value: Any) -> Any:
        if not built:
            built.append(dataclass_converter(cls))
        return built[0](value)

    return convert


def _scalar(cls: type[Any]) -> Converter:
    def convert(value: Any) -> Any:
        if type(value) is cls:
            return value
        raise DecodeError(f"needs {'null' if cls is type(None) else cls.__name__}, got {_name(value)}")

    return convert


def _to_int(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():  # other languages write 1.0
        return int(value)
    raise DecodeError(f"needs int, got {_name(value)}")


def _to_float(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is not bool and type(value) is not str:
        try:
            return float(value)  # an int, or a Decimal with more digits than the field can hold
        except (TypeError, ValueError, OverflowError):
            pass
    raise DecodeError(f"needs float, got {_name(value)}")


def _array(container: Any, arguments: tuple[Any, ...]) -> Converter:
    make = {tuple: tuple, set: set, frozenset: frozenset}.get(container, list)
    fixed = container is tuple and arguments and arguments[-1] is not Ellipsis
    if fixed:
        each = [_converter(argument) for argument in arguments]
    else:
        one = _converter(arguments[0]) if arguments else _converter(Any)

    def convert(value: Any) -> Any:
        if type(value) is not list:
            raise DecodeError(f"needs an array, got {_name(value)}")
        if not fixed:
            return make(map(one, value))
        if len(value) != len(each):
            raise DecodeError(f"needs an array of {len(each)}, got {len(value)}")
        return tuple(convert_element(element) for convert_element, element in zip(each, value, strict=True))

    return convert


def _map(arguments: tuple[Any, ...]) -> Converter:
    one = _converter(arguments[1]) if len(arguments) == 2 else None

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise DecodeError(f"needs an object, got {_name(value)}")
        return value if one is None else {key: one(member) for key, member in value.items()}

    return convert


def _union(hint: Any) -> Converter:
    options = [_converter(option) for option in sorted(get_args(hint), key=lambda option: option is not type(None))]

    def convert(value: Any) -> Any:
        why = DecodeError(f"{_name(value)} fits no option")
        for option in options:
            try:
                return option(value)
            except DecodeError as error:
                why = error
        raise why

    return convert


def _name(value: Any) -> str:
    return {dict: "an object", list: "an array", type(None): "null"}.get(type(value), type(value).__name__)


# --- msgspec and pydantic


def _msgspec_codec(cls: type[Any]) -> Codec:
    import msgspec

    encoder = msgspec.json.Encoder(order="deterministic")  # maps sorted, as Go writes them; fields keep their order
    decoder = msgspec.json.Decoder(cls)

    def encode(args: Any, limit: int = HARD_MAX_BYTES) -> bytes:
        return _foreign(lambda: encoder.encode(args), lambda: msgspec.to_builtins(args), limit)

    def decode_args(raw: bytes) -> Any:
        try:
            return decoder.decode(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise DecodeError(f"stored args do not fit {cls.__qualname__}: {error}") from error

    return Codec(encode, decode_args, unique_paths(cls))


def _pydantic_codec(cls: type[Any]) -> Codec:
    def encode(args: Any, limit: int = HARD_MAX_BYTES) -> bytes:
        return _foreign(
            lambda: args.model_dump_json(by_alias=True).encode(), lambda: args.model_dump(by_alias=True), limit
        )

    def decode_args(raw: bytes) -> Any:
        try:
            return cls.model_validate_json(raw)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"stored args do not fit {cls.__qualname__}: {error}") from error

    return Codec(encode, decode_args, unique_paths(cls))


def _foreign(encode: Callable[[], bytes], builtins: Callable[[], Any], limit: int) -> bytes:
    """Another library's JSON, checked: both write NaN as null and know nothing of what PostgreSQL refuses."""
    try:
        raw = encode()
        if b"null" in raw:
            refuse_non_finite(builtins())
    except RiverError:
        raise
    except Exception as error:  # whatever the library, or the user's own serializers, raise
        raise EncodeError("args", f"cannot be encoded: {error}") from error
    return check_raw(raw, limit=limit)


# --- which members count for uniqueness


def unique_paths(cls: type[Any]) -> tuple[Path, ...]:
    """The marked members, in the order they are hashed; a marked struct with marked members counts by these."""
    return sort_paths(list(_marked(cls, (), ())))


def _marked(cls: type[Any], path: Path, around: tuple[type[Any], ...]) -> Iterator[Path]:
    for name, hint, marked in _members(cls):
        nested = _struct_of(hint)
        below = []
        if nested is not None and nested not in around and nested is not cls:
            below = list(_marked(nested, (*path, name), (*around, cls)))
        if below:
            yield from below
        elif marked:
            yield (*path, name)


def _members(cls: type[Any]) -> Iterator[tuple[str, Any, bool]]:
    """JSON name, type and mark of each member."""
    if _is_pydantic(cls):
        for name, info in cls.model_fields.items():
            marked = any(isinstance(extra, UniqueMarker) for extra in info.metadata)
            yield info.serialization_alias or info.alias or name, info.annotation, marked
        return
    hints = type_hints(cls)
    if is_dataclass(cls):
        names = [(f.name, f.name) for f in fields(cls)]
    else:
        import msgspec

        names = [(f.name, f.encode_name) for f in msgspec.structs.fields(cls)]
    for name, written in names:
        hint = hints[name]
        yield written, hint, any(isinstance(extra, UniqueMarker) for extra in getattr(hint, "__metadata__", ()))


def _struct_of(hint: Any) -> type[Any] | None:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        hint = options[0] if len(options) == 1 else None
    if isinstance(hint, type) and (is_dataclass(hint) or _is_msgspec(hint) or _is_pydantic(hint)):
        return hint
    return None


__all__ = ["Codec", "UniqueMarker", "build_codec"]
