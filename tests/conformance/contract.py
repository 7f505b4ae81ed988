"""River's contract, generation A at version 20: its methods in order, and whether params fit their schemas.

Read once from `tests/data/conformance`; pure. The part of JSON Schema that the contract uses, no more.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.conformance.errors import RpcError, invalid_params

DATA = Path(__file__).parent.parent / "data" / "conformance"
SCHEMAS: dict[str, dict[str, Any]] = {
    path.name: json.loads(path.read_text("utf-8")) for path in DATA.glob("normalized-*.schema.json")
}
CONTRACT: dict[str, Any] = json.loads((DATA / "contract-v20.json").read_text("utf-8"))
PARAMS: dict[str, dict[str, Any]] = {method["name"]: method["params"] for method in CONTRACT["methods"]}

CAPABILITIES = {
    "postgres-full-v1": (
        "barriers", "cancel", "custom_schema", "deterministic_controls", "extensions", "fault_injection", "get",
        "insert", "job_crud", "leadership", "lifecycle", "maintenance", "migrate", "notifications", "periodic_jobs",
        "poll_only", "queues", "reset", "resumable_jobs", "retry", "scheduler", "subscriptions", "transactions",
        "unique_jobs", "work",
    ),
    "insert-only-v1": ("insert", "lifecycle", "transactions", "unique_jobs"),
}  # fmt: skip
INSERT_ONLY = frozenset(
    (
        "handshake",
        "insert",
        "insert_many",
        "tx_begin",
        "tx_commit",
        "tx_insert",
        "tx_insert_many",
        "tx_rollback",
        "unique_key",
    )
)
INT64_MAX = 2**63 - 1

_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
_RFC_3339 = re.compile(
    r"\A(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII
)


def method_names(profile: str) -> list[str]:
    """In the contract's order."""
    return [name for name in PARAMS if profile != "insert-only-v1" or name in INSERT_ONLY]


def check_params(method: str, params: dict[str, Any]) -> None:
    """`invalid_params` unless they fit the method's schema."""
    check(params, PARAMS[method], "params")


def check(value: Any, schema: dict[str, Any], where: str) -> None:
    """`invalid_params` naming the place, unless `value` fits `schema`."""
    if "$ref" in schema:
        check(value, resolve(schema["$ref"]), where)
        return
    if "type" in schema:
        wanted = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, name) for name in wanted):
            raise _wrong(where, f"must be {' or '.join(wanted)}")
    if "enum" in schema and value not in schema["enum"]:
        raise _wrong(where, "is none of the contract's values")
    if isinstance(value, dict):
        _check_object(value, schema, where)
    elif isinstance(value, list):
        for index, element in enumerate(value):
            check(element, schema.get("items", {}), f"{where}[{index}]")
    elif isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            raise _wrong(where, "must not be empty")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            raise _wrong(where, f"must match {schema['pattern']}")
    elif isinstance(value, int) and not isinstance(value, bool):
        least, most = schema.get("minimum", -INT64_MAX - 1), schema.get("maximum", INT64_MAX)
        if not least <= value <= most:
            raise _wrong(where, f"must be {least} to {most}")


def _check_object(value: dict[str, Any], schema: dict[str, Any], where: str) -> None:
    members = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise _wrong(f"{where}.{name}", "is missing")
    for name, member in value.items():
        if name in members:
            check(member, members[name], f"{where}.{name}")
        elif schema.get("additionalProperties") is False:
            raise _wrong(f"{where}.{name}"[:200], "is unknown")


def resolve(reference: str) -> dict[str, Any]:
    """What a `$ref` of the contract means."""
    if reference.startswith("#/$defs/"):
        found: dict[str, Any] = CONTRACT["$defs"][reference.removeprefix("#/$defs/")]
        return found
    return SCHEMAS[Path(reference).name]


def timestamp(text: str, where: str = "timestamp") -> datetime:
    """An RFC 3339 text as a time, cut to microseconds; `invalid_params` for any other."""
    match = _RFC_3339.match(text)
    if match is None:
        raise _wrong(where, "must be an RFC 3339 timestamp")
    date, clock, fraction, zone = match.groups()
    try:
        return datetime.fromisoformat(f"{date}T{clock}{(fraction or '')[:7]}{zone.upper()}")
    except ValueError:
        raise _wrong(where, "must be an RFC 3339 timestamp") from None


def _is(value: Any, name: str) -> bool:
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, _TYPES[name])


def _wrong(where: str, what: str) -> RpcError:
    return invalid_params(f"{where} {what}")
