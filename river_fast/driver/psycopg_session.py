"""How a connection is made and what is set on it: connection strings, session settings, the texts of statements.

Pure functions but for `apply_session`; any thread. Nothing here ever shows a password.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from river_fast.errors import ConfigError

# No statement of ours waits longer; River's hot operations have the same bound.
STATEMENT_TIMEOUT_MS = 10_000
CONNECT_TIMEOUT_S = 10
CONNINFO_MAX = 64 * 1024  # libpq takes any length; a longer one is a mistake
CANCEL_TIMEOUT_S = 2.0
# A vanished host: without these its session, and its locks, live for two hours (hotpath.md 1).
KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 9000,
}
SESSION = (
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("timezone", "UTC"),
    ("client_encoding", "UTF8"),
    ("statement_timeout", str(STATEMENT_TIMEOUT_MS)),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("jit", "off"),
    ("tcp_keepalives_idle", "3"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
)
# The same, of servers that are no older: YugabyteDB was 11 for long.
SESSION_SINCE = (
    (120000, "tcp_user_timeout", "9000"),
    (140000, "client_connection_check_interval", "2s"),
    (140000, "idle_session_timeout", "0"),
)
# Of these, what a transaction needs that is opened in a shared session, where a SET would be left to strangers.
SESSION_LOCAL = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "jit")
# Of the compiled part's connections. A prepared plan is kept until the table is next analysed: one made while
# river_job was small would go on reading all of it after it has grown (50 rows, then 50,000: a completion of one row
# read 50,050).
HOT_SESSION = "SET enable_seqscan = off"
SQL = Path(__file__).parent.parent / "sql"
_FORM_LINE = re.compile(r"^--(\w+) (.*\n?)", re.MULTILINE)


@lru_cache(maxsize=1024)
def sql_text(name: str, schema: str, forms: tuple[str, ...] | None = None) -> str:
    """`sql/<name>.sql` (`migration/...` for a name that begins so) with `@schema@` (the qualifier), `@schema_name@`
    (the quoted name alone, for DDL) and `@schema_text@` (that as a string) filled in. `forms`: of the lines that begin
    with `--word ` those whose word it holds stay, without that; the others go. None: all stay, as comments."""
    text = ((SQL.parent if name.startswith("migration/") else SQL) / f"{name}.sql").read_text("utf-8")
    if forms is not None:
        text = _FORM_LINE.sub(lambda line: line[2] if line[1] in forms else "", text)
    quoted = sql.Identifier(schema).as_string(None)
    text = text.replace("@schema_text@", sql.Literal(quoted).as_string(None)).replace("@schema_name@", quoted)
    return text.replace("@schema@", sql.Identifier(schema).as_string(None) + "." if schema else "")


def apply_session(conn: psycopg.Connection[Any]) -> None:
    """Our settings on a connection of ours, whatever the role's defaults are; the connection must be in autocommit."""
    conn.execute(session_sql(conn.info.server_version))


@lru_cache(maxsize=8)
def session_sql(server_version: int) -> str:
    settings = (*SESSION, *((name, value) for since, name, value in SESSION_SINCE if server_version >= since))
    return "; ".join(_set(name, value) for name, value in settings)


def hot_sql(role: str, asynchronous_fetch: bool = False) -> tuple[str, ...]:
    """What the compiled part's connection of that role sets besides."""
    if role == "fetcher" and asynchronous_fetch:
        return (HOT_SESSION, "SET synchronous_commit = off")
    return (HOT_SESSION,)


def begin_sql(*more: str) -> str:
    """What opens a transaction in a shared session: our settings, and those that `more` SETs, while it lasts."""
    settings = [_set(name, value) for name, value in SESSION if name in SESSION_LOCAL]
    local = "; ".join(text.replace("SET ", "SET LOCAL ") for text in (*settings, *more))
    return f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {local}"


def _set(name: str, value: str) -> str:
    return f"SET {name} = {sql.Literal(value).as_string(None)}"


def parse_conninfo(conninfo: str) -> dict[str, Any]:
    """A connection string's parts; `ConfigError`, without any of its values, for one that cannot work."""
    if not isinstance(conninfo, str) or len(conninfo) > CONNINFO_MAX or "\0" in conninfo:
        raise ConfigError(f"the database URL must be a string of at most {CONNINFO_MAX} characters, without NUL")
    params: dict[str, Any] = {}
    problem = None
    try:
        params = conninfo_to_dict(conninfo)
    except (psycopg.Error, UnicodeError) as error:
        problem = _without_values(str(error))
    if problem is not None:  # raised here, so that libpq's own words are not kept as its context
        raise ConfigError(f"the database URL cannot be parsed: {problem}")
    ports = str(params.get("port", "")).split(",")
    hosts = str(params.get("hostaddr") or params.get("host") or "").split(",")
    if any(port and not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535) for port in ports):
        raise ConfigError("the database URL's port must be a number from 1 to 65535")
    if len(ports) > 1 and len(ports) != len(hosts):
        raise ConfigError(f"the database URL names {len(hosts)} hosts and {len(ports)} ports: give one, or one each")
    return params


def pool_conninfo(pool: Any) -> str:
    """The connection string of a psycopg pool, with what its keyword arguments add to it."""
    conninfo = pool.conninfo() if callable(pool.conninfo) else pool.conninfo
    kwargs = pool.kwargs() if callable(pool.kwargs) else pool.kwargs
    if not isinstance(conninfo, str):
        raise ConfigError("the pool's conninfo must be a string, or a plain function that returns one")
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    return make_conninfo(conninfo, **{key: value for key, value in (kwargs or {}).items() if key in known})


def with_tls(params: dict[str, Any]) -> dict[str, Any]:
    """`params` such that libpq refuses a connection without TLS; `ConfigError` where they say otherwise. Unix sockets
    need none."""
    if str(params.get("host", "")).startswith("/") and "hostaddr" not in params:
        return params
    mode = params.get("sslmode") or os.environ.get("PGSSLMODE") or "require"
    if mode not in ("require", "verify-ca", "verify-full"):
        raise ConfigError(f"require_tls is set, but sslmode is {mode}: make it require, verify-ca or verify-full")
    return {**params, "sslmode": mode}


def doubts(params: dict[str, Any]) -> list[str]:
    """What the user should know of a connection string that works: one sentence each, none of its values."""
    found = []
    mode = params.get("sslmode") or os.environ.get("PGSSLMODE")
    hosts = str(params.get("hostaddr") or params.get("host") or os.environ.get("PGHOST") or "").split(",")
    if mode == "disable" and not all(map(_is_here, hosts)):
        found.append(
            "sslmode=disable to a host elsewhere: passwords and jobs cross the network unencrypted; use"
            " sslmode=verify-full, or at least require (Config.require_tls makes sure)"
        )
    named = params.get("passfile") or os.environ.get("PGPASSFILE")
    passfile = Path(named) if named else Path.home() / ".pgpass"
    if "password" not in params and "PGPASSWORD" not in os.environ and _is_open_to_others(passfile):
        found.append(
            f"the password file {passfile} is open to its group or to all, so libpq does not read it: chmod 600 it"
        )
    service = params.get("service") or os.environ.get("PGSERVICE")
    servicefile = Path(os.environ.get("PGSERVICEFILE") or Path.home() / ".pg_service.conf")
    if service and _is_open_to_others(servicefile) and "password" in servicefile.read_text("utf-8", "replace"):
        found.append(f"the service file {servicefile} holds a password, open to its group or to all: chmod 600 it")
    return found


def _is_here(host: str) -> bool:
    return host in ("", "localhost", "::1") or host.startswith(("/", "@", "127."))


def _is_open_to_others(file: Path) -> bool:
    try:
        status = file.stat()
    except OSError:
        return False
    return os.name == "posix" and stat.S_ISREG(status.st_mode) and bool(status.st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _without_values(text: str) -> str:
    """libpq quotes the offending piece of a connection string, maybe the password: keep the words before it."""
    return text.split('"')[0].strip() or "invalid connection string"


def libpq_path() -> str:
    """The file of the module through which psycopg reached its libpq: dlsym on it finds the matching functions."""
    for name in ("psycopg_c.pq", "psycopg_binary.pq"):
        module = sys.modules.get(name)
        if module is not None and pq.__impl__ in ("c", "binary") and module.__file__:
            return module.__file__
    from psycopg.pq import misc

    path = misc.find_libpq_full_path()
    if path is None:
        raise ConfigError("no libpq found: install river-fast[binary], or PostgreSQL's libpq5")
    return path


def libpq_version() -> str:
    """As `"15.18"`, with the way psycopg reached it: compiled (c), bundled (binary), or through ctypes (python)."""
    return f"{pq.version() // 10000}.{pq.version() % 10000} ({pq.__impl__})"
