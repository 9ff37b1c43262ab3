"""Both stores down for a while: workflows go on, reads say why they cannot be answered, nothing is missing later.

ODRADEK_TEST_DOWN_SECONDS says for how long at least: 15 unless given, 60 every night.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
    WorkflowServiceStub,
)

from tests.cluster.checking import check_equality, check_nothing_set_aside
from tests.faults.orders import CHANNEL_OPTIONS, under_load, until_answered
from tests.support.cluster import Cluster

DOWN_S = float(os.environ.get("ODRADEK_TEST_DOWN_SECONDS", "15"))
LOAD = 3
"""Workflows that have to end before anything else is done."""


async def _sentence(call: Callable[[], Awaitable[Any]]) -> str:
    """What an UNAVAILABLE answer says."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call()
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE, raised.value
    return raised.value.details() or ""


@pytest.mark.timeout(500 + 3 * DOWN_S)
async def test_workflows_go_on_without_stores(cluster: Cluster) -> None:
    parts = cluster.parts
    async with under_load(cluster.address, "stores-before") as before:
        await before.until_ended(LOAD)
    closed = before.runs[0].workflow_id
    # What has just ended is read from owners and gateways that still have it in memory.
    for process in (*cluster.of("history"), *cluster.of("gateway")):
        process.ask_to_stop()
        assert await asyncio.to_thread(process.wait) == 0
        process.start()
    await asyncio.to_thread(cluster.heal)
    history = GetWorkflowExecutionHistoryRequest(
        namespace="default", execution=WorkflowExecution(workflow_id=closed)
    )
    listed = ListWorkflowExecutionsRequest(namespace="default", query=f"WorkflowId = '{closed}'")
    async with (
        grpc.aio.insecure_channel(cluster.address, CHANNEL_OPTIONS) as channel,
        under_load(cluster.address, "stores") as load,
    ):
        service = WorkflowServiceStub(channel)
        await load.until_ended(LOAD)
        await asyncio.to_thread(parts.cassandra.kill)
        await asyncio.to_thread(parts.postgres.kill)
        try:
            down = asyncio.create_task(asyncio.sleep(DOWN_S))
            await load.until_ended(LOAD)
            assert "Cassandra" in await _sentence(
                lambda: service.GetWorkflowExecutionHistory(history, timeout=30)
            )
            assert "PostgreSQL" in await _sentence(lambda: service.ListWorkflowExecutions(listed, timeout=30))
            await load.until_ended(LOAD)
            await load.alongside(down)
            waiting = [process.metrics for process in cluster.of("materializer")]
            for topic in ("history", "visibility"):
                name = f'odradek_materializer_store_down{{topic="{topic}"}}'
                assert any(metrics[name] for metrics in waiting), "somebody waits for the store"
        finally:
            await asyncio.to_thread(parts.start)
        assert (await until_answered(lambda: service.GetWorkflowExecutionHistory(history))).history.events
        assert (await until_answered(lambda: service.ListWorkflowExecutions(listed))).executions
        await load.until_ended(LOAD)
    cluster.check_all_run()
    check_nothing_set_aside(cluster)
    await asyncio.to_thread(check_equality, cluster)
