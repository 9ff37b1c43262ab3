"""A workflow's history, one readable line an event."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent

# Of the attributes, the ones that tell the story.
SHOWN = (
    *("workflow_type", "activity_type", "signal_name", "timer_id", "workflow_execution", "workflow_id"),
    *("input", "result", "failure", "last_failure", "attempt", "task_queue", "timeout_type"),
    *("start_to_fire_timeout", "accepted_request", "outcome", "scheduled_event_id", "initiated_event_id"),
)
SHOWN_CHARACTERS = 110


def lines(events: Iterable[HistoryEvent]) -> Iterable[str]:
    """Yields a line for each event: id, seconds since the start, type, and the attributes that matter."""
    started_ms = None
    for event in events:
        at_ms = event.event_time.ToMilliseconds()
        started_ms = at_ms if started_ms is None else started_ms
        name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
        title = "".join(word.capitalize() for word in name.split("_"))
        yield f"{event.event_id:>4} {(at_ms - started_ms) / 1000:>7.3f} s  {title:<39} {_attributes(event)}"


def _attributes(event: HistoryEvent) -> str:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    fields = {field.name: _text(field, value) for field, value in attributes.ListFields()}
    text = " ".join(f"{name}={fields[name]}" for name in SHOWN if fields.get(name))
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _text(field: FieldDescriptor, value: Any) -> str:
    match value:
        case Payloads():
            return ", ".join(payload.data.decode(errors="replace") for payload in value.payloads)
        case Failure():
            return f'"{value.message}"'
        case WorkflowExecution():
            return str(value.workflow_id)
        case Duration():
            return f"{value.ToMilliseconds() / 1000:g}s"
    if field.enum_type:
        return str(field.enum_type.values_by_number[value].name).removeprefix("TIMEOUT_TYPE_").lower()
    if field.name == "accepted_request":
        return f"{value.input.name}({_text(field, value.input.args)})"
    if field.name == "outcome":
        return _text(field, getattr(value, value.WhichOneof("value")))
    return str(getattr(value, "name", value))
