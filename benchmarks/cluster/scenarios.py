"""What is measured on a cluster, and what Odradek must reach: the table of figures, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.scenarios import CPU, LATENCIES, Requirement, Scenario

PARTS_CPU: Final = "parts_cpu_ms_per_operation"
_OF_EACH: Final = (
    CPU,
    "kafka_cpu_ms_per_operation",
    "cassandra_cpu_ms_per_operation",
    "postgres_cpu_ms_per_operation",
    "materializer_lag_records",
)

COMPARED: Final = ("one-activity", "noop", "signal-query-update", "signals-1000", "one-at-a-time")
"""Scenarios of the load driver, run on both servers."""


@dataclass(frozen=True)
class ClusterSizes:
    """How much each run does; `CLUSTER_QUICK` only shows that everything works."""

    runs: int
    duration_s: int
    warmup_s: int
    signal_workflows: int
    prelude_s: int
    first_prelude_s: int
    hop_s: int
    failover_workflows: int
    failover_s: int
    restore_workflows: int
    growth_small: int
    growth_full: int
    growth_pairs: int


CLUSTER_FULL: Final = ClusterSizes(
    runs=5,
    duration_s=20,
    warmup_s=3,
    signal_workflows=5,
    prelude_s=25,
    first_prelude_s=90,
    hop_s=30,
    failover_workflows=100_000,
    failover_s=40,
    restore_workflows=400_000,
    growth_small=1_000,
    growth_full=1_000_000,
    growth_pairs=3,
)
CLUSTER_QUICK: Final = ClusterSizes(
    runs=1,
    duration_s=3,
    warmup_s=1,
    signal_workflows=1,
    prelude_s=2,
    first_prelude_s=5,
    hop_s=3,
    failover_workflows=1_000,
    failover_s=25,
    restore_workflows=2_000,
    growth_small=100,
    growth_full=2_000,
    growth_pairs=1,
)

_FAILOVER_SHOWN: Final = ("owned_workflows", "gap_s", "takeover_s")

CLUSTER_SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "one-activity",
            "workflow of one activity",
            (Requirement("throughput_per_s", "at least", 2.5), Requirement(PARTS_CPU, "at most", 1 / 3)),
            (*_OF_EACH, *LATENCIES, "result_p99_ms"),
        ),
        Scenario(
            "noop",
            "no-op workflow",
            (Requirement("throughput_per_s", "at least", 2), Requirement(PARTS_CPU, "at most", 1 / 2)),
            (*_OF_EACH, *LATENCIES, "result_p99_ms"),
        ),
        Scenario(
            "signal-query-update",
            "signal, query it, then update, on a running workflow",
            (
                Requirement("throughput_per_s", "at least", 2.5),
                Requirement(PARTS_CPU, "at most", 1 / 2),
                Requirement("update_p50_ms", "limit", 60),
            ),
            (*_OF_EACH, "signal_p50_ms", "query_p50_ms", "update_p99_ms"),
        ),
        Scenario(
            "signals-1000",
            "1,000 signals into one workflow, until it has seen all",
            (Requirement("throughput_per_s", "at least", 5),),
            (PARTS_CPU, *_OF_EACH, "signal_p50_ms"),
        ),
        Scenario(
            "one-at-a-time",
            "one activity, one at a time",
            (Requirement("result_p50_ms", "limit", 40), Requirement("result_p99_ms", "limit", 120)),
            ("start_p50_ms", PARTS_CPU, *_OF_EACH),
        ),
        Scenario(
            "hop",
            "one hop: record in, fold, record seen by the next",
            (Requirement("hop_p50_ms", "limit", 2),),
            ("rate_per_s", "hop_p99_ms", PARTS_CPU),
            peer=False,
        ),
        Scenario(
            "failover",
            "SIGKILL of the owner of 100,000 open workflows under load",
            (Requirement("gap_beyond_session_s", "limit", 2),),
            (*_FAILOVER_SHOWN, "restore_s"),
            peer=False,
        ),
        Scenario(
            "failover-standby",
            "the same where the other owner has a copy",
            (Requirement("gap_beyond_session_s", "limit", 2), Requirement("restore_s", "limit", 0.5)),
            _FAILOVER_SHOWN,
            peer=False,
        ),
        Scenario(
            "restore",
            "cold restore from the changelog",
            (Requirement("restored_per_s", "floor", 50_000),),
            ("workflows", "restored_gb_s", "restored_mb", "bytes_per_workflow"),
            peer=False,
        ),
        Scenario(
            "growth",
            "cost of a workflow beside 1,000 and 1,000,000 open ones",
            (Requirement("cpu_growth", "limit", 1.2), Requirement("rss_growth_full", "limit", 1.2)),
            (
                "workflows",
                "cpu_small_ms",
                "cpu_full_ms",
                "latency_growth",
                "rss_small_mib",
                "rss_tenth_mib",
                "rss_full_mib",
            ),
            peer=False,
        ),
    )
}
