"""Signals belong to the thread whose handlers Python runs: the compiled loops take none, and leave no mask behind."""

from __future__ import annotations

import signal
import threading

from river_fast._ext import completer as compiled
from river_fast.completer import completer_statements
from river_fast.driver.psycopg import PsycopgDriver
from tests.fix_client import eventually


def test_compiled_loop_blocks_signals_while_it_runs_and_restores_the_mask(dsn: str, schema: str) -> None:
    driver = PsycopgDriver(dsn, schema)
    compiled.load_libpq(driver.libpq_path())
    completer = compiled.Completer(
        conninfo=driver.hot_conninfo("completer"),
        setup=driver.hot_setup("completer"),
        statements=completer_statements(driver),
    )
    masks: list[set[int]] = []
    blocked: list[str] = []

    def body() -> None:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        blocked.append(str(threading.get_native_id()))
        completer.run()
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    def mask_now() -> int:
        with open(f"/proc/self/task/{blocked[0]}/status") as status:
            return next(int(line.split()[1], 16) for line in status if line.startswith("SigBlk"))

    thread = threading.Thread(target=body)
    thread.start()
    try:
        eventually(lambda: blocked and mask_now() & (1 << (signal.SIGINT - 1)), 20, "SIGINT blocked in the loop")
        assert not mask_now() & (1 << (signal.SIGSEGV - 1))
    finally:
        completer.close(5)
        thread.join(30)
        driver.close()
    assert masks[0] == masks[1]
