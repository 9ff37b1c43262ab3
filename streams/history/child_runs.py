"""Child workflows on their own side: started for a parent, ended with it.

Behaviour: StartChildExecution and the parent close policy of the real server's transfer queue.
"""

from __future__ import annotations

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import (
    ParentClosePolicy,
    StartChildWorkflowExecutionFailedCause,
    WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy,
)
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.workflowservice.v1 import StartWorkflowExecutionRequest

from streams import bodies
from streams.history import cancel_terminate, closing, cron, start, state
from streams.history.calls import handles_body
from streams.history.errors import Rejected
from streams.history.opening import Opening, open_run
from streams.history.run import Run
from streams.history.step import Step
from streams.history.values import to_duration
from streams.topology import COMMANDS, workflow_key

FAILED = StartChildWorkflowExecutionFailedCause

SERVER_IDENTITY = "history-service"
"""Who acts on a workflow in the name of another."""


@handles_body(bodies.StartChild)
def start_child(step: Step, body: bodies.StartChild) -> None:
    """Start the child, or tell the parent why it cannot be."""
    request_id = f"{body.parent_run_id}:{body.initiated_event_id}:0"
    current = step.current
    if current is not None and current.request_id == request_id:
        _tell_started(step, body, current.run_id)
        return
    if step.namespace_config() is None:
        _tell_failed(step, body, FAILED.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND)
        return
    if body.find and current is not None and _belongs(step.run(current.run_id), body):
        _tell_found(step, body, step.run(current.run_id).core)
        return
    reuse, conflict = start.policies(
        StartWorkflowExecutionRequest(
            workflow_id_reuse_policy=WorkflowIdReusePolicy.ValueType(body.reuse_policy),
        ),
        WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
    )
    try:
        start.resolve(step, reuse, conflict, body.new_run_id)
    except Rejected:
        _tell_failed(step, body, FAILED.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS)
        return
    attributes = WorkflowExecutionStartedEventAttributes.FromString(body.start)
    if attributes.cron_schedule:
        backoff_ms = max(cron.backoff_ms(attributes.cron_schedule, step.now_ms, step.now_ms), 0)
        attributes.first_workflow_task_backoff.CopyFrom(to_duration(backoff_ms))
    open_run(
        step,
        Opening(
            run_id=body.new_run_id,
            attributes=attributes,
            request_id=request_id,
            user_metadata=UserMetadata.FromString(body.user_metadata) if body.user_metadata else None,
        ),
    )
    _tell_started(step, body, body.new_run_id)


def _belongs(run: Run, body: bodies.StartChild) -> bool:
    """Whether a run was started by this parent, whichever of its runs."""
    parent = (body.parent_namespace, body.parent_workflow_id)
    return run.exists and (run.core.parent_namespace, run.core.parent_workflow_id) == parent


def _tell_parent(
    step: Step,
    body: bodies.StartChild,
    answer: bodies.ChildFound | bodies.ChildStarted | bodies.ChildStartFailed,
) -> None:
    step.context.emit(COMMANDS, workflow_key(body.parent_namespace, body.parent_workflow_id), answer)


def _tell_found(step: Step, body: bodies.StartChild, core: state.Core) -> None:
    _tell_parent(
        step,
        body,
        bodies.ChildFound(
            namespace=body.parent_namespace,
            workflow_id=body.parent_workflow_id,
            run_id=body.parent_run_id,
            initiated_event_id=body.initiated_event_id,
            child_workflow_id=body.workflow_id,
            child_run_id=core.first_run_id,
            child_parent_run_id=core.parent_run_id,
            closed=core.close_ms > 0,
        ),
    )


def _tell_started(step: Step, body: bodies.StartChild, run_id: str) -> None:
    _tell_parent(
        step,
        body,
        bodies.ChildStarted(
            namespace=body.parent_namespace,
            workflow_id=body.parent_workflow_id,
            run_id=body.parent_run_id,
            initiated_event_id=body.initiated_event_id,
            child_namespace=body.namespace,
            child_workflow_id=body.workflow_id,
            child_run_id=run_id,
        ),
    )


def _tell_failed(step: Step, body: bodies.StartChild, cause: int) -> None:
    _tell_parent(
        step,
        body,
        bodies.ChildStartFailed(
            namespace=body.parent_namespace,
            workflow_id=body.parent_workflow_id,
            run_id=body.parent_run_id,
            initiated_event_id=body.initiated_event_id,
            cause=cause,
        ),
    )


@handles_body(bodies.ParentClosed)
def parent_closed(step: Step, body: bodies.ParentClosed) -> None:
    """End the child with its parent, whichever run of its chain it is in, as its parent close policy says."""
    current = step.current
    if current is None or current.close_ms:
        return
    run = step.run(current.run_id)
    core = run.core
    if (core.first_run_id, core.parent_workflow_id, core.parent_run_id) != (
        body.run_id,
        body.parent_workflow_id,
        body.parent_run_id,
    ):
        return
    if body.policy == ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE:
        closing.terminate(run, "by parent close policy", SERVER_IDENTITY)
    elif body.policy == ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL:
        parent = WorkflowExecution(workflow_id=body.parent_workflow_id, run_id=body.parent_run_id)
        cancel_terminate.request_cancel(run, identity=SERVER_IDENTITY, external=parent)
