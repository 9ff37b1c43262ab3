"""Calls that ask a run to end, or end it by force."""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.common.v1 import Link, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionCancelRequestedEventAttributes
from temporalio.api.workflowservice.v1 import (
    RequestCancelWorkflowExecutionRequest,
    RequestCancelWorkflowExecutionResponse,
    ResetStickyTaskQueueResponse,
    TerminateWorkflowExecutionRequest,
    TerminateWorkflowExecutionResponse,
)

from streams import bodies
from streams.history import closing, workflow_tasks
from streams.history.calls import handles_call
from streams.history.evolve import applies
from streams.history.lookup import find_open_run, find_run
from streams.history.opening import begin_delayed
from streams.history.run import Run
from streams.history.step import Step


@handles_call("RequestCancelWorkflowExecution")
def request_cancel_call(step: Step, call: bodies.Call) -> None:
    """Ask a run to cancel itself. Asking again changes nothing, nor does asking one that has closed."""
    request = RequestCancelWorkflowExecutionRequest.FromString(call.request)
    first_run_id = request.first_execution_run_id
    run_id = "" if first_run_id else call.run_id
    if not find_run(step, run_id).is_open:
        step.reply(RequestCancelWorkflowExecutionResponse())
        return
    request_cancel(
        find_open_run(step, run_id, first_run_id),
        identity=request.identity,
        cause=request.reason,
        links=request.links,
    )
    step.reply(RequestCancelWorkflowExecutionResponse())


def request_cancel(
    run: Run,
    *,
    identity: str = "",
    cause: str = "",
    links: Iterable[Link] = (),
    external: WorkflowExecution | None = None,
    external_initiated_event_id: int = 0,
) -> bool:
    """Record that cancellation was asked for and have the workflow see it, also one whose first task is yet to come.

    False when it was asked for before.
    """
    if run.core.cancel_requested:
        return False
    extra: dict[str, object] = {}
    if links:
        extra["links"] = links
    run.record(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
        WorkflowExecutionCancelRequestedEventAttributes(
            cause=cause,
            identity=identity,
            external_workflow_execution=external,
            external_initiated_event_id=external_initiated_event_id,
        ),
        **extra,
    )
    begin_delayed(run)
    return True


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
def _cancel_requested(run: Run, event: HistoryEvent) -> None:
    run.set_core(cancel_requested=True)


@handles_call("TerminateWorkflowExecution")
def terminate_call(step: Step, call: bodies.Call) -> None:
    """End a run by force."""
    request = TerminateWorkflowExecutionRequest.FromString(call.request)
    run = find_open_run(step, call.run_id, request.first_execution_run_id)
    extra: dict[str, object] = {}
    if request.links:
        extra["links"] = request.links
    closing.terminate(
        run,
        request.reason,
        request.identity,
        request.details if request.HasField("details") else None,
        **extra,
    )
    step.reply(TerminateWorkflowExecutionResponse())


@handles_call("ResetStickyTaskQueue")
def reset_sticky(step: Step, call: bodies.Call) -> None:
    """Forget which worker has the run cached."""
    run = find_open_run(step, call.run_id)
    workflow_tasks.drop_sticky(run)
    step.reply(ResetStickyTaskQueueResponse())
