"""Bad input at every insert: a typed error that names the place, no row written, the connection usable afterwards.

The numbers are those of the project's corpus of bad inputs; one test an entry point, one case a piece of input.
"""

from __future__ import annotations

import asyncio
import decimal
import enum
import math
import uuid
import zoneinfo
from collections import UserString
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any

import psycopg
import pytest

from river_fast.config import Config
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.errors import (
    ConfigError,
    DatabaseError,
    EncodeError,
    MigrationError,
    RiverError,
    UniqueConflictError,
    ValidationError,
)
from river_fast.insert_opts import InsertManyParams, InsertOpts, UniqueOpts
from river_fast.inserter import Inserter
from river_fast.job_args import RawArgs
from tests.fix_inserter import EmailArgs, count, driver, inserter

__all__ = ["count", "driver", "inserter"]


@dataclass(frozen=True)
class Bad:
    """`make` builds the args (it may raise itself: some kinds are refused at once), `opts` the options."""

    row: int
    what: str
    make: Callable[[], Any] = lambda: EmailArgs("a")
    opts: Any = None
    field: str = "args"


class Colour(enum.Enum):
    RED = 1


class RaisingZone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        raise RuntimeError("no zone data")


def _email(value: Any) -> Callable[[], Any]:
    return lambda: EmailArgs(value)


def _raw(value: Any) -> Callable[[], Any]:
    return lambda: RawArgs("raw", value)


def _kind(kind: Any) -> Callable[[], Any]:
    return lambda: RawArgs(kind, {})


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _cycle() -> Any:
    value: dict[str, Any] = {}
    value["me"] = value
    return RawArgs("raw", value)


ARGS = [
    Bad(1, "NUL", _email("x\0")),
    Bad(1, "NUL escaped", _raw(rb'{"a":"\u0000"}')),
    Bad(2, "NUL raw", _raw(b'{"a":"\0"}')),
    Bad(3, "lone surrogate", _email("\ud800")),
    Bad(3, "lone surrogate escaped", _raw(rb'{"a":"\ud800"}')),
    Bad(4, "reversed pair", _email("\udc00\ud800")),
    Bad(5, "NaN", _email(math.nan)),
    Bad(5, "infinity", _email([math.inf])),
    Bad(5, "minus infinity", _raw({"a": {"b": -math.inf}})),
    Bad(5, "NaN in text", _raw(b'{"a":NaN}')),
    Bad(6, "1e131071", _raw(b'{"a":1e131071}')),
    Bad(7, "1e131072", _raw(b'{"a":1e131072}')),
    Bad(7, "1e-16384", _raw(b'{"a":1e-16384}')),
    Bad(8, "10**4300", _email(10**4300)),
    Bad(8, "4301 digits", _raw(b'{"a":' + b"9" * 4301 + b"}")),
    Bad(10, "1,001 levels", _email(_nested(1001))),
    Bad(10, "20,000 levels of text", _raw(b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}")),
    Bad(11, "cycle", _cycle),
    *(
        Bad(12, type(value).__name__, _email(value))
        for value in (
            b"x", {1}, datetime.now(UTC), date.today(), decimal.Decimal(1), uuid.uuid4(), Colour.RED, object(), 1j,
            UserString("x"), range(3), EmailArgs,
        )
    ),
    Bad(12, "dataclass in raw args", _raw({"a": EmailArgs("x")})),
    Bad(13, "int key", _email({1: 2, "1": 3})),
    Bad(13, "bool key", _email({True: 1})),
    *(Bad(14, f"top level {value!r}", _raw(value)) for value in (b"null", b"1", b'"x"', b"[]", b"[1]", [1], 1, None)),
    *(Bad(14, f"given {given!r}", lambda given=given: given) for given in (None, 1, "a", [1], {"to": "a"}, EmailArgs)),
    Bad(15, "byte order mark", _raw(b'\xef\xbb\xbf{"a":1}')),
    Bad(15, "trailing comma", _raw(b'{"a":1,}')),
    Bad(15, "leading zero", _raw(b'{"a":01}')),
    Bad(15, "raw tab", _raw(b'{"a":"\t"}')),
    Bad(15, "nothing", _raw(b"")),
    Bad(16, "1 MiB and a byte", _email("x" * (1024 * 1024 - 18))),
    Bad(16, "2 MiB of text", _raw(b'{"a":"' + b"x" * 2**21 + b'"}')),
    Bad(18, "invalid UTF-8", _raw(b'{"a":"\xff"}')),
]  # fmt: skip
KIND = [
    Bad(row, repr(kind)[:20], _kind(kind), field="kind")
    for row, kinds in {
        22: ["", "k" * 128],
        23: ["k", "a b", "a,b", 'a"b', "a'b", "ab\n", "a\nb", "a\0b"],
        24: ["żółć", "\u202eab", "a\u200db", "\u212aelvin"],
        25: ["ł" * 127, None, 7, b"kind"],
    }.items()
    for kind in kinds
]
QUEUE = [
    Bad(row, repr(queue)[:20], opts=InsertOpts(queue=queue), field="queue")
    for row, queues in {
        28: ["", "q" * 65, "q" * 128],
        29: ["a" * 64 + "!", "a" * 63 + "!", "a" * 1_000_000 + "!"],
        30: ["default\n", "Default", "a--b", "-a", "a_", "a\0b", "ü"],
        31: ["*"],
        32: ["a'; NOTIFY x", 'a"}', 7, b"default"],
    }.items()
    for queue in queues
]
TAGS = [
    Bad(row, repr(tags)[:20], opts=InsertOpts(tags=tags), field="tags")
    for row, given in {
        33: [["ab"], ["x" * 256], [""]],
        34: [["a,b"], ['c"d'], ["e\\f"], ["{g}"], ['""'], ["\\."], ["a\tb"], ["abc\n"], ["-ab"], ["ab-"]],
        35: [[None], [["abc"]], "abc", iter(["abc"]), [f"tag{n}" for n in range(10_000)], ["abc", "abc"], {1}],
        36: [["a\0b"], ["abc\0"]],
    }.items()
    for tags in given
]
NUMBERS = [
    *(
        Bad(37, repr(priority), opts=InsertOpts(priority=priority), field="priority")
        for priority in (5, -1, 32768, True, False, 1.0, "1", 2**70)
    ),
    *(
        Bad(39, repr(attempts), opts=InsertOpts(max_attempts=attempts), field="max_attempts")
        for attempts in (-1, 32768, 2**63, True, 1.0, "1")
    ),
    Bad(39, "pending=1", opts=InsertOpts(pending=1), field="pending"),  # type: ignore[arg-type]
]
SCHEDULED_AT = [
    Bad(row, repr(at)[:40], opts=InsertOpts(scheduled_at=at), field="scheduled_at")
    for row, given in {
        41: [datetime(2026, 1, 1), datetime.min],
        42: [
            datetime.max,
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        ],
        46: [date(2026, 1, 1), 0, 1.5, "2026-01-01T00:00:00Z", timedelta(-1), True],
        47: [datetime(2026, 1, 1, tzinfo=RaisingZone())],
    }.items()
    for at in given
]
METADATA = [
    Bad(row, repr(metadata)[:24], opts=InsertOpts(metadata=metadata), field="metadata")
    for row, given in {
        48: [[], b"null", b"[]", b'"x"', b"1", 1, "x", b"{", {"a": math.nan}, {"a": "\0"}, {1: 2}, {"a": {1}}],
        49: [{"river:x": 1}, {"cancel_attempted_at": "x"}, b'{"snoozes":1}', {"river:log": []}],
        50: [{"a": "x" * 10_000_000}],
    }.items()
    for metadata in given
]
UNIQUE = [
    Bad(row, repr(unique)[:60], opts=InsertOpts(unique=unique), field="unique")
    for row, given in {
        51: [
            UniqueOpts(by_period=0.5), UniqueOpts(by_period=-1), UniqueOpts(by_period=20 * 366 * 86400),
            UniqueOpts(by_period=math.nan), UniqueOpts(by_period=timedelta(milliseconds=999)),
            UniqueOpts(by_period=True), UniqueOpts(by_period="1"),
        ],
        52: [UniqueOpts(by_state=["available"]), UniqueOpts(by_state=["completed"])],
        53: [
            UniqueOpts(by_state=["nonsense"]), UniqueOpts(by_state="available"), UniqueOpts(by_state=[7]),
            UniqueOpts(by_state=["available", "available", "pending", "running", "scheduled"]),
            UniqueOpts(exclude_kind=True), UniqueOpts(by_args=1), {"by_args": True}, True,
        ],
    }.items()
    for unique in given
]  # fmt: skip
OPTS = [Bad(39, repr(opts)[:20], opts=opts, field="opts") for opts in ({}, {"queue": "q"}, 3, "x", UniqueOpts())]
ALL = [*ARGS, *KIND, *QUEUE, *TAGS, *NUMBERS, *SCHEDULED_AT, *METADATA, *UNIQUE, *OPTS]

Call = Callable[[Inserter, psycopg.Connection[Any], Any, Any], Any]
GOOD = EmailArgs("good")


def _insert(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    return inserter.insert(args, opts)


def _insert_many(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    return inserter.insert_many([GOOD, InsertManyParams(args, opts), GOOD])


def _insert_many_fast(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    return inserter.insert_many_fast([GOOD, InsertManyParams(args, opts), GOOD])


def _insert_tx(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    with conn.transaction():
        return inserter.insert_tx(conn, args, opts)


def _insert_many_tx(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    with conn.transaction():
        return inserter.insert_many_tx(conn, [GOOD, InsertManyParams(args, opts), GOOD])


def _insert_many_fast_tx(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    with conn.transaction():
        return inserter.insert_many_fast_tx(conn, [GOOD, InsertManyParams(args, opts), GOOD])


def _insert_async(inserter: Inserter, conn: psycopg.Connection[Any], args: Any, opts: Any) -> Any:
    async def run() -> Any:
        try:
            return await inserter.insert_async(args, opts)
        finally:
            await inserter._driver.close_async()

    return asyncio.run(run())


SINGLE = [_insert, _insert_tx, _insert_async]
ENTRY_POINTS = [*SINGLE, _insert_many, _insert_many_fast, _insert_many_tx, _insert_many_fast_tx]


@pytest.fixture(scope="module")
def bad_schema(dsn: str) -> Iterator[str]:
    """One schema for the whole file: nothing may ever be written to it."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f'CREATE SCHEMA "{name}"')
        from river_fast.migrate import Migrator

        driver = PsycopgDriver(dsn, name)
        Migrator(driver).migrate_up()
        driver.close()
        yield name
        conn.execute(f'DROP SCHEMA "{name}" CASCADE')


@pytest.fixture(scope="module")
def bad_conn(dsn: str, bad_schema: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True, options=f"-c search_path={bad_schema}") as conn:
        yield conn


@pytest.fixture(scope="module")
def bad_inserter(dsn: str, bad_schema: str) -> Iterator[Inserter]:
    driver = PsycopgDriver(dsn, bad_schema)
    yield Inserter(driver, Config().checked())
    driver.close()


def _check(call: Call, bad: Bad, inserter: Inserter, conn: psycopg.Connection[Any]) -> None:
    before = conn.execute("SELECT count(*) FROM river_job").fetchone()
    with pytest.raises(ValidationError) as caught:
        call(inserter, conn, bad.make(), bad.opts)
    error = caught.value
    assert error.field == bad.field
    assert len(str(error)) < 500
    if call not in SINGLE and bad.field != "kind":
        assert error.index == 1
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert conn.execute("SELECT count(*) FROM river_job").fetchone() == before


def _parametrised(entry_point: Call) -> Any:
    @pytest.mark.parametrize("bad", ALL, ids=lambda bad: f"{bad.row}:{bad.field}:{bad.what}")
    def test(bad: Bad, bad_inserter: Inserter, bad_conn: psycopg.Connection[Any]) -> None:
        _check(entry_point, bad, bad_inserter, bad_conn)

    return test


test_bad_input_of_insert = _parametrised(_insert)
test_bad_input_of_insert_many = _parametrised(_insert_many)
test_bad_input_of_insert_many_fast = _parametrised(_insert_many_fast)
test_bad_input_of_insert_tx = _parametrised(_insert_tx)
test_bad_input_of_insert_many_tx = _parametrised(_insert_many_tx)
test_bad_input_of_insert_many_fast_tx = _parametrised(_insert_many_fast_tx)


@pytest.mark.parametrize("bad", [*ARGS[:4], QUEUE[0], TAGS[0], METADATA[0], UNIQUE[0]], ids=lambda bad: bad.what)
def test_bad_input_of_insert_async(bad: Bad, dsn: str, bad_schema: str, bad_conn: psycopg.Connection[Any]) -> None:
    _check(_insert_async, bad, Inserter(PsycopgDriver(dsn, bad_schema), Config().checked()), bad_conn)


# --- what looks bad and is not


def test_odd_input_that_is_fine_is_stored_verbatim(inserter: Inserter, conn: psycopg.Connection[Any]) -> None:
    """Rows 6, 9, 15, 21, 30, 37, 38, 42, 44, 45, 47."""
    warsaw = zoneinfo.ZoneInfo("Europe/Warsaw")
    times = [
        datetime.max.replace(tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=15, minutes=59))),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-16))),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=warsaw),
        datetime(2026, 3, 29, 2, 30, fold=1, tzinfo=warsaw),
    ]
    for at in times:
        stored = inserter.insert(GOOD, InsertOpts(scheduled_at=at)).job.scheduled_at
        assert stored == at.astimezone(UTC)
    texts = ["'; drop table river_job;--", "%s %(args)s %", "$1 :x {} ?", "\\", "\u2028", "😀"]
    assert [result.job.args.to for result in inserter.insert_many([EmailArgs(text) for text in texts])] == texts
    inserter.insert_many_fast([EmailArgs(text) for text in texts])
    assert inserter.insert(EmailArgs(2**64)).job.args.to == 2**64
    assert inserter.insert(RawArgs("raw", b'{"a":1e400,"b":1,"b":2}')).job.args == {"a": 10**400, "b": 2}
    job = inserter.insert(GOOD, InsertOpts(queue="a|b", priority=0, max_attempts=0)).job
    assert (job.queue, job.priority, job.max_attempts) == ("a|b", 1, 25)
    assert inserter.insert(GOOD, InsertOpts(unique=UniqueOpts(by_state=[]))).job.id  # row 53: the default states


def test_bad_queue_name_is_refused_at_once(bad_inserter: Inserter) -> None:
    """Row 29: no time lost in a pattern that looks back."""
    import time

    for name in ("a" * 64 + "!", "a" * 63 + "!", "a-" * 31 + "!"):
        started = time.perf_counter()
        with pytest.raises(ValidationError):
            bad_inserter.insert(GOOD, InsertOpts(queue=name))
        assert time.perf_counter() - started < 0.05


def test_tags_of_other_writers_are_read_as_they_are(inserter: Inserter, conn: psycopg.Connection[Any]) -> None:
    """Row 34: what our own rules refuse must survive in rows that others wrote."""
    inserter.insert(GOOD, InsertOpts(unique=UniqueOpts(by_args=True)))
    tags = ["a,b", 'c"d', "e\\f", "{g}", "NULL", "", "\\.", "\t\n"]
    conn.execute("UPDATE river_job SET tags = %s", [tags])
    assert inserter.insert(GOOD, InsertOpts(unique=UniqueOpts(by_args=True))).job.tags == tags


# --- insert_many (rows 58 to 61)


@pytest.mark.parametrize("name", ["insert_many", "insert_many_fast"])
def test_bad_lists_are_refused(inserter: Inserter, count: Callable[[], int], name: str) -> None:
    insert = getattr(inserter, name)
    for given in ([], (), iter(()), None, 7, "abc", b"abc", {"a": 1}):
        with pytest.raises(ValidationError) as caught:
            insert(given)
        assert caught.value.field == "params"
    jobs = [GOOD] * 10_000
    jobs[7342] = EmailArgs(math.nan)
    with pytest.raises(EncodeError, match=r"params\[7342\]\.args"):
        insert(jobs)
    assert count() == 0


@pytest.mark.parametrize("name", ["insert_many", "insert_many_fast"])
def test_endless_list_is_refused_before_memory_is(
    inserter: Inserter, count: Callable[[], int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import itertools

    import river_fast.insert_params as insert_params

    monkeypatch.setattr(insert_params, "MAX_JOBS", 2_000)
    with pytest.raises(ValidationError, match="more than 2000 jobs"):
        getattr(inserter, name)(itertools.repeat(GOOD))
    monkeypatch.setattr(insert_params, "MAX_BATCH_BYTES", 10_000)
    with pytest.raises(ValidationError, match="more than 10000 bytes"):
        getattr(inserter, name)(itertools.repeat(GOOD))
    assert count() == 0


@pytest.mark.parametrize("name", ["insert_many", "insert_many_fast"])
def test_list_that_raises_half_way_inserts_nothing(inserter: Inserter, count: Callable[[], int], name: str) -> None:
    def broken() -> Iterator[Any]:
        yield GOOD
        raise LookupError("half-way")

    def recursive() -> Iterator[Any]:
        yield GOOD
        inserter.insert(GOOD)
        yield GOOD

    insert = getattr(inserter, name)
    with pytest.raises(LookupError, match="half-way"):
        insert(broken())
    assert count() == 0
    insert(recursive())
    assert count() == 3


@pytest.mark.parametrize("name", ["insert_many", "insert_many_fast"])
def test_same_unique_key_twice_in_one_call(inserter: Inserter, count: Callable[[], int], name: str) -> None:
    """Row 56: arrays tell the second, COPY refuses all."""
    twice = [InsertManyParams(GOOD, InsertOpts(unique=UniqueOpts(by_args=True)))] * 2
    if name == "insert_many":
        assert [result.unique_skipped_as_duplicate for result in inserter.insert_many(twice)] == [False, True]
        assert count() == 1
    else:
        with pytest.raises(UniqueConflictError):
            inserter.insert_many_fast(twice)
        assert count() == 0


# --- the caller's connection (rows 62 and 63)


def test_connections_that_cannot_take_an_insert_are_refused(
    inserter: Inserter, dsn: str, count: Callable[[], int]
) -> None:
    with psycopg.connect(dsn, autocommit=True) as caller:
        with pytest.raises(ConfigError, match="autocommit"):
            inserter.insert_tx(caller, GOOD)
        with caller.transaction(), pytest.raises(ConfigError, match="pipeline"), caller.pipeline():
            inserter.insert_tx(caller, GOOD)
        assert not caller.closed
    with pytest.raises(ConfigError, match="closed"):
        inserter.insert_tx(caller, GOOD)
    with psycopg.connect(dsn) as caller:
        with pytest.raises(psycopg.Error):
            caller.execute("SELECT 1/0")
        with pytest.raises(ConfigError, match="25P02"):
            inserter.insert_tx(caller, GOOD)
        assert not caller.closed
        caller.rollback()
        with caller.cursor() as cursor, cursor.copy("COPY (SELECT 1) TO STDOUT") as copy:
            with pytest.raises(ConfigError, match="busy"):
                inserter.insert_tx(caller, GOOD)
            assert b"".join(copy)
    with psycopg.connect(dsn, client_encoding="LATIN1") as caller, pytest.raises(ConfigError, match="UTF8"):
        inserter.insert_tx(caller, GOOD)
    for thing in (None, "conn", object(), psycopg):
        with pytest.raises(ConfigError, match="psycopg Connection"):
            inserter.insert_tx(thing, GOOD)  # type: ignore[call-overload]
    assert count() == 0


def test_database_that_refuses_leaves_the_callers_connection_open(inserter: Inserter, dsn: str, schema: str) -> None:
    with psycopg.connect(dsn) as caller:
        caller.read_only = True
        with pytest.raises(DatabaseError) as refused:
            inserter.insert_tx(caller, GOOD)
        assert refused.value.sqlstate == "25006"
        assert not caller.closed
        caller.rollback()
    with psycopg.connect(dsn, dbname="template1") as caller:
        with pytest.raises(MigrationError, match="migrate-up"):
            inserter.insert_tx(caller, GOOD)
        assert not caller.closed


# --- DSN and schema (rows 64, 65, 69 to 72)


@pytest.mark.parametrize(
    "dsn",
    [
        "nonsense_key=1", "postgres://u:s3cr3t@host:notaport/db", "host=a,b port=1,2,3 password=s3cr3t",
        "postgres://u:s3cr3t@[::1/db", "host='unfinished password=s3cr3t", "port=65536 password=s3cr3t",
        "port=0 password=s3cr3t", "dbname=a\0b password=s3cr3t", "x" * 1_000_000,
        "password=s3cr3t dbname=" + "x" * 1_000_000,
    ],
    ids=lambda dsn: repr(dsn[:30]),
)  # fmt: skip
def test_connection_strings_that_cannot_work_are_refused_without_their_password(dsn: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PsycopgDriver(dsn)
    shown: BaseException | None = caught.value
    while shown is not None:
        assert "s3cr3t" not in str(shown) + repr(shown)
        shown = shown.__cause__
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "schema",
    ['a"b', "a;drop", "ünï", "a" * 64, "a" * 47, "1a", "", "a b", "a\0", "a\n", 7],
    ids=repr,
)
def test_schemas_that_break_rivers_rule_are_refused(schema: Any) -> None:
    with pytest.raises(ConfigError, match="schema"):
        Config(schema=schema).checked()


def test_missing_schema_and_missing_rights_say_what_to_run(
    dsn: str, schema: str, conn: psycopg.Connection[Any]
) -> None:
    driver = PsycopgDriver(dsn, "never_created")
    with pytest.raises(MigrationError, match="migrate-up --schema never_created"):
        Inserter(driver, Config().checked()).insert(GOOD)
    driver.close()
    role = f"role_{schema}"
    conn.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        driver = PsycopgDriver(psycopg.conninfo.make_conninfo(dsn, user=role), schema)
        inserter = Inserter(driver, Config().checked())
        for insert in (lambda: inserter.insert(GOOD), lambda: inserter.insert_many_fast([GOOD])):
            with pytest.raises(ConfigError, match="GRANT USAGE ON SCHEMA"):
                insert()
        driver.close()
    finally:
        conn.execute(f'DROP ROLE "{role}"')


def test_schemas_of_one_database_are_apart(dsn: str, schema: str, conn: psycopg.Connection[Any]) -> None:
    """Row 70 and 72: names are quoted and keep their case; topics do not cross."""
    from river_fast.migrate import Migrator

    other = schema.upper()
    conn.execute(f'CREATE SCHEMA "{other}"')
    driver = PsycopgDriver(dsn, other)
    try:
        Migrator(driver).migrate_up()
        conn.execute(f'LISTEN "{schema}.river_insert"')
        Inserter(driver, Config().checked()).insert(GOOD)
        assert conn.execute("SELECT count(*) FROM river_job").fetchone() == (0,)
        assert conn.execute(f'SELECT count(*) FROM "{other}".river_job').fetchone() == (1,)
        assert list(conn.notifies(timeout=0)) == []
    finally:
        driver.close()
        conn.execute(f'DROP SCHEMA "{other}" CASCADE')


def test_every_error_is_ours() -> None:
    assert issubclass(ValidationError, RiverError)
    assert issubclass(EncodeError, ValidationError)


