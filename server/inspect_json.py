"""Structs of logs and tables as plain JSON values, the API messages inside them decoded."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import msgspec
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from temporalio.api.common.v1 import Memo, Payloads, SearchAttributes, WorkerVersionStamp
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    ActivityTaskScheduledEventAttributes,
    HistoryEvent,
    RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
    SignalExternalWorkflowExecutionInitiatedEventAttributes,
    StartChildWorkflowExecutionInitiatedEventAttributes,
    WorkflowExecutionStartedEventAttributes,
)
from temporalio.api.operatorservice import v1 as operator_api
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.update.v1 import Outcome, Request
from temporalio.api.workflow.v1 import ResetPoints
from temporalio.api.workflowservice import v1 as api

from streams import avro
from streams.bodies import ACTIVITY_TASK, StatePart
from streams.history import state

_INTERNAL_CALLS: Final = {"PrepareReset": api.ResetWorkflowExecutionRequest}
_MESSAGES: Final[dict[tuple[str, str], type[Message]]] = {
    ("Activity", "scheduled"): ActivityTaskScheduledEventAttributes,
    ("Activity", "details"): Payloads,
    ("Activity", "failure"): Failure,
    ("BufferedEvent", "event"): HistoryEvent,
    ("CancelExternal", "attributes"): RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
    ("Child", "initiated"): StartChildWorkflowExecutionInitiatedEventAttributes,
    ("ChildClosed", "event"): HistoryEvent,
    ("HistoryBatch", "events"): HistoryEvent,
    ("Query", "query"): WorkflowQuery,
    ("ResetPrepared", "events"): HistoryEvent,
    ("ResetPrepared", "reapply"): HistoryEvent,
    ("ResetPrepared", "request"): api.ResetWorkflowExecutionRequest,
    ("RunVisible", "memo"): Memo,
    ("RunVisible", "search_attributes"): SearchAttributes,
    ("SignalExternal", "attributes"): SignalExternalWorkflowExecutionInitiatedEventAttributes,
    ("StartChild", "attributes"): StartChildWorkflowExecutionInitiatedEventAttributes,
    ("StartChild", "start"): WorkflowExecutionStartedEventAttributes,
    ("StartChild", "user_metadata"): UserMetadata,
    ("Update", "request"): Request,
    ("Update", "outcome"): Outcome,
}
"""The message in a field of bytes, by struct and field."""

_PARTS: Final[dict[tuple[str, str], type[Message]]] = {
    (state.START, "data"): WorkflowExecutionStartedEventAttributes,
    (state.MEMO, "data"): Memo,
    (state.SEARCH, "data"): SearchAttributes,
    (state.METADATA, "data"): UserMetadata,
    (state.RESET_POINTS, "data"): ResetPoints,
    (state.WORKER, "data"): WorkerVersionStamp,
    (state.EXTERNAL_SIGNAL, "initiated"): SignalExternalWorkflowExecutionInitiatedEventAttributes,
    (state.EXTERNAL_CANCEL, "initiated"): RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
}
"""The message in a field of a part of a table, by the part's kind and field."""


def plain(value: msgspec.Struct, kind: str = "") -> dict[str, Any]:
    """A struct as JSON values; `kind` is that of a table's part. Undecodable bytes become base64."""
    return _struct(value, kind, {})


def _struct(value: msgspec.Struct, kind: str, outer: dict[str, Any]) -> dict[str, Any]:
    own = {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, StatePart):
        return _state_part(value)
    known = {**outer, **own}
    struct = type(value).__name__
    return {name: _field(item, _message(struct, name, kind, known), known) for name, item in own.items()}


def _field(item: Any, message: type[Message] | None, known: dict[str, Any]) -> Any:
    if isinstance(item, bytes):
        return encoded(item, message)
    if isinstance(item, msgspec.Struct):
        return _struct(item, "", known)
    if isinstance(item, tuple):
        return [_field(one, message, known) for one in item]
    return item


def _message(struct: str, field: str, kind: str, known: dict[str, Any]) -> type[Message] | None:
    """The class of the message in a field, None where it holds something else."""
    if field == "request" and "method" in known:
        return _request(known["method"])
    if struct in ("Poll", "PollTask", "Poller") and field == "request":
        activity = known.get("task_kind") == ACTIVITY_TASK
        return api.PollActivityTaskQueueRequest if activity else api.PollWorkflowTaskQueueRequest
    return _PARTS.get((kind, field)) or _MESSAGES.get((struct, field))


def _request(method: str) -> type[Message] | None:
    found: type[Message] | None = _INTERNAL_CALLS.get(method)
    for module in (api, operator_api):
        found = found or getattr(module, f"{method}Request", None)
    return found


def _state_part(part: StatePart) -> dict[str, Any]:
    cls = state.KINDS.get(part.kind)
    try:
        data = (
            base64.b64encode(part.data).decode()
            if cls is None
            else plain(avro.decode(cls, part.data), part.kind)
        )
    except avro.DecodeError as error:
        data = f"not decodable: {error}"
    return {"kind": part.kind, "id": part.id, "data": data}


def encoded(data: bytes, message: type[Message] | None) -> Any:
    """Bytes as the message they hold; in base64 where they hold none."""
    if message is None:
        return base64.b64encode(data).decode()
    try:
        decoded = message.FromString(data)
    except DecodeError:
        return {"undecodable": base64.b64encode(data).decode()}
    return _payloads_in_clear(MessageToDict(decoded, preserving_proto_field_name=True))


def _payloads_in_clear(value: Any) -> Any:
    """Payloads of JSON shown as that JSON, others with their encoding in clear."""
    if isinstance(value, list):
        return [_payloads_in_clear(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "metadata" in value and value.keys() <= {"metadata", "data"} and "encoding" in value["metadata"]:
        return _payload(value)
    return {name: _payloads_in_clear(item) for name, item in value.items()}


def _payload(value: dict[str, Any]) -> Any:
    metadata = {
        name: base64.b64decode(text).decode(errors="replace") for name, text in value["metadata"].items()
    }
    data = base64.b64decode(value.get("data", ""))
    if metadata["encoding"].startswith("json/"):
        try:
            return {"metadata": metadata, "data": json.loads(data)}
        except ValueError:
            pass
    return {"metadata": metadata, "data": value.get("data", "")}
