"""A client's row in `river_fast_client` (line `fast`): who cannot be told to be dead by its id alone is told by it.

Written while the client is put together and at the end of its stop, on whatever thread those have; in between the
fetcher keeps the row alive by its key.
"""

from __future__ import annotations

import hashlib
import logging
import os

from river_fast.config import GENERATED_ID
from river_fast.driver import Capabilities, Driver, Statement
from river_fast.errors import DatabaseError
from river_fast.migrate import FAST, has_version

SINCE = 1  # the version of `fast` that made the table
KEY_MAX = 2**63 - 1


def lock_key(client_id: str, schema: str) -> int:
    """The advisory lock that a living client holds, 1 to 2**63 - 1: in a generated id itself, else hashed from it."""
    generated = GENERATED_ID.match(client_id)
    key = int(generated["key"], 16) if generated else _hashed(f"river_fast liveness\0{schema}\0{client_id}")
    return key & KEY_MAX or 1


def watcher_key(schema: str) -> int:
    """The advisory lock of whoever watches over a schema's clients, 1 to 2**63 - 1."""
    return _hashed(f"river_fast watcher\0{schema}") & KEY_MAX or 1


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")



class Registration:
    """`migrated`: there is the table. `lock_key`: of the client's lock. `key`: of its row, 0 where it needs none or can
    have none (then its log says what that means): that of the lock, or, without session locks, one of this start's own.
    """

    def __init__(
        self, driver: Driver, capabilities: Capabilities, client_id: str, logger: logging.Logger | None = None
    ) -> None:
        self._driver = driver
        self._client_id = client_id
        self._logger = logger or logging.getLogger("river_fast.registration")
        self.lock_key = lock_key(client_id, driver.schema)
        self.migrated = has_version(driver, FAST, SINCE)
        self.key = 0
        if capabilities.session_locks and GENERATED_ID.match(client_id):
            return
        if self.migrated:
            fresh = int.from_bytes(os.urandom(8), "big") & KEY_MAX or 1
            self.key = self.lock_key if capabilities.session_locks else fresh
            return
        why, restart = "this server, or a pooler before it, has no session locks", ""
        if capabilities.session_locks:
            why, restart = "its id was given", " or for a client that starts with this id"
        self._logger.info(
            "should this client die, its jobs wait for the job rescuer (rescue_stuck_jobs_after)%s, as %s;"
            " they run again within seconds where schema %s has migration line fast: river-fast migrate-up --line fast",
            restart, why, driver.schema,
        )

    def remove(self, timeout: float) -> None:
        """At the end of a stop, the fetcher gone. Where it fails, whoever watches finds the row's client dead."""
        if self.key == 0:
            return
        try:
            with self._driver.autocommit(timeout) as executor:
                executor.run(Statement("client_remove", {"id": self._client_id, "key": self.key}))
        except DatabaseError as error:
            self._logger.debug("this client's row could not be removed: %s", error)
