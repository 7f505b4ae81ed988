"""The PostgreSQL of the bench that decides, where none is given: an embedded one with a real server's settings.

Durability is PostgreSQL's default. Memory and log are large enough that no run meets a checkpoint; statements are
counted where the extension is there. The server stops with the program; its data stay for the next time.
"""

from __future__ import annotations

import os
from pathlib import Path

from river_fast import embedded
from river_fast.errors import DatabaseError

SETTINGS = {"shared_buffers": "2GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
COUNTING = {"shared_preload_libraries": "pg_stat_statements"}
MEMORY_SHARE = 4  # at most this part of the machine's memory for shared_buffers


def start(data_dir: Path | None) -> str:
    """Its URL."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    settings = SETTINGS | {"shared_buffers": f"{min(2048, memory // 2**20 // MEMORY_SHARE)}MB"}
    try:
        return _start(data_dir, settings | COUNTING)
    except DatabaseError:  # not every PostgreSQL has its extensions beside it
        return _start(data_dir, settings)


def _start(data_dir: Path | None, settings: dict[str, str]) -> str:
    before = dict(embedded.SETTINGS)
    embedded.SETTINGS.update(settings)
    try:
        # beside the default one, so that whoever may own that one's files may own these
        home = data_dir or embedded._default_home().with_name("river_fast_bench")
        return embedded.start(home, stop_at_exit=True).url
    finally:
        embedded.SETTINGS.clear()
        embedded.SETTINGS.update(before)
