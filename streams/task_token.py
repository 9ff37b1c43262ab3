"""The opaque token that a worker hands back with a task's outcome."""

from __future__ import annotations

import msgspec

from streams import avro


class TaskToken(msgspec.Struct, frozen=True):
    """Which task a worker answers for. `task_kind` is "workflow", "activity" or "query".

    `started_event_id` is of a workflow task, `activity_id` of an activity, `query_id` of a query task.
    """

    namespace: str
    workflow_id: str
    run_id: str
    task_kind: str
    scheduled_event_id: int
    attempt: int
    stamp: int = 0
    started_event_id: int = 0
    activity_id: str = ""
    query_id: str = ""
    queue: str = ""

    def encode(self) -> bytes:
        """The bytes for the wire."""
        return avro.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> TaskToken:
        """The token in `data`. Raises avro.DecodeError."""
        return avro.decode(cls, data)
