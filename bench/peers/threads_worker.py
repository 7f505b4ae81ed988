"""The bare arithmetic of Python threads, as a contestant of bench/decide.py: each sleeps as long as a job, in a loop.

What a queue with that many workers cannot beat on this machine. No database is asked.
"""

from __future__ import annotations

import threading
import time

import protocol

OPTIONS = protocol.parse(__doc__.splitlines()[0], ("work",))


def main() -> None:
    sleep, stop = OPTIONS.sleep_ms / 1000, threading.Event()
    turns = [0] * OPTIONS.max_workers
    protocol.ready()
    before, first = time.process_time(), time.time()

    def loop(number: int) -> None:
        while not stop.is_set():
            time.sleep(sleep)
            turns[number] += 1

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(OPTIONS.max_workers)]
    for thread in threads:
        thread.start()
    told = protocol.told_to_stop()
    while not told.wait(0.005):
        protocol.say(worked=sum(turns))
    stop.set()
    used, begin = time.process_time() - before, time.monotonic()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begin
    protocol.say(worked=sum(turns), cpu_s=used, stop_s=seconds, first=first, most=OPTIONS.max_workers)


if __name__ == "__main__":
    main()
