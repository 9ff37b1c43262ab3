"""A gateway in front of the embedded engine, and clients of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.operatorservice.v1 import OperatorServiceStub
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    RegisterNamespaceRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    WorkflowServiceStub,
)

from gateway.metrics import Registry
from gateway.server import Gateway
from gateway.service_metrics import ServiceMetrics
from streams.embedded import EmbeddedEngine
from streams.limits import Limits

NAMESPACE = "default"
DAY_S = 86_400


class Served:
    """A running gateway with its clients."""

    def __init__(
        self, engine: EmbeddedEngine, gateway: Gateway, registry: Registry, channel: grpc.aio.Channel
    ) -> None:
        self.engine = engine
        self.gateway = gateway
        self.registry = registry
        self.channel = channel
        self.workflows = WorkflowServiceStub(channel)
        self.operator = OperatorServiceStub(channel)

    async def start(self, workflow_id: str = "w", signals: int = 0, queue: str = "q") -> str:
        """Starts a workflow, signals it, and returns its run id."""
        request = StartWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="type"),
            task_queue=TaskQueue(name=queue),
        )
        run_id: str = (await self.workflows.StartWorkflowExecution(request)).run_id
        for _ in range(signals):
            await self.signal(workflow_id)
        return run_id

    async def signal(self, workflow_id: str = "w") -> None:
        """Signals a workflow, which adds an event to its history."""
        await self.workflows.SignalWorkflowExecution(
            SignalWorkflowExecutionRequest(
                namespace=NAMESPACE,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id),
                signal_name="signal",
            )
        )


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts gateways, each with an engine and the namespace "default": serve(**limits)."""
    numbers = itertools.count()
    async with AsyncExitStack() as stack:

        async def start(**limits: int) -> Served:
            path = tmp_path / f"engine-{next(numbers)}.db"
            return await stack.enter_async_context(serving(path, Limits(**limits)))

        yield start


@pytest.fixture
async def served(serve: Serve) -> Served:
    """A gateway with the default limits."""
    return await serve()


@asynccontextmanager
async def serving(path: Path, limits: Limits) -> AsyncIterator[Served]:
    """A gateway with its engine, which ends whatever fails: threads it left would keep the tests from ending."""
    failures: list[BaseException] = []
    engine = EmbeddedEngine(path, on_failure=failures.append)
    registry = Registry()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.stop)
        await engine.start()
        gateway = Gateway(engine, engine.visibility_store, limits, ServiceMetrics(registry, "0"))
        stack.push_async_callback(gateway.stop)
        port = await gateway.start("127.0.0.1:0")
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        served = Served(engine, gateway, registry, channel)
        request = RegisterNamespaceRequest(namespace=NAMESPACE)
        request.workflow_execution_retention_period.seconds = DAY_S
        await served.workflows.RegisterNamespace(request)
        yield served
        await gateway.drain()
    assert not failures


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """The code and message of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


async def settle() -> None:
    """Lets everything run that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)
