"""Our client as `peers.py` asks it: the same calls, answers and behaviours of jobs as `go/` has on River's.

Calls from any thread. As a program, `python -m tests.interop.ours SCHEMA` with `DATABASE_URL` set, it reads lines and
writes lines as `go/main.go` says.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import river_fast as river
from tests.interop.args import insert_opts, job_args
from tests.interop.behaviour import Behaviour, Say
from tests.interop.fields import job_fields, queue_fields

SORTS = {
    river.NotFoundError: "not_found",
    river.JobRunningError: "running",
    river.UniqueConflictError: "unique",
    river.UnknownJobKindError: "unknown_kind",
}


def sort(error: BaseException) -> str:
    """What both sides tell apart."""
    return next((name for kind, name in SORTS.items() if isinstance(error, kind)), "other")


class RetryAfter:
    """Go's `retryAfter`."""

    def __init__(self, after: timedelta) -> None:
        self._after = after

    def next_retry(self, job: river.Job[Any]) -> datetime:
        return datetime.now(UTC) + self._after


class OurPeer:
    """One client on one schema. Each method is a call; `say` hears what happens."""

    def __init__(self, dsn: str, schema: str, say: Say) -> None:
        self._dsn, self._schema, self._say = dsn, schema, say
        self._behaviour = Behaviour(dsn, say)
        self._events: river.Subscription | None = None
        self._listener: threading.Thread | None = None
        self.client: river.Client

    def open(
        self,
        queues: Mapping[str, int] | None = None,
        kinds: Iterable[str] = (),
        follows: bool = False,
        cooldown_ms: int = 0,
        poll_ms: int = 0,
        rescue_ms: int = 0,
        retry_ms: int = 0,
        timeout_ms: int = 0,
        periodic: Iterable[Mapping[str, Any]] = (),
        known_kinds_only: bool = False,
        **config: Any,
    ) -> str:
        """What `openParams` of peer.go has; what else is given goes to the `Config` as it is."""
        for name, millis in (
            ("fetch_cooldown", cooldown_ms),
            ("fetch_poll_interval", poll_ms),
            ("rescue_stuck_jobs_after", rescue_ms),
            ("job_timeout", timeout_ms),
        ):
            if millis:
                config[name] = millis / 1000
        if retry_ms:
            config["retry_policy"] = RetryAfter(timedelta(milliseconds=retry_ms))
        config["fetch_only_known_kinds"] = known_kinds_only
        config["periodic_jobs"] = [periodic_job(params) for params in periodic]
        if queues:
            workers = river.Workers()
            for kind in kinds:
                workers.work(kind)(self._behaviour)
            config["queues"] = {name: river.QueueConfig(max_workers=most) for name, most in queues.items()}
            config["workers"] = workers
        self.client = river.Client(
            self._dsn,
            river.Config(schema=self._schema, leader_election_disabled=follows, test_only=True, **config),
        )
        return self.client.id

    def start(self) -> None:
        self._events = self.client.subscribe(buffer_size=100_000)
        self._listener = threading.Thread(target=self._listen, args=(self._events,), name="interop.events", daemon=True)
        self._listener.start()
        self.client.start()

    def _listen(self, events: river.Subscription) -> None:
        for event in events:
            line: dict[str, Any] = {"event": str(event.kind)}
            if event.job is not None:
                line["job"] = job_fields(event.job)
            if event.queue is not None:
                line["queue"] = event.queue
            self._say(line)

    def stop(self) -> None:
        self.client.stop(30)

    def request_resign(self) -> None:
        self.client.notify.request_resign()

    def stop_and_cancel(self) -> None:
        self.client.stop_and_cancel(30)

    def close(self) -> None:
        if hasattr(self, "client"):
            self.client.stop_and_cancel(10)
        if self._events is not None and self._listener is not None:
            self._events.close()
            self._listener.join(10)

    def release(self, id: int) -> None:
        self._behaviour.released(id).set()

    # Inserting.

    def insert(
        self, kind: str, args: Any = None, text: str = "", opts: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        return result_fields(self.client.insert(job_args(kind, args, text), insert_opts(**opts or {})))

    def insert_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [result_fields(result) for result in self.client.insert_many(many_params(jobs))]

    def insert_many_fast(self, jobs: Iterable[Mapping[str, Any]]) -> int:
        return self.client.insert_many_fast(many_params(jobs))

    # Jobs.

    def job_get(self, id: int) -> dict[str, Any]:
        return job_fields(self.client.job_get(id))

    def job_cancel(self, id: int) -> dict[str, Any]:
        return job_fields(self.client.job_cancel(id))

    def job_retry(self, id: int) -> dict[str, Any]:
        return job_fields(self.client.job_retry(id))

    def job_delete(self, id: int) -> dict[str, Any]:
        return job_fields(self.client.job_delete(id))

    def job_update(self, id: int, **output: Any) -> dict[str, Any]:
        return job_fields(self.client.job_update(id, **output))

    def job_list(self, **params: Any) -> dict[str, Any]:
        result = self.client.job_list(**params)
        jobs = [job_fields(job) for job in result.jobs]
        return {"jobs": jobs, "cursor": str(result.last_cursor) if jobs else None}

    def job_delete_many(self, **params: Any) -> list[dict[str, Any]]:
        return [job_fields(job) for job in self.client.job_delete_many(**params)]

    # Queues.

    def queue_get(self, name: str) -> dict[str, Any]:
        return queue_fields(self.client.queue_get(name))

    def queue_list(self) -> list[dict[str, Any]]:
        return [queue_fields(queue) for queue in self.client.queue_list()]

    def queue_pause(self, name: str) -> None:
        self.client.queue_pause(name)

    def queue_resume(self, name: str) -> None:
        self.client.queue_resume(name)

    def queue_update(self, name: str, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return queue_fields(self.client.queue_update(name, metadata))


def periodic_job(params: Mapping[str, Any]) -> river.PeriodicJob:
    (job,) = many_params([params["job"]])
    schedule = river.PeriodicInterval(timedelta(milliseconds=params["every_ms"]))
    return river.PeriodicJob(schedule, lambda: job, params["id"], params["at_start"])


def many_params(jobs: Iterable[Mapping[str, Any]]) -> list[river.InsertManyParams]:
    return [
        river.InsertManyParams(
            job_args(job["kind"], job.get("args"), job.get("text", "")), insert_opts(**job.get("opts") or {})
        )
        for job in jobs
    ]


def result_fields(result: river.JobInsertResult) -> dict[str, Any]:
    return {"job": job_fields(result.job), "duplicate": result.unique_skipped_as_duplicate}


def main(schema: str) -> None:
    output = threading.Lock()

    def say(line: Mapping[str, Any]) -> None:
        text = json.dumps(line) + "\n"
        with output:
            sys.stdout.write(text)
            sys.stdout.flush()

    peer = OurPeer(os.environ["DATABASE_URL"], schema, say)

    def answer(asked: Mapping[str, Any]) -> None:
        call: Callable[..., Any] = getattr(peer, asked["call"])
        try:
            say({"id": asked["id"], "result": call(**asked["params"])})
        except Exception as error:
            say({"id": asked["id"], "error": f"{type(error).__name__}: {error}", "sort": sort(error)})

    with ThreadPoolExecutor(8) as answers:
        for line in sys.stdin:
            answers.submit(answer, json.loads(line))
        peer.close()


if __name__ == "__main__":
    main(sys.argv[1])
