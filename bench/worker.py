"""One worker process of the throughput run: works what is in a schema with the public Client, and says what it used.

Started by `throughput.py`. Prints "ready" when all is imported and made, starts the client when a line comes on stdin,
prints one JSON object when the last outcome is acknowledged, stops the client, and says whether it stopped gracefully.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import river_fast as river
from river_fast.cli.meter import peak_rss_mb


@dataclass
class NoopArgs(river.JobArgs, kind="bench_noop"):
    num: int = 0


def noop_workers(asynchronous: bool) -> river.Workers:
    workers = river.Workers()
    if asynchronous:

        async def work_async(job: river.Job[NoopArgs]) -> None:
            pass

        workers.work(NoopArgs)(work_async)
    else:

        def work(job: river.Job[NoopArgs]) -> None:
            pass

        workers.work(NoopArgs)(work)
    return workers


def recorded(client: river.Client) -> int:
    """Outcomes whose COMMIT was acknowledged."""
    return client.stats()["completer_recorded"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--schema", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--max-workers", type=int, default=2000)
    parser.add_argument("--async", dest="asynchronous", action="store_true")
    parser.add_argument("--timeout", type=float, default=600.0)
    options = parser.parse_args()

    config = river.Config(
        schema=options.schema,
        queues={"default": river.QueueConfig(max_workers=options.max_workers)},
        workers=noop_workers(options.asynchronous),
    )
    client = river.Client(options.database_url, config)
    print("ready", flush=True)
    sys.stdin.readline()

    started, cpu = time.time(), time.process_time()
    client.start()
    deadline = time.monotonic() + options.timeout
    while recorded(client) < options.jobs and time.monotonic() < deadline:
        time.sleep(0.005)
    finished, cpu = time.time(), time.process_time() - cpu
    figures = {
        "started": started,
        "finished": finished,
        "client_cpu": cpu,
        "peak_rss_mb": peak_rss_mb(),
        "threads": len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None,
        "stats": client.stats(),
    }
    print(json.dumps(figures), flush=True)
    print(json.dumps({"graceful": client.stop(30).graceful}), flush=True)


if __name__ == "__main__":
    main()
