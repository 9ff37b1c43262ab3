"""The scenarios about size: memory as workflows pass through, and many that stay open."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from pathlib import Path
from typing import Any

from benchmarks import load
from benchmarks.scenarios import CPU, OURS, Sizes
from benchmarks.servers import Server, discard, fresh_database, serve

OPEN_IN_FLIGHT = "64"
KB_PER_MIB = 2**20 / 1000


async def memory(name: str, port: int, sizes: Sizes, database: Path, common: list[str]) -> dict[str, Any]:
    """Start-up, resident memory idle, after n workflows of one activity, and after n more."""
    workflows = sizes.workflows if name == OURS else sizes.peer_workflows
    counted = ["-count", str(workflows), "-warmup", "0s", *common]
    async with serve(name, port, database) as server:
        await asyncio.sleep(sizes.settle_s)
        idle = server.usage()
        await asyncio.sleep(sizes.settle_s)
        later = server.usage()
        empty_mib = server.database_mib()
        first = await load.run(server, "one-activity", *counted)
        await asyncio.sleep(sizes.settle_s)
        after = server.usage()
        second = await load.run(server, "one-activity", *counted)
        await asyncio.sleep(sizes.settle_s)
        after_double = server.usage()
        return {
            "version": server.version,
            "workflows": workflows,
            "first_call_s": server.first_call_s,
            "rss_idle_mib": idle.tree_rss_mib,
            "idle_cpu_ms_per_s": (later.tree_cpu_s - idle.tree_cpu_s) * 1000 / (later.at_s - idle.at_s),
            "rss_after_mib": after.tree_rss_mib,
            "rss_after_double_mib": after_double.tree_rss_mib,
            "rss_growth_after": after_double.tree_rss_mib / after.tree_rss_mib,
            "database_kb_per_workflow": (server.database_mib() - empty_mib) * KB_PER_MIB / (2 * workflows),
            "throughput_per_s": first["throughput_per_s"],
            "throughput_after_per_s": second["throughput_per_s"],
            "other_cpu_share": max(first["other_cpu_share"], second["other_cpu_share"]),
        }


async def open_workflows(
    name: str, port: int, sizes: Sizes, database: Path, common: list[str], *, with_worker: bool
) -> dict[str, Any]:
    """Many open workflows: what they take, how long restarts take, what a new workflow costs beside them.

    The restarts and the pairs of cost are repeated `sizes.runs` times on the one full server; slowest restart
    and median cost are reported. Each restart follows a little load, so that there is a tail to recover.
    """
    figures = await _fill(name, port, sizes, database, common, with_worker=with_worker)
    figures |= await _restarts(name, port, sizes, database, common)
    figures |= await _cost(name, port, sizes, database, common)
    return figures


async def _fill(
    name: str, port: int, sizes: Sizes, database: Path, common: list[str], *, with_worker: bool
) -> dict[str, Any]:
    async with serve(name, port, database) as server:
        await _little_load(server, common)
        await asyncio.sleep(sizes.settle_s)
        before, before_mib = server.usage(), server.database_mib()
        arguments = ["-count", str(sizes.open_workflows), "-in-flight", OPEN_IN_FLIGHT, "-warmup", "0s"]
        if with_worker:
            arguments.append("-open-with-worker")
        started = await load.run(server, "open", *arguments, *common)
        await asyncio.sleep(sizes.settle_s)
        after = server.usage()
        per_workflow = KB_PER_MIB / sizes.open_workflows
        figures = {
            "version": server.version,
            "workflows": sizes.open_workflows,
            "with_worker": with_worker,
            "open_per_s": started["throughput_per_s"],
            "open_cpu_ms": started[CPU],
            "rss_before_mib": before.tree_rss_mib,
            "rss_open_mib": after.tree_rss_mib,
            "rss_kb_per_workflow": (after.tree_rss_mib - before.tree_rss_mib) * per_workflow,
            "database_kb_per_workflow": (server.database_mib() - before_mib) * per_workflow,
        }
        await server.kill()
        return figures


async def _restarts(name: str, port: int, sizes: Sizes, database: Path, common: list[str]) -> dict[str, Any]:
    """Start again and again on the same file, after a crash and after a clean stop by turns."""
    after_kill, after_stop, resident = [], [], []
    for _ in range(sizes.runs):
        async with serve(name, port, database) as server:
            after_kill.append(server.first_call_s)
            resident.append(server.usage().tree_rss_mib)
            await _little_load(server, common)
        async with serve(name, port, database) as server:
            after_stop.append(server.first_call_s)
            await _little_load(server, common)
            await server.kill()
    return {
        "restart_s": max(after_stop),
        "restart_after_kill_s": max(after_kill),
        "restarts_s": after_stop,
        "restarts_after_kill_s": after_kill,
        "rss_after_restart_mib": max(resident),
    }


async def _cost(name: str, port: int, sizes: Sizes, database: Path, common: list[str]) -> dict[str, Any]:
    """The cost of a new workflow on the full server and on an empty one, measured by turns."""
    empty_database = fresh_database(f"{name}-empty")
    timed = ["-duration", f"{sizes.duration_s // 2 or 1}s", "-warmup", f"{sizes.warmup_s}s", *common]
    cpu: dict[str, list[float]] = {"full": [], "empty": []}
    latency: dict[str, list[float]] = {"full": [], "empty": []}
    others = 0.0
    async with contextlib.AsyncExitStack() as stack:
        full = await stack.enter_async_context(serve(name, port, database))
        empty = await stack.enter_async_context(serve(name, port + 1, empty_database))
        for turn in range(sizes.runs):
            pair = [("empty", empty), ("full", full)]
            for label, server in pair if turn % 2 == 0 else reversed(pair):
                busy = await load.run(server, "one-activity", *timed)
                calm = await load.run(server, "one-at-a-time", *timed)
                cpu[label].append(busy[CPU])
                latency[label].append(calm["result_p50_ms"])
                others = max(others, busy["other_cpu_share"], calm["other_cpu_share"])
    discard(empty_database)
    median = statistics.median
    return {
        "cpu_beside_empty": median(cpu["full"]) / median(cpu["empty"]),
        "latency_beside_empty": median(latency["full"]) / median(latency["empty"]),
        "cpu_full_ms": median(cpu["full"]),
        "cpu_empty_ms": median(cpu["empty"]),
        "latency_full_p50_ms": median(latency["full"]),
        "latency_empty_p50_ms": median(latency["empty"]),
        "other_cpu_share": others,
    }


async def _little_load(server: Server, common: list[str]) -> None:
    await load.run(server, "noop", "-count", "100", "-warmup", "0s", *common)
