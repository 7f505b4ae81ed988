"""The pipe: what is asked badly is answered by its code, in order, and the process ends when its stdin does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil
import psycopg
import pytest

import river_fast as river
from tests.conformance.contract import CAPABILITIES, CONTRACT
from tests.conformance.process import CODES, ROOT, AdapterProcess
from tests.fix_client import eventually


def code_of(adapter: AdapterProcess, request: Any) -> tuple[Any, str]:
    answer = adapter.ask(request)
    names = {code: name for name, code in CODES.items()}
    return answer["id"], names[answer["error"]["code"]]


def asked(identity: int, method: bytes, params: bytes) -> bytes:
    return b'{"jsonrpc": "2.0", "id": %d, "method": "%s", "params": %s}' % (identity, method, params)


@pytest.mark.parametrize(
    ("line", "identity", "name"),
    [
        (b"not json", None, "parse_error"),
        (b"", None, "parse_error"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "handshake"} x', None, "parse_error"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "rng_seed", "params": {"seed": NaN}}', None, "parse_error"),
        (b"[" * 100_000, None, "parse_error"),
        (b"[]", None, "invalid_request"),
        (b"7", None, "invalid_request"),
        (b'{"id": "a", "method": "handshake"}', "a", "invalid_request"),
        (b'{"jsonrpc": "1.0", "id": 2, "method": "handshake"}', 2, "invalid_request"),
        (b'{"jsonrpc": "2.0", "id": 3}', 3, "invalid_request"),
        (b'{"jsonrpc": "2.0", "id": 4, "method": "explode"}', 4, "method_not_found"),
        (asked(5, b"get", b'[]'), 5, "invalid_params"),
        (asked(6, b"get", b'{}'), 6, "invalid_params"),
        (asked(7, b"get", b'{"id": 1.0}'), 7, "invalid_params"),
        (asked(8, b"get", b'{"id": 9223372036854775808}'), 8, "invalid_params"),
        (asked(9, b"handshake", b'{"x": 1}'), 9, "invalid_params"),
        (asked(10, b"insert", b'{"opts": {"unique": {"x": 1}}}'), 10, "invalid_params"),
        (asked(11, b"insert", b'{"behavior": "explode"}'), 11, "invalid_params"),
        (asked(12, b"tx_begin", b'{"handle": ""}'), 12, "invalid_params"),
        (asked(13, b"list", b'{"handle": "t"}'), 13, "invalid_params"),
        (asked(14, b"clock_set", b'{"now": "yesterday"}'), 14, "invalid_params"),
        (asked(15, b"rng_seed", b'{"seed": 18446744073709551616}'), 15, "invalid_params"),
        (asked(16, b"tx_get", b'{"id": 1}'), 16, "invalid_params"),
        (asked(17, b"get", b'{"id": true}'), 17, "invalid_params"),
    ],
)  # fmt: skip
def test_bad_request_is_answered_by_its_code(adapter: AdapterProcess, line: bytes, identity: Any, name: str) -> None:
    assert code_of(adapter, line) == (identity, name)
    assert adapter.call("handshake")["adapter_version"] == 20


@pytest.mark.parametrize("identity", [b'"text"', b"9223372036854775807", b"123456789012345678901234", b"-1", b"null"])
def test_id_comes_back_exactly(adapter: AdapterProcess, identity: bytes) -> None:
    adapter.send(b'{"jsonrpc":"2.0","method":"handshake","params":null,"id":' + identity + b"}")
    assert adapter.child.stdout is not None
    assert b'"id":' + identity + b"," in adapter.child.stdout.readline()


def test_missing_params_mean_none(adapter: AdapterProcess) -> None:
    assert adapter.ask(b'{"jsonrpc": "2.0", "id": 1, "method": "insert"}')["result"]["state"] == "available"


def test_handshake_says_what_the_contract_wants(adapter: AdapterProcess) -> None:
    told = adapter.call("handshake")
    assert told["methods"] == [method["name"] for method in CONTRACT["methods"]]
    assert set(told["capabilities"]) == set(CAPABILITIES["postgres-full-v1"])
    assert (told["adapter_version"], told["protocol_revision"], told["migration_lines"]) == (20, 1, {"main": 8})
    assert (told["implementation"], told["implementation_version"]) == ("river_fast", river.__version__)
    assert (told["backend"], told["profile"]) == ("postgres", "postgres-full-v1")
    assert told["application_name"] == adapter.name


def test_large_requests_and_answers_pass(adapter: AdapterProcess) -> None:
    message = "ü<" * 200_000
    job = adapter.call("insert", message=message)
    assert job["args"]["message"] == message
    assert adapter.call("get", id=job["id"])["args"]["message"] == message


def test_strings_of_any_sort_pass(adapter: AdapterProcess) -> None:
    message = "\x7f\ue000\u2028\n\t\"\\/😀"
    assert adapter.call("insert", message=message)["args"]["message"] == message
    lone = adapter.ask(b'{"jsonrpc":"2.0","id":1,"method":"insert","params":{"message":"a\\ud800b"}}')
    assert lone["result"]["args"]["message"] == "a\ufffdb"
    assert adapter.refused("insert", message="\0") == "rejected"


def test_answers_come_in_the_order_of_the_requests(adapter: AdapterProcess) -> None:
    job = adapter.call("insert")
    adapter.send({"jsonrpc": "2.0", "id": 1, "method": "start", "params": {"client_id": "c"}})
    adapter.send({"jsonrpc": "2.0", "id": 2, "method": "wait", "params": {"id": job["id"]}})
    adapter.send({"jsonrpc": "2.0", "id": 3, "method": "stop", "params": {}})
    assert [adapter.receive()["id"] for _ in range(3)] == [1, 2, 3]


def connections(database: psycopg.Connection, name: str) -> int:
    row = database.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [name]).fetchone()
    assert row is not None
    return int(row[0])


def test_end_of_stdin_stops_the_client_and_gives_its_jobs_back(
    adapter: AdapterProcess, make_adapter: Callable[..., AdapterProcess], database: psycopg.Connection
) -> None:
    other = make_adapter()
    other.call("tx_begin", handle="t")
    other.call("tx_insert", handle="t", job={})
    cooperative, ignoring = (adapter.call("insert", behavior=b) for b in ("cooperative_cancel", "ignored_cancel"))
    other.call("start", client_id="ends")
    for job in (cooperative, ignoring):
        adapter.call("wait", id=job["id"], states=["running"])
    assert other.close() == 0
    for job in (cooperative, ignoring):
        stored = adapter.call("get", id=job["id"])
        assert (stored["state"], stored["attempt"], stored["errors"]) == ("available", 0, [])
    assert len(database.execute("SELECT id FROM river_job").fetchall()) == 2, "the transaction was rolled back"
    assert connections(database, other.name) == 0


def test_killed_process_leaves_its_rows_and_another_takes_its_place(
    adapter: AdapterProcess, make_adapter: Callable[..., AdapterProcess], database: psycopg.Connection
) -> None:
    job = adapter.call("insert", behavior="cooperative_cancel")
    other = make_adapter()
    other.call("start", client_id="dies", leader_election_disabled=True)
    adapter.call("wait", id=job["id"], states=["running"])
    os.kill(other.child.pid, signal.SIGKILL)
    other.kill()
    eventually(lambda: connections(database, other.name) == 0)
    assert adapter.call("get", id=job["id"])["state"] == "running"
    again = make_adapter(other.name)
    assert again.call("handshake")["application_name"] == other.name


@pytest.mark.parametrize(
    "variables",
    [
        {"RIVER_CONFORMANCE_DATABASE_URL": ""},
        {"RIVER_CONFORMANCE_DATABASE_URL": "host='"},
        {"RIVER_CONFORMANCE_DATABASE_KIND": "sqlite"},
        {"RIVER_CONFORMANCE_DRIVER": "sqlite"},
        {"RIVER_CONFORMANCE_PROFILE": "portable-storage-v1"},
        {"RIVER_CONFORMANCE_APPLICATION_NAME": "river-conformance-harness"},
        {"RIVER_CONFORMANCE_APPLICATION_NAME": "somebody"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_wrong_variable_ends_the_process(url: str, variables: dict[str, str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RIVER_CONFORMANCE_DATABASE_URL": url, **variables}
    command = [sys.executable, "-m", "tests.conformance.adapter"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, input=b"", capture_output=True, timeout=60, check=False
    )
    assert ended.returncode != 0
    assert ended.stdout == b""
    assert next(iter(variables)).encode() in ended.stderr


def test_insert_only_profile_offers_its_methods_alone(make_adapter: Callable[..., AdapterProcess]) -> None:
    adapter = make_adapter(RIVER_CONFORMANCE_PROFILE="insert-only-v1")
    told = adapter.call("handshake")
    names = "handshake insert insert_many tx_begin tx_commit tx_insert tx_insert_many tx_rollback unique_key"
    assert told["methods"] == names.split()
    assert set(told["capabilities"]) == {"insert", "lifecycle", "transactions", "unique_jobs"}
    assert adapter.refused("get", id=1) == "method_not_found"
    assert adapter.call("insert")["state"] == "available"


def test_descriptor_starts_the_adapter_itself(url: str) -> None:
    """From any directory; what it starts is the process to kill, and says what the descriptor says."""
    told = json.loads((ROOT / "tests" / "conformance" / "candidate.json").read_text("utf-8"))
    assert re.fullmatch(r"river-conformance-[a-zA-Z0-9._-]+", told["application_name"])
    assert set(told["start_options"]) == {"elect_interval_ms", "rescuer_interval_ms", "scheduler_interval_ms"}
    environment = {
        **os.environ,
        "RIVER_FAST_DIR": str(ROOT),
        "RIVER_FAST_PYTHON": sys.executable,
        "RIVER_CONFORMANCE_DATABASE_URL": url,
        "RIVER_CONFORMANCE_APPLICATION_NAME": told["application_name"],
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(told["command"], cwd="/", env=environment, **pipes) as child:  # type: ignore[call-overload]
        child.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "handshake"}\n')
        child.stdin.flush()
        result = json.loads(child.stdout.readline())["result"]
        assert result["implementation"] == told["implementation"]
        assert result["implementation_version"] == told["version"]
        assert result["application_name"] == told["application_name"]
        assert psutil.Process(child.pid).cmdline()[-1] == "tests.conformance.adapter"
        child.stdin.close()
        assert child.wait(30) == 0


def test_default_application_name_is_ours(url: str) -> None:
    with AdapterProcess(url, "") as adapter:
        assert adapter.call("handshake")["application_name"] == "river-conformance-river_fast"
