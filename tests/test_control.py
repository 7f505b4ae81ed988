"""Control messages: what River sends is read, all else is nothing."""

from __future__ import annotations

from typing import Any

import pytest

from river_fast.control import ControlAction, ControlMessage, channel, parse_control


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"action": "cancel", "job_id": 7, "queue": "q1"}, ControlMessage(ControlAction.CANCEL, "q1", 7)),
        ({"action": "pause", "queue": "*"}, ControlMessage(ControlAction.PAUSE, "*")),
        ({"action": "resume", "queue": "q1", "later": 1}, ControlMessage(ControlAction.RESUME, "q1")),
        (
            {"action": "metadata_changed", "queue": "q1", "metadata": {"a": 1}},
            ControlMessage(ControlAction.METADATA_CHANGED, "q1", metadata={"a": 1}),
        ),
        (
            {"action": "metadata_changed", "queue": "q1"},
            ControlMessage(ControlAction.METADATA_CHANGED, "q1", metadata={}),
        ),
    ],
)
def test_what_river_sends_is_read(payload: dict[str, Any], message: ControlMessage) -> None:
    assert parse_control(payload) == message


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"action": "explode", "queue": "q1"},
        {"action": ["pause"], "queue": "q1"},
        {"action": None, "queue": "q1"},
        {"action": "pause"},
        {"action": "pause", "queue": ""},
        {"action": "pause", "queue": 1},
        {"action": "cancel", "queue": "q1"},
        *({"action": "cancel", "queue": "q1", "job_id": bad} for bad in (0, -1, 2**63, "7", 7.0, True, None, [7])),
    ],
)
def test_what_river_never_sends_is_nothing(payload: dict[str, Any]) -> None:
    assert parse_control(payload) is None


def test_a_star_concerns_every_queue_but_for_a_cancel() -> None:
    assert ControlMessage(ControlAction.PAUSE, "*").concerns("q1")
    assert ControlMessage(ControlAction.PAUSE, "q1").concerns("q1")
    assert not ControlMessage(ControlAction.PAUSE, "q2").concerns("q1")
    assert not ControlMessage(ControlAction.CANCEL, "*", 1).concerns("q1")


def test_a_channel_is_the_schema_and_the_topic() -> None:
    assert channel("My Schema", "river_control") == "My Schema.river_control"
