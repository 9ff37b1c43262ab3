"""Limits that the gateway keeps by itself."""

from __future__ import annotations

import time

import grpc
import pytest
from temporalio.api.common.v1 import Link, WorkflowExecution
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    ListWorkflowExecutionsRequest,
    PollWorkflowTaskQueueRequest,
    SignalWorkflowExecutionRequest,
)

from gateway import validation
from gateway.errors import ApiError
from streams.limits import Limits
from tests.unit.gateway.conftest import NAMESPACE, Serve, refusal

RUN = "00000000-0000-0000-0000-000000000001"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def link() -> Link:
    return Link(workflow_event=Link.WorkflowEvent(namespace="ns", workflow_id="w", run_id=RUN))


def test_links_are_limited_by_number_and_size() -> None:
    validation.check_links([link()] * 2, Limits(links_per_request=2))
    with pytest.raises(ApiError, match="cannot attach more than 2 links per request, got 3"):
        validation.check_links([link()] * 3, Limits(links_per_request=2))
    with pytest.raises(ApiError, match="link exceeds allowed size of 20, got"):
        validation.check_links([link()], Limits(link_bytes=20))


async def test_build_ids_are_limited(serve: Serve) -> None:
    served = await serve(worker_build_id_bytes=5)
    request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name="q"))
    request.worker_version_capabilities.build_id = "123456"
    code, message = await refusal(served.workflows.PollWorkflowTaskQueue(request, timeout=10))
    assert (code, message) == (
        INVALID,
        "Build ID exceeds configured limit.workerBuildIdSize, use a shorter build ID.",
    )


async def test_ids_are_limited(serve: Serve) -> None:
    served = await serve(id_length=8)
    await served.start("8-length")
    assert await refusal(served.start("9-letters")) == (INVALID, "WorkflowId length exceeds limit.")
    signal = SignalWorkflowExecutionRequest(
        namespace=NAMESPACE,
        workflow_execution=WorkflowExecution(workflow_id="8-length"),
        signal_name="9-letters",
    )
    assert await refusal(served.workflows.SignalWorkflowExecution(signal)) == (
        INVALID,
        "SignalName length exceeds limit.",
    )


async def test_pages_of_lists_are_limited(serve: Serve) -> None:
    served = await serve(visibility_page_rows=2)
    for number in range(3):
        await served.start(f"w{number}")
    request = ListWorkflowExecutionsRequest(namespace=NAMESPACE, page_size=100)
    first = await served.workflows.ListWorkflowExecutions(request)
    assert len(first.executions) == 2
    request.next_page_token = first.next_page_token
    assert len((await served.workflows.ListWorkflowExecutions(request)).executions) == 1


async def test_a_poll_ends_empty_after_its_time(serve: Serve) -> None:
    served = await serve(task_poll_ms=200)
    request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name="q"))
    began_s = time.monotonic()
    answer = await served.workflows.PollWorkflowTaskQueue(request, timeout=60)
    assert answer.task_token == b""
    assert 0.2 <= time.monotonic() - began_s < 30
