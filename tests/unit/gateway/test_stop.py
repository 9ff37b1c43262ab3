"""A gateway that stops leaves no client in doubt."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.workflowservice.v1 import QueryWorkflowRequest

from tests.unit.gateway.conftest import NAMESPACE, Served, refusal

CLIENTS = 30


async def test_calls_that_come_too_late_may_be_tried_again(served: Served) -> None:
    await served.start()
    codes = []

    async def signal_until_refused() -> None:
        try:
            while True:
                await served.signal()
        except grpc.aio.AioRpcError as error:
            codes.append(error.code())

    clients = [asyncio.create_task(signal_until_refused()) for _ in range(CLIENTS)]
    await served.signal()  # by its end the clients are at work
    await served.gateway.drain()
    await served.gateway.stop()
    await asyncio.gather(*clients)
    assert codes == [grpc.StatusCode.UNAVAILABLE] * CLIENTS


async def test_query_that_waits_for_a_worker_ends_with_the_drain(served: Served) -> None:
    await served.start()
    request = QueryWorkflowRequest(
        namespace=NAMESPACE,
        execution=WorkflowExecution(workflow_id="w"),
        query=WorkflowQuery(query_type="state"),
    )
    waiting = served.workflows.QueryWorkflow(request, timeout=60)
    await served.signal()  # by its end the query has arrived
    await served.gateway.drain()
    assert await refusal(waiting) == (grpc.StatusCode.UNAVAILABLE, "The server is shutting down.")
