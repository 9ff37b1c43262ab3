"""Histories are read in pages, both ways, and waited for."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, HistoryEventFilterType, UpdateWorkflowExecutionLifecycleStage
from temporalio.api.history.v1 import History
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskFailedRequest,
    TerminateWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
)

from gateway import page_tokens
from gateway.page_tokens import HistoryPage
from tests.unit.gateway.conftest import NAMESPACE, Serve, Served, refusal

TERMINATED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED
COMPLETED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
CLOSE_ONLY = HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT


def ids(history: History) -> list[int]:
    return [event.event_id for event in history.events]


def asking(run_id: str = "", **fields: object) -> GetWorkflowExecutionHistoryRequest:
    execution = WorkflowExecution(workflow_id="w", run_id=run_id)
    return GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, execution=execution, **fields)  # type: ignore[arg-type]


async def terminate(served: Served) -> None:
    execution = WorkflowExecution(workflow_id="w")
    await served.workflows.TerminateWorkflowExecution(
        TerminateWorkflowExecutionRequest(namespace=NAMESPACE, workflow_execution=execution)
    )


async def test_pages_follow_one_another(served: Served) -> None:
    await served.start(signals=8)  # started, task scheduled, 8 signals
    pages, token = [], b""
    while True:
        response = await served.workflows.GetWorkflowExecutionHistory(
            asking(maximum_page_size=4, next_page_token=token)
        )
        pages.append(ids(response.history))
        token = response.next_page_token
        if not token:
            break
    assert pages == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


async def test_page_keeps_within_bytes(serve: Serve) -> None:
    served = await serve(page_bytes=200)
    await served.start(signals=8)
    seen, token = [], b""
    while True:
        response = await served.workflows.GetWorkflowExecutionHistory(asking(next_page_token=token))
        assert (
            sum(event.ByteSize() for event in response.history.events) <= 200
            or len(response.history.events) == 1
        )
        seen += ids(response.history)
        token = response.next_page_token
        if not token:
            break
    assert seen == list(range(1, 11))


@pytest.mark.parametrize("page_bytes", [1, 200, 1_000_000])
async def test_reverse_pages_follow_one_another(serve: Serve, page_bytes: int) -> None:
    served = await serve(page_bytes=page_bytes)
    await served.start(signals=8)
    seen, token = [], b""
    while True:
        response = await served.workflows.GetWorkflowExecutionHistoryReverse(
            GetWorkflowExecutionHistoryReverseRequest(
                namespace=NAMESPACE,
                execution=WorkflowExecution(workflow_id="w"),
                maximum_page_size=4,
                next_page_token=token,
            )
        )
        seen += ids(response.history)
        token = response.next_page_token
        if not token:
            break
    assert seen == list(range(10, 0, -1))


async def test_waiting_reader_gets_new_events_until_the_run_closes(served: Served) -> None:
    await served.start()
    first = await served.workflows.GetWorkflowExecutionHistory(asking(wait_new_event=True))
    assert ids(first.history) == [1, 2]

    waiting = asyncio.ensure_future(
        served.workflows.GetWorkflowExecutionHistory(
            asking(wait_new_event=True, next_page_token=first.next_page_token)
        )
    )
    await served.signal()
    second = await waiting
    assert ids(second.history) == [3]

    await terminate(served)
    last = await served.workflows.GetWorkflowExecutionHistory(
        asking(wait_new_event=True, next_page_token=second.next_page_token)
    )
    assert [event.event_type for event in last.history.events][-1] == TERMINATED
    assert not last.next_page_token


async def test_waiting_reader_is_sent_away_with_its_token(serve: Serve) -> None:
    served = await serve(history_poll_ms=50)
    await served.start()
    first = await served.workflows.GetWorkflowExecutionHistory(asking(wait_new_event=True))
    again = await served.workflows.GetWorkflowExecutionHistory(
        asking(wait_new_event=True, next_page_token=first.next_page_token)
    )
    assert not again.history.events
    await served.signal()
    after = await served.workflows.GetWorkflowExecutionHistory(
        asking(wait_new_event=True, next_page_token=again.next_page_token)
    )
    assert ids(after.history) == [3]


async def test_close_event_is_waited_for(serve: Serve) -> None:
    served = await serve(history_poll_ms=50)
    run_id = await served.start(signals=3)
    asked = {"wait_new_event": True, "history_event_filter_type": CLOSE_ONLY}
    nothing = await served.workflows.GetWorkflowExecutionHistory(asking(**asked))
    assert not nothing.history.events
    waiting = asyncio.ensure_future(
        served.workflows.GetWorkflowExecutionHistory(asking(next_page_token=nothing.next_page_token, **asked))
    )
    await terminate(served)
    await served.start()  # another run, which is not what was asked for
    while not (response := await waiting).history.events:
        waiting = asyncio.ensure_future(
            served.workflows.GetWorkflowExecutionHistory(
                asking(run_id, next_page_token=response.next_page_token, **asked)
            )
        )
    assert [event.event_type for event in response.history.events] == [TERMINATED]
    assert not response.next_page_token


async def test_drain_ends_long_polls(served: Served) -> None:
    await served.start()
    waiting = asyncio.ensure_future(
        served.workflows.GetWorkflowExecutionHistory(
            asking(wait_new_event=True, history_event_filter_type=CLOSE_ONLY)
        )
    )
    await served.signal()  # by now the other call has arrived
    await served.gateway.drain()
    response = await waiting
    assert not response.history.events
    assert response.next_page_token


async def test_tokens_are_checked(served: Served) -> None:
    run_id = await served.start()
    other = str(uuid.uuid4())
    history = served.workflows.GetWorkflowExecutionHistory
    bad = grpc.StatusCode.INVALID_ARGUMENT
    assert await refusal(history(asking(next_page_token=b"x"))) == (bad, "Invalid NextPageToken.")
    token = page_tokens.encode(HistoryPage(run_id, 1, 2, open=True))
    assert await refusal(history(asking(other, next_page_token=token))) == (
        bad,
        "RunId in the request does not match the NextPageToken.",
    )
    elsewhere = page_tokens.encode(HistoryPage(other, 1, 2, open=True))
    code, _ = await refusal(history(asking(next_page_token=elsewhere)))
    assert code == grpc.StatusCode.NOT_FOUND


async def test_task_brings_its_history_in_pages(serve: Serve) -> None:
    served = await serve(history_page_events=4)
    await served.start(signals=6)
    task = await poll(served)
    assert ids(task.history) == [1, 2, 3, 4]
    await served.signal()  # comes after the task and is not part of it
    seen = ids(task.history) + await rest(served, task.next_page_token)
    assert seen == list(range(1, task.started_event_id + 1))


async def test_pages_of_a_transient_task_end_with_its_own_events_or_none(serve: Serve) -> None:
    served = await serve(history_page_events=4)
    await served.start(signals=6)
    await fail(served, await poll(served))
    task = await poll(served)
    assert task.attempt == 2
    seen = ids(task.history) + await rest(served, task.next_page_token)
    assert seen == list(range(1, task.started_event_id + 1))
    await served.signal()
    await fail(served, task)
    await fail(served, await poll(served))
    assert (await poll(served)).started_event_id > task.started_event_id  # A transient one again.
    assert ids(task.history) + await rest(served, task.next_page_token) == seen[:-2]


async def test_pages_of_a_speculative_task_end_with_its_events_once_they_are_in_the_history(
    serve: Serve,
) -> None:
    served = await serve(history_page_events=4)
    await served.start(signals=3)
    first = await poll(served)
    completed = RespondWorkflowTaskCompletedRequest(namespace=NAMESPACE, task_token=first.task_token)
    await served.workflows.RespondWorkflowTaskCompleted(completed)
    update = asyncio.ensure_future(served.workflows.UpdateWorkflowExecution(an_update(), timeout=10))
    task = await poll(served)
    assert task.started_event_id == first.started_event_id + 3
    await served.signal()
    seen = ids(task.history) + await rest(served, task.next_page_token)
    assert seen == list(range(1, task.started_event_id + 1))
    update.cancel()


def an_update() -> UpdateWorkflowExecutionRequest:
    request = UpdateWorkflowExecutionRequest(namespace=NAMESPACE)
    request.workflow_execution.workflow_id = "w"
    request.wait_policy.lifecycle_stage = COMPLETED
    request.request.meta.update_id = "u"
    request.request.input.name = "u"
    return request


async def poll(served: Served) -> PollWorkflowTaskQueueResponse:
    request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue={"name": "q"})
    return await served.workflows.PollWorkflowTaskQueue(request, timeout=10)


async def fail(served: Served, task: PollWorkflowTaskQueueResponse) -> None:
    request = RespondWorkflowTaskFailedRequest(namespace=NAMESPACE, task_token=task.task_token)
    await served.workflows.RespondWorkflowTaskFailed(request)


async def rest(served: Served, token: bytes) -> list[int]:
    """The ids of the events behind a task's first page."""
    seen: list[int] = []
    while token:
        page = await served.workflows.GetWorkflowExecutionHistory(asking(next_page_token=token))
        seen += ids(page.history)
        token = page.next_page_token
    return seen
