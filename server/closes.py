"""Counting the runs that close."""

from gateway.service_metrics import ServiceMetrics
from streams.bodies import RunVisible


def count_close(metrics: ServiceMetrics, run: RunVisible) -> None:
    """Counts a run that has closed; nothing for one that is open."""
    if run.close_time_ns:
        metrics.workflow_closed(
            run.status,
            run.namespace,
            run.task_queue,
            run.workflow_type,
            (run.close_time_ns - run.start_time_ns) / 1e9,
            run.history_size_bytes,
            run.history_length,
        )
