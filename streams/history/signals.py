"""Signals: events that clients and other workflows add to a run.

Behaviour: service/history/api/signalworkflow and signal_workflow_util.go of the real server.
"""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.common.v1 import Header, Link, Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionSignaledEventAttributes
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest, SignalWorkflowExecutionResponse

from streams import bodies
from streams.history import errors, state, workflow_tasks
from streams.history.calls import handles_call
from streams.history.evolve import applies
from streams.history.lookup import find_run
from streams.history.run import Run
from streams.history.step import Step


@handles_call("SignalWorkflowExecution")
def signal_call(step: Step, call: bodies.Call) -> None:
    """Signal a run. The same request again changes nothing, also after the run has closed."""
    request = SignalWorkflowExecutionRequest.FromString(call.request)
    record_signal(
        find_run(step, call.run_id),
        name=request.signal_name,
        input=request.input if request.HasField("input") else None,
        identity=request.identity,
        header=request.header if request.HasField("header") else None,
        request_id=request.request_id,
        links=request.links,
    )
    step.reply(SignalWorkflowExecutionResponse())


def record_signal(
    run: Run,
    *,
    name: str,
    input: Payloads | None,
    identity: str,
    header: Header | None,
    request_id: str,
    links: Iterable[Link] = (),
    external: WorkflowExecution | None = None,
    skip_task: bool = False,
) -> bool:
    """Add a signal and have the workflow see it, not before its start delay is over.

    `external` is the workflow it comes from. `skip_task` leaves the workflow task to the caller. Returns
    False when its request id was applied before. Raises Rejected when the run is closed, about to close, or
    at a limit.
    """
    if request_id and run.entity.get(state.SIGNALED, request_id) is not None:
        return False
    _check(run, input, retries=external is None)
    if request_id:
        run.set_part(state.SIGNALED, request_id, state.Signaled())
    extra: dict[str, object] = {"links": links} if links else {}
    run.record(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
        WorkflowExecutionSignaledEventAttributes(
            signal_name=name,
            input=input,
            identity=identity,
            header=header,
            external_workflow_execution=external,
        ),
        **extra,
    )
    if not skip_task:
        workflow_tasks.schedule_if_none(run)
    return True


def _check(run: Run, input: Payloads | None, *, retries: bool) -> None:
    """Refuse a signal; `retries` when its sender can try again later, as a workflow cannot."""
    limits = run.step.limits
    if not run.is_open:
        raise errors.completed()
    if input is not None and input.ByteSize() > limits.blob_size_error_bytes:
        raise errors.invalid("Blob data size exceeds limit.")
    if 0 < limits.signals_per_run <= run.core.signal_count:
        raise errors.invalid("exceeded workflow execution limit for signal events")
    if retries and run.core.close_attempted and run.task_running:
        raise errors.workflow_closing()


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
def _signaled(run: Run, event: HistoryEvent) -> None:
    run.set_core(signal_count=run.core.signal_count + 1)
