"""Measure Odradek beside the real server.

    python -m benchmarks.run                               everything, 5 runs a server: about two hours
    python -m benchmarks.run --scenario one-activity       one row of the table
    python -m benchmarks.run --quick                       everything, tiny: does it all work?
    python -m benchmarks.run --report                      render RESULTS.md again from the results kept

Each run starts a fresh server on a fresh database file; the two servers take turns. A complete result (all
servers of its scenario, nothing smaller than the defaults) is kept in benchmarks/results/ and RESULTS.md is
rendered; others go to .cache/benchmarks/partial/. Exits 1 when a run fails, 3 when a requirement that was
measured is not met.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime
import sys
from typing import Any

from benchmarks import kept, load, proc, report, scale
from benchmarks.scenarios import FULL, OURS, PEER, QUICK, SCENARIOS, Scenario, Sizes
from benchmarks.servers import WORK, discard, fresh_database, serve

TIMER_STARTS_IN_FLIGHT = 100


def main() -> None:
    """The command line."""
    options = _parse()
    if options.report:
        kept.render()
        return
    try:
        results = asyncio.run(_measure(options))
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    sys.exit(report.concluded(results))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--scenario", action="append", choices=list(SCENARIOS), help="repeatable (default: all)"
    )
    parser.add_argument("--only", choices=["ours", "peer"], help="measure one server alone, without ratios")
    parser.add_argument("--quick", action="store_true", help="tiny runs, to see that everything works")
    parser.add_argument("--runs", type=int, help="runs a server (default 5)")
    parser.add_argument("--duration-s", type=int, help="measured window of the timed scenarios (default 20)")
    parser.add_argument("--open-workflows", type=int, help="open workflows (default 100,000)")
    parser.add_argument(
        "--open-with-worker", action="store_true", help="run each open workflow up to its wait"
    )
    parser.add_argument(
        "--compression", choices=["gzip", "none"], default="gzip", help="the SDK's (default gzip)"
    )
    parser.add_argument("--port", type=int, default=17100, help="first of two free ports (default 17100)")
    parser.add_argument("--report", action="store_true", help="measure nothing; render RESULTS.md")
    return parser.parse_args()


def _sizes(options: argparse.Namespace) -> Sizes:
    sizes = QUICK if options.quick else FULL
    asked = {name: getattr(options, name) for name in ("runs", "duration_s", "open_workflows")}
    if any(value is not None and value < 1 for value in asked.values()):
        raise RuntimeError("counts and durations must be at least 1")
    return dataclasses.replace(sizes, **{name: value for name, value in asked.items() if value is not None})


def _is_full(sizes: Sizes, compression: str) -> bool:
    """Whether nothing is smaller than the table of figures asks for, and the SDK is as it comes."""
    full = dataclasses.asdict(FULL)
    return compression == "gzip" and all(dataclasses.asdict(sizes)[name] >= full[name] for name in full)


async def _measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    sizes = _sizes(options)
    load.build()
    WORK.mkdir(parents=True, exist_ok=True)
    # Described before RESULTS.md is rendered, which would make the working tree differ from its commit.
    machine = proc.machine(WORK)
    results = {}
    for name in options.scenario or SCENARIOS:
        scenario = SCENARIOS[name]
        servers = _servers(scenario, options.only)
        result = {"machine": machine, **await _scenario(scenario, servers, sizes, options)}
        results[name] = result
        complete = servers == _servers(scenario, None) and _is_full(sizes, options.compression)
        kept.keep(result, kept.RESULTS if complete else kept.PARTIAL)
        if complete:
            kept.render()
    return results


def _servers(scenario: Scenario, only: str | None) -> list[str]:
    if only is not None:
        return [OURS if only == "ours" else PEER]
    return [PEER, OURS] if scenario.peer else [OURS]


async def _scenario(
    scenario: Scenario, servers: list[str], sizes: Sizes, options: argparse.Namespace
) -> dict[str, Any]:
    runs = []
    # The open workflows are started once a server; what is repeated then is repeated within that run.
    for n in range(1 if scenario.name == "open" else sizes.runs):
        for server in servers:
            run = {"server": server, **await _run(scenario, server, n, sizes, options)}
            runs.append(run)
            kept.tell(scenario, run, n)
    return {
        "scenario": scenario.name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "sizes": dataclasses.asdict(sizes),
        "compression": options.compression,
        "runs": runs,
    }


async def _run(
    scenario: Scenario, server: str, n: int, sizes: Sizes, options: argparse.Namespace
) -> dict[str, Any]:
    database = fresh_database(f"{scenario.name}-{server}-{n + 1}")
    common = ["-compression", options.compression]
    try:
        if scenario.name == "memory":
            return await scale.memory(server, options.port, sizes, database, common)
        if scenario.name == "open":
            return await scale.open_workflows(
                server, options.port, sizes, database, common, with_worker=options.open_with_worker
            )
        async with serve(server, options.port, database) as running:
            result = await load.run(running, scenario.name, *_amount(scenario, sizes), *common)
            del result["address"]
            return {
                **result,
                "version": running.version,
                "first_call_s": running.first_call_s,
                "database_mib": running.database_mib(),
            }
    finally:
        discard(database)


def _amount(scenario: Scenario, sizes: Sizes) -> list[str]:
    warmup = ["-warmup", f"{sizes.warmup_s * scenario.stretch}s"]
    if scenario.name == "signals-1000":
        return [*warmup, "-count", str(sizes.signal_workflows)]
    if scenario.name == "timers-1000":
        return [*warmup, "-count", str(sizes.timers), "-in-flight", str(TIMER_STARTS_IN_FLIGHT)]
    return [*warmup, "-duration", f"{sizes.duration_s * scenario.stretch}s"]


if __name__ == "__main__":
    main()
