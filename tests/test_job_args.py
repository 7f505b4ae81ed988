"""Args types: how a kind is declared, and how its args are written and read back."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from river_fast.canonical_json import canonical_args
from river_fast.errors import ConfigError, DecodeError, EncodeError, ValidationError
from river_fast.insert_opts import InsertOpts
from river_fast.job_args import JobArgs, RawArgs, args_info, job_args, unique


@dataclass
class Address:
    street: Annotated[str, unique]
    note: str = ""


@dataclass
class Order(JobArgs, kind="order", aliases=("purchase",), insert_opts=InsertOpts(queue="orders")):
    id: Annotated[int, unique]
    to: Annotated[Address, unique]
    via: Address | None = None
    lines: list[Address] = field(default_factory=list)
    labels: dict[str, float] = field(default_factory=dict)
    pair: tuple[int, str] | None = None
    free: Any = None


@dataclass(slots=True)
class Slotted(JobArgs, kind="slotted"):
    text: str


@dataclass(frozen=True)
class Empty(JobArgs, kind="empty"):
    pass


@dataclass
class Tree(JobArgs, kind="tree"):
    name: str
    children: list[Tree] = field(default_factory=list)


@job_args("resize", aliases=["thumbnail"])
class Resize(msgspec.Struct, rename="camel"):
    file_path: Annotated[str, unique]
    scale: float = 1.0
    at: datetime | None = None
    labels: dict[str, int] = {}


class Inner(pydantic.BaseModel):
    a: Annotated[int, unique]
    b: int = 0


@job_args("mail")
class Mail(pydantic.BaseModel):
    to_address: Annotated[str, unique] = pydantic.Field(alias="toAddress")
    inner: Inner = Inner(a=1)
    cost: Decimal = Decimal("0.10")
    ratio: float = 0.5


def test_dataclass_fields_are_written_in_order_and_read_back() -> None:
    order = Order(1, Address("a"), None, [Address("b", "c")], {"z": 1.0, "a": 2.5}, (1, "x"), {"k": [None]})
    info = args_info(Order)
    raw = info.encode(order)
    assert raw == (
        b'{"id":1,"to":{"street":"a","note":""},"via":null,"lines":[{"street":"b","note":"c"}],'
        b'"labels":{"a":2.5,"z":1.0},"pair":[1,"x"],"free":{"k":[null]}}'
    )
    assert info.decode(raw) == order
    assert (info.kind, info.aliases, info.insert_opts) == ("order", ("purchase",), InsertOpts(queue="orders"))


def test_missing_members_take_defaults_and_unknown_ones_are_ignored() -> None:
    assert args_info(Order).decode(b'{"id": 1.0, "to": {"street": "a"}, "new": 3}') == Order(1, Address("a"))


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b'{"to":{"street":"a"}}', "Order.id is missing"),
        (b'{"id":"1","to":{"street":"a"}}', "Order.id: needs int, got str"),
        (b'{"id":true,"to":{"street":"a"}}', "Order.id: needs int"),
        (b'{"id":1,"to":{}}', "Order.to: Address.street is missing"),
        (b'{"id":1,"to":null}', "Order.to: Address needs a JSON object, got null"),
        (b'{"id":1,"to":{"street":"a"},"pair":[1]}', "array of 2"),
        (b'{"id":1,"to":{"street":"a"},"labels":{"a":"x"}}', "needs float"),
        (b'{"id":1,"to":{"street":"a"},"lines":{}}', "needs an array"),
        (b"[]", "Order needs a JSON object, got an array"),
        (b"null", "got null"),
        (b"nonsense", "cannot be read"),
    ],
)
def test_args_that_do_not_fit_are_a_decode_error(raw: bytes, what: str) -> None:
    with pytest.raises(DecodeError, match=what.replace("(", r"\(")):
        args_info(Order).decode(raw)


def test_slots_frozen_and_recursive_dataclasses_work() -> None:
    for args in (Slotted("x"), Empty(), Tree("a", [Tree("b"), Tree("c", [Tree("d")])])):
        info = args_info(args)
        assert info.decode(info.encode(args)) == args


def test_unset_slot_is_an_encode_error() -> None:
    with pytest.raises(EncodeError, match="cannot be read"):
        args_info(Slotted).encode(Slotted.__new__(Slotted))


def test_dataclass_is_as_strict_as_json() -> None:
    info = args_info(Tree)
    for bad in (math.nan, datetime.now(UTC), Decimal(1), uuid.uuid4(), "\0", "\ud800", {1: 2}, object()):
        with pytest.raises(EncodeError, match=r"\$\.name"):
            info.encode(Tree(bad))  # type: ignore[arg-type]


def test_post_init_that_refuses_is_a_decode_error() -> None:
    @dataclass
    class Positive(JobArgs, kind="positive"):
        n: int

        def __post_init__(self) -> None:
            if self.n < 0:
                raise ValueError("negative")

    with pytest.raises(DecodeError, match="negative"):
        args_info(Positive).decode(b'{"n":-1}')


def test_msgspec_struct_keeps_its_names_and_types() -> None:
    info = args_info(Resize)
    args = Resize("/a", 1e16, datetime(2026, 1, 1, tzinfo=UTC), {"b": 1, "a": 2})
    raw = info.encode(args)
    assert raw == b'{"filePath":"/a","scale":1e16,"at":"2026-01-01T00:00:00Z","labels":{"a":2,"b":1}}'
    assert info.decode(raw) == args
    assert info.unique_paths == (("filePath",),)
    for bad in (Resize("\0"), Resize("\ud800"), Resize("a", math.nan), Resize("a", math.inf), Resize(object())):  # type: ignore[arg-type]
        with pytest.raises(EncodeError):
            info.encode(bad)
    with pytest.raises(DecodeError, match="filePath"):
        info.decode(b"{}")


def test_pydantic_model_keeps_its_aliases_and_types() -> None:
    info = args_info(Mail)
    args = Mail(toAddress="x", inner=Inner(a=2))
    raw = info.encode(args)
    assert raw == b'{"toAddress":"x","inner":{"a":2,"b":0},"cost":"0.10","ratio":0.5}'
    assert info.decode(raw) == args
    assert info.unique_paths == (("inner", "a"), ("toAddress",))
    with pytest.raises(EncodeError):
        info.encode(Mail(toAddress="x", ratio=math.nan))
    with pytest.raises(DecodeError, match="toAddress"):
        info.decode(b"{}")


def test_marked_members_of_a_marked_struct_count_in_its_place() -> None:
    # the same type twice counts twice
    assert args_info(Order).unique_paths == (("id",), ("to", "street"), ("via", "street"))
    raw = args_info(Order).encode(Order(1, Address("a", "ignored"), Address("b")))
    assert canonical_args(raw, args_info(Order).unique_paths) == '{"id":1,"to":{"street":"a"},"via":{"street":"b"}}'


def test_array_like_struct_is_refused() -> None:
    @job_args("array_like")
    class ArrayLike(msgspec.Struct, array_like=True):
        a: int

    with pytest.raises(ValidationError, match="object"):
        args_info(ArrayLike).encode(ArrayLike(1))


def test_raw_args_take_objects_text_and_bytes() -> None:
    for given in ({"a": 1}, b'{"a":1}', '{"a":1}', bytearray(b'{"a":1}'), memoryview(b'{"a":1}')):
        args = RawArgs("raw", given)  # type: ignore[arg-type]
        assert args_info(args).encode(args) == b'{"a":1}'
    for given in ([1], None, 1, "[]", b"1", "\ud800"):
        args = RawArgs("raw", given)  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            args_info(args).encode(args)


@pytest.mark.parametrize(
    "kind", ["", "a", "a b", "a,b", 'a"b', "ab\n", "żółć", "\u202eab", "\u212aelvin", "ab" * 64, "é" * 127, 7]
)
def test_kinds_that_break_rivers_rule_are_refused(kind: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        RawArgs(kind, {})
    assert caught.value.field == "kind"
    with pytest.raises(ConfigError):
        job_args(kind)(type("T", (), {}))


def test_types_that_are_no_args_say_what_would_do() -> None:
    @dataclass
    class Plain:
        a: int

    class Derived(Order):
        pass

    for given in (Plain(1), Plain, {"a": 1}, 3, Derived):
        with pytest.raises(ConfigError, match="has no kind"):
            args_info(given)
    with pytest.raises(ConfigError, match="dataclass"):
        args_info(job_args("kind")(type("Bare", (), {})))
    with pytest.raises(ConfigError, match="needs a kind"):

        class Kindless(JobArgs, aliases=("x",)):
            pass

    with pytest.raises(ConfigError, match="aliases"):
        job_args("kind", aliases="alias")(Plain)
    with pytest.raises(ConfigError, match="decorates a class"):
        job_args("kind")(3)  # type: ignore[type-var]


def test_annotation_that_cannot_be_resolved_is_named() -> None:
    @dataclass
    class Hidden:
        a: int

    @dataclass
    class Outer(JobArgs, kind="outer"):
        hidden: Hidden

    with pytest.raises(ConfigError, match="Hidden"):
        args_info(Outer)
