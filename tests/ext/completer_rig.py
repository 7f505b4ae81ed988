"""What the completer's tests need: claims made by hand, rows that run, a completer on its thread, a cutting proxy."""

from __future__ import annotations

import ctypes
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from river_fast._ext import completer as compiled
from river_fast.completer import completer_statements
from river_fast.driver.psycopg import PsycopgDriver
from river_fast.job_set_state import JobSetState, Reason

LIMITS = (Path(__file__).parents[2] / "_ext" / "limits.h").read_text()
RING = int(re.search(r"#define RF_COMPLETION_RING (\d+)", LIMITS)[1])  # type: ignore[index]
DEADLINE = 50.0  # for anything that takes milliseconds on a quiet machine
FEW, MANY = 5, 120  # around the rig's copy_min: so many bare outcomes go as arrays, or by COPY where that is on
META = b'{"river:x": {"a": [1, 2]}, "mine": "new"}'

Conn = psycopg.Connection[Any]
both_forms = pytest.mark.parametrize("copy", [True, False], ids=["copy", "arrays"])


class Slots(ctypes.Structure):
    """rf_slots of _ext/job.h."""

    _fields_ = [
        ("started", ctypes.c_int64),
        ("limit", ctypes.c_int64),
        ("done", ctypes.c_int64),
        ("run_time", ctypes.c_int64),
        ("slot_waiters", ctypes.c_int32),
        ("park", ctypes.c_void_p),
        ("fetcher", ctypes.c_void_p),
        ("loop", ctypes.c_void_p),
    ]


class Claim(ctypes.Structure):
    """rf_claim of _ext/job.h."""

    _fields_ = [
        ("id", ctypes.c_int64),
        ("attempted_at", ctypes.c_int64),
        ("scheduled_at", ctypes.c_int64),
        ("attempt", ctypes.c_int32),
        ("queue", ctypes.c_int32),
        ("started_ns", ctypes.c_int64),
        ("slots", ctypes.POINTER(Slots)),
    ]

    @property
    def address(self) -> int:
        return ctypes.addressof(self)


MICROSECONDS = "(extract(epoch FROM {} - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint"


def claims_of(
    conn: psycopg.Connection[Any], slots: Slots | None = None, where: str = "state = 'running'"
) -> list[Claim]:
    """Claims on the rows as they stand, by id."""
    rows = conn.execute(
        f"SELECT id, {MICROSECONDS.format('attempted_at')}, {MICROSECONDS.format('scheduled_at')}, attempt"
        f" FROM river_job WHERE {where} ORDER BY id"
    ).fetchall()
    now = time.monotonic_ns()
    if slots is not None:
        slots.started += len(rows)
    return [
        Claim(id, attempted, scheduled, attempt, 0, now, ctypes.pointer(slots) if slots is not None else None)
        for id, attempted, scheduled, attempt in rows
    ]


def start_jobs(
    conn: psycopg.Connection[Any], count: int, slots: Slots | None = None, **columns: str
) -> list[Claim]:
    """`count` more rows that run in their first attempt, and their claims; `columns`: SQL expressions over n."""
    values = {
        "kind": "'test_job'", "args": "jsonb_build_object('n', n)", "state": "'running'", "attempt": "1",
        "max_attempts": "25", "attempted_at": "now()", "attempted_by": "'{client}'", **columns,
    }  # fmt: skip
    first = conn.execute("SELECT coalesce(max(id), 0) FROM river_job").fetchone()
    assert first is not None
    conn.execute(
        f"INSERT INTO river_job ({', '.join(values)}) SELECT {', '.join(values.values())}"
        f" FROM generate_series(1, {count}) n"
    )
    return claims_of(conn, slots, f"id > {first[0]}")


def error_entry(text: str = "it failed", attempt: int = 1) -> bytes:
    return json.dumps({"at": "2026-01-01T00:00:00Z", "attempt": attempt, "error": text, "trace": ""}).encode()


def spread(outcome: JobSetState) -> tuple[str, int, int, bool, bytes | None, bytes | None]:
    delay = -1 if outcome.delay is None else round(outcome.delay * 1e6)
    return outcome.state, outcome.reason, delay, outcome.restore_attempt, outcome.error, outcome.metadata


class Rig:
    """A compiled completer on its thread."""

    def __init__(self, dsn: str, schema: str, through: str | None = None, **options: Any) -> None:
        self.driver = PsycopgDriver(dsn, schema)
        hot = PsycopgDriver(through or dsn, schema)
        options.setdefault("copy_min", 40)  # so that small tests use both forms
        compiled.load_libpq(self.driver.libpq_path())
        self.compiled = compiled.Completer(
            conninfo=hot.hot_conninfo("completer"),
            setup=self.driver.hot_setup("completer"),
            statements=completer_statements(self.driver),
            **options,
        )
        self.thread = threading.Thread(target=self.compiled.run, name="completer", daemon=True)
        self.notices: list[tuple[int, int, str]] = []

    def start(self) -> Rig:
        self.thread.start()
        return self

    def push(self, claim: Claim, outcome: JobSetState) -> int:
        return self.compiled.push(claim.address, *spread(outcome))

    def complete(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            assert self.compiled.push_completed(claim.address) == compiled.PUSHED

    def stats(self) -> dict[str, int]:
        return self.compiled.stats()

    def attend(self) -> list[tuple[int, int, str]]:
        """Everything it had to say so far."""
        self.notices += self.compiled.take_attention(0)
        return self.notices

    def settled(self, timeout: float = DEADLINE) -> dict[str, int]:
        """Once nothing is pending; its counters."""
        until(lambda: not self.compiled.pending(1), timeout, lambda: f"still pending: {self.stats()} {self.attend()}")
        return self.stats()

    def close(self, timeout: float = DEADLINE) -> list[tuple[int, int, int, str]]:
        self.compiled.close(timeout)
        if self.thread.ident is not None:
            self.thread.join(timeout + 30)
            assert not self.thread.is_alive(), f"run() did not end: {self.stats()}"
        self.driver.close()
        return self.compiled.unrecorded()

    def backend(self, conn: psycopg.Connection[Any]) -> int | None:
        """The server process of this completer (the only one on this server under the test's database and schema)."""
        row = conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()",
            (self.application_name,),
        ).fetchone()
        return None if row is None else row[0]

    application_name = "river_fast/completer"


def until(condition: Callable[[], Any], timeout: float = DEADLINE, what: Callable[[], str] = lambda: "it") -> Any:
    """Polls until the condition holds; its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what()}"
        time.sleep(0.002)
    return value


@contextmanager
def rig(dsn: str, schema: str, *, started: bool = True, **options: Any) -> Iterator[Rig]:
    """`through`: the completer's own way to the server, where it is not the dsn."""
    name = f"rf_{schema}"  # so that its backend can be found among others'
    through = psycopg.conninfo.make_conninfo(options.pop("through", dsn), application_name=name)
    made = Rig(dsn, schema, through, **options)
    made.application_name = name
    if started:
        made.start()
    try:
        yield made
    finally:
        made.close(2.0)


def states(conn: psycopg.Connection[Any]) -> dict[str, int]:
    return dict(conn.execute("SELECT state::text, count(*) FROM river_job GROUP BY 1").fetchall())


def row(conn: psycopg.Connection[Any], job_id: int, columns: Sequence[str] = ("*",)) -> dict[str, Any]:
    cursor = conn.cursor(row_factory=psycopg.rows.dict_row)
    found = cursor.execute(f"SELECT {', '.join(columns)} FROM river_job WHERE id = %s", (job_id,)).fetchone()
    assert found is not None
    return found


BARE = JobSetState.completed()
COMPLETED = int(Reason.COMPLETED)


class Proxy:
    """Between client and server on TCP. `cut_after(text)`: the next reply that holds `text` is not passed on, both
    sides are closed. `down(True)`: connections are refused and those there are closed."""

    def __init__(self, dsn: str) -> None:
        params = psycopg.conninfo.conninfo_to_dict(dsn)
        self._server = (str(params.get("host", "127.0.0.1")), int(params.get("port", 5432)))
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=port)
        self.cuts = 0
        self._cut: bytes | None = None
        self._down = False
        self._closed = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, text: bytes) -> None:
        self._cut = text

    def down(self, down: bool) -> None:
        self._down = down
        if down:
            self._close_all()

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self._close_all()

    def _close_all(self) -> None:
        with self._lock:
            for one in list(self._open):
                _shut(one)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                _shut(client)
                continue
            server = self._connect()
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._server
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection(self._server)

    def _pump(self, source: socket.socket, sink: socket.socket, reply: bool) -> None:
        try:
            while data := source.recv(65536):
                if reply and self._cut is not None and self._cut in data:
                    self._cut = None
                    self.cuts += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        _shut(source)
        _shut(sink)
        with self._lock:
            self._open -= {source, sink}


def _shut(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    one.close()


@contextmanager
def proxy(dsn: str) -> Iterator[Proxy]:
    made = Proxy(dsn)
    try:
        yield made
    finally:
        made.close()
