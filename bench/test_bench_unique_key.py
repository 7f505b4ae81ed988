"""A unique job's key: canonical args, period and hash."""

from __future__ import annotations

from datetime import UTC, datetime

from bench.conftest import PerItem
from river_fast.insert_opts import UniqueOpts
from river_fast.unique import unique_key, unique_rule

TIMES = 1_000
ARGS = b'{"order_id":123456,"customer":"Ada Lovelace","lines":["one","two","three"],"express":true}'
AT = datetime(2026, 1, 1, 12, 34, 56, tzinfo=UTC)


def keys(opts: UniqueOpts, paths: tuple[tuple[str, ...], ...] = ()) -> object:
    rule = unique_rule(opts)

    def make() -> bytes:
        for _ in range(TIMES):
            key = unique_key(rule, kind="bench_order", queue="default", args=ARGS, at=AT, paths=paths)
        return key

    return make


def test_key_by_kind_and_queue(per_item: PerItem) -> None:
    assert len(per_item(keys(UniqueOpts(by_queue=True)), TIMES)) == 32


def test_key_by_all_args_and_period(per_item: PerItem) -> None:
    assert len(per_item(keys(UniqueOpts(by_args=True, by_period=3600)), TIMES)) == 32


def test_key_by_one_field(per_item: PerItem) -> None:
    assert len(per_item(keys(UniqueOpts(by_args=True), (("customer",),)), TIMES)) == 32
