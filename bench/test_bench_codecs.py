"""Args to JSON and back, and a stored row's fields: what a job costs when somebody looks at it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import msgspec
import pydantic

import river_fast as river
from bench.conftest import PerItem
from river_fast.job import Job
from river_fast.job_args import args_info
from river_fast.job_row import StoredRow, decode_timestamptz, loads_exact

TIMES = 1_000


@dataclass
class OrderArgs(river.JobArgs, kind="bench_order"):
    order_id: int = 123456
    customer: str = "Ada Lovelace"
    lines: list[str] = field(default_factory=lambda: ["a line of an order"] * 5)
    express: bool = True


@river.job_args(kind="bench_order_msgspec")
class OrderStruct(msgspec.Struct):
    order_id: int = 123456
    customer: str = "Ada Lovelace"
    lines: list[str] = msgspec.field(default_factory=lambda: ["a line of an order"] * 5)
    express: bool = True


@river.job_args(kind="bench_order_pydantic")
class OrderModel(pydantic.BaseModel):
    order_id: int = 123456
    customer: str = "Ada Lovelace"
    lines: list[str] = pydantic.Field(default_factory=lambda: ["a line of an order"] * 5)
    express: bool = True


def encode_and_decode(args: object) -> tuple[object, object]:
    info = args_info(args)

    def encode() -> bytes:
        for _ in range(TIMES):
            encoded = info.encode(args)
        return encoded

    encoded = info.encode(args)

    def decode() -> object:
        for _ in range(TIMES):
            decoded = info.decode(encoded)
        return decoded

    return encode, decode


def test_dataclass_to_json(per_item: PerItem) -> None:
    encode, _ = encode_and_decode(OrderArgs())
    assert loads_exact(per_item(encode, TIMES))["order_id"] == 123456


def test_dataclass_from_json(per_item: PerItem) -> None:
    _, decode = encode_and_decode(OrderArgs())
    assert per_item(decode, TIMES) == OrderArgs()


def test_msgspec_to_json(per_item: PerItem) -> None:
    encode, _ = encode_and_decode(OrderStruct())
    assert loads_exact(per_item(encode, TIMES))["order_id"] == 123456


def test_msgspec_from_json(per_item: PerItem) -> None:
    _, decode = encode_and_decode(OrderStruct())
    assert per_item(decode, TIMES) == OrderStruct()


def test_pydantic_to_json(per_item: PerItem) -> None:
    encode, _ = encode_and_decode(OrderModel())
    assert loads_exact(per_item(encode, TIMES))["order_id"] == 123456


def test_pydantic_from_json(per_item: PerItem) -> None:
    _, decode = encode_and_decode(OrderModel())
    assert per_item(decode, TIMES) == OrderModel()


def test_plain_json_exactly(per_item: PerItem) -> None:
    encoded = args_info(OrderArgs()).encode(OrderArgs())

    def decode() -> object:
        for _ in range(TIMES):
            value = loads_exact(encoded)
        return value

    assert per_item(decode, TIMES)["express"] is True


def test_fields_of_a_stored_row(per_item: PerItem) -> None:
    """Id, kind, state, attempt, a time and the tags, decoded from PostgreSQL's binary values."""
    time = struct.pack("!q", 800_000_000_000_000)
    row = [
        struct.pack("!q", 7), b"running", struct.pack("!h", 1), struct.pack("!h", 25), time, time, None, time,
        struct.pack("!h", 1), b'\x01{"num": 1}', None, None, b"bench", b"\x01{}", b"default",
        struct.pack("!iii", 0, 0, 1043),
    ]  # fmt: skip

    def read() -> tuple[object, ...]:
        for _ in range(TIMES):
            job = Job(StoredRow(row))
            fields = (job.id, job.kind, job.state, job.attempt, job.scheduled_at, job.tags)
        return fields

    assert per_item(read, TIMES) == (7, "bench", "running", 1, decode_timestamptz(time), [])
