"""The events of a workflow task, from the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.enums.v1 import EventType, TaskQueueKind
from temporalio.api.history.v1 import WorkflowTaskScheduledEventAttributes, WorkflowTaskStartedEventAttributes
from temporalio.api.taskqueue.v1 import TaskQueue

from streams.history.state import NORMAL, SPECULATIVE, WORKFLOW_TASK, WorkflowTask
from streams.history.values import to_duration, to_timestamp

if TYPE_CHECKING:
    from streams.history.run import Run


def task_queue_message(queue: str, sticky: bool, normal: str) -> TaskQueue:
    """A task queue as events and responses show it."""
    if sticky:
        return TaskQueue(name=queue, kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=normal)
    return TaskQueue(name=queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL)


def scheduled_attributes(run: Run, task: WorkflowTask) -> WorkflowTaskScheduledEventAttributes:
    """What the scheduled event of a task says."""
    return WorkflowTaskScheduledEventAttributes(
        task_queue=task_queue_message(task.queue, task.sticky, run.core.task_queue),
        start_to_close_timeout=to_duration(task.timeout_ms),
        attempt=task.attempt,
    )


def started_attributes(
    task: WorkflowTask, version: WorkerVersionStamp | None = None
) -> WorkflowTaskStartedEventAttributes:
    """What the started event of a task says; `version` is what the worker that has it calls its code."""
    return WorkflowTaskStartedEventAttributes(
        scheduled_event_id=task.scheduled_event_id,
        identity=task.identity,
        request_id=task.request_id,
        suggest_continue_as_new=task.suggest_continue_as_new,
        history_size_bytes=task.history_size_bytes,
        worker_version=version,
    )


def keep_speculative(run: Run) -> None:
    """An event is about to join the history: a speculative task that is pending then precedes it there.

    Its started event names no worker, as the real server's does not.
    """
    task = run.task
    if task is None or task.kind != SPECULATIVE:
        return
    run.set_part(WORKFLOW_TASK, "", msgspec.structs.replace(task, kind=NORMAL))
    run.record(
        EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        scheduled_attributes(run, task),
        event_time=to_timestamp(task.scheduled_ms),
    )
    if task.started_event_id:
        run.record(
            EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
            started_attributes(msgspec.structs.replace(task, identity="")),
            event_time=to_timestamp(task.started_ms),
        )
