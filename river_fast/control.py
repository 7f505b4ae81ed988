"""What travels on the control topic: cancel a job; pause, resume or change a queue. River: controlEventPayload.

Pure values, any thread. Anybody who may NOTIFY can send anything, so a payload is read with suspicion and never raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

CONTROL_TOPIC = "river_control"
INSERT_TOPIC = "river_insert"
LEADERSHIP_TOPIC = "river_leadership"

ALL_QUEUES = "*"
BIGINT_MAX = 2**63 - 1


class ControlAction(StrEnum):
    """River's words."""

    CANCEL = "cancel"
    METADATA_CHANGED = "metadata_changed"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """`job_id` is set for `CANCEL` alone; `metadata`, the queue's new one as a whole, for `METADATA_CHANGED` alone.

    `queue` may be `"*"`, every queue, for `PAUSE` and `RESUME`.
    """

    action: ControlAction
    queue: str
    job_id: int = 0
    metadata: Mapping[str, Any] | None = None

    def concerns(self, queue: str) -> bool:
        return self.queue == queue or (self.queue == ALL_QUEUES and self.action is not ControlAction.CANCEL)


def parse_control(payload: Mapping[str, Any]) -> ControlMessage | None:
    """The message, or None for what no River client sends (River ignores that as well)."""
    action, queue, job_id, metadata = (payload.get(key) for key in ("action", "queue", "job_id", "metadata"))
    if not isinstance(queue, str) or not queue or not isinstance(action, str) or action not in list(ControlAction):
        return None
    known = ControlAction(action)
    if known is ControlAction.CANCEL:
        if isinstance(job_id, bool) or not isinstance(job_id, int) or not 0 < job_id <= BIGINT_MAX:
            return None
        return ControlMessage(known, queue, job_id)
    if known is ControlAction.METADATA_CHANGED:
        # River leaves an empty object out
        return ControlMessage(known, queue, metadata=metadata) if isinstance(metadata, dict) else ControlMessage(
            known, queue, metadata={}
        )
    return ControlMessage(known, queue)


def channel(schema: str, topic: str) -> str:
    """The LISTEN/NOTIFY channel of a topic. River: the same."""
    return f"{schema}.{topic}"
