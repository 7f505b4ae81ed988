"""Two clients beside each other on one schema: River's own in Go, and ours, asked alike whichever it is.

A `Peer` is asked by `peer.insert(kind=..., args=...)` and what more `ours.py` and `go/` have calls for, and collects
what its client says of jobs. `Local` is ours in this process, `Process` is ours or River's at the end of a pipe.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.interop.ours import OurPeer, sort

ROOT = Path(__file__).parent.parent.parent
WAIT_MOST = 30.0  # for anything that happens within milliseconds on a quiet machine


class PeerError(Exception):
    """What a call raised. `sort`: "not_found", "running", "unique", "unknown_kind" or "other"."""

    def __init__(self, text: str, sort: str) -> None:
        super().__init__(text)
        self.sort = sort


class Peer:
    """Events are kept in the order in which they came; `event` takes each of them once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: list[dict[str, Any]] = []
        self.ended = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda **params: self.call(name, params)

    def call(self, name: str, params: dict[str, Any]) -> Any:
        raise NotImplementedError

    def heard(self, line: dict[str, Any]) -> None:
        with self._changed:
            self._events.append(line)
            self._changed.notify_all()

    def event(self, event: str, job: int | None = None, timeout: float = WAIT_MOST, **fields: Any) -> dict[str, Any]:
        """The first event of that name and job, with those fields, that nobody has taken yet."""

        def fits(line: dict[str, Any]) -> bool:
            return (
                line["event"] == event
                and (job is None or line["job"]["id"] == job)
                and all(line.get(field) == value for field, value in fields.items())
            )

        return self._take(fits, f"{event} of job {job} {fields}", timeout)

    def _take(self, fits: Callable[[dict[str, Any]], bool], what: str, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for index, line in enumerate(self._events):
                    if fits(line):
                        return self._events.pop(index)
                left = deadline - time.monotonic()
                assert left > 0, f"no {what} within {timeout:g} s: {self._events}"
                assert not self.ended, f"the peer ended before its {what}"
                self._changed.wait(left)

    def outcome(self, job: int, timeout: float = WAIT_MOST) -> dict[str, Any]:
        """The job as its next outcome left it."""
        row: dict[str, Any] = self._take(
            lambda line: line["event"].startswith("job_") and line["job"]["id"] == job, f"outcome of job {job}", timeout
        )["job"]
        return row

    def all_events(self, event: str) -> list[dict[str, Any]]:
        """Those that came until now and nobody took."""
        with self._changed:
            return [line for line in self._events if line["event"] == event]

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Local(Peer):
    """Ours, in this process."""

    def __init__(self, dsn: str, schema: str) -> None:
        super().__init__()
        self.ours = OurPeer(dsn, schema, self.heard)

    def call(self, name: str, params: dict[str, Any]) -> Any:
        try:
            result = getattr(self.ours, name)(**params)
        except Exception as error:
            raise PeerError(f"{type(error).__name__}: {error}", sort(error)) from error
        return json.loads(json.dumps(result))

    def close(self) -> None:
        self.ours.close()


class Process(Peer):
    """A program that answers lines with lines (go/main.go says which). `kill`: as `kill -9` does."""

    def __init__(self, command: Sequence[str | Path], dsn: str, schema: str) -> None:
        super().__init__()
        self._process = subprocess.Popen(
            [*command, schema],
            env={**os.environ, "DATABASE_URL": dsn, "TZ": "Asia/Kathmandu"},  # what is written depends on no zone
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: dict[int, dict[str, Any]] = {}
        self._asked = 0
        self._reader = threading.Thread(target=self._read, name="interop.reader", daemon=True)
        self._reader.start()

    @classmethod
    def ours(cls, dsn: str, schema: str) -> Process:
        return cls([sys.executable, "-m", "tests.interop.ours"], dsn, schema)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            if text.endswith("\n"):  # else cut short by a kill
                line = json.loads(text)
                if "event" in line:
                    self.heard(line)
                else:
                    with self._changed:
                        self._answers[line["id"]] = line
                        self._changed.notify_all()
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def call(self, name: str, params: dict[str, Any]) -> Any:
        return self.answer(self.ask(name, params))

    def ask(self, name: str, params: dict[str, Any]) -> int:
        """Begins a call; `answer` waits for its end."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            line = json.dumps({"id": asked, "call": name, "params": params}, ensure_ascii=False, separators=(",", ":"))
            assert self._process.stdin is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return asked

    def answer(self, asked: int, timeout: float = 60.0) -> Any:
        with self._changed:
            came = self._changed.wait_for(lambda: asked in self._answers or self.ended, timeout)
            assert came, f"no answer within {timeout:g} s"
            assert asked in self._answers, "the peer ended before it answered"
            answer = self._answers.pop(asked)
        if "error" in answer:
            raise PeerError(answer["error"], answer["sort"])
        return answer["result"]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(WAIT_MOST)

    def close(self) -> None:
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(WAIT_MOST)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(WAIT_MOST)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
