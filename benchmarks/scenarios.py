"""What is measured, and what Odradek must reach: the table of figures, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PEER = "temporal"
OURS = "odradek"
OTHER = "other"
"""Ours of another working tree, beside which a change is tried."""


@dataclass(frozen=True)
class Requirement:
    """A bound on one measure of a scenario.

    `kind` says on what: "at least" and "at most" bound ours / theirs, medians of the runs; "limit" and "floor"
    bound ours alone, from above and from below, in the measure's own unit.
    """

    measure: str
    kind: Literal["at least", "at most", "limit", "floor"]
    bound: float


@dataclass(frozen=True)
class Scenario:
    """One row group of the table.

    `shown` are the measures reported without a bound. `stretch` multiplies warm-up and window, where
    operations take so long that a window would hold too few. `peer` is false where the real server is
    measured only when asked for by --only.
    """

    name: str
    title: str
    requirements: tuple[Requirement, ...]
    shown: tuple[str, ...] = ()
    stretch: int = 1
    peer: bool = True


@dataclass(frozen=True)
class Sizes:
    """How much each run does; `QUICK` only shows that everything works."""

    runs: int
    duration_s: int
    warmup_s: int
    signal_workflows: int
    timers: int
    workflows: int
    peer_workflows: int
    open_workflows: int
    settle_s: float


FULL = Sizes(
    runs=5,
    duration_s=20,
    warmup_s=3,
    signal_workflows=5,
    timers=1_000,
    workflows=10_000,
    peer_workflows=400,
    open_workflows=100_000,
    settle_s=5,
)
QUICK = Sizes(
    runs=1,
    duration_s=3,
    warmup_s=1,
    signal_workflows=1,
    timers=100,
    workflows=60,
    peer_workflows=60,
    open_workflows=300,
    settle_s=1,
)

CPU = "server_cpu_ms_per_operation"
LATENCIES = ("start_p50_ms", "result_p50_ms")

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "one-activity",
            "workflow of one activity",
            (
                Requirement("throughput_per_s", "at least", 5),
                Requirement(CPU, "at most", 1 / 7),
                Requirement("result_p99_ms", "at most", 1 / 5),
            ),
            LATENCIES,
        ),
        Scenario(
            "ten-activities",
            "workflow of ten activities in sequence",
            (Requirement("throughput_per_s", "at least", 6), Requirement(CPU, "at most", 1 / 7)),
            (*LATENCIES, "result_p99_ms"),
            stretch=3,
        ),
        Scenario(
            "noop",
            "no-op workflow",
            (Requirement("throughput_per_s", "at least", 5), Requirement(CPU, "at most", 1 / 6)),
            (*LATENCIES, "result_p99_ms"),
        ),
        Scenario(
            "signal-query-update",
            "signal, query it, then update, on a running workflow",
            (
                Requirement("throughput_per_s", "at least", 4),
                Requirement(CPU, "at most", 1 / 4),
                Requirement("update_p50_ms", "limit", 40),
            ),
            ("signal_p50_ms", "query_p50_ms", "update_p99_ms"),
        ),
        Scenario(
            "signals-1000",
            "1,000 signals into one workflow, until it has seen all",
            (Requirement("throughput_per_s", "at least", 4),),
            (CPU, "signal_p50_ms"),
        ),
        Scenario(
            "one-at-a-time",
            "one activity, one at a time",
            (Requirement("result_p50_ms", "limit", 15),),
            ("start_p50_ms", "result_p99_ms", CPU),
        ),
        Scenario(
            "timers-1000",
            "1,000 workflows started at once, each sleeping 5 s",
            (Requirement("late_p99_ms", "limit", 150),),
            ("late_p50_ms", "fired_late_p99_ms", CPU),
        ),
        Scenario(
            "memory",
            "start-up, and resident memory",
            (
                Requirement("first_call_s", "limit", 1.5),
                Requirement("rss_idle_mib", "limit", 150),
                Requirement("rss_after_mib", "limit", 250),
                Requirement("rss_growth_after", "limit", 1.05),
            ),
            ("workflows", "rss_after_double_mib", "idle_cpu_ms_per_s", "database_kb_per_workflow"),
        ),
        Scenario(
            "open",
            "100,000 open idle workflows",
            (
                Requirement("restart_s", "limit", 5),
                Requirement("restart_after_kill_s", "limit", 5),
                Requirement("rss_kb_per_workflow", "limit", 2),
                Requirement("cpu_beside_empty", "limit", 1.2),
                Requirement("latency_beside_empty", "limit", 1.2),
            ),
            ("workflows", "open_per_s", "rss_open_mib", "rss_after_restart_mib", "database_kb_per_workflow"),
            peer=False,
        ),
    )
}
