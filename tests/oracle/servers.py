"""Which servers the scenarios run on, how they are configured, and what is set up on them beforehand."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, OperatorServiceStub
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    RegisterNamespaceRequest,
    WorkflowServiceStub,
)

from benchmarks.peer.peer import SERVERS

# A dev server is made for one developer's pace; the scenarios run many at a time.
_PACE: dict[str, object] = {"frontend.namespaceRPS.visibility": 10000, "frontend.namespaceRPS": 10000}

# "default" is, but for its pace, a server as users start it.
CONFIGURATIONS: dict[str, dict[str, object]] = {
    # The real server's own default, which ours differs from.
    "default": {**_PACE, "system.enableActivityEagerExecution": False},
    "tight": {
        **_PACE,
        "system.enableActivityEagerExecution": True,
        "limit.blobSize.error": 4096,
        "limit.blobSize.warn": 2048,
        "limit.mutableStateActivityFailureSize.error": 1024,
        "limit.mutableStateActivityFailureSize.warn": 512,
        "limit.memoSize.error": 2048,
        "limit.memoSize.warn": 1024,
        "limit.maxIDLength": 100,
        "limit.historyCount.error": 60,
        "limit.historyCount.warn": 50,
        "limit.historyCount.suggestContinueAsNew": 20,
        "limit.historySize.error": 40000,
        "limit.historySize.warn": 30000,
        "limit.historySize.suggestContinueAsNew": 20000,
        "limit.numPendingActivities.error": 5,
        "limit.numPendingChildExecutions.error": 5,
        "limit.numPendingSignals.error": 5,
        "limit.numPendingCancelRequests.error": 5,
        "history.maximumSignalsPerExecution": 10,
        "history.maxInFlightUpdates": 2,
        "history.maxTotalUpdates": 4,
        "frontend.searchAttributesNumberOfKeysLimit": 3,
        "frontend.searchAttributesSizeOfValueLimit": 100,
        "frontend.searchAttributesTotalSizeLimit": 200,
    },
}

ATTRIBUTES = {
    "OracleBool": "BOOL",
    "OracleDatetime": "DATETIME",
    "OracleDouble": "DOUBLE",
    "OracleInt": "INT",
    "OracleKeyword": "KEYWORD",
    "OracleKeywordList": "KEYWORD_LIST",
    "OracleText": "TEXT",
}


@dataclass(frozen=True)
class Target:
    """A prepared server."""

    address: str
    channel: grpc.aio.Channel
    shared_namespace: str
    attributes_namespace: str

    def namespace(self, kind: str) -> str:
        return {"shared": self.shared_namespace, "attributes": self.attributes_namespace}[kind]


@contextlib.asynccontextmanager
async def started(server: str, ports: Sequence[int], directory: Path) -> AsyncIterator[dict[str, str]]:
    """Start one server a configuration (`server` is "temporal" or "odradek"). Yields their addresses."""
    async with contextlib.AsyncExitStack() as stack:
        addresses = {}
        for port, (name, configuration) in zip(ports, CONFIGURATIONS.items(), strict=True):
            running = await stack.enter_async_context(
                SERVERS[server](
                    port,
                    directory / f"{server}-{name}.db",
                    dynamic_config=configuration,
                    log=directory / f"{server}-{name}.log",
                )
            )
            addresses[name] = running.address
        yield addresses


@contextlib.asynccontextmanager
async def connected(addresses: dict[str, str]) -> AsyncIterator[dict[str, Target]]:
    """Dial servers and make the namespaces that scenarios share. Yields the targets by configuration."""
    async with contextlib.AsyncExitStack() as stack:
        targets = {}
        for name, address in addresses.items():
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_OPTIONS))
            tag = uuid.uuid4().hex[:8]
            shared = await make_namespace(channel, f"oracle-{tag}")
            attributes = await make_namespace(channel, f"oracle-attributes-{tag}")
            await add_attributes(channel, attributes, ATTRIBUTES)
            targets[name] = Target(address, channel, shared, attributes)
        yield targets


_OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


async def make_namespace(channel: grpc.aio.Channel, name: str) -> str:
    """Register a namespace and wait until the server uses it everywhere."""
    service = WorkflowServiceStub(channel)
    await service.RegisterNamespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=timedelta(days=1)),
        timeout=20,
    )
    await _counted(service, name, "")
    return name


async def add_attributes(channel: grpc.aio.Channel, namespace: str, attributes: dict[str, str]) -> None:
    """Add search attributes and wait until queries may name them."""
    types = {name: IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{kind}") for name, kind in attributes.items()}
    await OperatorServiceStub(channel).AddSearchAttributes(
        AddSearchAttributesRequest(namespace=namespace, search_attributes=types), timeout=20
    )
    for name in attributes:
        await _counted(WorkflowServiceStub(channel), namespace, f"{name} IS NULL")


async def _counted(service: WorkflowServiceStub, namespace: str, query: str, *, limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            await service.CountWorkflowExecutions(
                CountWorkflowExecutionsRequest(namespace=namespace, query=query), timeout=5
            )
        except grpc.aio.AioRpcError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return
