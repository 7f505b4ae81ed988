"""A program of a user's, run by test_packaging.py in environments of its own: one sync and one async job, worked by
whatever river_fast is installed. Arguments: a database URL, a migrated schema. Prints what it saw as JSON."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg

import river_fast as river


@dataclass
class Double(river.JobArgs, kind="double"):
    number: int


@dataclass
class DoubleSoon(river.JobArgs, kind="double_soon"):
    number: int


workers = river.Workers()


@workers.work(Double)
def double(job: river.Job[Double]) -> None:
    job.record_output(job.args.number * 2)


@workers.work(DoubleSoon)
async def double_soon(job: river.Job[DoubleSoon]) -> None:
    job.record_output(job.args.number * 2)


def main() -> None:
    url, schema = sys.argv[1:]
    config = river.Config(schema=schema, queues={"default": river.QueueConfig(max_workers=10)}, workers=workers)
    client = river.Client(url, config)
    with client:
        jobs = [client.insert(args).job for args in (Double(21), DoubleSoon(4))]
        done = [client.wait(job, timeout=30) for job in jobs]
    maps = Path("/proc/self/maps")
    libraries = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line} if maps.exists() else set()
    print(
        json.dumps(
            {
                "states": [job.state for job in done],
                "outputs": [job.output for job in done],
                "psycopg": psycopg.pq.__impl__,
                "libpq": sorted(name for name in libraries if "/libpq" in name),
                "river_fast": str(Path(river.__file__).parent),
            }
        )
    )


main()
