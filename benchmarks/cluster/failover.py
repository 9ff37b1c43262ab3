"""SIGKILL of the owner of many open workflows, and how long their callers wait for an answer."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Mapping
from typing import Any, Final

import grpc
import grpc.aio
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest, WorkflowServiceStub

from benchmarks.cluster import bulk, metrics
from benchmarks.cluster.parts import Parts, Site
from benchmarks.cluster.scenarios import ClusterSizes
from benchmarks.cluster.servers import Choices, ClusterServer, serve_ours
from streams import topology

LAYOUT: Final = ("gateway,materializer", "history,matching,timer", "history,matching,timer")
"""The gateway lives on; of the two owners, each on a disk of its own, the first is killed."""

SESSION_MS: Final = 6_000
"""After what silence a member is taken for dead."""

LANES: Final = 4
"""Callers for each partition, one signal after another."""
PAUSE_S: Final = 0.05
BEFORE_S: Final = 60.0
AFTER_S: Final = 3.0
"""For how long load goes on before the kill, until brokers that just started have compiled what they do, and after
every partition has answered again."""

_CALL_S: Final = 30.0
_RETRY_S: Final = 0.02
_WATCH_S: Final = 0.05
_SHARED_S: Final = 60.0


async def measure(parts: Parts, port: int, sizes: ClusterSizes, choices: Choices) -> dict[str, Any]:
    """Two owners share twice `sizes.failover_workflows`; the one that is killed has half of them."""
    return await _measure(Site("odradek_failover", parts), port, sizes, choices, standbys=0)


async def measure_with_standbys(
    parts: Parts, port: int, sizes: ClusterSizes, choices: Choices
) -> dict[str, Any]:
    """The same where each keeps copies of what the other owns."""
    return await _measure(Site("odradek_standbys", parts), port, sizes, choices, standbys=1)


async def _measure(
    site: Site, port: int, sizes: ClusterSizes, choices: Choices, *, standbys: int
) -> dict[str, Any]:
    kafka = {"session_timeout_ms": SESSION_MS, "standbys": standbys}
    await asyncio.to_thread(site.make)
    try:
        numbers = range(2 * sizes.failover_workflows)
        template = await bulk.fill(site, port, choices, numbers)
        ids = _by_partition(template, numbers, choices)
        async with serve_ours(site, port, Choices(LAYOUT, choices.partitions), kafka=kafka) as server:
            return await _fail_over(server, ids, sizes, followed=standbys > 0)
    finally:
        await asyncio.to_thread(site.remove)


def _by_partition(template: bulk.Template, numbers: range, choices: Choices) -> list[list[str]]:
    """The ids of the copies in each partition."""
    ids: list[list[str]] = [[] for _ in range(choices.partitions)]
    for number in numbers:
        workflow_id = template.copy(number).workflow_id
        key = topology.workflow_key(bulk.NAMESPACE, workflow_id)
        ids[topology.partition_of(key, choices.partitions)].append(workflow_id)
    return ids


async def _fail_over(
    server: ClusterServer, ids: list[list[str]], sizes: ClusterSizes, *, followed: bool
) -> dict[str, Any]:
    _, first, second = server.metrics_ports
    owned = await _shared(first, second, len(ids))
    if followed:
        await _until_followed(second, owned)
    calls = _Calls(server.address, ids)
    try:
        await asyncio.sleep(BEFORE_S)
        killed = server.processes.pop(1)
        killed.kill()
        killed_s = time.monotonic()
        await killed.wait()
        taken_s = await _until_owned(second, len(ids), killed_s + sizes.failover_s)
        await calls.until_answered(killed_s, killed_s + sizes.failover_s)
        await asyncio.sleep(AFTER_S)
    finally:
        await calls.stop()
    found = await asyncio.to_thread(metrics.read, (second,))
    gap_s = max(calls.longest_gap_s(partition) for partition in owned)
    return {
        "owned_workflows": sum(len(ids[partition]) for partition in owned),
        "gap_s": gap_s,
        "gap_beyond_session_s": gap_s - SESSION_MS / 1000,
        "other_gap_s": max((calls.longest_gap_s(n) for n in range(len(ids)) if n not in owned), default=0.0),
        "takeover_s": taken_s - killed_s,
        "restore_s": max(
            metrics.total(found, "odradek_restore_seconds", 'processor="history"', f'partition="{n}"')
            for n in owned
        ),
        "operations": calls.answered,
        "retried": calls.retried,
        "version": server.version,
    }


async def _shared(first: int, second: int, count: int) -> list[int]:
    """The partitions of histories that the first of two processes owns, once both have their share."""
    deadline_s = time.monotonic() + _SHARED_S
    while time.monotonic() < deadline_s:
        own, others = [_owned(await asyncio.to_thread(metrics.read, (port,))) for port in (first, second)]
        if own and others and len(own) + len(others) == count:
            return own
        await asyncio.sleep(_WATCH_S)
    raise RuntimeError(f"two processes did not share {count} partitions within {_SHARED_S:.0f} s")


def _owned(found: Mapping[str, float]) -> list[int]:
    prefix = 'odradek_partition_owned{processor="history",partition="'
    return [int(key[len(prefix) : -2]) for key, value in found.items() if key.startswith(prefix) and value]


async def _until_followed(port: int, partitions: list[int]) -> None:
    """Return once a process has copies of these partitions that lack nothing."""
    deadline_s = time.monotonic() + _SHARED_S
    while time.monotonic() < deadline_s:
        found = await asyncio.to_thread(metrics.read, (port,))
        labels = [('processor="history"', f'partition="{number}"') for number in partitions]
        following = [metrics.total(found, "odradek_standby_following", *own) for own in labels]
        if all(following) and not any(metrics.total(found, "odradek_standby_lag", *own) for own in labels):
            return
        await asyncio.sleep(_WATCH_S)
    raise RuntimeError(f"there were no copies of partitions {partitions} within {_SHARED_S:.0f} s")


async def _until_owned(port: int, count: int, deadline_s: float) -> float:
    """When a process owns all partitions of histories (monotonic seconds)."""
    while time.monotonic() < deadline_s:
        if len(_owned(await asyncio.to_thread(metrics.read, (port,)))) == count:
            return time.monotonic()
        await asyncio.sleep(_WATCH_S)
    raise RuntimeError("the partitions of the process that was killed were not taken over")


class _Calls:
    """Signals to workflows of every partition, each answered before its lane sends the next."""

    def __init__(self, address: str, ids: list[list[str]]) -> None:
        self.retried = 0
        self._times: list[list[float]] = [[time.monotonic()] for _ in ids]
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = WorkflowServiceStub(self._channel)
        self._lanes = [
            asyncio.create_task(self._signal_on(partition, lane, own))
            for partition, own in enumerate(ids)
            for lane in range(LANES)
        ]

    @property
    def answered(self) -> int:
        return sum(map(len, self._times)) - len(self._times)

    def longest_gap_s(self, partition: int) -> float:
        """The longest time without an answer from a partition."""
        times = self._times[partition]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    async def until_answered(self, after_s: float, deadline_s: float) -> None:
        """Return once every partition has answered after that moment."""
        while not all(times[-1] > after_s for times in self._times):
            if time.monotonic() > deadline_s:
                raise RuntimeError("a partition answers no more")
            await asyncio.sleep(_WATCH_S)

    async def stop(self) -> None:
        for lane in self._lanes:
            lane.cancel()
        results = await asyncio.gather(*self._lanes, return_exceptions=True)
        await self._channel.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _signal_on(self, partition: int, lane: int, ids: list[str]) -> None:
        chosen = random.Random(f"{partition}/{lane}")
        sent = 0
        while True:
            sent += 1
            request = SignalWorkflowExecutionRequest(
                namespace=bulk.NAMESPACE,
                workflow_execution=WorkflowExecution(workflow_id=chosen.choice(ids)),
                signal_name="failover",
                request_id=f"{partition}-{lane}-{sent}",
            )
            await self._until_taken(request)
            self._times[partition].append(time.monotonic())
            await asyncio.sleep(PAUSE_S)

    async def _until_taken(self, request: SignalWorkflowExecutionRequest) -> None:
        """Make a call, again as an SDK does where the server was not there to answer."""
        while True:
            try:
                await self._stub.SignalWorkflowExecution(request, timeout=_CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                self.retried += 1
                await asyncio.sleep(_RETRY_S)
            else:
                return
