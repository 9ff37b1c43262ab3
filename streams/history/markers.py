"""What workflows note about themselves: markers, search attributes, memo.

Behaviour: the commands' handlers and MergeMapOfPayload of the real server.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message
from temporalio.api.command.v1 import (
    ModifyWorkflowPropertiesCommandAttributes,
    RecordMarkerCommandAttributes,
    UpsertWorkflowSearchAttributesCommandAttributes,
)
from temporalio.api.common.v1 import Memo, Payload, SearchAttributes
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    MarkerRecordedEventAttributes,
    UpsertWorkflowSearchAttributesEventAttributes,
    WorkflowPropertiesModifiedEventAttributes,
)

from streams import attribute_values
from streams.attribute_values import InvalidSearchAttributes
from streams.history import command_checks, state, visibility
from streams.history.calls import handles_command
from streams.history.commands import Commands
from streams.history.errors import BadCommand
from streams.history.evolve import applies, emits
from streams.history.failure_depth import cut_causes
from streams.history.run import Run
from streams.history.values import copy_fields

CAUSE = WorkflowTaskFailedCause
BAD_MARKER = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES
BAD_SEARCH = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
BAD_PROPERTIES = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES

_REMOVALS = (b"", b"[]")
"""Data of a payload that removes what it is set for: null, or an empty list."""


# --- markers ---


@handles_command(CommandType.COMMAND_TYPE_RECORD_MARKER, "record_marker_command_attributes")
def record_marker(commands: Commands, attributes: RecordMarkerCommandAttributes) -> None:
    """Note something for the workflow's own replay."""
    commands.require_attributes("RecordMarker", BAD_MARKER)
    name, limit = attributes.marker_name, commands.step.limits.id_length
    if not name:
        raise BadCommand(BAD_MARKER, "MarkerName is not set on RecordMarkerCommand.")
    if length := command_checks.too_long(name, limit):
        raise BadCommand(
            BAD_MARKER,
            "MarkerName on RecordMarkerCommand exceeds length limit. "
            f"MarkerName={name} Length={length} Limit={limit}",
        )
    size_bytes = sum(len(key.encode()) + value.ByteSize() for key, value in attributes.details.items())
    commands.check_size(size_bytes, BAD_MARKER, "RecordMarkerCommandAttributes.Details exceeds size limit.")
    marker = MarkerRecordedEventAttributes(
        marker_name=name,
        details=attributes.details,
        workflow_task_completed_event_id=commands.completed_event_id,
    )
    cut_causes(attributes.failure)
    copy_fields(attributes, marker, "header", "failure")
    commands.run.record(EventType.EVENT_TYPE_MARKER_RECORDED, marker, **commands.event_extra)


# --- search attributes ---


@handles_command(
    CommandType.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
    "upsert_workflow_search_attributes_command_attributes",
)
def upsert_search_attributes(
    commands: Commands, attributes: UpsertWorkflowSearchAttributesCommandAttributes
) -> None:
    """Set and remove search attributes of the run."""
    command = "UpsertWorkflowSearchAttributesCommand"
    commands.require_attributes("UpsertWorkflowSearchAttributes", BAD_SEARCH)
    run, limits = commands.run, commands.step.limits
    types = command_checks.attribute_types(command_checks.target_namespace(commands, ""))
    upserted = attributes.search_attributes
    try:
        attribute_values.check_names(upserted, run.core.namespace, types)
        if not attributes.HasField("search_attributes"):
            raise BadCommand(BAD_SEARCH, f"SearchAttributes is not set on {command}.")
        if not upserted.indexed_fields:
            raise BadCommand(BAD_SEARCH, f"IndexedFields is not set on {command}.")
        attribute_values.check_values(upserted, types, limits)
    except InvalidSearchAttributes as error:
        raise BadCommand(BAD_SEARCH, str(error)) from error
    commands.check_size(
        _size_bytes(upserted.indexed_fields), BAD_SEARCH, f"{command}Attributes exceeds size limit."
    )
    merged = SearchAttributes(
        indexed_fields=_merged(_search_attributes(run).indexed_fields, upserted.indexed_fields)
    )
    command_checks.check_attribute_sizes(merged, limits, BAD_SEARCH)
    attribute_values.mark_types(upserted, types)
    run.record(
        EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        UpsertWorkflowSearchAttributesEventAttributes(
            workflow_task_completed_event_id=commands.completed_event_id, search_attributes=upserted
        ),
        **commands.event_extra,
    )


def _search_attributes(run: Run) -> SearchAttributes:
    blob: state.Blob | None = run.entity.get(state.SEARCH)
    return SearchAttributes() if blob is None else SearchAttributes.FromString(blob.data)


def _size_bytes(fields: Mapping[str, Payload]) -> int:
    return sum(len(key.encode()) + len(value.data) for key, value in fields.items())


def _merged(fields: Mapping[str, Payload], upserted: Mapping[str, Payload]) -> dict[str, Payload]:
    """What stands once some are set anew and some removed."""
    merged = {**fields, **upserted}
    return {
        name: payload
        for name, payload in merged.items()
        if name not in upserted or payload.data not in _REMOVALS
    }


def _put(run: Run, kind: str, message: Message, is_empty: bool) -> None:
    run.put(kind, "", None if is_empty else state.Blob(message.SerializeToString(deterministic=True)))


@applies(EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
def _upserted(run: Run, event: HistoryEvent) -> None:
    upserted = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
    fields = _merged(_search_attributes(run).indexed_fields, upserted)
    _put(run, state.SEARCH, SearchAttributes(indexed_fields=fields), not fields)


# --- memo ---


@handles_command(
    CommandType.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES, "modify_workflow_properties_command_attributes"
)
def modify_properties(commands: Commands, attributes: ModifyWorkflowPropertiesCommandAttributes) -> None:
    """Set and remove fields of the run's memo."""
    command = "ModifyWorkflowPropertiesCommand"
    commands.require_attributes("ModifyWorkflowProperties", BAD_PROPERTIES)
    upserted = attributes.upserted_memo
    if not attributes.HasField("upserted_memo"):
        raise BadCommand(BAD_PROPERTIES, f"UpsertedMemo is not set on {command}.")
    if not upserted.fields:
        raise BadCommand(BAD_PROPERTIES, f"UpsertedMemo.Fields is not set on {command}.")
    commands.check_size(
        _size_bytes(upserted.fields), BAD_PROPERTIES, f"{command}Attributes exceeds size limit."
    )
    run = commands.run
    memo = Memo(fields=_merged(_memo(run).fields, upserted.fields))
    message = f"{command}Attributes. Memo exceeds size limit."
    command_checks.check_memo_size(commands, memo, BAD_PROPERTIES, message)
    run.record(
        EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
        WorkflowPropertiesModifiedEventAttributes(
            workflow_task_completed_event_id=commands.completed_event_id, upserted_memo=upserted
        ),
        **commands.event_extra,
    )


def _memo(run: Run) -> Memo:
    blob: state.Blob | None = run.entity.get(state.MEMO)
    return Memo() if blob is None else Memo.FromString(blob.data)


@applies(EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED)
def _modified(run: Run, event: HistoryEvent) -> None:
    upserted = event.workflow_properties_modified_event_attributes.upserted_memo.fields
    fields = _merged(_memo(run).fields, upserted)
    _put(run, state.MEMO, Memo(fields=fields), not fields)


@emits(
    EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES, EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED
)
def _show(run: Run, event: HistoryEvent) -> None:
    """Lists show the new values. A run that closed with the same task is shown with its close."""
    if run.is_open:
        visibility.show(run)
