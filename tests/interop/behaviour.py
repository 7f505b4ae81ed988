"""What a job's args ask of its worker, as `go/worker.go` and `go/step.go` read them on River's side.

Runs on the client's worker threads; keeps which of the blocked jobs are released.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

import river_fast as river
from tests.interop.fields import job_fields

Say = Callable[[dict[str, Any]], None]


class Behaviour:
    """The work function of every kind."""

    def __init__(self, dsn: str, say: Say) -> None:
        self._dsn = dsn
        self._say = say
        self._lock = threading.Lock()
        self._released: dict[int, threading.Event] = {}

    def released(self, job_id: int) -> threading.Event:
        with self._lock:
            return self._released.setdefault(job_id, threading.Event())

    def __call__(self, job: river.Job[Any]) -> None:
        self._say({"event": "working", "job": job_fields(job)})
        asked = job.args
        if not isinstance(asked, Mapping):
            return
        if asked.get("hold"):
            self.released(job.id).wait()
        for key, value in (asked.get("set") or {}).items():
            job.set_metadata(key, value)
        if "log" in asked:
            job.logger.info("%s", asked["log"])
        if "output" in asked:
            job.record_output(asked["output"])
        times = asked.get("times", 0)
        if not isinstance(times, int) or not times or job.attempt <= times:
            self._act(job, asked)

    def _act(self, job: river.Job[Any], asked: Mapping[str, Any]) -> None:
        do, text, seconds = asked.get("do", ""), asked.get("text", ""), asked.get("ms", 0) / 1000
        if do == "block":
            self._block(job, deaf=asked.get("deaf", False), text=text)
        elif do == "cancel":
            raise river.JobCancelError(text)
        elif do in ("fail", "panic"):
            raise RuntimeError(text)
        elif do == "sleep":
            time.sleep(seconds)
        elif do == "snooze":
            if not job.metadata.get("snoozes"):
                raise river.JobSnoozeError(seconds)
        elif do == "steps":
            for step in asked["steps"]:
                self._take(job, step)
        elif do:
            raise ValueError(f"unknown behaviour {do!r}")

    def _block(self, job: river.Job[Any], deaf: bool, text: str) -> None:
        """Wait until the job is released or told to end; fail where there is a text."""
        released = self.released(job.id)
        while not released.is_set() and not job.wait_cancelled(0.005):
            pass
        if not released.is_set():
            self._say({"event": "told", "job": job_fields(job)})
            if not deaf:
                job.raise_if_cancelled()
            released.wait()
        if text:
            raise RuntimeError(text)

    def _take(self, job: river.Job[Any], step: Mapping[str, Any]) -> None:
        if step.get("cursor"):
            job.step_cursor(step["name"], lambda cursor: self._in_step(job, step, cursor))
        else:
            job.step(step["name"], lambda: self._in_step(job, step))

    def _in_step(self, job: river.Job[Any], step: Mapping[str, Any], cursor: Any = None) -> None:
        self._say({"event": "step", "job": job_fields(job), "step": step["name"], "cursor": cursor})
        if job.attempt != step.get("attempt"):
            return
        if step.get("tx"):
            with psycopg.connect(self._dsn) as conn:
                if "set" in step:
                    job.set_cursor_tx(conn, step["set"])
                else:
                    job.set_step_tx(conn)
        elif "set" in step:
            job.set_cursor(step["set"])
        if step.get("block"):
            self.released(job.id).wait()
        text = f"in step {step['name']}"
        match step.get("ends"):
            case "cancel":
                raise river.JobCancelError(text)
            case "fail" | "panic":
                raise RuntimeError(text)
            case "snooze":
                raise river.JobSnoozeError(3600)
