"""JSON-RPC 2.0 over the pipe: one request a line, one answer a line, in the order they came.

The request loop's thread. Owns the descriptor that was stdout; everybody else's stdout is stderr from then on, so that
nothing but answers can get between the answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import orjson

from tests.conformance import errors, exact_json
from tests.conformance.errors import RpcError

ANSWER_MOST = {"A": 4 * 1024 * 1024 - 1, "B": 64 * 1024 * 1024 - 1}  # bytes, its line end included

Answer = Callable[[str, dict[str, Any], str], dict[str, Any]]  # method, params, the request as it stands


class Transport:
    """`answer` raises `RpcError` or returns the result."""

    def __init__(self, answer: Answer, generation: str) -> None:
        self._answer = answer
        self._most = ANSWER_MOST[generation]
        self._generation = generation
        self._in, self._out = _pipes()

    def serve(self) -> None:
        """Until the end of stdin, or until nobody reads the answers."""
        for line in self._lines():
            try:
                self._out.write(self.reply(line) + b"\n")
                self._out.flush()
            except BrokenPipeError:
                return

    def reply(self, line: bytes) -> bytes:
        """The answer to one line."""
        identity: Any = None
        try:
            request = _parsed(line)
            identity = _identity(request)
            result = self._answer(*_checked(request), line.decode("utf-8", "replace"))
            return self._written(identity, "result", result)
        except Exception as error:
            named = errors.named(error)
            return self._error(identity, named)

    def _error(self, identity: Any, error: RpcError) -> bytes:
        code = error.code
        if self._generation == "B":
            code = errors.CODES_B.get(code, code)
        message = str(error)[:10_000].encode("utf-8", "replace").decode()
        return self._written(identity, "error", {"code": code, "message": message})

    def _written(self, identity: Any, member: str, value: Any) -> bytes:
        answer = exact_json.dump({"id": identity, "jsonrpc": "2.0", member: value})
        if len(answer) >= self._most:
            raise RpcError(errors.REJECTED, f"the answer takes {len(answer)} bytes: ask for less at a time")
        return answer

    def _lines(self) -> Iterator[bytes]:
        while line := self._in.readline():
            yield line


def _parsed(line: bytes) -> Any:
    try:
        return exact_json.parse(line)
    except ValueError as error:
        raise RpcError(errors.PARSE_ERROR, f"the line is not JSON: {error}") from None


def _identity(request: Any) -> Any:
    identity = request.get("id") if isinstance(request, dict) else None
    return identity if isinstance(identity, str | int | orjson.Fragment) and not isinstance(identity, bool) else None


def _checked(request: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(request, dict) or request.get("jsonrpc") != "2.0" or not isinstance(request.get("method"), str):
        raise RpcError(errors.INVALID_REQUEST, 'a request is an object with jsonrpc "2.0" and a method')
    params = request.get("params")
    if params is not None and not isinstance(params, dict):
        raise errors.invalid_params("params must be an object")
    return request["method"], params or {}


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, out
