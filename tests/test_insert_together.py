"""Jobs that are encoded and sent together: the same rows, results and errors as one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from river_fast import insert_params, pg_binary
from river_fast.encoding import HARD_MAX_BYTES
from river_fast.errors import DatabaseError, EncodeError, InsertOutcomeUnknownError, ValidationError
from river_fast.insert_opts import InsertManyParams, InsertOpts, UniqueOpts
from river_fast.insert_params import CHUNK, InsertBuilder
from river_fast.insert_statements import copies
from river_fast.inserter import Inserter
from river_fast.job_args import JobArgs, args_info
from river_fast.job_row import COLUMNS, METADATA
from tests.fix_inserter import ALL, LATER, RETURNING, EmailArgs, Insert, count, driver, inserter, rows_of

__all__ = ["count", "driver", "inserter"]

SEAMS = ['},{"to":', '"},{"to":"', "\n", '\\n},{"to":', "}\n{", "\\", '"', "ü\u2028", ""]
MANY = 2 * CHUNK + 7  # the first alone, then two chunks and a rest


@dataclass
class NoArgs(JobArgs, kind="nothing"):
    pass


PLAIN = st.one_of(st.text(), st.sampled_from(SEAMS), st.integers(-(2**63), 2**64 - 1), st.booleans(), st.none())


@given(st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=8))
def test_encoded_together_is_encoded_one_by_one(values: list[tuple[Any, Any]]) -> None:
    many = [EmailArgs(*value) for value in values]
    codec = args_info(EmailArgs).codec
    together = codec.encode_many(many, HARD_MAX_BYTES)
    if together is not None:
        assert together == [codec.encode(one, HARD_MAX_BYTES) for one in many]
    else:
        assert "\\u0000" in ascii(values) or "\\ud" in ascii(values) or "\\x00" in ascii(values)


@pytest.mark.parametrize(
    "odd", [2**70, 1.5, {"a": 1}, "nul \0", "surrogate \ud800", "x" * 2000], ids=lambda odd: repr(odd)[:12]
)
def test_what_is_not_plain_is_left_to_who_can_name_it(odd: Any) -> None:
    codec = args_info(EmailArgs).codec
    assert codec.encode_many([EmailArgs("a"), EmailArgs(odd)], 1000) is None


def test_args_without_fields_are_empty_objects(inserter: Inserter, conn: psycopg.Connection[Any]) -> None:
    inserter.insert_many_fast([NoArgs()] * MANY)
    assert [result.job.encoded_args for result in inserter.insert_many([NoArgs()] * MANY)] == [b"{}"] * MANY
    assert conn.execute("SELECT count(*), count(DISTINCT args) FROM river_job").fetchall() == [(2 * MANY, 1)]


OPTIONS = [
    InsertOpts(),
    InsertOpts(scheduled_at=LATER),
    InsertOpts(tags=["one", "two"], metadata={"a": "b"}, priority=3, max_attempts=7, queue="other", pending=True),
    InsertOpts(unique=UniqueOpts(by_args=True)),
]


@pytest.mark.parametrize("insert", ALL)
@pytest.mark.parametrize("kinds", [1, 2])
def test_rows_are_those_of_single_inserts(
    kinds: int, insert: Insert, inserter: Inserter, conn: psycopg.Connection[Any]
) -> None:
    """Each options by itself, so that jobs are alike, and all of them in one call."""
    args: list[Any] = [EmailArgs(text, number) for number, text in enumerate(SEAMS)][: None if kinds == 1 else 4]
    args += [] if kinds == 1 else [NoArgs()]
    calls = [[InsertManyParams(one, opts) for one in args] for opts in OPTIONS]
    for call in (*calls, [param for params in calls for param in params]):
        stored = []
        for how in (RETURNING[0], insert):
            how(inserter, conn, call)
            stored.append(sorted(map(_without_chance, rows_of(conn))))
            conn.execute("TRUNCATE river_job")
        assert stored[0] == stored[1]


def _without_chance(row: dict[str, Any]) -> str:
    kept = {name: value for name, value in row.items() if name not in ("id", "created_at", "scheduled_at")}
    return repr({**kept, "later": row["scheduled_at"] == LATER})


@pytest.mark.parametrize("insert", ALL[1:2] + ALL[3:])
@pytest.mark.parametrize("position", [0, 1, CHUNK, MANY - 1])
def test_one_bad_job_is_named_and_none_is_written(
    position: int, insert: Insert, inserter: Inserter, conn: psycopg.Connection[Any], count: Callable[[], int]
) -> None:
    jobs = [EmailArgs(number) for number in range(MANY)]
    jobs[position] = EmailArgs("nul \0")
    with pytest.raises(EncodeError) as caught:
        insert(inserter, conn, jobs)
    assert caught.value.index == position
    assert count() == 0
    insert(inserter, conn, jobs[:position] + jobs[position + 1 :])
    assert count() == MANY - 1


def test_results_stand_in_the_order_given(inserter: Inserter) -> None:
    results = inserter.insert_many([EmailArgs(number) for number in range(MANY)])
    assert [result.job.args.to for result in results] == list(range(MANY))
    assert [result.job.id for result in results] == sorted(result.job.id for result in results)


def test_many_large_args_are_not_encoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insert_params, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(insert_params, "MAX_BATCH_BYTES", 100_000)
    builder = InsertBuilder(
        max_attempts=1, max_args_bytes=10_000, known_kinds=lambda: None, now=lambda: datetime.now(UTC)
    )
    taken = []

    def jobs() -> Any:
        for number in range(10_000):
            taken.append(number)
            yield EmailArgs("x" * 5_000)

    with pytest.raises(ValidationError, match="bytes of args"):
        builder.many(jobs())
    assert len(taken) < 30


def test_copy_of_jobs_that_are_alike_is_that_of_jobs_that_are_not() -> None:
    builder = InsertBuilder(
        max_attempts=1, max_args_bytes=10_000, known_kinds=lambda: None, now=lambda: datetime.now(UTC)
    )
    jobs = [EmailArgs("x" * number) for number in range(MANY)]
    [alike] = copies(builder.many(jobs))
    mixed = builder.many([*jobs, NoArgs()])
    [other] = copies(mixed)
    [last] = copies(builder.many([NoArgs()]))
    rows = b"".join(pg_binary.copy_stream(alike.chunks)).removesuffix(pg_binary.COPY_TRAILER)
    assert rows + b"".join(last.chunks) == b"".join(pg_binary.copy_stream(other.chunks)).removesuffix(
        pg_binary.COPY_TRAILER
    )


DIES = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN new; END $$;
CREATE TRIGGER dies BEFORE INSERT ON river_job FOR EACH ROW WHEN (new.args->>'to' = 'last words') EXECUTE FUNCTION die()
"""


LEAVES_OUT = """
CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER leaves_out BEFORE INSERT ON river_job
    FOR EACH ROW WHEN (new.args->>'to' = 'left out') EXECUTE FUNCTION leave_out()
"""


@pytest.mark.parametrize("pending", [False, True], ids=["with its notification", "its own transaction"])
def test_server_that_dies_in_the_middle_of_a_copy(
    pending: bool, inserter: Inserter, conn: psycopg.Connection[Any], count: Callable[[], int]
) -> None:
    conn.execute(DIES)
    jobs = [InsertManyParams(EmailArgs(number), InsertOpts(pending=pending)) for number in range(MANY)]
    jobs[CHUNK] = InsertManyParams(EmailArgs("last words"), InsertOpts(pending=pending))
    with pytest.raises(InsertOutcomeUnknownError if pending else DatabaseError) as caught:
        inserter.insert_many_fast(jobs)
    assert pending or not isinstance(caught.value, InsertOutcomeUnknownError)
    assert count() == 0
    del jobs[CHUNK]
    assert inserter.insert_many_fast(jobs) == count() == MANY - 1


def test_what_a_generator_makes_anew_of_one_object_is_read_as_it_was_made() -> None:
    def reused() -> Iterator[Any]:
        args = EmailArgs("")
        for number in range(MANY):
            args.to = str(number)
            yield args

    builder = InsertBuilder(
        max_attempts=1, max_args_bytes=10_000, known_kinds=lambda: None, now=lambda: datetime.now(UTC)
    )
    batch = builder.many(reused())
    assert [json.loads(args)["to"] for args in batch.args] == [str(number) for number in range(MANY)]


def test_a_large_text_that_many_jobs_share_is_not_written_out_for_all_of_them() -> None:
    text = "x" * (insert_params.CHUNK_BYTES // 10)
    codec = args_info(EmailArgs).codec
    assert codec.encode_many([EmailArgs(text)] * 11, HARD_MAX_BYTES) is None
    assert codec.encode_many([EmailArgs(text)] * 9, HARD_MAX_BYTES) is not None


def test_trigger_that_leaves_jobs_out_is_told_and_no_job_gets_anothers_row(
    inserter: Inserter, conn: psycopg.Connection[Any], count: Callable[[], int]
) -> None:
    conn.execute(LEAVES_OUT)
    with pytest.raises(DatabaseError, match="2 of 3 jobs were inserted"):
        inserter.insert_many([EmailArgs("a"), EmailArgs("left out"), EmailArgs("b")])
    assert count() == 2


def test_what_is_not_sent_back_is_what_was_stored(inserter: Inserter, conn: psycopg.Connection[Any]) -> None:
    opts = InsertOpts(max_attempts=3, priority=2, queue="brief", scheduled_at=LATER, tags=["one", "other"])
    plain = [EmailArgs(str(n)) for n in range(MANY)]
    for many in (plain, [InsertManyParams(args, opts) for args in plain]):
        jobs = [result.job for result in inserter.insert_many(many)]
        columns = ", ".join(COLUMNS)
        with conn.cursor(binary=True) as cursor:
            ids = [job.id for job in jobs]
            cursor.execute(f"SELECT {columns} FROM river_job WHERE id = ANY (%s) ORDER BY id", [ids])
            assert cursor.pgresult is not None
            for row, job in enumerate(jobs):
                stored = [cursor.pgresult.get_value(row, column) for column in range(len(COLUMNS))]
                assert [job._row.field(column) for column in range(len(COLUMNS))] == stored


@pytest.mark.parametrize("what", ["trigger", "rule", "metadata"])
def test_what_the_server_may_change_is_sent_back(inserter: Inserter, conn: psycopg.Connection[Any], what: str) -> None:
    if what == "trigger":
        conn.execute(
            "CREATE FUNCTION change_priority() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.priority := 4; RETURN NEW; END $$"
        )
        conn.execute("CREATE TRIGGER t BEFORE INSERT ON river_job FOR EACH ROW EXECUTE FUNCTION change_priority()")
    if what == "rule":
        conn.execute("CREATE RULE r AS ON DELETE TO river_job DO ALSO SELECT 1")
    opts = InsertOpts(metadata=b'{"b":1,"a":[2]}') if what == "metadata" else None
    results = inserter.insert_many([InsertManyParams(EmailArgs(str(n)), opts) for n in range(MANY)])
    assert conn.execute("SELECT count(*) FROM river_job").fetchone() == (MANY,)
    assert {result.job.priority for result in results} == {4 if what == "trigger" else 1}
    assert {result.job._row.field(METADATA) for result in results} == {
        b'\x01{"a": [2], "b": 1}' if what == "metadata" else b"\x01{}"
    }
    assert [json.loads(result.job.encoded_args)["to"] for result in results] == [str(n) for n in range(MANY)]
