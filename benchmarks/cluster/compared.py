"""The scenarios of the load driver, on both servers by turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.cluster import metrics, turns
from benchmarks.cluster.parts import Parts
from benchmarks.cluster.scenarios import CLUSTER_SCENARIOS, ClusterSizes
from benchmarks.cluster.servers import SERVER_PORTS, Choices, ClusterServer, serve
from benchmarks.scenarios import PEER, Scenario

WARMUPS = {"signal-query-update": 4}
"""Scenarios that are warmed up so many times as long: the real server loses queries of workflows just begun, each of
which its caller waits 10 s for."""

SIGNALS_STRETCH = 5
"""How many times as many workflows ours gets signals for as the real server: as it is about as many times as fast, both
take turns for all of their windows. Who has the machine alone in the end, without turns, is quicker there."""

Tell = Callable[[Scenario, dict[str, Any], int], None]
"""Is told each run: its scenario, its figures, and its number from 0 on."""


async def compare(
    names: Sequence[str],
    servers: Sequence[str],
    parts: Parts,
    port: int,
    sizes: ClusterSizes,
    choices: Choices,
    tell: Tell,
) -> dict[str, list[dict[str, Any]]]:
    """The runs of each scenario.

    A round starts the servers, each on stores of its own, and runs the scenarios on both by turns;
    who has the first turn changes from round to round. It begins with workflows that nobody counts: the servers' own
    caches and pools are cold. In the first round there are more: Java's parts, just started, still compile what is
    used most.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(sizes.runs):
        async with AsyncExitStack() as stack:
            running = [
                await stack.enter_async_context(
                    serve(side, parts, port + n * SERVER_PORTS, str(turn + 1), choices)
                )
                for n, side in enumerate(servers)
            ]
            if turn % 2:
                running.reverse()
            prelude_s = sizes.prelude_s if turn else sizes.first_prelude_s
            await turns.run(running, "one-activity", [_timed(prelude_s, 0)] * len(running))
            for name in names:
                for run in await _run(running, name, sizes):
                    runs[name].append(run)
                    tell(CLUSTER_SCENARIOS[name], run, turn)
    return runs


async def _run(servers: Sequence[ClusterServer], name: str, sizes: ClusterSizes) -> list[dict[str, Any]]:
    results = await turns.run(servers, name, [_amount(server.name, name, sizes) for server in servers])
    return [
        await asyncio.to_thread(_figures, server, result)
        for server, result in zip(servers, results, strict=True)
    ]


def _amount(server: str, name: str, sizes: ClusterSizes) -> list[str]:
    if name != "signals-1000":
        return _timed(sizes.duration_s, sizes.warmup_s * WARMUPS.get(name, 1))
    count = sizes.signal_workflows * (1 if server == PEER else SIGNALS_STRETCH)
    return ["-warmup", f"{sizes.warmup_s}s", "-count", str(count)]


def _figures(server: ClusterServer, result: dict[str, Any]) -> dict[str, Any]:
    del result["address"]
    figures = {
        "server": server.name,
        **result,
        "version": server.version,
        "first_call_s": server.first_call_s,
    }
    if server.metrics_ports:
        # Work that is put off is not saved: what the stores lack of the window's is not yet paid for.
        found = metrics.read(server.metrics_ports)
        figures["materializer_lag_records"] = metrics.total(found, "odradek_materializer_lag")
    return figures


def _timed(duration_s: int, warmup_s: int) -> list[str]:
    return ["-warmup", f"{warmup_s}s", "-duration", f"{duration_s}s"]
