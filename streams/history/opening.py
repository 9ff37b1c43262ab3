"""How a run begins: its first event, whoever asked for it, and its first workflow task."""

from __future__ import annotations

import msgspec
from temporalio.api.common.v1 import Link
from temporalio.api.enums.v1 import EventType, WorkflowExecutionStatus
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes
from temporalio.api.sdk.v1 import UserMetadata

from streams.history import state, visibility, workflow_tasks
from streams.history.evolve import applies, emits
from streams.history.run import Run
from streams.history.step import Step
from streams.history.values import duration_ms, timestamp_ms, to_duration, to_timestamp

MAX_TASK_TIMEOUT_MS = 120_000
"""The real server keeps the timeout of workflow tasks within this (maxWorkflowTaskStartToCloseTimeout)."""

RUNNING = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING


class Opening(msgspec.Struct):
    """What a new run starts with besides its start attributes.

    `delay_ms` holds back the first workflow task; `schedule_task` False leaves it to the caller.
    """

    run_id: str
    attributes: WorkflowExecutionStartedEventAttributes
    request_id: str
    user_metadata: UserMetadata | None = None
    links: tuple[Link, ...] = ()
    schedule_task: bool = True


def open_run(step: Step, opening: Opening) -> Run:
    """Record the start of a run, make it the current one and schedule its first workflow task.

    Timeouts of the attributes are made whole: run timeout within the execution timeout, task timeout defaulted
    and within the run timeout, as the real server does.
    """
    attributes = opening.attributes
    complete_attributes(step, opening)
    run = step.run(opening.run_id)
    extra: dict[str, object] = {}
    if opening.user_metadata is not None:
        extra["user_metadata"] = opening.user_metadata
    if opening.links:
        extra["links"] = opening.links
    run.record(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, attributes, **extra)
    run.change_core(create_request_id=opening.request_id)
    step.set_current(
        state.Current(
            run_id=opening.run_id,
            request_id=opening.request_id,
            status=RUNNING,
            start_ms=step.now_ms,
            first_run_id=attributes.first_execution_run_id,
        )
    )
    if opening.schedule_task and not run.core.first_task_due_ms:
        workflow_tasks.schedule(run)
    return run


def complete_attributes(step: Step, opening: Opening) -> None:
    """Fill in what a start event always has."""
    attributes = opening.attributes
    run_id = opening.run_id
    attributes.original_execution_run_id = attributes.original_execution_run_id or run_id
    attributes.first_execution_run_id = attributes.first_execution_run_id or run_id
    attributes.workflow_id = step.workflow_id
    attributes.attempt = attributes.attempt or 1
    execution_ms = duration_ms(attributes.workflow_execution_timeout)
    run_ms = duration_ms(attributes.workflow_run_timeout)
    if execution_ms and (run_ms == 0 or run_ms > execution_ms):
        run_ms = execution_ms
    task_ms = duration_ms(attributes.workflow_task_timeout) or step.limits.workflow_task_timeout_ms
    task_ms = min(task_ms, MAX_TASK_TIMEOUT_MS)
    if run_ms and task_ms > run_ms:
        task_ms = run_ms
    if run_ms:
        attributes.workflow_run_timeout.CopyFrom(to_duration(run_ms))
    attributes.workflow_task_timeout.CopyFrom(to_duration(task_ms))
    backoff_ms = duration_ms(attributes.first_workflow_task_backoff)
    attributes.first_workflow_task_backoff.CopyFrom(to_duration(backoff_ms))
    if execution_ms and not attributes.HasField("workflow_execution_expiration_time"):
        attributes.workflow_execution_expiration_time.CopyFrom(to_timestamp(step.now_ms + execution_ms))


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
def _started(run: Run, event: HistoryEvent) -> None:
    """The run exists: its parts follow from its first event alone."""
    attributes = event.workflow_execution_started_event_attributes
    namespace, workflow_id, run_id = run.entity.key.split("\x1f")
    start_ms = timestamp_ms(event.event_time)
    backoff_ms = duration_ms(attributes.first_workflow_task_backoff)
    run_timeout_ms = duration_ms(attributes.workflow_run_timeout)
    expires_ms = timestamp_ms(attributes.workflow_execution_expiration_time)
    run_expires_ms = start_ms + backoff_ms + run_timeout_ms if run_timeout_ms else 0
    if run_expires_ms and expires_ms:
        run_expires_ms = min(run_expires_ms, expires_ms)
    parent = attributes.parent_workflow_execution
    run.put(
        state.CORE,
        "",
        state.Core(
            namespace=namespace,
            workflow_id=workflow_id,
            run_id=run_id,
            first_run_id=attributes.first_execution_run_id,
            workflow_type=attributes.workflow_type.name,
            task_queue=attributes.task_queue.name,
            status=RUNNING,
            create_request_id="",
            start_ms=start_ms,
            execution_start_ms=start_ms + backoff_ms,
            execution_timeout_ms=duration_ms(attributes.workflow_execution_timeout),
            run_timeout_ms=run_timeout_ms,
            task_timeout_ms=duration_ms(attributes.workflow_task_timeout),
            execution_expires_ms=expires_ms,
            run_expires_ms=run_expires_ms,
            first_task_due_ms=start_ms + backoff_ms if backoff_ms else 0,
            attempt=attributes.attempt,
            next_event_id=2,
            parent_namespace=attributes.parent_workflow_namespace,
            parent_workflow_id=parent.workflow_id,
            parent_run_id=parent.run_id,
            parent_initiated_event_id=attributes.parent_initiated_event_id,
            root_workflow_id=attributes.root_workflow_execution.workflow_id or workflow_id,
            root_run_id=attributes.root_workflow_execution.run_id or run_id,
        ),
    )
    run.put(state.START, "", state.Blob(attributes.SerializeToString(deterministic=True)))
    if event.HasField("user_metadata"):
        run.put(state.METADATA, "", state.Blob(event.user_metadata.SerializeToString(deterministic=True)))
    if event.links:
        links = tuple(link.SerializeToString(deterministic=True) for link in event.links)
        run.put(state.LINKS, "", state.StartLinks(links))
    points = attributes.prev_auto_reset_points
    if points.points:
        run.put(state.RESET_POINTS, "", state.Blob(points.SerializeToString(deterministic=True)))
    if attributes.memo.fields:
        run.put(state.MEMO, "", state.Blob(attributes.memo.SerializeToString(deterministic=True)))
    if attributes.search_attributes.indexed_fields:
        run.put(
            state.SEARCH, "", state.Blob(attributes.search_attributes.SerializeToString(deterministic=True))
        )


@emits(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
def _show_started(run: Run, event: HistoryEvent) -> None:
    visibility.show(run)


def start_attributes(run: Run) -> WorkflowExecutionStartedEventAttributes:
    """The attributes of the run's first event."""
    blob: state.Blob = run.entity.get(state.START)
    return WorkflowExecutionStartedEventAttributes.FromString(blob.data)


def start_links(run: Run) -> tuple[Link, ...]:
    """The links of the run's first event."""
    part: state.StartLinks | None = run.entity.get(state.LINKS)
    return () if part is None else tuple(map(Link.FromString, part.links))


def begin_delayed(run: Run) -> None:
    """The first workflow task's delay is over, or a signal ended it."""
    if run.core.first_task_due_ms:
        run.change_core(first_task_due_ms=0)
    if run.task is None:
        workflow_tasks.schedule(run)
