"""From runs to medians, ratios, verdicts and the Markdown table."""

from __future__ import annotations

import statistics
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
    if requirement.kind == "limit":
        return own.median
    other = peer.get(requirement.measure)
    if other is None or other.median == 0:
        return None
    return own.median / other.median


def is_met(requirement: Requirement, value: float) -> bool:
    """Whether the measured figure keeps to the bound."""
    return value >= requirement.bound if requirement.kind == "at least" else value <= requirement.bound


def table(results: dict[str, dict[str, Any]]) -> str:
    """The Markdown table of all results, in the order of SCENARIOS."""
    lines = [
        "| scenario | measure | Temporal | Odradek | required | measured | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scenario in SCENARIOS.items():
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
    else:
        required, shown = f"≤ {number(bound)}", None if value is None else number(value)
    if value is None:
        return required, "–", "–"
    return required, shown or "", "yes" if is_met(requirement, value) else "**no**"


def _fraction(ratio: float) -> str:
    return f"1/{number(1 / ratio)}" if 0 < ratio < 1 else number(ratio)


def unmet(results: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each requirement that was measured and missed."""
    lines = []
    for name, result in results.items():
        sides = {side: spreads([r for r in result["runs"] if r["server"] == side]) for side in (OURS, PEER)}
        for requirement in SCENARIOS[name].requirements:
            value = measured(requirement, sides[OURS], sides[PEER])
            if value is not None and not is_met(requirement, value):
                required, shown, _ = _verdict(requirement, sides)
                lines.append(f"{name}: {LABELS[requirement.measure]}: required {required}, measured {shown}")
    return lines


def page(results: dict[str, dict[str, Any]]) -> str:
    """RESULTS.md: the table, and what it was measured on."""
    parts = [
        "# Results",
        "",
        "Rendered by `python -m benchmarks.run --report` from the newest complete result of each scenario in "
        "`results/`; do not edit. Figures are medians of the runs, with the lowest and highest run in "
        "brackets; a p99 is the median of the runs' p99s. `README.md` says how each is measured.",
        "",
        table(results),
        "",
        "## Measured on",
        "",
        "| scenario | date | Temporal | Odradek | runs a server | machine | others' CPU, highest |",
        "|---|---|---|---|---|---|---|",
    ]
    parts += [_origin(name, results[name]) for name in SCENARIOS if name in results]
    return "\n".join(parts) + "\n"


def _origin(name: str, result: dict[str, Any]) -> str:
    versions = {run["server"]: run["version"] for run in result["runs"]}
    ours = versions.get(OURS)
    machine = result["machine"]
    runs = max(sum(run["server"] == side for run in result["runs"]) for side in versions)
    if ours is not None:
        ours = f"{ours}, {machine['commit']}"
    described = f"{machine['cpu']}, {machine['cores']} cores, {machine['file_system']}"
    busiest = max(run.get("other_cpu_share", 0.0) for run in result["runs"])
    return (
        f"| {name} | {result['date']} | {versions.get(PEER, '–')} | {ours or '–'} | {runs} | {described} | "
        f"{busiest:.0%} |"
    )


def warnings(run: dict[str, Any]) -> list[str]:
    """What makes a run doubtful although nothing failed."""
    lines = []
    if run.get("other_cpu_share", 0.0) > BUSY_SHARE:
        lines.append(f"others used {run['other_cpu_share']:.0%} of the machine during the window")
    lines += [f"{n} × retried call {call}" for call, n in run.get("failed_calls", {}).items()]
    lines += [f"{n} × SDK {line}" for line, n in run.get("warnings", {}).items()]
    return lines
