"""An adapter process as a suite sees it: requests go in, answers come out, each checked against the contract's schemas.

One thread at a time. Owns the child; `close` ends it by the end of its stdin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.conformance.contract import CONTRACT, DATA

ROOT = Path(__file__).parent.parent.parent
OURS = (sys.executable, "-m", "tests.conformance.adapter")
ANSWER_MOST = 60.0  # seconds: a request that takes longer hangs
EXIT_MOST = 30.0
CODES = {error["name"]: error["code"] for error in CONTRACT["errors"]}


class Refused(Exception):
    """The answer was an error of the contract."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.name = next((name for name, known in CODES.items() if known == code), str(code))
        super().__init__(f"{self.name}: {message}")


class AdapterProcess:
    """`python -m tests.conformance.adapter`, or another `command`, under `name`, on `url`."""

    def __init__(
        self, url: str, name: str = "river-conformance-test", command: Sequence[str] = OURS, **variables: str
    ) -> None:
        self.name = name
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RIVER_CONFORMANCE_")},
            "PYTHONPATH": str(ROOT),
            "RIVER_CONFORMANCE_DATABASE_URL": url,
            "RIVER_CONFORMANCE_APPLICATION_NAME": name,
            **variables,
        }
        self._generation = "B" if "RIVER_CONFORMANCE_DRIVER" in variables else "A"
        self.child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._sent = 0
        self.open_transactions: set[str] = set()

    def call(self, method: str, /, **params: Any) -> Any:
        """The result; `Refused`."""
        self._sent += 1
        answer = self.ask({"jsonrpc": "2.0", "id": self._sent, "method": method, "params": params})
        assert answer["id"] == self._sent
        if "error" in answer:
            raise Refused(answer["error"]["code"], answer["error"]["message"])
        if method == "tx_begin":
            self.open_transactions.add(params.get("handle", ""))
        if self._generation == "A":
            validator(method).validate(answer["result"])
        return answer["result"]

    def refused(self, method: str, /, **params: Any) -> str:
        """The name of the error that the method answers with."""
        try:
            result = self.call(method, **params)
        except Refused as error:
            return error.name
        raise AssertionError(f"{method} answered {result!r:.200}")

    def refused_or_none(self, method: str, /, **params: Any) -> str | None:
        """The name of the error, None where it answered."""
        try:
            self.call(method, **params)
        except Refused as error:
            return error.name
        return None

    def ask(self, request: Any) -> Any:
        """The answer to a request as it stands: a value, or the bytes of a line."""
        self.send(request)
        return self.receive()

    def send(self, request: Any) -> None:
        assert self.child.stdin is not None
        line = request if isinstance(request, bytes) else json.dumps(request, default=_exact).encode()
        self.child.stdin.write(line + b"\n")
        self.child.stdin.flush()

    def receive(self) -> Any:
        assert self.child.stdout is not None
        watchdog = threading.Timer(ANSWER_MOST, self.child.kill)
        watchdog.start()
        try:
            line = self.child.stdout.readline()
        finally:
            watchdog.cancel()
        assert line.endswith(b"\n"), f"the adapter ended, or hung, with {line!r:.200}"
        answer = json.loads(line, parse_float=Decimal)
        assert set(answer) == {"id", "jsonrpc", "error" if "error" in answer else "result"}
        assert answer["jsonrpc"] == "2.0"
        if "error" in answer:
            assert set(answer["error"]) == {"code", "message"}
            assert self._generation == "B" or answer["error"]["code"] in CODES.values()
        else:
            assert isinstance(answer["result"], dict)
        return answer

    def kill(self) -> None:
        """As a machine that loses its power."""
        self.child.kill()
        self._end()

    def close(self) -> int:
        """The exit status at the end of stdin."""
        assert self.child.stdin is not None
        self.child.stdin.close()
        try:
            return self.child.wait(EXIT_MOST)
        finally:
            self.child.kill()
            self._end()

    def _end(self) -> None:
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass

    def __enter__(self) -> AdapterProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.close()


@cache
def validator(method: str) -> Draft202012Validator:
    """Of the method's result."""
    schema = next(found["result"] for found in CONTRACT["methods"] if found["name"] == method)
    resources = {"urn:adapter:contract": CONTRACT}
    resources |= {f"urn:schema:{path.name}": json.loads(path.read_text("utf-8")) for path in DATA.glob("*.schema.json")}
    registry: Any = Registry().with_resources(
        [(name, Resource.from_contents(_named(found))) for name, found in resources.items()]
    )
    return Draft202012Validator(_named(schema), registry=registry)


def _named(schema: Any) -> Any:
    """With its references as names that the registry knows, since the contract's are paths."""
    if isinstance(schema, Mapping):
        return {
            key: _absolute(value) if key == "$ref" else _named(value)
            for key, value in schema.items()
            if key != "$schema" or "json-schema.org" in str(value)
        } | ({"$schema": "https://json-schema.org/draft/2020-12/schema"} if "methods" in schema else {})
    return [_named(value) for value in schema] if isinstance(schema, list) else schema


def _absolute(reference: str) -> str:
    if reference.startswith("#"):
        return f"urn:adapter:contract{reference}"
    return f"urn:schema:{Path(reference).name}"


def _exact(value: Any) -> Any:
    raise TypeError(f"{value!r} has no JSON form")
