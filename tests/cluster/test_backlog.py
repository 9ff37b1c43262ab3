"""No owner of workflows for long: what clients ask for waits in the log, and takes effect once somebody is back."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc.aio
import pytest
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    ListWorkflowExecutionsRequest,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
    WorkflowServiceStub,
)

from tests.cluster.checking import check_equality, check_nothing_set_aside
from tests.faults.orders import AGAIN_S, CHANNEL_OPTIONS, under_load, until_answered
from tests.support.cluster import Cluster

STARTS = 500
AT_ONCE = 50
PATIENCE_S = 0.5


def _start(number: int) -> StartWorkflowExecutionRequest:
    return StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=f"backlog-{number}",
        workflow_type=WorkflowType(name="Nobody"),
        task_queue=TaskQueue(name="nobody"),
        request_id=f"start of backlog-{number}",
    )


async def _unanswered(service: WorkflowServiceStub, number: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await service.StartWorkflowExecution(_start(number), timeout=PATIENCE_S)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED, raised.value


async def _shown(service: WorkflowServiceStub) -> dict[str, str]:
    """The run of each workflow that was asked for, once lists show all of them."""
    request = ListWorkflowExecutionsRequest(
        namespace="default", query="WorkflowType = 'Nobody'", page_size=1_000
    )
    while True:
        answer = await until_answered(lambda: service.ListWorkflowExecutions(request))
        found = Counter(one.execution.workflow_id for one in answer.executions)
        assert set(found.values()) <= {1}, "some were started twice"
        if len(found) == STARTS:
            return {one.execution.workflow_id: one.execution.run_id for one in answer.executions}
        await asyncio.sleep(AGAIN_S)


async def test_what_was_asked_for_while_owners_were_down_happens_once(cluster: Cluster) -> None:
    owners = cluster.of("history")
    channel = grpc.aio.insecure_channel(cluster.address, CHANNEL_OPTIONS)
    async with channel, under_load(cluster.address, "backlog") as load:
        service = WorkflowServiceStub(channel)
        await load.until_ended(2)
        for owner in owners:
            await asyncio.to_thread(owner.kill)
        for first in range(0, STARTS, AT_ONCE):
            await asyncio.gather(*(_unanswered(service, n) for n in range(first, first + AT_ONCE)))
        for owner in owners:
            owner.start()
        run_ids = await load.alongside(_shown(service))
        for number in range(STARTS):
            again = await until_answered(lambda: service.StartWorkflowExecution(_start(number)))  # noqa: B023
            assert again.run_id == run_ids[f"backlog-{number}"], f"backlog-{number} was started again"
        assert await load.alongside(_shown(service)) == run_ids
        await load.until_ended(2)
        for number in range(STARTS):
            request = TerminateWorkflowExecutionRequest(namespace="default")
            request.workflow_execution.workflow_id = f"backlog-{number}"
            await until_answered(lambda: service.TerminateWorkflowExecution(request))  # noqa: B023
    check_nothing_set_aside(cluster)
    await asyncio.to_thread(check_equality, cluster)
