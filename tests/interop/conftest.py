"""River's own Go program beside ours. `make interop` runs every file here; `make test` runs none of them.

`--river RELEASE` builds with another release than go.mod's ("latest" for the newest), `--write-catalogue` writes
tests/data/river_catalogue.json.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from tests.conformance.process import OURS, AdapterProcess
from tests.fix_client import until
from tests.interop.peers import Local, Peer, Process

__all__ = ["until"]

SOURCE = Path(__file__).parent / "go"
MODULES = ("river", "river/riverdriver/riverpgxv5", "river/rivertype")
Make = Callable[..., Any]
Adapters = Callable[..., AdapterProcess]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--river", help="another release of River than go.mod's: v0.51.0, latest")
    parser.addoption("--write-catalogue", action="store_true", help="keep what River's migrations make as test data")


@pytest.fixture(scope="session")
def go_program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, dsn: str) -> Path:
    """The program of `go/`, built."""
    assert shutil.which("go"), "Go is not on PATH; River's own client is built with it"
    source, program = SOURCE, tmp_path_factory.mktemp("go") / "interop"

    def run(*args: str) -> None:
        subprocess.run(["go", *args], cwd=source, check=True)

    release = request.config.getoption("--river")
    if release:
        source = Path(shutil.copytree(SOURCE, tmp_path_factory.mktemp("source") / "go"))
        run("get", *(f"github.com/riverqueue/{module}@{release}" for module in MODULES))
        run("mod", "tidy")
    run("build", "-o", str(program), ".")
    with Process([program], dsn, "public") as peer:
        request.config.stash[VERSIONS] = peer.version()
    return program


VERSIONS = pytest.StashKey[dict[str, str]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several (`-n`) hands its versions to the one that tells them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["versions"] = session.config.stash.get(VERSIONS, None)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    versions = getattr(node, "workeroutput", {}).get("versions")
    if versions is not None:
        node.config.stash[VERSIONS] = versions


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    versions = config.stash.get(VERSIONS, None)
    if versions is not None:
        counts = {name: len(terminalreporter.getreports(name)) for name in ("passed", "failed", "error")}
        terminalreporter.write_line(
            f"interop with River {versions['river']}, River UI {versions['ui']}, built with {versions['go']}:"
            f" {counts['passed']} cases passed, {counts['failed'] + counts['error']} failed"
        )


@pytest.fixture
def make(dsn: str, schema: str, go_program: Path) -> Iterator[Make]:
    """`make("go" | "ours" | "ours apart", **params of open)`: a peer on the test's schema, closed at its end.

    "ours apart" runs in a process of its own. With `start=False` it is not started; without queues it only inserts.
    """
    with ExitStack() as stack:

        def made(side: str, *, start: bool = True, **params: Any) -> Peer:
            peer: Peer
            if side == "ours":
                peer = Local(dsn, schema)
            else:
                peer = Process.ours(dsn, schema) if side == "ours apart" else Process([go_program], dsn, schema)
            stack.enter_context(peer)
            params.setdefault("kinds", ["interop"])
            peer.open(**params)
            if start and params.get("queues"):
                peer.start()
            return peer

        yield made


@pytest.fixture
def adapters(dsn: str, schema: str, go_program: Path) -> Iterator[Adapters]:
    """`adapters(name, side="ours")`: an adapter of River's contract on the test's schema; "go": River's own client."""
    with ExitStack() as stack:

        def made(name: str, side: str = "ours") -> AdapterProcess:
            url = make_conninfo(dsn, options=f"-c search_path={schema}")
            # A name of its own: cases run beside each other on one server, and some end the connections of a name.
            application = f"river-conformance-{name}-{schema}"
            command = (str(go_program), "--contract") if side == "go" else OURS
            return stack.enter_context(AdapterProcess(url, application, command))

        yield made


@pytest.fixture
def ours(adapters: Adapters) -> AdapterProcess:
    return adapters("ours")


@pytest.fixture
def reference(adapters: Adapters) -> AdapterProcess:
    """River's own client."""
    return adapters("go", "go")
