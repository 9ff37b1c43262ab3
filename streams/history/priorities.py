"""Priorities of tasks: what an activity or child leaves open is its workflow's."""

from __future__ import annotations

from temporalio.api.common.v1 import Priority
from temporalio.api.history.v1 import (
    ActivityTaskScheduledEventAttributes,
    StartChildWorkflowExecutionInitiatedEventAttributes,
)

from streams.history.opening import start_attributes
from streams.history.run import Run

Attributes = ActivityTaskScheduledEventAttributes | StartChildWorkflowExecutionInitiatedEventAttributes


def of(run: Run, attributes: Attributes) -> Priority | None:
    """The priority of what the run has scheduled or started with these attributes."""
    start = start_attributes(run)
    if not start.HasField("priority"):
        return attributes.priority if attributes.HasField("priority") else None
    if not attributes.HasField("priority"):
        return start.priority
    base, own = start.priority, attributes.priority
    return Priority(
        priority_key=own.priority_key or base.priority_key,
        fairness_key=own.fairness_key or base.fairness_key,
        fairness_weight=own.fairness_weight or base.fairness_weight,
    )
