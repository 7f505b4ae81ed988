"""The loop of our own: uvloop's, or asyncio's with a selector that wakes on time."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from typing import Any

import pytest

from river_fast import event_loop
from river_fast.event_loop import new_event_loop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere asyncio's own selector is exact")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What select() was asked to wait."""
    asked: list[float] = []
    real = select.select

    def recording(readable: Any, writable: Any, broken: Any, timeout: float) -> Any:
        asked.append(timeout)
        return real(readable, writable, broken, timeout)

    monkeypatch.setattr(select, "select", recording)
    return asked


def test_waits_are_not_rounded_to_milliseconds(waits: list[float]) -> None:
    with event_loop.PunctualSelector() as selector:
        assert selector.select(0.0003) == []
    assert waits == [0.0003]


def test_wait_ends_when_something_is_ready(waits: list[float]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, event_loop.PunctualSelector() as selector:
        selector.register(ours, event_loop.selectors.EVENT_READ, "ours")
        theirs.send(b"x")
        (found,) = selector.select(3600)
        assert found[0].data == "ours"
        assert selector.select(0)
        assert selector.select(None)
    assert waits == [3600]


def test_descriptor_too_high_for_select_waits_as_asyncio_does(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "FD_SETSIZE", 0)
    with event_loop.PunctualSelector() as selector:
        assert selector.select(0.0003) == []
    assert waits == []


def test_loop_without_uvloop_sleeps_by_it(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    try:
        loop.run_until_complete(asyncio.sleep(0.0015))
    finally:
        loop.close()
    assert waits
    assert all(0 < wait <= 0.0015 for wait in waits)


def test_uvloop_is_taken_where_it_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = new_event_loop()
    assert isinstance(loop, uvloop.Loop)
    loop.close()
