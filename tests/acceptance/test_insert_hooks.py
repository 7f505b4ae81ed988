"""Hooks and middleware around inserts: every verb, on threads and event loops, in the caller's transaction and ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import river_fast as river
from tests.fix_client import Args

Trace = list[str]


@dataclass
class Other(river.JobArgs, kind="other_job"):
    n: int = 0


def tracing(trace: Trace, tag: str = "") -> river.Plugin:
    """Middleware and hook in the forms that serve every insert."""

    def middleware(params: list[river.JobInsertParams]) -> Iterator[None]:
        trace.append(f"{tag}middleware:insert_before")
        results = yield
        trace.append(f"{tag}middleware:insert_after {len(results)}")

    def hook(params: river.JobInsertParams) -> None:
        trace.append(f"{tag}hook:insert_begin {params.kind}")

    return river.Plugin(insert_many=middleware, insert_begin=hook)


def raising(error: BaseException, after: bool) -> river.Plugin:
    def middleware(params: list[river.JobInsertParams]) -> Iterator[None]:
        if not after:
            raise error
        yield
        raise error

    return river.Plugin(insert_many=middleware)


@pytest.fixture
async def make_async_client(dsn: str, schema: str) -> AsyncIterator[Any]:
    made: list[river.AsyncClient] = []

    def make(**config: Any) -> river.AsyncClient:
        made.append(river.AsyncClient(dsn, river.Config(schema=schema, **config)))
        return made[-1]

    yield make
    for client in made:
        await client.stop_and_cancel(2)


ONE = ["middleware:insert_before", "hook:insert_begin test_job", "middleware:insert_after 1"]
TWO = [
    "middleware:insert_before",
    "hook:insert_begin test_job",
    "hook:insert_begin other_job",
    "middleware:insert_after 2",
]
FAST = [*TWO[:-1], "middleware:insert_after 0"]  # COPY gives no rows back: an empty list, not one of Nones


def stored(conn: psycopg.Connection) -> int:
    row = conn.execute("SELECT count(*) FROM river_job").fetchone()
    assert row is not None
    return int(row[0])


def test_every_verb_of_a_sync_client(make_client: Any, dsn: str, conn: psycopg.Connection) -> None:
    trace: Trace = []
    client = make_client(plugins=[tracing(trace)])
    with psycopg.connect(dsn) as tx:
        for insert, expected, told in (
            (lambda: client.insert(Args(7)).job.args, Args(7), ONE),
            (lambda: [each.job.args for each in client.insert_many([Args(1), Other(2)])], [Args(1), Other(2)], TWO),
            (lambda: client.insert_many_fast([Args(1), Other(2)]), 2, FAST),
            (lambda: client.insert_tx(tx, Args(7)).job.args, Args(7), ONE),
            (lambda: len(client.insert_many_tx(tx, [Args(1), Other(2)])), 2, TWO),
            (lambda: client.insert_many_fast_tx(tx, [Args(1), Other(2)]), 2, FAST),
        ):
            trace.clear()
            assert insert() == expected
            assert trace == told
        assert stored(conn) == 5, "the caller's transaction is the caller's to commit"
    assert stored(conn) == 10


@pytest.mark.parametrize("form", ["generator", "async def", "def"])
async def test_every_verb_of_an_async_client(
    make_async_client: Any, dsn: str, conn: psycopg.Connection, form: str
) -> None:
    trace: Trace = []
    plugin = tracing(trace)
    if form == "async def":

        async def around(params: Any, inner: Callable[[Any], Any]) -> Any:
            trace.append("middleware:insert_before")
            results = await inner(params)
            await asyncio.sleep(0)
            trace.append(f"middleware:insert_after {len(results)}")
            return results

        async def begin(params: river.JobInsertParams) -> None:
            await asyncio.sleep(0)
            trace.append(f"hook:insert_begin {params.kind}")

        plugin = river.Plugin(insert_many=around, insert_begin=begin)
    if form == "def":

        def called(params: Any, inner: Callable[[Any], Any]) -> Any:
            trace.append("middleware:insert_before")
            results = inner(params)
            trace.append(f"middleware:insert_after {len(results)}")
            return results

        plugin = river.Plugin(insert_many=called, insert_begin=plugin.insert_begin)
    client = make_async_client(plugins=[plugin])
    assert (await client.insert(Args(7))).job.args == Args(7)
    assert trace == ONE
    trace.clear()
    assert [each.job.args for each in await client.insert_many([Args(1), Other(2)])] == [Args(1), Other(2)]
    assert trace == TWO
    trace.clear()
    assert await client.insert_many_fast([Args(1), Other(2)]) == 2
    assert trace == FAST
    assert stored(conn) == 5
    async with await psycopg.AsyncConnection.connect(dsn) as tx:
        if form == "def":
            with pytest.raises(river.ConfigError, match="cannot run around an insert on an async connection"):
                await client.insert_tx(tx, Args())
            return
        trace.clear()
        assert (await client.insert_tx(tx, Args(7))).job.args == Args(7)
        assert trace == ONE
        assert len(await client.insert_many_tx(tx, [Args(1), Other(2)])) == 2
        assert await client.insert_many_fast_tx(tx, [Args(1), Other(2)]) == 2
    assert stored(conn) == 10


def test_what_must_be_awaited_is_refused_on_a_thread_without_a_loop(make_client: Any, dsn: str, conn: Any) -> None:
    async def begin(params: river.JobInsertParams) -> None: ...

    client = make_client(hooks=[river.Plugin(insert_begin=begin)])
    with pytest.raises(river.ConfigError, match=r"begin is an `async def` and cannot run .*: write it as a `def`"):
        client.insert(Args())
    with psycopg.connect(dsn) as tx, pytest.raises(river.ConfigError, match="on a connection that is not async"):
        client.insert_tx(tx, Args())
    assert stored(conn) == 0


async def test_inserts_of_sync_jobs_go_through_the_loop_of_an_async_client(dsn: str, schema: str) -> None:
    """A job on a thread inserts with what must be awaited on the loop."""
    threads: list[threading.Thread] = []
    clients: list[Any] = []

    async def begin(params: river.JobInsertParams) -> None:
        threads.append(threading.current_thread())
        clients.append(river.client_from_context())

    workers = river.Workers()

    @workers.work(Args)
    def work(job: river.Job[Args]) -> None:
        client = river.client_from_context()
        assert client.insert(Other(1)).job.id
        assert len(client.insert_many([Other(2)])) == 1
        assert client.insert_many_fast([Other(3)]) == 1

    @workers.work(Other)
    async def other(job: river.Job[Other]) -> None: ...

    config = river.Config(
        schema=schema,
        workers=workers,
        queues={"default": river.QueueConfig(max_workers=2)},
        hooks=[river.Plugin(insert_begin=begin)],
    )
    client = river.AsyncClient(dsn, config)
    async with client:
        assert (await client.wait((await client.insert(Args())).job, 20)).state == "completed"
        with pytest.raises(river.ConfigError, match="without a running event loop"):
            client._client.insert(Args())  # it would wait for the loop on the loop
    assert threads == [threading.current_thread()] * 4
    assert clients == [client._client] * 4


def test_hooks_and_middleware_change_what_is_inserted(make_client: Any, conn: psycopg.Connection) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)

    def middleware(params: list[river.JobInsertParams]) -> Iterator[None]:
        for each in params:
            each.metadata["trace"] = "abc"
            each.tags = [*each.tags, "traced"]
            each.priority = 3
            each.max_attempts = 7
        yield

    def hook(params: river.JobInsertParams) -> None:
        assert params.metadata["trace"] == "abc"
        assert params.args in (Args(1), Args(2))
        params.queue = "special"
        params.scheduled_at = at
        params.encoded_args = b'{"n": 12345678901234567890}'

    client = make_client(plugins=[river.Plugin(insert_many=middleware, insert_begin=hook)])
    opts = river.InsertOpts(metadata={"big": 10**30, "own": True}, tags=["first"])
    for job in (
        client.insert(Args(1), opts).job,
        *(each.job for each in client.insert_many([river.InsertManyParams(Args(n), opts) for n in (1, 2)])),
    ):
        assert job.metadata == {"big": 10**30, "own": True, "trace": "abc"}
        assert job.tags == ["first", "traced"]
        assert (job.queue, job.priority, job.max_attempts, job.state) == ("special", 3, 7, "scheduled")
        assert job.scheduled_at == at
        assert job.args == Args(12345678901234567890)
    assert client.insert_many_fast([river.InsertManyParams(Args(n), opts) for n in (1, 2)]) == 2
    row = conn.execute("SELECT count(DISTINCT (metadata, tags, queue, args, state)) FROM river_job").fetchone()
    assert row == (1,)
    assert dict(opts.metadata or {}) == {"big": 10**30, "own": True}, "the caller's own stay as they were"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: setattr(params, "queue", "No Such Name"), r"params\[0\].queue"),
        (lambda params: setattr(params, "priority", 9), r"params\[0\].priority"),
        (lambda params: setattr(params, "encoded_args", b"[1]"), r"params\[0\].args: must be a JSON object"),
        (lambda params: setattr(params, "encoded_args", None), r"params\[0\].args: must be JSON text"),
        (lambda params: setattr(params, "metadata", None), r"params\[0\].metadata: must be a dict"),
        (lambda params: params.metadata.update({"river:log": []}), "is reserved"),
        (lambda params: params.metadata.update({"x": object()}), r"params\[0\].metadata: "),
    ],
)
def test_bad_changes_are_refused_before_anything_is_written(
    make_client: Any, conn: psycopg.Connection, change: Any, message: str
) -> None:
    client = make_client(hooks=[river.Plugin(insert_begin=change)])
    with pytest.raises(river.ValidationError, match=message):
        client.insert(Args())
    with pytest.raises(AttributeError):
        make_client(hooks=[river.Plugin(insert_begin=lambda params: setattr(params, "kind", "x"))]).insert(Args())
    assert stored(conn) == 0


@pytest.mark.parametrize("after", [False, True])
def test_an_exception_aborts_the_insert_with_nothing_written(
    make_client: Any, conn: psycopg.Connection, after: bool
) -> None:
    client = make_client(plugins=[raising(KeyError("no"), after)])
    for insert in (
        lambda: client.insert(Args()),
        lambda: client.insert_many([Args(), Other()]),
        lambda: client.insert_many_fast([Args(), Other()]),
    ):
        with pytest.raises(KeyError, match="no"):
            insert()
    assert stored(conn) == 0


async def test_an_exception_aborts_an_async_insert_too(make_async_client: Any, conn: psycopg.Connection) -> None:
    for after in (False, True):
        client = make_async_client(plugins=[raising(KeyError("no"), after)])
        with pytest.raises(KeyError):
            await client.insert(Args())
        with pytest.raises(KeyError):
            await client.insert_many_fast([Args()])
    assert stored(conn) == 0


def test_a_hook_that_raises_aborts_the_whole_call(make_client: Any, conn: psycopg.Connection) -> None:
    def begin(params: river.JobInsertParams) -> None:
        if params.kind == "other_job":
            raise river.RiverError("not that one")

    client = make_client(hooks=[river.Plugin(insert_begin=begin)])
    with pytest.raises(river.RiverError, match="not that one"):
        client.insert_many([Args(), Args(), Other()])
    assert stored(conn) == 0


def test_unique_keys_were_computed_before(make_client: Any, conn: psycopg.Connection) -> None:
    def begin(params: river.JobInsertParams) -> None:
        assert params.unique_key is not None
        params.encoded_args = b'{"n": 99}'

    client = make_client(hooks=[river.Plugin(insert_begin=begin)], plugins=[tracing([])])
    opts = river.InsertOpts(unique=river.UniqueOpts(by_args=True))
    first, other = client.insert(Args(1), opts), client.insert(Args(2), opts)
    again = client.insert_many([river.InsertManyParams(Args(n), opts) for n in (1, 2, 3, 3)])
    assert not first.unique_skipped_as_duplicate
    assert not other.unique_skipped_as_duplicate
    assert [each.unique_skipped_as_duplicate for each in again] == [True, True, False, True]
    assert again[0].job.id == first.job.id
    assert again[2].job.id == again[3].job.id
    with pytest.raises(river.UniqueConflictError):
        client.insert_many_fast([river.InsertManyParams(Args(1), opts)])
    assert conn.execute("SELECT DISTINCT args->>'n' FROM river_job").fetchall() == [("99",)]


def test_kinds_have_their_own_once_a_call(make_client: Any) -> None:
    trace: Trace = []

    @dataclass
    class First(river.JobArgs, kind="first_kind", plugins=[tracing(trace, "first ")]):
        n: int = 0

    @river.job_args("second_kind", hooks=[tracing(trace, "second ")])
    @dataclass
    class Second:
        n: int = 0

    client = make_client(middleware=[tracing(trace, "client ")], hooks=[tracing(trace, "client ")])
    client.insert_many([Args(), Second(), First(), First()])
    assert trace == [
        "client middleware:insert_before",
        "first middleware:insert_before",
        "client hook:insert_begin test_job",
        "client hook:insert_begin second_kind", "second hook:insert_begin second_kind",
        "client hook:insert_begin first_kind", "first hook:insert_begin first_kind",
        "client hook:insert_begin first_kind", "first hook:insert_begin first_kind",
        "first middleware:insert_after 4",
        "client middleware:insert_after 4",
    ]  # fmt: skip
    trace.clear()
    plain = make_client()
    assert [each.job.kind for each in plain.insert_many(Args(n) if n % 2 else First(n) for n in range(1, 5))] == (
        ["test_job", "first_kind"] * 2
    )
    assert trace == [
        "first middleware:insert_before",
        *["first hook:insert_begin first_kind"] * 2,
        "first middleware:insert_after 4",
    ]
