"""Deletes the rows of queues that nobody has worked for a day. River: QueueCleaner.

A maintenance service on its own thread. Whoever works a queue touches its row every ten minutes, paused or not.
"""

from __future__ import annotations

from river_fast.driver import RawRow, Statement
from river_fast.maintenance import MaintenanceService

RETENTION = 24 * 3600.0  # seconds; River's
NAMES_LOGGED = 20


class QueueCleaner(MaintenanceService):
    """A row that is made anew meanwhile, by a client that begins to work the queue, is untouched."""

    name = "queue_cleaner"
    interval = 3600.0

    def _work_batch(self, limit: int) -> int:
        with self._transaction() as executor:
            names = executor.run(Statement("queue_delete_expired", {"age": RETENTION, "limit": limit}, _names))
        if names:
            more = ", ..." if len(names) > NAMES_LOGGED else ""
            self._logger.info(
                "deleted %d queues that nobody worked: %s%s", len(names), ", ".join(names[:NAMES_LOGGED]), more
            )
        return len(names)


def _names(rows: list[RawRow], count: int) -> list[str]:
    return sorted((row[0] or b"").decode() for row in rows)
