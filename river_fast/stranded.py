"""Rows left `running` under a client's id that nobody works: how they are found, and freed.

The thread of the service that asks; owns nothing but the rows that the database would not let it write.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from river_fast.control import INSERT_TOPIC, channel
from river_fast.driver import Driver, RawRow, Statement
from river_fast.errors import DatabaseError

# (job id, attempted_at in microseconds since 2000): how those who hold a job name its run
Run = tuple[int, int]
# (queue, the state it has now) of a row that was freed
Freed = tuple[str, str]
Write = Callable[[Statement[list[Freed]]], list[Freed]]

BATCH = 1000  # rows a statement
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
DATA_CLASSES = ("22", "23")  # of SQLSTATE: the row's fault, and not the connection's


@dataclass(frozen=True, slots=True)
class Claim:
    """A row `running` under a client's id."""

    id: int
    attempt: int
    attempted_at: int

    @property
    def run(self) -> Run:
        return self.id, self.attempted_at


def running_under(client_id: str, age: float) -> Statement[list[Claim]]:
    """What the client claimed last, `age` seconds ago or earlier, and nobody has ended."""
    return Statement("job_get_running_by_client", {"client_id": client_id, "age": age}, claims)


class Freeing:
    """Frees claims by a statement of `sql/`, a thousand at a time, and one by one where the database refuses one."""

    def __init__(self, driver: Driver, logger: logging.Logger) -> None:
        self._notify = {"notify": driver.open().notify, "channel": channel(driver.schema, INSERT_TOPIC)}
        self._logger = logger
        self.refused: set[Claim] = set()  # rows the database would not let us write: the rescuer's

    def free(self, name: str, claims: list[Claim], write: Write) -> list[Freed]:
        """Those that were freed; locked ones are left for the next time, ended ones as what they are.

        `write` runs a statement, in a transaction of its own; [] where that may not be done now.
        """
        freed = []
        for start in range(0, len(claims), BATCH):
            batch = claims[start : start + BATCH]
            try:
                freed += write(self._statement(name, batch))
            except DatabaseError as error:
                if error.sqlstate is None or error.sqlstate[:2] not in DATA_CLASSES:
                    raise
                for claim in batch:
                    freed += self._free_alone(name, claim, write)
        return freed

    def _free_alone(self, name: str, claim: Claim, write: Write) -> list[Freed]:
        """One bad row must not keep the others."""
        try:
            return write(self._statement(name, [claim]))
        except DatabaseError as error:
            if error.sqlstate is None or error.sqlstate[:2] not in DATA_CLASSES:
                raise
            self.refused.add(claim)
            self._logger.error("job %d is stranded and cannot be freed; the rescuer will: %s", claim.id, error)
            return []

    def _statement(self, name: str, batch: list[Claim]) -> Statement[list[Freed]]:
        params: Mapping[str, Any] = {
            "ids": [claim.id for claim in batch],
            "attempts": [claim.attempt for claim in batch],
            "attempted_ats": [EPOCH + timedelta(microseconds=claim.attempted_at) for claim in batch],
            **self._notify,
        }
        return Statement(name, params, _queues_and_states)


def available(freed: list[Freed]) -> list[str]:
    """The queues that have work again."""
    return sorted({queue for queue, state in freed if state == "available"})


def claims(rows: list[RawRow], count: int) -> list[Claim]:
    """Of rows that are (id, attempt, attempted_at)."""
    return [Claim(integer(row[0]), integer(row[1]), integer(row[2])) for row in rows]


def integer(raw: bytes | None) -> int:
    """A bigint, a smallint, or a timestamp's microseconds; NULL is before all times."""
    return -(2**63) if raw is None else int.from_bytes(raw, "big", signed=True)


def microseconds(at: datetime) -> int:
    """Since 2000, exactly: a float's seconds would lose some."""
    return (at - EPOCH) // timedelta(microseconds=1)


def _queues_and_states(rows: list[RawRow], count: int) -> list[Freed]:
    return [((queue or b"").decode(), (state or b"").decode()) for _, queue, state in rows]
