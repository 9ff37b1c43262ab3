"""From runs to medians, ratios, verdicts and the Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.scenarios import OURS, PEER, SCENARIOS, Requirement, Scenario

BUSY_SHARE = 0.1
LABELS = {
    "throughput_per_s": "throughput, /s",
    "server_cpu_ms_per_operation": "server CPU each, ms",
    "start_p50_ms": "start p50, ms",
    "result_p50_ms": "result p50, ms",
    "result_p99_ms": "result p99, ms",
    "signal_p50_ms": "signal p50, ms",
    "query_p50_ms": "query p50, ms",
    "update_p50_ms": "update p50, ms",
    "update_p99_ms": "update p99, ms",
    "late_p50_ms": "seen late p50, ms",
    "late_p99_ms": "seen late p99, ms",
    "fired_late_p99_ms": "TimerFired event late p99, ms",
    "first_call_s": "start-up to first accepted call, s",
    "workflows": "n, workflows",
    "rss_idle_mib": "resident, idle, MiB",
    "rss_after_mib": "resident after n, MiB",
    "rss_after_double_mib": "resident after 2n, MiB",
    "rss_growth_after": "resident, 2n / n",
    "idle_cpu_ms_per_s": "idle CPU, ms a second",
    "database_kb_per_workflow": "database, kB each",
    "restart_s": "slowest restart, s",
    "restart_after_kill_s": "slowest restart after SIGKILL, s",
    "rss_kb_per_workflow": "resident, kB each",
    "rss_open_mib": "resident with all open, MiB",
    "rss_after_restart_mib": "resident after restart, MiB",
    "cpu_beside_empty": "CPU of a new workflow, full / empty server",
    "latency_beside_empty": "p50 of a new workflow, full / empty server",
    "open_per_s": "started, /s",
    "parts_cpu_ms_per_operation": "CPU of all parts each, ms",
    "kafka_cpu_ms_per_operation": "of it Kafka, ms",
    "cassandra_cpu_ms_per_operation": "of it Cassandra, ms",
    "postgres_cpu_ms_per_operation": "of it PostgreSQL, ms",
    "materializer_lag_records": "records not yet in the stores",
    "checkpoint_share": "part of the time spent on checkpoints",
    "hop_p50_ms": "hop p50, ms",
    "hop_p99_ms": "hop p99, ms",
    "rate_per_s": "rate, /s",
    "gap_s": "longest gap, s",
    "gap_beyond_session_s": "longest gap beyond the session timeout, s",
    "takeover_s": "kill to the last partition owned, s",
    "restore_s": "restore part, s",
    "owned_workflows": "open workflows of the owner killed",
    "restored_per_s": "workflows restored, /s",
    "restored_gb_s": "seconds a GB of changelog",
    "restored_mb": "changelog, MB",
    "bytes_per_workflow": "bytes a workflow",
    "cpu_growth": "CPU of a workflow, full / small server",
    "latency_growth": "p50 of a workflow, full / small server",
    "cpu_small_ms": "CPU of all parts each beside few open, ms",
    "cpu_full_ms": "CPU of all parts each beside all open, ms",
    "rss_small_mib": "resident beside few open, MiB",
    "rss_tenth_mib": "resident beside a tenth open, MiB",
    "rss_full_mib": "resident beside all open, MiB",
    "rss_growth_full": "resident, all / a tenth open",
}


@dataclass(frozen=True)
class Spread:
    """Median and range of one measure over the runs of one server."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        middle = number(self.median)
        if self.low == self.high:
            return middle
        return f"{middle} ({number(self.low)}–{number(self.high)})"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spreads(runs: list[dict[str, Any]]) -> dict[str, Spread]:
    """Median and range of each number that every run has."""
    if not runs:
        return {}
    found = {}
    for name in runs[0]:
        values = [run.get(name) for run in runs]
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) == len(runs):
            found[name] = Spread(statistics.median(numbers), min(numbers), max(numbers))
    return found


def measured(requirement: Requirement, ours: dict[str, Spread], peer: dict[str, Spread]) -> float | None:
    """The figure that the requirement bounds; None when a side that it needs was not measured."""
    own = ours.get(requirement.measure)
    if own is None:
        return None
    if requirement.kind in ("limit", "floor"):
        return own.median
    other = peer.get(requirement.measure)
    if other is None or other.median == 0:
        return None
    return own.median / other.median


def is_met(requirement: Requirement, value: float) -> bool:
    """Whether the measured figure keeps to the bound."""
    if requirement.kind in ("at least", "floor"):
        return value >= requirement.bound
    return value <= requirement.bound


Results = Mapping[str, dict[str, Any]]
"""The newest result of each scenario, by the scenario's name."""


def table(results: Results, scenarios: Mapping[str, Scenario] = SCENARIOS) -> str:
    """The Markdown table of all results, in the order of `scenarios`."""
    lines = [
        "| scenario | measure | Temporal | Odradek | required | measured | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scenario in scenarios.items():
        if name in results:
            lines += _rows(scenario, results[name])
    return "\n".join(lines)


def _rows(scenario: Scenario, result: dict[str, Any]) -> list[str]:
    sides = {side: spreads([r for r in result["runs"] if r["server"] == side]) for side in (OURS, PEER)}
    bounds = {requirement.measure: requirement for requirement in scenario.requirements}
    rows = []
    for n, measure in enumerate([*bounds, *scenario.shown]):
        if not any(measure in side for side in sides.values()):
            continue
        cells = [str(sides[side].get(measure, "–")) for side in (PEER, OURS)]
        required, value, met = _verdict(bounds.get(measure), sides)
        title = scenario.title if n == 0 else ""
        rows.append(f"| {title} | {LABELS[measure]} | {' | '.join(cells)} | {required} | {value} | {met} |")
    return rows


def _verdict(requirement: Requirement | None, sides: dict[str, dict[str, Spread]]) -> tuple[str, str, str]:
    if requirement is None:
        return "", "", ""
    value = measured(requirement, sides[OURS], sides[PEER])
    bound = requirement.bound
    if requirement.kind == "at least":
        required, shown = f"≥ {number(bound)}×", None if value is None else f"{number(value)}×"
    elif requirement.kind == "at most":
        required, shown = f"≤ 1/{number(1 / bound)}", None if value is None else _fraction(value)
    elif requirement.kind == "floor":
        required, shown = f"≥ {number(bound)}", None if value is None else number(value)
    else:
        required, shown = f"≤ {number(bound)}", None if value is None else number(value)
    if value is None:
        return required, "–", "–"
    return required, shown or "", "yes" if is_met(requirement, value) else "**no**"


def _fraction(ratio: float) -> str:
    return f"1/{number(1 / ratio)}" if 0 < ratio < 1 else number(ratio)


def concluded(results: Results, scenarios: Mapping[str, Scenario] = SCENARIOS) -> int:
    """Print the table and what was missed; returns the exit code: 3 when something was."""
    print(table(results, scenarios))
    missed = unmet(results, scenarios)
    for line in missed:
        print(f"not met: {line}")
    return 3 if missed else 0


def unmet(results: Results, scenarios: Mapping[str, Scenario] = SCENARIOS) -> list[str]:
    """One line for each requirement that was measured and missed."""
    lines = []
    for name, result in results.items():
        sides = {side: spreads([r for r in result["runs"] if r["server"] == side]) for side in (OURS, PEER)}
        for requirement in scenarios[name].requirements:
            value = measured(requirement, sides[OURS], sides[PEER])
            if value is not None and not is_met(requirement, value):
                required, shown, _ = _verdict(requirement, sides)
                lines.append(f"{name}: {LABELS[requirement.measure]}: required {required}, measured {shown}")
    return lines


@dataclass(frozen=True)
class Chapter:
    """One footing in RESULTS.md."""

    title: str
    results: Results
    scenarios: Mapping[str, Scenario]


def page(chapters: Sequence[Chapter]) -> str:
    """RESULTS.md: the tables, and what they were measured on."""
    parts = [
        "# Results",
        "",
        "Rendered by `python -m benchmarks.run --report` from the newest complete result of each scenario in "
        "`results/`; do not edit. Figures are medians of the runs, with the lowest and highest run in "
        "brackets; a p99 is the median of the runs' p99s. `README.md` says how each is measured.",
    ]
    for chapter in chapters:
        parts += ["", f"## {chapter.title}", "", table(chapter.results, chapter.scenarios)]
        parts += [
            "",
            "Measured on:",
            "",
            "| scenario | date | Temporal | Odradek | runs a server | machine | others' CPU, highest |",
            "|---|---|---|---|---|---|---|",
        ]
        parts += [
            _origin(name, chapter.results[name]) for name in chapter.scenarios if name in chapter.results
        ]
    return "\n".join(parts) + "\n"


def _origin(name: str, result: dict[str, Any]) -> str:
    versions = {run["server"]: run["version"] for run in result["runs"]}
    ours = versions.get(OURS)
    machine = result["machine"]
    runs = max(sum(run["server"] == side for run in result["runs"]) for side in versions)
    if ours is not None:
        ours = ", ".join((ours, machine["commit"], *_choices(result)))
    described = f"{machine['cpu']}, {machine['cores']} cores, {machine['file_system']}"
    busiest = max(run.get("other_cpu_share", 0.0) for run in result["runs"])
    return (
        f"| {name} | {result['date']} | {versions.get(PEER, '–')} | {ours or '–'} | {runs} | {described} | "
        f"{busiest:.0%} |"
    )


def _choices(result: dict[str, Any]) -> list[str]:
    """How ours was laid out, where there is a choice."""
    choices = result.get("choices")
    if choices is None:
        return []
    return [f"{choices['partitions']} partitions", f"processes: {choices['layout']}"]


def warnings(run: dict[str, Any]) -> list[str]:
    """What makes a run doubtful although nothing failed."""
    lines = []
    if run.get("other_cpu_share", 0.0) > BUSY_SHARE:
        lines.append(f"others used {run['other_cpu_share']:.0%} of the machine during the window")
    lines += [f"{n} × retried call {call}" for call, n in run.get("failed_calls", {}).items()]
    lines += [f"{n} × {reason}, and asked again" for reason, n in run.get("repeated", {}).items()]
    lines += [f"{n} × SDK {line}" for line, n in run.get("warnings", {}).items()]
    return lines
