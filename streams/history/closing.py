"""How a run ends: its close event, the run that follows it if any, and whoever has to know."""

from __future__ import annotations

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import (
    EventType,
    ParentClosePolicy,
    WorkflowExecutionStatus,
    WorkflowTaskFailedCause,
)
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionTerminatedEventAttributes

from streams import bodies, topology
from streams.history import queries, state, updates, visibility, waiters, workflow_tasks
from streams.history.evolve import applies, emits
from streams.history.run import Run
from streams.history.values import timestamp_ms

CAUSE = WorkflowTaskFailedCause

_STATUS = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_FAILED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CANCELED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: (
        WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW
    ),
}
CLOSE_EVENTS = frozenset(_STATUS)

_KEPT_KINDS = frozenset(
    (
        state.CORE,
        state.START,
        state.METADATA,
        state.LINKS,
        state.MEMO,
        state.SEARCH,
        state.RESET_POINTS,
        state.WORKER,
        state.ATTACHED,
        state.SIGNALED,
        state.WAITER,
        state.QUERY,
        state.UPDATE,
        state.CHILD,
        state.LEFT_ACTIVITY,
        state.LEFT_TASK,
        state.UNTOLD,
        state.FAR,
    )
)
"""What stays of a closed run until retention: the rest of its parts is gone with its close."""

_LEFT_KINDS = {state.ACTIVITY: state.LEFT_ACTIVITY, state.WORKFLOW_TASK: state.LEFT_TASK}
"""What was pending at the close, as describe goes on showing it: nothing else of it lives on."""

RESETTER = "history-resetter"
"""Who terminates a run for a reset. Its children go on: the run that takes its place knows them."""


def close(run: Run, event_type: int, attributes: Message, **extra: object) -> HistoryEvent:
    """Record the close event. Events still buffered are recorded before it, as the real server flushes them."""
    return run.record(event_type, attributes, **extra)


def terminate(run: Run, reason: str, identity: str, details: Payloads | None = None, **extra: object) -> None:
    """End the run by force: no workflow task sees it. A running task is recorded as failed first."""
    if run.task_running:
        workflow_tasks.fail(
            run, CAUSE.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND, None, "history-service"
        )
    run.flush()
    attributes = WorkflowExecutionTerminatedEventAttributes(reason=reason, identity=identity, details=details)
    close(run, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, attributes, **extra)


@applies(*CLOSE_EVENTS)
def _closed(run: Run, event: HistoryEvent) -> None:
    attributes = getattr(event, str(event.WhichOneof("attributes")))
    close_ms = timestamp_ms(event.event_time)
    run.set_core(
        status=_STATUS[event.event_type],
        close_ms=close_ms,
        next_run_id=getattr(attributes, "new_execution_run_id", ""),
        first_task_due_ms=0,
        sticky_queue="",
        offer=None,
        buffered_count=0,
        buffered_bytes=0,
    )
    for kind in sorted(run.entity.parts):
        if kind not in _KEPT_KINDS:
            for id, part in run.entity.items(kind):
                run.put(kind, id, None)
                if kind in _LEFT_KINDS:
                    run.put(_LEFT_KINDS[kind], id, part)


@emits(*CLOSE_EVENTS)
def _tell(run: Run, event: HistoryEvent) -> None:
    step, core = run.step, run.core
    config = step.namespace_config()
    run.change_core(retention_due_ms=step.now_ms + (config.retention_ms if config else 0))
    current = step.current
    if current is not None and current.run_id == core.run_id:
        step.set_current(
            state.Current(
                core.run_id, current.request_id, core.status, core.start_ms, core.close_ms, core.first_run_id
            )
        )
    visibility.show(run)
    updates.close(run)
    queries.release(run)
    waiters.closed(run)
    for_reset = event.workflow_execution_terminated_event_attributes.identity == RESETTER
    if core.parent_run_id and not core.next_run_id and not for_reset:
        step.context.emit(
            topology.COMMANDS,
            topology.workflow_key(core.parent_namespace, core.parent_workflow_id),
            bodies.ChildClosed(
                namespace=core.parent_namespace,
                workflow_id=core.parent_workflow_id,
                run_id=core.parent_run_id,
                initiated_event_id=core.parent_initiated_event_id,
                child_namespace=core.namespace,
                child_workflow_id=core.workflow_id,
                child_run_id=core.run_id,
                event=event.SerializeToString(deterministic=True),
                child_first_run_id=core.first_run_id,
            ),
        )
    for id, child in run.entity.items(state.CHILD):
        # One that is still to start is kept: its policy is applied once it has.
        if child.started:
            if not (for_reset and core.reset_run_id):
                close_child(run, child)
            run.set_part(state.CHILD, id, None)
            run.set_part(state.LEFT_CHILD, id, child)


def close_child(run: Run, child: state.Child) -> None:
    """Have a child's partition apply the policy of its parent that closed."""
    if child.parent_close_policy != ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON:
        core = run.core
        run.step.context.emit(
            topology.COMMANDS,
            topology.workflow_key(child.namespace, child.workflow_id),
            bodies.ParentClosed(
                namespace=child.namespace,
                workflow_id=child.workflow_id,
                run_id=child.run_id,
                policy=child.parent_close_policy,
                parent_workflow_id=core.workflow_id,
                parent_run_id=core.run_id,
            ),
        )
