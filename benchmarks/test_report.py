"""The verdicts of the table: a wrong one would be believed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report
from benchmarks.cluster.scenarios import CLUSTER_SCENARIOS
from benchmarks.scenarios import OURS, PEER, SCENARIOS, Requirement


def result(name: str, **sides: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    runs = [{"server": side, "version": "1", **run} for side, all_runs in sides.items() for run in all_runs]
    machine = {"cpu": "c", "cores": 2, "file_system": "ext4", "commit": "abc"}
    return {name: {"scenario": name, "date": "2026-01-01", "machine": machine, "runs": runs}}


@pytest.mark.parametrize(
    ("requirement", "ours", "theirs", "value", "met"),
    [
        (Requirement("m", "at least", 5), 150.0, 30.0, 5.0, True),
        (Requirement("m", "at least", 5), 149.0, 30.0, 149 / 30, False),
        (Requirement("m", "at most", 1 / 7), 4.0, 32.0, 0.125, True),
        (Requirement("m", "at most", 1 / 7), 5.0, 32.0, 0.15625, False),
        (Requirement("m", "limit", 40), 40.0, 205.0, 40.0, True),
        (Requirement("m", "limit", 40), 40.1, 205.0, 40.1, False),
        (Requirement("m", "floor", 40), 40.0, 205.0, 40.0, True),
        (Requirement("m", "floor", 40), 39.9, 205.0, 39.9, False),
    ],
)
def test_a_bound_is_on_the_right_side(
    requirement: Requirement, ours: float, theirs: float, value: float, met: bool
) -> None:
    own, other = report.spreads([{"m": ours}]), report.spreads([{"m": theirs}])
    measured = report.measured(requirement, own, other)
    assert measured == pytest.approx(value)
    assert report.is_met(requirement, measured) is met


def test_a_ratio_needs_both_servers_and_a_limit_only_ours() -> None:
    own = report.spreads([{"m": 1.0}])
    assert report.measured(Requirement("m", "at least", 5), own, {}) is None
    assert report.measured(Requirement("m", "limit", 5), own, {}) == 1.0
    assert report.measured(Requirement("m", "limit", 5), {}, own) is None


def test_the_median_of_the_runs_counts_and_the_range_is_shown() -> None:
    spread = report.spreads([{"m": 30}, {"m": 10}, {"m": 11}])["m"]
    assert (spread.median, spread.low, spread.high) == (11, 10, 30)
    assert str(spread) == "11 (10–30)"


def test_a_measure_that_a_run_lacks_has_no_median() -> None:
    assert report.spreads([{"m": 1}, {}]) == {}


def test_an_unmet_requirement_is_in_the_table_and_in_the_list() -> None:
    results = result(
        "noop",
        **{
            PEER: [{"throughput_per_s": 50.0, "server_cpu_ms_per_operation": 18.0}],
            OURS: [{"throughput_per_s": 500.0, "server_cpu_ms_per_operation": 6.0}],
        },
    )
    rows = report.table(results).splitlines()
    assert "| no-op workflow | throughput, /s | 50 | 500 | ≥ 5× | 10× | yes |" in rows
    assert "|  | server CPU each, ms | 18 | 6 | ≤ 1/6 | 1/3 | **no** |" in rows
    assert report.unmet(results) == ["noop: server CPU each, ms: required ≤ 1/6, measured 1/3"]
    assert "| noop | 2026-01-01 | 1 | 1, abc | 1 | c, 2 cores, ext4 | 0% |" in report.page(
        [report.Chapter("One", results, SCENARIOS)]
    )


def test_every_measure_has_a_label() -> None:
    for scenario in (*SCENARIOS.values(), *CLUSTER_SCENARIOS.values()):
        measures = {requirement.measure for requirement in scenario.requirements} | set(scenario.shown)
        assert measures <= report.LABELS.keys()
