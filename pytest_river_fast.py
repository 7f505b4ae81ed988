"""pytest's fixtures for river_fast: a database, a migrated schema for each test, clients and connections on it.

pytest loads this module in every run of an environment that has river_fast installed, so it imports nothing: what a run
does not use costs it nothing. The fixtures are described in docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import psycopg

    import river_fast
    from river_fast.testing import Clock
    from river_fast.testing.schema_supply import SchemaSupply

STOP_TIMEOUT = 10.0  # seconds that a client left running has at its test's end; then its jobs are cancelled


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--river-database-url`, and the ini value of the same meaning."""
    text = "the server whose schemas the river_fast fixtures use; default: an embedded PostgreSQL"
    parser.getgroup("river_fast").addoption("--river-database-url", default=None, metavar="URL", help=text)
    parser.addini("river_database_url", text, default="")


@pytest.fixture(scope="session")
def river_database_url(request: pytest.FixtureRequest) -> str:
    """A running server: `--river-database-url`, the ini value `river_database_url`, else the embedded PostgreSQL, which
    all processes of a run share and the last one stops. `DATABASE_URL` is never looked at."""
    given = request.config.getoption("--river-database-url") or request.config.getini("river_database_url")
    if given:
        return str(given)
    from river_fast import embedded

    return embedded.start(stop_at_exit=True).url


@pytest.fixture(scope="session")
def river_migration_lines() -> Sequence[str]:
    """The migration lines of each schema, main first; override it in a conftest.py: `return ("main", "fast")`."""
    return ("main",)


@pytest.fixture(scope="session")
def river_schemas(river_database_url: str, river_migration_lines: Sequence[str]) -> Iterator[SchemaSupply]:
    """Where the schemas come from; `take()` one more, where a test needs two."""
    from river_fast.testing.schema_supply import SchemaSupply

    supply = SchemaSupply(river_database_url, river_migration_lines)
    yield supply
    supply.close()


@pytest.fixture
def river_schema(river_schemas: SchemaSupply) -> Iterator[str]:
    """The name of a migrated schema that no other test has seen or will see; dropped after the test."""
    schema = river_schemas.take()
    yield schema
    river_schemas.give_back(schema)


@pytest.fixture
def river_conn(river_database_url: str, river_schema: str) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection in autocommit whose search_path is the test's schema."""
    import psycopg

    with psycopg.connect(river_database_url, autocommit=True, options=f"-c search_path={river_schema}") as conn:
        yield conn


@pytest.fixture
def river_make_client(river_database_url: str, river_schema: str) -> Iterator[Callable[..., river_fast.Client]]:
    """`river_make_client(workers=None, **config)`: a `Client` on the test's schema, stopped after the test. With
    workers and no `queues` it works the queue `default`; it is not started."""
    import river_fast

    made: list[river_fast.Client] = []

    def make(workers: river_fast.Workers | None = None, **config: Any) -> river_fast.Client:
        if workers is not None and "queues" not in config:
            config["queues"] = {"default": river_fast.QueueConfig(max_workers=10)}
        config.setdefault("schema", river_schema)
        made.append(river_fast.Client(river_database_url, river_fast.Config(workers=workers, **config)))
        return made[-1]

    yield make
    for client in made:
        client.stop_and_cancel(STOP_TIMEOUT)


@pytest.fixture
def river_client(river_make_client: Callable[..., river_fast.Client]) -> river_fast.Client:
    """A client on the test's schema that inserts, and works jobs for `work_job` in no way: it has no workers."""
    return river_make_client()


@pytest.fixture
def river_clock() -> Clock:
    """A clock that stands still at this moment, until the test moves it."""
    from river_fast.testing import Clock

    return Clock()
