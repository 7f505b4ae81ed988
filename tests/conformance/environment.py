"""What the environment tells the adapter: which database, under which name, which generation and profile.

Read once at the start; pure values. A wrong variable ends the process (`ValueError`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

IMPLEMENTATION = "river_fast"
APPLICATION_NAME = re.compile(r"\Ariver-conformance-[a-zA-Z0-9._-]+\Z", re.ASCII)
HARNESS = "river-conformance-harness"
PREFIX = "RIVER_CONFORMANCE_"
PROFILES = ("postgres-full-v1", "insert-only-v1")


@dataclass(frozen=True, slots=True)
class Environment:
    """`conninfo` carries the application name, so that every connection does. `generation`: "A" or "B"."""

    conninfo: str
    application_name: str
    generation: str
    profile: str

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Environment:
        url = variables.get(f"{PREFIX}DATABASE_URL", "")
        if not url:
            raise ValueError(f"{PREFIX}DATABASE_URL must name the database")
        name = variables.get(f"{PREFIX}APPLICATION_NAME") or f"river-conformance-{IMPLEMENTATION}"
        if not APPLICATION_NAME.match(name) or name == HARNESS or len(name) > 63:
            raise ValueError(f"{PREFIX}APPLICATION_NAME {name!r} must match {APPLICATION_NAME.pattern}, not {HARNESS}")
        generation = "B" if f"{PREFIX}DRIVER" in variables else "A"
        variable = f"{PREFIX}DRIVER" if generation == "B" else f"{PREFIX}DATABASE_KIND"
        kind = variables.get(variable) or "postgres"
        if kind != "postgres":
            raise ValueError(f"{variable} {kind!r}: only postgres is spoken here")
        profile = variables.get(f"{PREFIX}PROFILE") or PROFILES[0]
        if profile not in PROFILES:
            raise ValueError(f"{PREFIX}PROFILE {profile!r} must be one of {', '.join(PROFILES)}")
        return cls(with_name(url, name), name, generation, profile)


def with_name(url: str, name: str) -> str:
    """The connection string under this application name. `ValueError`, without the string, where it is none."""
    try:
        params: dict[str, Any] = conninfo_to_dict(url)
    except Exception:
        raise ValueError(f"{PREFIX}DATABASE_URL is no connection string") from None
    return make_conninfo(**{**params, "application_name": name, "client_encoding": "UTF8"})
