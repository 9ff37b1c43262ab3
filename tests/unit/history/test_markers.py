"""What workflows note about themselves."""

from __future__ import annotations

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Memo, Payload, SearchAttributes

from tests.unit.history.support import (
    CallError,
    Workflows,
    application_failure,
    command,
    complete,
    payload,
    payloads,
)

NULL = Payload(metadata={"encoding": b"binary/null"})
EMPTY = Payload(metadata={"encoding": b"json/plain"}, data=b"[]")


@pytest.fixture
def workflows() -> Workflows:
    """A workflow that has been started, with a memo and a search attribute."""
    world = Workflows()
    world.start(
        memo={"fields": {"kept": payload("1"), "changed": payload("1"), "removed": payload("1")}},
        search_attributes={"indexed_fields": {"Keyword": payload("start")}},
    )
    return world


def upsert(**fields: Payload) -> Command:
    """A command that sets search attributes."""
    return command("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", search_attributes={"indexed_fields": fields})


def modify(**fields: Payload) -> Command:
    """A command that sets fields of the memo."""
    return command("MODIFY_WORKFLOW_PROPERTIES", upserted_memo={"fields": fields})


def shown(workflows: Workflows) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The search attributes and the memo that lists show of the run."""
    row = next(iter(workflows.rows.values()))
    attributes = SearchAttributes.FromString(row.search_attributes).indexed_fields
    memo = Memo.FromString(row.memo).fields
    return (
        {name: value.data for name, value in attributes.items()},
        {name: value.data for name, value in memo.items()},
    )


def test_markers_carry_all_they_are_given(workflows: Workflows) -> None:
    workflows.step(
        command(
            "RECORD_MARKER",
            marker_name="full",
            details={"a": payloads("1"), "b": payloads("2")},
            header={"fields": {"h": payload("h")}},
            failure=application_failure(),
        )
    )
    marker = workflows.event("MARKER_RECORDED")
    assert (marker.marker_name, marker.details["b"]) == ("full", payloads("2"))
    assert marker.header.fields["h"] == payload("h")
    assert marker.failure == application_failure()
    assert marker.workflow_task_completed_event_id == 4
    assert not workflows.waiting("workflow", "tq")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            command("RECORD_MARKER"),
            "BadRecordMarkerAttributes: MarkerName is not set on RecordMarkerCommand.",
        ),
        (
            upsert(Nobody=payload("x")),
            "BadSearchAttributes: Namespace default has no mapping defined for search attribute Nobody",
        ),
        (
            upsert(WorkflowId=payload("x")),
            "BadSearchAttributes: WorkflowId attribute can't be set in SearchAttributes",
        ),
        (
            upsert(Int=payload("five")),
            "BadSearchAttributes: invalid value for search attribute Int of type Int: five",
        ),
        (
            upsert(),
            "BadSearchAttributes: IndexedFields is not set on UpsertWorkflowSearchAttributesCommand.",
        ),
        (
            command("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES"),
            "BadSearchAttributes: SearchAttributes is not set on UpsertWorkflowSearchAttributesCommand.",
        ),
        (
            command("MODIFY_WORKFLOW_PROPERTIES"),
            "BadModifyWorkflowPropertiesAttributes: "
            "UpsertedMemo is not set on ModifyWorkflowPropertiesCommand.",
        ),
        (
            modify(),
            "BadModifyWorkflowPropertiesAttributes: "
            "UpsertedMemo.Fields is not set on ModifyWorkflowPropertiesCommand.",
        ),
        (
            Command(command_type="COMMAND_TYPE_RECORD_MARKER"),
            "BadRecordMarkerAttributes: RecordMarkerCommandAttributes is not set on RecordMarkerCommand.",
        ),
    ],
)
def test_bad_commands(workflows: Workflows, bad: Command, message: str) -> None:
    with pytest.raises(CallError) as refused:
        workflows.step(bad)
    assert refused.value.message == message


def test_search_attributes_merge(workflows: Workflows) -> None:
    workflows.step(upsert(Int=Payload(metadata={"encoding": b"json/plain"}, data=b"5")))
    event = workflows.event("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES")
    assert event.search_attributes.indexed_fields["Int"].metadata["type"] == b"Int"
    attributes, _ = shown(workflows)
    assert attributes["Int"] == b"5"
    assert attributes["Keyword"] == b'"start"'
    workflows.signal()
    workflows.step(upsert(Int=EMPTY, Keyword=NULL))
    attributes, _ = shown(workflows)
    assert "Int" not in attributes
    assert "Keyword" not in attributes
    workflows.fold.check_refold()


def test_memo_merges(workflows: Workflows) -> None:
    workflows.step(modify(changed=payload("2"), removed=NULL, new=payload("n")))
    assert shown(workflows)[1] == {"kept": b'"1"', "changed": b'"2"', "new": b'"n"'}
    assert workflows.event("WORKFLOW_PROPERTIES_MODIFIED").upserted_memo.fields["removed"] == NULL


def test_change_with_the_closing_task_is_shown_with_the_close(workflows: Workflows) -> None:
    workflows.step(modify(new=payload("n")), complete())
    row = next(iter(workflows.rows.values()))
    assert row.close_time_ns
    assert "new" in shown(workflows)[1]


@pytest.mark.parametrize(
    ("limit", "bad", "message"),
    [
        ("limit.blobSize.error", "marker", "RecordMarkerCommandAttributes.Details exceeds size limit."),
        (
            "frontend.searchAttributesSizeOfValueLimit",
            "upsert",
            "search attribute Keyword value size 202 exceeds size limit 100",
        ),
        (
            "limit.memoSize.error",
            "modify",
            "ModifyWorkflowPropertiesCommandAttributes. Memo exceeds size limit.",
        ),
    ],
)
def test_what_is_too_large_ends_the_workflow(limit: str, bad: str, message: str) -> None:
    workflows = Workflows(**{limit: 100})
    workflows.start()
    large = "x" * 200
    commands = {
        "marker": command("RECORD_MARKER", marker_name="m", details={"a": payloads(large)}),
        "upsert": upsert(Keyword=payload(large)),
        "modify": modify(a=payload(large)),
    }
    with pytest.raises(CallError) as refused:
        workflows.step(commands[bad])
    assert refused.value.message.endswith(message)
    assert workflows.kinds()[-1] == "WORKFLOW_EXECUTION_TERMINATED"
