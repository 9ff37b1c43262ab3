"""Measure Odradek on Kafka, Cassandra and PostgreSQL beside the real server on Cassandra and PostgreSQL.

    python -m benchmarks.cluster                               everything: an hour and a half
    python -m benchmarks.cluster --scenario one-activity       some rows of the table (repeatable)
    python -m benchmarks.cluster --compared                    the scenarios that both servers run: 50 minutes
    python -m benchmarks.cluster --quick                       everything, tiny: does it all work?
    python -m benchmarks.cluster --report                      render RESULTS.md again from the results kept

Starts the parts of deploy/local on new data in .cache/benchmarks/cluster, and stops them. A complete result is kept
in benchmarks/results/ and RESULTS.md is rendered; others go to .cache/benchmarks/partial/. Exits 1 when a run fails,
3 when a requirement that was measured is not met.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks import kept, load, proc, report
from benchmarks.cluster import failover, growth, hop, restore
from benchmarks.cluster.compared import compare
from benchmarks.cluster.parts import PORTS, Parts
from benchmarks.cluster.scenarios import (
    CLUSTER_FULL,
    CLUSTER_QUICK,
    CLUSTER_SCENARIOS,
    COMPARED,
    ClusterSizes,
)
from benchmarks.cluster.servers import Choices
from benchmarks.peer import cassandra as peer
from benchmarks.scenarios import OTHER, OURS, PEER
from benchmarks.servers import WORK
from deploy.local.errors import PartError

LAYOUT = ("gateway", "history,matching,timer,materializer")
PARTITIONS = 2
OWN_PARTITIONS = 4
"""Those of the scenarios of ours alone, in which owners share partitions."""

Own = Callable[[Parts, int, ClusterSizes, Choices], Awaitable[dict[str, Any]]]

OWN: dict[str, Own] = {
    "hop": hop.measure,
    "failover": failover.measure,
    "failover-standby": failover.measure_with_standbys,
    "restore": restore.measure,
    "growth": growth.measure,
}
"""The scenarios of ours alone. One run has all that is repeated within it."""


def main() -> None:
    """The command line."""
    options = _parse()
    if options.report:
        kept.render()
        return
    try:
        results = asyncio.run(_measure(options))
    except (RuntimeError, PartError) as error:
        sys.exit(f"error: {error}")
    sys.exit(report.concluded(results, CLUSTER_SCENARIOS))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--scenario",
        action="append",
        choices=list(CLUSTER_SCENARIOS),
        help="repeatable (default: all)",
    )
    parser.add_argument("--compared", action="store_true", help="the scenarios that both servers run")
    beside = parser.add_mutually_exclusive_group()
    beside.add_argument("--only", choices=["ours", "peer"], help="measure one server alone, without ratios")
    beside.add_argument(
        "--against",
        type=_tree,
        metavar="DIR",
        help="beside ours of another working tree, not the real server",
    )
    parser.add_argument("--quick", action="store_true", help="tiny runs, to see that everything works")
    for field in dataclasses.fields(ClusterSizes):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=int, help=f"(default {getattr(CLUSTER_FULL, field.name):,})")
    parser.add_argument(
        "--process",
        action="append",
        metavar="ROLES",
        help=f"a process of ours with these roles, repeatable (default: {' and '.join(LAYOUT)})",
    )
    parser.add_argument(
        "--partitions",
        type=int,
        help=f"(default {PARTITIONS}, {OWN_PARTITIONS} in the scenarios of ours alone)",
    )
    parser.add_argument("--port", type=int, default=17200, help="first of 25 free ports (default 17200)")
    parser.add_argument("--report", action="store_true", help="measure nothing; render RESULTS.md")
    return parser.parse_args()


def _tree(text: str) -> Path:
    """The directory of a working tree of ours. Raises ArgumentTypeError for any other."""
    path = Path(text).resolve()
    if not (path / "server" / "serve.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no working tree of ours")
    return path


def _sizes(options: argparse.Namespace) -> ClusterSizes:
    sizes = CLUSTER_QUICK if options.quick else CLUSTER_FULL
    names = [field.name for field in dataclasses.fields(ClusterSizes)]
    asked = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if any(value < 1 for value in asked.values()):
        raise RuntimeError("counts and durations must be at least 1")
    return dataclasses.replace(sizes, **asked)


MIN_RUNS = 3
"""Runs a server that make a result complete: five are measured unless told otherwise."""


def _is_full(sizes: ClusterSizes) -> bool:
    """Whether nothing is smaller than the table of figures asks for."""
    full = {**dataclasses.asdict(CLUSTER_FULL), "runs": MIN_RUNS, "growth_pairs": MIN_RUNS}
    return all(dataclasses.asdict(sizes)[name] >= full[name] for name in full)


async def _measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    sizes = _sizes(options)
    layout, asked = tuple(options.process or LAYOUT), options.partitions
    choices = Choices(layout, PARTITIONS if asked is None else asked, options.against)
    own_choices = Choices(layout, OWN_PARTITIONS if asked is None else asked)
    names = options.scenario or list(CLUSTER_SCENARIOS)
    if options.compared or options.against is not None:
        names = [name for name in names if name in COMPARED]
    servers = [PEER, OURS] if options.only is None else [OURS if options.only == "ours" else PEER]
    if options.against is not None:
        servers = [OTHER, OURS]
    load.build()
    if PEER in servers and any(name in COMPARED for name in names):
        peer.install()
    WORK.mkdir(parents=True, exist_ok=True)
    frame = {
        # Described before RESULTS.md is rendered, which would make the working tree differ from its commit.
        "machine": proc.machine(WORK),
        "footing": kept.CLUSTER,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "sizes": dataclasses.asdict(sizes),
    }
    complete = options.only is None and options.against is None and _is_full(sizes)
    results = {}

    def have(name: str, chosen: Choices, runs: list[dict[str, Any]]) -> None:
        results[name] = {**frame, "choices": chosen.described(), "scenario": name, "runs": runs}
        kept.keep(results[name], kept.RESULTS if complete else kept.PARTIAL)
        if complete:
            kept.render()

    parts = Parts(options.port)
    port = options.port + PORTS
    await asyncio.to_thread(parts.start)
    try:
        compared = [name for name in names if name in COMPARED]
        if compared:
            runs = await compare(compared, servers, parts, port, sizes, choices, kept.tell)
            for name in compared:
                have(name, choices, runs[name])
        for name in names:
            if name in OWN and OURS in servers:
                run = {"server": OURS, **await OWN[name](parts, port, sizes, own_choices)}
                kept.tell(CLUSTER_SCENARIOS[name], run, 0)
                have(name, own_choices, [run])
    finally:
        await asyncio.to_thread(parts.stop)
    return results


if __name__ == "__main__":
    main()
