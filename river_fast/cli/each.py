"""Does something to each of several things named on a command line, and shows what was done, whatever ends it.

Runs on the main thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from river_fast.cli.database import warn
from river_fast.errors import NotFoundError, RiverError


def do_each(
    names: Iterable[Any],
    verb: Callable[[Any], Any],
    show: Callable[[list[Any]], None],
    *,
    refusals: tuple[type[RiverError], ...] = (NotFoundError,),
    told: Callable[[Any, RiverError], str] = lambda name, error: str(error),
) -> int:
    """`show` is given what the verb gave for each. 1 where one of them was refused, which stderr is told of by `told`.

    What ends it in the middle, a server that is gone or Ctrl-C, leaves after `show`: what was done, was done.
    """
    done, status = [], 0
    try:
        for name in names:
            try:
                done.append(verb(name))
            except refusals as error:
                warn(f"river-fast: {told(name, error)}")
                status = 1
    except BaseException:
        if done:
            show(done)
        raise
    show(done)
    return status
