"""What both peers insert: args and options from the values that a call names, as River's InsertOpts and ours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

import msgspec

import river_fast as river
from tests.interop.fields import at_micros


class AccountArgs(msgspec.Struct):
    """Go's of the same name."""

    id: Annotated[int, river.unique]
    region: Annotated[str, river.unique]
    note: str


@river.job_args("interop_tagged")
class TaggedArgs(msgspec.Struct, rename={"path": "path/key.with@more"}):
    """Go's of the same name."""

    account: AccountArgs
    amount: Annotated[float, river.unique]
    label: Annotated[str | msgspec.UnsetType, river.unique] = msgspec.UNSET
    path: Annotated[str, river.unique] = ""
    noise: int = 0


def job_args(kind: str, args: Any = None, text: str = "") -> Any:
    """`args` by their type where the kind has one, else as a mapping; `text` as it stands."""
    if kind == "interop_tagged":
        return msgspec.convert(args, TaggedArgs)
    return river.RawArgs(kind, text or args)


def insert_opts(
    scheduled_at: int = 0, unique: Mapping[str, Any] | None = None, **others: Any
) -> river.InsertOpts:
    """Of a call's `opts`: microseconds and seconds become times, the rest has the same names."""
    if unique is not None:
        unique = {**unique}
        if "by_period" in unique:
            unique["by_period"] = timedelta(seconds=unique["by_period"])
        others["unique"] = river.UniqueOpts(**unique)
    if scheduled_at:
        others["scheduled_at"] = at_micros(scheduled_at)
    return river.InsertOpts(**others)
