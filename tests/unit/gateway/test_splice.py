"""Spliced bytes decode as the message they stand for."""

from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.history.v1 import History, HistoryEvent
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedResponse,
)

from gateway import splice


def encoded(first: int, count: int) -> list[bytes]:
    return [HistoryEvent(event_id=first + i, version=i % 200).SerializeToString() for i in range(count)]


def ids(history: History) -> list[int]:
    return [event.event_id for event in history.events]


@given(st.integers(0, 2**63 - 1))
def test_varints_are_those_of_protobuf(number: int) -> None:
    assert b"\x08" + splice.varint(number) == HistoryEvent(event_id=number).SerializeToString() or number == 0


@given(st.integers(0, 300), st.binary(max_size=300))
def test_events_come_before_those_the_body_brings(count: int, token: bytes) -> None:
    body = PollWorkflowTaskQueueResponse(
        task_token=token, history=History(events=[HistoryEvent(event_id=count + 1)])
    ).SerializeToString()

    response = PollWorkflowTaskQueueResponse.FromString(splice.history(8, encoded(1, count)) + body)

    assert ids(response.history) == list(range(1, count + 2))
    assert response.task_token == token


def test_nested_task_gets_its_events_and_page_token() -> None:
    body = RespondWorkflowTaskCompletedResponse(reset_history_event_id=3)
    body.workflow_task.task_token = b"token"

    attached = splice.history(8, encoded(1, 200)) + splice.field(9, b"page")
    spliced = splice.field(1, attached) + body.SerializeToString()

    response = RespondWorkflowTaskCompletedResponse.FromString(spliced)
    assert ids(response.workflow_task.history) == list(range(1, 201))
    assert response.workflow_task.next_page_token == b"page"
    assert response.workflow_task.task_token == b"token"
    assert response.reset_history_event_id == 3
