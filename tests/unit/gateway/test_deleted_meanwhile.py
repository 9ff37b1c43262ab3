"""Calls that have looked at a run which is deleted before they read its events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
    PollWorkflowTaskQueueRequest,
    ResetWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
)

from tests.unit.gateway.conftest import NAMESPACE, Served, refusal

Calling = Callable[[Served, WorkflowExecution], Awaitable[object]]


def _reset(served: Served, execution: WorkflowExecution) -> Awaitable[object]:
    return served.workflows.ResetWorkflowExecution(
        ResetWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_execution=execution,
            workflow_task_finish_event_id=4,
            request_id="reset",
        )
    )


def _history(served: Served, execution: WorkflowExecution) -> Awaitable[object]:
    return served.workflows.GetWorkflowExecutionHistory(
        GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, execution=execution)
    )


def _close_event(served: Served, execution: WorkflowExecution) -> Awaitable[object]:
    return served.workflows.GetWorkflowExecutionHistory(
        GetWorkflowExecutionHistoryRequest(
            namespace=NAMESPACE, execution=execution, history_event_filter_type=2
        )
    )


def _reverse(served: Served, execution: WorkflowExecution) -> Awaitable[object]:
    return served.workflows.GetWorkflowExecutionHistoryReverse(
        GetWorkflowExecutionHistoryReverseRequest(namespace=NAMESPACE, execution=execution)
    )


@pytest.mark.parametrize("call", [_reset, _history, _close_event, _reverse])
async def test_run_deleted_before_its_events_are_read_is_not_found(served: Served, call: Calling) -> None:
    run_id = await served.start()
    execution = WorkflowExecution(workflow_id="w", run_id=run_id)
    poll = PollWorkflowTaskQueueRequest(namespace=NAMESPACE)
    poll.task_queue.name = "q"
    await served.workflows.PollWorkflowTaskQueue(poll, timeout=10)
    await served.workflows.TerminateWorkflowExecution(
        TerminateWorkflowExecutionRequest(namespace=NAMESPACE, workflow_execution=execution)
    )
    read_events = served.engine.read_events

    async def read_late(run_id: str, first: int, last: int, max_bytes: int) -> list[tuple[int, bytes]]:
        served.engine.read_events = read_events  # type: ignore[method-assign]
        await served.workflows.DeleteWorkflowExecution(
            DeleteWorkflowExecutionRequest(namespace=NAMESPACE, workflow_execution=execution)
        )
        return await read_events(run_id, first, last, max_bytes)

    served.engine.read_events = read_late  # type: ignore[method-assign]
    missing = f'workflow execution not found for workflow ID "w" and run ID "{run_id}"'
    assert await refusal(call(served, execution)) == (grpc.StatusCode.NOT_FOUND, missing)
    described = served.workflows.DescribeWorkflowExecution(
        DescribeWorkflowExecutionRequest(namespace=NAMESPACE, execution=execution)
    )
    assert await refusal(described) == (grpc.StatusCode.NOT_FOUND, missing)
