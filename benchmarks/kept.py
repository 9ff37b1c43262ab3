"""Results kept as files, and the page rendered from the newest of each scenario."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cluster.scenarios import CLUSTER_SCENARIOS
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import WORK

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent / "RESULTS.md"
PARTIAL = WORK / "partial"
"""Where results go that are not complete."""

CLUSTER = "cluster"
"""The footing of results on Kafka, Cassandra and PostgreSQL; those of one file name none."""


def tell(scenario: Scenario, run: dict[str, Any], n: int) -> None:
    """Print the figures of run `n` (from 0), and what makes it doubtful."""
    measures = [requirement.measure for requirement in scenario.requirements] + list(scenario.shown)
    figures = ", ".join(f"{report.LABELS[m]} {report.number(run[m])}" for m in measures if m in run)
    print(f"{scenario.name} {run['server']} run {n + 1}: {figures}", flush=True)
    for line in report.warnings(run):
        print(f"  note: {line}", flush=True)


def keep(result: dict[str, Any], directory: Path) -> None:
    """Write a result, and say where."""
    directory.mkdir(parents=True, exist_ok=True)
    name = "-".join(filter(None, (result["date"], result.get("footing"), result["scenario"])))
    path = directory / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"  kept in {path.relative_to(Path(__file__).parents[1])}", flush=True)


def render() -> None:
    """Write RESULTS.md from the newest result of each scenario."""
    newest: dict[str | None, dict[str, Any]] = {None: {}, CLUSTER: {}}
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        newest[result.get("footing")][result["scenario"]] = result
    chapters = [
        report.Chapter("On one file", newest[None], SCENARIOS),
        report.Chapter("On Kafka, Cassandra and PostgreSQL", newest[CLUSTER], CLUSTER_SCENARIOS),
    ]
    PAGE.write_text(report.page([chapter for chapter in chapters if chapter.results]))
