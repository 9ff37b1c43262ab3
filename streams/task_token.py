"""The opaque token that a worker hands back with a task's outcome."""

from __future__ import annotations

from typing import Annotated

import msgspec

from streams.avro import DecodeError

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class TaskToken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which task a worker answers for. `task_kind` is "workflow", "activity" or "query".

    `started_event_id` is of a workflow task, `activity_id` of an activity, `query_id` of a query task. Only this
    server reads its tokens, in releases that may differ: fields are added at the end.
    """

    namespace: str
    workflow_id: str
    run_id: str
    task_kind: str
    scheduled_event_id: Number
    attempt: Number
    stamp: Number = 0
    started_event_id: Number = 0
    activity_id: str = ""
    query_id: str = ""
    queue: str = ""

    def encode(self) -> bytes:
        """The bytes for the wire."""
        return _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> TaskToken:
        """The token in `data`. Raises DecodeError."""
        try:
            return _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DecodeError(f"not a task token: {error}") from error


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TaskToken).decode
