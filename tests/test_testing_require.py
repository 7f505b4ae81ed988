"""`require_inserted` and its kin: what they find, and what they say where it is not as expected."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from river_fast.testing import ExpectedJob, require_inserted, require_many_inserted, require_not_inserted
from tests.fix_client import Args, make_client
from tests.fix_testing import EVERYWHERE, Other, ask

__all__ = ["ask", "make_client"]

@EVERYWHERE
def test_the_one_job_of_a_kind_is_returned_with_its_args(make_client: Any, ask: Any) -> None:
    make_client().insert(Args(7))
    for expected in (Args, Args(7), "test_job", river.RawArgs("test_job", {"n": 7})):
        job = ask(require_inserted, expected)
        assert job.args == (Args(7) if expected in (Args, Args(7)) else {"n": 7})
        assert job.state == "available"


@EVERYWHERE
def test_none_or_several_fail(make_client: Any, ask: Any) -> None:
    client = make_client()
    with pytest.raises(AssertionError, match="no job of kind 'test_job' was inserted"):
        ask(require_inserted, Args)
    ids = [client.insert(Args()).job.id for _ in range(2)]
    with pytest.raises(AssertionError, match=rf"2 jobs of kind 'test_job' .* expected one: ids {ids[0]}, {ids[1]}"):
        ask(require_inserted, Args)


WHEN = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
OPTS = river.InsertOpts(
    max_attempts=3, metadata={"a": 1, "b": [2]}, priority=2, queue="side", scheduled_at=WHEN, tags=["one", "two"]
)
RIGHT: dict[str, Any] = {
    "max_attempts": 3, "metadata": {"b": [2]}, "priority": 2, "queue": "side", "scheduled_at": WHEN,
    "state": "scheduled", "tags": ["one", "two"],
}  # fmt: skip
WRONG: dict[str, Any] = {
    "max_attempts": 4, "metadata": {"b": [3]}, "priority": 1, "queue": "default",
    "scheduled_at": WHEN + timedelta(microseconds=1), "state": "available", "tags": ["two", "one"],
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_each_property_is_compared(make_client: Any, name: str) -> None:
    client = make_client()
    client.insert(Args(1), OPTS)
    require_inserted(client, Args, **{name: RIGHT[name]})
    require_not_inserted(client, Args, **{name: WRONG[name]})
    with pytest.raises(AssertionError, match=rf"is not as expected\n  {name}"):
        require_inserted(client, Args, **{name: WRONG[name]})
    with pytest.raises(AssertionError, match="1 of kind 'test_job' with the excluded " + name):
        require_not_inserted(client, Args, **{name: RIGHT[name]})


def test_all_that_is_wrong_is_told_at_once(make_client: Any) -> None:
    client = make_client()
    client.insert(Args(1), OPTS)
    require_inserted(client, Args(1), **RIGHT)
    with pytest.raises(AssertionError) as raised:
        require_inserted(client, Args(2), **WRONG)
    for name in (*RIGHT, "args"):
        assert f"\n  {name}" in str(raised.value)
    assert "args Args(n=1), expected Args(n=2)" in str(raised.value)


def test_only_a_job_with_all_excluded_properties_is_unwanted(make_client: Any) -> None:
    client = make_client()
    client.insert(Args(1), OPTS)
    client.insert(Args(2))
    require_not_inserted(client, Args, priority=2, queue="default")
    require_not_inserted(client, Other)
    with pytest.raises(AssertionError, match=r"1 of kind 'test_job' .* inserted, expected none"):
        require_not_inserted(client, Args, priority=2, queue="side")
    with pytest.raises(AssertionError, match=r"2 of kind 'test_job' inserted, expected none"):
        require_not_inserted(client, Args)
    with pytest.raises(AssertionError, match="excluded args"):
        require_not_inserted(client, Args(2))


@EVERYWHERE
def test_many_are_required_in_order_and_number(make_client: Any, ask: Any) -> None:
    client = make_client()
    client.insert_many([Args(1), Other("a"), Args(2)])
    jobs = ask(require_many_inserted, [Args(1), Other, ExpectedJob(Args, queue="default")])
    assert [job.args for job in jobs] == [Args(1), Other("a"), Args(2)]
    with pytest.raises(AssertionError, match=re.escape("another order than those expected\n  expected: other_job, ")):
        ask(require_many_inserted, [Other, Args, Args])
    with pytest.raises(AssertionError, match="not those expected\n  expected: test_job\n  inserted: test_job, "):
        ask(require_many_inserted, [Args])
    with pytest.raises(AssertionError, match=r"\(jobs\[2\]\) is not as expected\n  priority 1, expected 4"):
        ask(require_many_inserted, [Args, Other, ExpectedJob(Args, priority=4)])


def test_jobs_of_other_kinds_are_left_out(make_client: Any) -> None:
    client = make_client()
    client.insert_many([Args(1), Other("a"), Args(2)])
    assert len(require_many_inserted(client, [Args, Args])) == 2


def test_a_transaction_is_looked_into_before_its_commit(make_client: Any, dsn: str, schema: str) -> None:
    client = make_client()
    with psycopg.connect(dsn, options=f"-c search_path={schema}") as conn:
        client.insert_tx(conn, Args(5))
        require_inserted(conn, Args(5))
        require_not_inserted(client, Args)
        conn.rollback()
        require_not_inserted(conn, Args)


def test_a_schema_may_be_named_for_a_connection(make_client: Any, dsn: str, schema: str) -> None:
    client = make_client()
    client.insert(Args())
    with psycopg.connect(dsn) as conn:
        require_inserted(conn, Args, schema=schema)
    with pytest.raises(river.ValidationError, match="a client has its own"):
        require_inserted(client, Args, schema=schema)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda client: require_inserted(None, Args), river.ConfigError, "psycopg connection is needed"),
        (lambda client: require_inserted(client, Args, color="red"), TypeError, "color"),
        (lambda client: require_inserted(client, Args, state="begun"), river.ValidationError, "'begun' is not one of"),
        (lambda client: require_inserted(client, Args, scheduled_at=datetime(2030, 1, 1)), ValueError, "aware"),
        (lambda client: require_many_inserted(client, []), river.ValidationError, "none are expected"),
        (lambda client: require_inserted(client, 7), river.RiverError, "int"),
    ],
)
def test_what_cannot_be_expected_is_refused(make_client: Any, call: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        call(make_client())
