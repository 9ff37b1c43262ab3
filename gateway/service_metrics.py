"""What the server measures, under the real server's names and labels where the meaning is the same.

A dashboard made for the real server's frontend, workflow completion and poll metrics works on these.
"""

import os
import resource
import time
from collections.abc import Callable, Iterable
from typing import Final

from temporalio.api.enums.v1 import WorkflowExecutionStatus as Status

from gateway.metrics import BYTES, MAX_CHILDREN, Counter, Gauge, Histogram, Registry, Sample
from streams.matching.backlog import QueueBacklog

UNKNOWN: Final = "_unknown_"
COUNTS: Final = (*(float(step * 10**power) for power in range(5) for step in (1, 2, 5)), 100_000.0)
"""Upper bounds of numbers without a unit, the real server's."""

_OPERATION_LABELS: Final = ("service_name", "operation", "namespace")
_COMPLETION_LABELS: Final = ("service_name", "operation", "namespace", "taskqueue", "workflowType")
_POLL_LABELS: Final = ("service_name", "operation", "namespace", "taskqueue")
_CLOSES: Final = {
    Status.WORKFLOW_EXECUTION_STATUS_COMPLETED: ("workflow_success", "Runs that completed."),
    Status.WORKFLOW_EXECUTION_STATUS_FAILED: ("workflow_failed", "Runs that failed."),
    Status.WORKFLOW_EXECUTION_STATUS_CANCELED: ("workflow_cancel", "Runs that were canceled."),
    Status.WORKFLOW_EXECUTION_STATUS_TERMINATED: ("workflow_terminate", "Runs that were terminated."),
    Status.WORKFLOW_EXECUTION_STATUS_TIMED_OUT: ("workflow_timeout", "Runs that timed out."),
    Status.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW: (
        "workflow_continued_as_new",
        "Runs that continued as new.",
    ),
}


class Operation:
    """The metrics of one API method in one namespace. Get it from :meth:`ServiceMetrics.operation`."""

    __slots__ = ("_failures", "_metrics", "_name", "_namespace", "latency", "pending", "requests")

    def __init__(self, metrics: "ServiceMetrics", name: str, namespace: str) -> None:
        self._metrics = metrics
        self._name = name
        self._namespace = namespace
        labels = ("frontend", name, namespace)
        self.requests: Counter = metrics.requests.child(*labels)
        self.pending: Gauge = metrics.pending.child(*labels)
        self.latency: Histogram = metrics.latency.child(*labels)
        self._failures: dict[tuple[str, bool], tuple[Counter, ...]] = {}

    def begin(self) -> float:
        """Counts a request; returns the start for :meth:`end`."""
        self.requests.value += 1
        self.pending.value += 1
        return time.perf_counter()

    def end(self, started: float) -> None:
        """Ends a request, however it went."""
        self.pending.value -= 1
        self.latency.observe(time.perf_counter() - started)

    def fail(self, error: str, *, expected: bool) -> None:
        """Counts an error beside :meth:`end`.

        ``error`` is the API's name of it, such as ``NotFound``; ``expected`` tells that the client is to
        blame, or its namespace's limits, so that it is no failure of the service.
        """
        counters = self._failures.get((error, expected))
        if counters is None:
            counters = self._failures[error, expected] = self._bind(error, expected)
        for counter in counters:
            counter.value += 1

    def _bind(self, error: str, expected: bool) -> tuple[Counter, ...]:
        labels = ("frontend", self._name, self._namespace)
        typed = self._metrics.errors_by_type.child(*labels, f"serviceerror_{error}")
        return (typed,) if expected else (typed, self._metrics.errors.child(*labels))

    def exhausted(self, cause: str, scope: str) -> None:
        """Counts a ResourceExhausted, by the names of its cause and scope, beside :meth:`fail`."""
        labels = ("frontend", self._name, self._namespace)
        self._metrics.exhausted.child(*labels, cause, scope).value += 1


class ServiceMetrics:
    """All metrics of a process, in one registry that others may add to."""

    def __init__(self, registry: Registry, version: str) -> None:
        self._operations: dict[tuple[str, str], Operation] = {}
        self._add_requests(registry)
        self._add_completions(registry)
        self._polls = {
            True: registry.counter("poll_success", "Polls that got a task.", _POLL_LABELS),
            False: registry.counter("poll_timeouts", "Polls that ended without a task.", _POLL_LABELS),
        }
        _add_process(registry, version)
        self._registry = registry

    def add_backlogs(self, backlogs: Callable[[], Iterable[QueueBacklog]]) -> None:
        """Adds gauges of what waits in task queues, looked at with each scrape."""

        def counts() -> Iterable[Sample]:
            return [(_queue_labels(backlog), backlog.count) for backlog in backlogs()]

        def ages() -> Iterable[Sample]:
            now_s = time.time()
            return [
                (_queue_labels(one), max(now_s - one.oldest_ms / 1000, 0) if one.count else 0)
                for one in backlogs()
            ]

        add = self._registry.collected
        add("approximate_backlog_count", "gauge", "Tasks that wait in a task queue.", counts)
        add("approximate_backlog_age_seconds", "gauge", "Seconds that the oldest of them waits.", ages)

    def _add_requests(self, registry: Registry) -> None:
        labels = _OPERATION_LABELS
        self.requests = registry.counter("service_requests", "API requests received.", labels)
        self.pending = registry.gauge("service_pending_requests", "API requests being worked on.", labels)
        self.latency = registry.histogram(
            "service_latency", "Seconds from an API request to its answer.", labels
        )
        self.errors = registry.counter(
            "service_errors", "API requests that failed by the server's fault.", labels
        )
        self.errors_by_type = registry.counter(
            "service_error_with_type", "API requests that failed, by error.", (*labels, "error_type")
        )
        self.exhausted = registry.counter(
            "service_errors_resource_exhausted",
            "API requests that hit a limit, by cause.",
            (*labels, "resource_exhausted_cause", "resource_exhausted_scope"),
        )

    def _add_completions(self, registry: Registry) -> None:
        labels = _COMPLETION_LABELS
        self._closes = {status: registry.counter(*close, labels) for status, close in _CLOSES.items()}
        self._duration = registry.histogram(
            "workflow_duration", "Seconds from the start of a run to its close.", labels
        )
        self._history_size = registry.histogram(
            "history_size", "Bytes of the history of a closed run.", _OPERATION_LABELS, BYTES
        )
        self._history_count = registry.histogram(
            "history_count", "Events in the history of a closed run.", _OPERATION_LABELS, COUNTS
        )

    def operation(self, name: str, namespace: str) -> Operation:
        """Returns the metrics of API method ``name`` in ``namespace``, empty if the request names none."""
        operation = self._operations.get((name, namespace))
        if operation is None:
            operation = Operation(self, name, namespace or UNKNOWN)
            if len(self._operations) < MAX_CHILDREN:
                self._operations[name, namespace] = operation
        return operation

    def polled(self, operation: str, namespace: str, task_queue: str, *, got_task: bool) -> None:
        """Counts the end of a worker's poll."""
        self._polls[got_task].child("matching", operation, namespace, task_queue).value += 1

    def workflow_closed(
        self,
        status: int,
        namespace: str,
        task_queue: str,
        workflow_type: str,
        duration_s: float,
        history_size_bytes: int,
        history_length: int,
    ) -> None:
        """Counts a run that closed with ``status``, an API WorkflowExecutionStatus."""
        labels = ("history", "CompletionStats", namespace, task_queue, workflow_type)
        self._closes[Status.ValueType(status)].child(*labels).value += 1
        self._duration.child(*labels).observe(duration_s)
        self._history_size.child(*labels[:3]).observe(history_size_bytes)
        self._history_count.child(*labels[:3]).observe(history_length)


def _queue_labels(backlog: QueueBacklog) -> dict[str, str]:
    return {
        "service_name": "matching",
        "operation": "TaskQueueMgr",
        "namespace": backlog.namespace,
        "taskqueue": backlog.queue,
        "task_type": "Activity" if backlog.activities else "Workflow",
        "partition": "__sticky__" if backlog.sticky else str(backlog.partition),
        "worker_build_id": "__unversioned__",
    }


def _add_process(registry: Registry, version: str) -> None:
    started_s = time.time()
    registry.gauge("build_information", "The version that runs.", ("service_name", "build_version")).child(
        "frontend", version
    ).value = 1

    def cpu() -> Iterable[Sample]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return [({}, usage.ru_utime + usage.ru_stime)]

    def memory() -> Iterable[Sample]:
        try:
            with open("/proc/self/statm", encoding="ascii") as statm:
                return [({}, int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))]
        except OSError:  # a platform without /proc
            return []

    registry.collected("process_cpu_seconds_total", "counter", "CPU seconds used.", cpu)
    registry.collected("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", memory)
    registry.collected(
        "process_start_time_seconds", "gauge", "Seconds since 1970 at the start.", lambda: [({}, started_s)]
    )
