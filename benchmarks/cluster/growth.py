"""Whether a workflow costs the same beside many open ones as beside few, and what memory the many take."""

from __future__ import annotations

import asyncio
import statistics
from typing import Any

from benchmarks import load
from benchmarks.cluster import bulk
from benchmarks.cluster.parts import Parts, Site
from benchmarks.cluster.scenarios import PARTS_CPU, ClusterSizes
from benchmarks.cluster.servers import Choices, serve_ours

_SHARE = 2
"""Its windows are so many times shorter than those of the compared scenarios."""


async def measure(parts: Parts, port: int, sizes: ClusterSizes, choices: Choices) -> dict[str, Any]:
    """One-activity workflows beside few, a tenth and all of `sizes.growth_full` open ones, by turns."""
    counts = {"small": sizes.growth_small, "tenth": sizes.growth_full // 10, "full": sizes.growth_full}
    sites = {label: Site(f"odradek_growth_{label}", parts) for label in counts}
    runs: dict[str, list[dict[str, Any]]] = {label: [] for label in counts}
    try:
        for label, site in sites.items():
            await asyncio.to_thread(site.make)
            await bulk.fill(site, port, choices, range(counts[label]))
        for turn in range(sizes.growth_pairs):
            for label in counts if turn % 2 == 0 else reversed(counts):
                runs[label].append(await _run(sites[label], port, sizes, choices))
                print(f"  {label}, {counts[label]:,} open: {_told(runs[label][-1])}", flush=True)
    finally:
        for site in sites.values():
            await asyncio.to_thread(site.remove)
    cpu = {label: statistics.median(run["cpu_ms"] for run in own) for label, own in runs.items()}
    p50 = {label: statistics.median(run["p50_ms"] for run in own) for label, own in runs.items()}
    # The first start on a site restores all of it, which is when a process is largest.
    rss = {label: max(run["rss_mib"] for run in own) for label, own in runs.items()}
    return {
        "workflows": sizes.growth_full,
        "cpu_growth": cpu["full"] / cpu["small"],
        "latency_growth": p50["full"] / p50["small"],
        "cpu_small_ms": cpu["small"],
        "cpu_full_ms": cpu["full"],
        "rss_small_mib": rss["small"],
        "rss_tenth_mib": rss["tenth"],
        "rss_full_mib": rss["full"],
        "rss_growth_full": rss["full"] / rss["tenth"],
        "other_cpu_share": max(run["other_cpu_share"] for own in runs.values() for run in own),
        "sides": runs,
        "version": runs["full"][-1]["version"],
    }


async def _run(site: Site, port: int, sizes: ClusterSizes, choices: Choices) -> dict[str, Any]:
    timed = ["-duration", f"{sizes.duration_s // _SHARE or 1}s", "-warmup", f"{sizes.warmup_s}s"]
    async with serve_ours(site, port, choices) as server:
        await asyncio.to_thread(site.parts.wait_until_quiet)
        busy = await load.run(server, "one-activity", *timed)
        calm = await load.run(server, "one-at-a-time", *timed)
        return {
            "cpu_ms": busy[PARTS_CPU],
            "throughput_per_s": busy["throughput_per_s"],
            "p50_ms": calm["result_p50_ms"],
            "rss_mib": calm["server_rss_mib"],
            "other_cpu_share": max(busy["other_cpu_share"], calm["other_cpu_share"]),
            "version": server.version,
        }


def _told(run: dict[str, Any]) -> str:
    return (
        f"{run['cpu_ms']:.1f} ms CPU each, {run['throughput_per_s']:.0f}/s, p50 {run['p50_ms']:.1f} ms, "
        f"{run['rss_mib']:.0f} MiB"
    )
