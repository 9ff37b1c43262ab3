"""The scenarios of the load driver, on both servers by turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import load
from benchmarks.cluster import metrics
from benchmarks.cluster.parts import Parts
from benchmarks.cluster.scenarios import CLUSTER_SCENARIOS, ClusterSizes
from benchmarks.cluster.servers import Choices, ClusterServer, serve
from benchmarks.scenarios import Scenario

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

    A round starts one server after the other on stores of its own, and runs all the scenarios on it. The order of
    the servers changes from round to round, so that neither always finds the parts as the other has left them. Each
    server begins with workflows that nobody counts: its own caches and pools are cold, and so may the parts be that it
    uses. In the first round it begins with more: Java's parts, just started, still compile what is used most.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(sizes.runs):
        for side in servers if turn % 2 == 0 else reversed(servers):
            async with serve(side, parts, port, str(turn + 1), choices) as server:
                prelude_s = sizes.prelude_s if turn else sizes.first_prelude_s
                await load.run(server, "one-activity", *_timed(prelude_s, 0))
                for name in names:
                    run = await _run(server, name, sizes)
                    runs[name].append(run)
                    tell(CLUSTER_SCENARIOS[name], run, turn)
    return runs


async def _run(server: ClusterServer, name: str, sizes: ClusterSizes) -> dict[str, Any]:
    if name == "signals-1000":
        amount = ["-warmup", f"{sizes.warmup_s}s", "-count", str(sizes.signal_workflows)]
    else:
        amount = _timed(sizes.duration_s, sizes.warmup_s)
    result = await load.run(server, name, *amount)
    del result["address"]
    figures = {
        "server": server.name,
        **result,
        "version": server.version,
        "first_call_s": server.first_call_s,
    }
    if server.metrics_ports:
        # Work that is put off is not saved: what the stores lack of the window's is not yet paid for.
        found = await asyncio.to_thread(metrics.read, server.metrics_ports)
        figures["materializer_lag_records"] = metrics.total(found, "odradek_materializer_lag")
    return figures


def _timed(duration_s: int, warmup_s: int) -> list[str]:
    return ["-warmup", f"{warmup_s}s", "-duration", f"{duration_s}s"]
