"""Inserting several periodic jobs together, and apart where one of them cannot be inserted.

For the enqueuer's thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeVar

from river_fast.driver import Executor, Statement
from river_fast.errors import (
    ClientStoppedError,
    DatabaseError,
    InsertOutcomeUnknownError,
    MigrationError,
    RiverError,
)
from river_fast.insert_opts import InsertManyParams, JobInsertResult

T = TypeVar("T")
InsertThen = Callable[[Sequence[InsertManyParams], Sequence[Statement[Any]]], list[JobInsertResult]]

# SQLSTATE classes of what is wrong with a row, not with the server: data, constraints, what a trigger raises
OF_THE_ROW: Final = ("21", "22", "23", "P0")


class NotInsertedError(RiverError):
    """What was found after the insert makes it void: the transaction is rolled back, and all is looked at anew."""


class Insert(Protocol):
    """Inserts as a client does, with River's own metadata; `then` in the same transaction, after it; `within` entered
    with its executor."""

    def __call__(
        self,
        params: Sequence[InsertManyParams],
        then: Sequence[Statement[Any]],
        within: Callable[[Executor], AbstractContextManager[None]],
        /,
    ) -> list[JobInsertResult]: ...


def insert_apart(
    items: Sequence[T], send: Callable[[Sequence[T]], None], lost: Callable[[T, BaseException], None]
) -> None:
    """`send` all of them, in one transaction; where that fails for what one of them is, each in its own, and `lost` is
    told of the one. Raises what is wrong with all of them."""
    try:
        send(items)
    except BaseException as error:  # of hooks and middleware too, which may exit
        if is_of_all(error):
            raise
        if len(items) == 1:
            lost(items[0], error)
            return
        for item in items:
            insert_apart([item], send, lost)


def is_of_all(error: BaseException) -> bool:
    """Whether it may be another time, with the same jobs."""
    if isinstance(error, DatabaseError):
        return error.sqlstate is None or error.sqlstate[:2] not in OF_THE_ROW
    return isinstance(error, ClientStoppedError | InsertOutcomeUnknownError | MigrationError | NotInsertedError)
