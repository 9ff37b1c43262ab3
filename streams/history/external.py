"""Signals and cancel requests from one workflow to another, on both sides.

Behaviour: SignalExternalWorkflow and RequestCancelExternalWorkflow of the real server's transfer queue.
"""

from __future__ import annotations

from typing import Any

from temporalio.api.command.v1 import (
    RequestCancelExternalWorkflowExecutionCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes,
)
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import (
    CancelExternalWorkflowExecutionFailedCause,
    CommandType,
    EventType,
    SignalExternalWorkflowExecutionFailedCause,
    WorkflowTaskFailedCause,
)
from temporalio.api.history.v1 import (
    ExternalWorkflowExecutionCancelRequestedEventAttributes,
    ExternalWorkflowExecutionSignaledEventAttributes,
    HistoryEvent,
    RequestCancelExternalWorkflowExecutionFailedEventAttributes,
    RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
    SignalExternalWorkflowExecutionFailedEventAttributes,
    SignalExternalWorkflowExecutionInitiatedEventAttributes,
)

from streams import bodies
from streams.history import cancel_terminate, command_checks, signals, workflow_tasks
from streams.history.calls import handles_body, handles_command
from streams.history.child_runs import SERVER_IDENTITY
from streams.history.commands import Commands
from streams.history.errors import INVALID_ARGUMENT, BadCommand, Rejected
from streams.history.evolve import applies, emits
from streams.history.lookup import find_run
from streams.history.run import Run
from streams.history.state import EXTERNAL_CANCEL, EXTERNAL_SIGNAL, External, number_id
from streams.history.step import Step
from streams.history.values import copy_fields
from streams.topology import COMMANDS, workflow_key

CAUSE = WorkflowTaskFailedCause
BAD_SIGNAL = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES
BAD_CANCEL = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES

SIGNAL = "signal"
CANCEL = "cancel"

SignalFailed = SignalExternalWorkflowExecutionFailedCause
CancelFailed = CancelExternalWorkflowExecutionFailedCause
_SIGNAL_NOT_FOUND = (
    SignalFailed.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)
_CANCEL_NOT_FOUND = (
    CancelFailed.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)

SignalInitiated = SignalExternalWorkflowExecutionInitiatedEventAttributes
CancelInitiated = RequestCancelExternalWorkflowExecutionInitiatedEventAttributes

_SIGNAL_COMMAND = "SignalExternalWorkflowExecutionCommand"
_CANCEL_COMMAND = "RequestCancelExternalWorkflowExecutionCommand"


# --- commands ---


@handles_command(
    CommandType.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION,
    "signal_external_workflow_execution_command_attributes",
)
def signal(commands: Commands, attributes: SignalExternalWorkflowExecutionCommandAttributes) -> None:
    """Ask to signal another workflow."""
    run, limits = commands.run, commands.step.limits
    commands.require_attributes("SignalExternalWorkflowExecution", BAD_SIGNAL)
    config = command_checks.target_namespace(commands, attributes.namespace)
    _check_signal(attributes, limits.id_length)
    command_checks.check_pending(
        run.entity.count(EXTERNAL_SIGNAL),
        limits.pending_external_signals,
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_PENDING_SIGNALS_LIMIT_EXCEEDED,
        "pending signals to external workflows",
    )
    message = "SignalExternalWorkflowExecutionCommandAttributes.Input exceeds size limit."
    commands.check_size(attributes.input.ByteSize(), BAD_SIGNAL, message)
    initiated = SignalInitiated(
        workflow_task_completed_event_id=commands.completed_event_id,
        namespace=attributes.namespace,
        namespace_id=config.id,
        workflow_execution=attributes.execution,
        signal_name=attributes.signal_name,
        control=attributes.control,
        child_workflow_only=attributes.child_workflow_only,
    )
    copy_fields(attributes, initiated, "input", "header")
    run.record(
        EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED, initiated, **commands.event_extra
    )


def _check_signal(attributes: SignalExternalWorkflowExecutionCommandAttributes, limit: int) -> None:
    execution = attributes.execution
    if not attributes.HasField("execution"):
        raise BadCommand(BAD_SIGNAL, f"Execution is not set on {_SIGNAL_COMMAND}.")
    workflow = f"WorkflowId={execution.workflow_id}"
    namespace, run = f"Namespace={attributes.namespace}", f"RunId={execution.run_id}"
    name = f"SignalName={attributes.signal_name}"
    if not execution.workflow_id:
        raise BadCommand(BAD_SIGNAL, f"WorkflowId is not set on {_SIGNAL_COMMAND}. {namespace} {run} {name}")
    if length := command_checks.too_long(attributes.namespace, limit):
        size = f"Length={length} Limit={limit}"
        long = f"Namespace on {_SIGNAL_COMMAND} exceeds length limit."
        raise BadCommand(BAD_SIGNAL, f"{long} {workflow} {namespace} {size} {run} {name}")
    if length := command_checks.too_long(execution.workflow_id, limit):
        size = f"Length={length} Limit={limit}"
        long = f"WorkflowId on {_SIGNAL_COMMAND} exceeds length limit."
        raise BadCommand(BAD_SIGNAL, f"{long} {workflow} {size} {namespace} {run} {name}")
    wrong = f"Invalid RunId set on {_SIGNAL_COMMAND}. {workflow} {namespace} {run} {name}"
    command_checks.check_run_id(execution.run_id, lambda: BadCommand(BAD_SIGNAL, wrong))
    if not attributes.signal_name:
        raise BadCommand(
            BAD_SIGNAL, f"SignalName is not set on {_SIGNAL_COMMAND}. {workflow} {namespace} {run}"
        )


@handles_command(
    CommandType.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
    "request_cancel_external_workflow_execution_command_attributes",
)
def cancel(commands: Commands, attributes: RequestCancelExternalWorkflowExecutionCommandAttributes) -> None:
    """Ask another workflow to cancel itself."""
    run, limits = commands.run, commands.step.limits
    commands.require_attributes("RequestCancelExternalWorkflowExecution", BAD_CANCEL)
    config = command_checks.target_namespace(commands, attributes.namespace)
    _check_cancel(run, attributes, limits.id_length)
    command_checks.check_pending(
        run.entity.count(EXTERNAL_CANCEL),
        limits.pending_external_cancels,
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED,
        "pending requests to cancel external workflows",
    )
    run.record(
        EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        CancelInitiated(
            workflow_task_completed_event_id=commands.completed_event_id,
            namespace=attributes.namespace,
            namespace_id=config.id,
            workflow_execution=WorkflowExecution(
                workflow_id=attributes.workflow_id, run_id=attributes.run_id
            ),
            control=attributes.control,
            child_workflow_only=attributes.child_workflow_only,
            reason=attributes.reason,
        ),
        **commands.event_extra,
    )


def _check_cancel(
    run: Run, attributes: RequestCancelExternalWorkflowExecutionCommandAttributes, limit: int
) -> None:
    workflow, namespace = f"WorkflowId={attributes.workflow_id}", f"Namespace={attributes.namespace}"
    run_id = f"RunId={attributes.run_id}"
    if not attributes.workflow_id:
        raise BadCommand(BAD_CANCEL, f"WorkflowId is not set on {_CANCEL_COMMAND}. {namespace} {run_id}")
    if length := command_checks.too_long(attributes.namespace, limit):
        size = f"Length={length} Limit={limit}"
        long = f"Namespace on {_CANCEL_COMMAND} exceeds length limit."
        raise BadCommand(BAD_CANCEL, f"{long} {workflow} {run_id} {namespace} {size}")
    if length := command_checks.too_long(attributes.workflow_id, limit):
        size = f"Length={length} Limit={limit}"
        long = f"WorkflowId on {_CANCEL_COMMAND} exceeds length limit."
        raise BadCommand(BAD_CANCEL, f"{long} {workflow} {size} {run_id} {namespace}")
    wrong = f"Invalid RunId set on {_CANCEL_COMMAND}. {workflow} {run_id} {namespace}"
    command_checks.check_run_id(attributes.run_id, lambda: BadCommand(BAD_CANCEL, wrong))
    if _initiated_now(run, attributes.workflow_id):
        same = "Start and RequestCancel for child workflow is not allowed in same workflow task."
        raise BadCommand(BAD_CANCEL, f"{same} {workflow} {run_id} {namespace}")


def _initiated_now(run: Run, workflow_id: str) -> bool:
    """Whether a child of this id was initiated by the same workflow task."""
    return any(
        event.event_type == EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
        and event.start_child_workflow_execution_initiated_event_attributes.workflow_id == workflow_id
        for event in run.history
    )


# --- initiated: pending here, and a record to the other's partition ---


@applies(EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
def _signal_initiated(run: Run, event: HistoryEvent) -> None:
    attributes = event.signal_external_workflow_execution_initiated_event_attributes
    _put(run, EXTERNAL_SIGNAL, event.event_id, attributes)


@applies(EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
def _cancel_initiated(run: Run, event: HistoryEvent) -> None:
    attributes = event.request_cancel_external_workflow_execution_initiated_event_attributes
    _put(run, EXTERNAL_CANCEL, event.event_id, attributes)


def _put(run: Run, kind: str, event_id: int, attributes: SignalInitiated | CancelInitiated) -> None:
    request_id = f"{kind}/{run.core.run_id}/{event_id}"
    data = attributes.SerializeToString(deterministic=True)
    run.put(kind, number_id(event_id), External(event_id, request_id, data))


@emits(EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
def _send_signal(run: Run, event: HistoryEvent) -> None:
    attributes = event.signal_external_workflow_execution_initiated_event_attributes
    _send(run, EXTERNAL_SIGNAL, event.event_id, attributes, bodies.SignalExternal)


@emits(EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
def _send_cancel(run: Run, event: HistoryEvent) -> None:
    attributes = event.request_cancel_external_workflow_execution_initiated_event_attributes
    _send(run, EXTERNAL_CANCEL, event.event_id, attributes, bodies.CancelExternal)


def _send(
    run: Run,
    kind: str,
    event_id: int,
    attributes: SignalInitiated | CancelInitiated,
    cls: type[bodies.SignalExternal] | type[bodies.CancelExternal],
) -> None:
    """Send the request on its way: none from a run that closed with its task, and none to itself."""
    pending: External | None = run.entity.get(kind, number_id(event_id))
    if not run.is_open or pending is None:
        return
    core, target = run.core, attributes.workflow_execution
    namespace = attributes.namespace or core.namespace
    if (namespace, target.workflow_id) == (core.namespace, core.workflow_id):
        to_signal = kind == EXTERNAL_SIGNAL
        cause = int(_SIGNAL_NOT_FOUND if to_signal else _CANCEL_NOT_FOUND)
        name = SIGNAL if to_signal else CANCEL
        _emit_answer(run.step, core.namespace, core.workflow_id, name, core.run_id, event_id, cause)
        return
    run.step.context.emit(
        COMMANDS,
        workflow_key(namespace, target.workflow_id),
        cls(
            namespace=namespace,
            workflow_id=target.workflow_id,
            run_id=target.run_id,
            from_namespace=core.namespace,
            from_workflow_id=core.workflow_id,
            from_run_id=core.run_id,
            initiated_event_id=event_id,
            request_id=pending.request_id,
            attributes=pending.initiated,
        ),
    )


def _emit_answer(
    step: Step, namespace: str, workflow_id: str, kind: str, run_id: str, initiated_event_id: int, cause: int
) -> None:
    step.context.emit(
        COMMANDS,
        workflow_key(namespace, workflow_id),
        bodies.ExternalAnswered(
            namespace=namespace,
            workflow_id=workflow_id,
            kind=kind,
            run_id=run_id,
            initiated_event_id=initiated_event_id,
            cause=cause,
        ),
    )


# --- the target's side ---


@handles_body(bodies.SignalExternal)
def signal_external(step: Step, body: bodies.SignalExternal) -> None:
    """Another workflow signals this one."""
    cause = int(_signal_target(step, body))
    _answer(step, body, SIGNAL, cause)


def _signal_target(step: Step, body: bodies.SignalExternal) -> SignalFailed.ValueType:
    if step.namespace_config() is None:
        return SignalFailed.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
    attributes = SignalInitiated.FromString(body.attributes)
    try:
        run = find_run(step, body.run_id)
        if run.is_open and attributes.child_workflow_only and not _is_parent(run, body):
            return _SIGNAL_NOT_FOUND
        signals.record_signal(
            run,
            name=attributes.signal_name,
            input=attributes.input if attributes.HasField("input") else None,
            identity=SERVER_IDENTITY,
            header=attributes.header if attributes.HasField("header") else None,
            request_id=body.request_id,
            external=_source(body),
        )
    except Rejected as error:
        if error.code == INVALID_ARGUMENT:
            return SignalFailed.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_SIGNAL_COUNT_LIMIT_EXCEEDED
        return _SIGNAL_NOT_FOUND
    return SignalFailed.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_UNSPECIFIED


@handles_body(bodies.CancelExternal)
def cancel_external(step: Step, body: bodies.CancelExternal) -> None:
    """Another workflow asks this one to cancel itself."""
    _answer(step, body, CANCEL, int(_cancel_target(step, body)))


def _cancel_target(step: Step, body: bodies.CancelExternal) -> CancelFailed.ValueType:
    if step.namespace_config() is None:
        return CancelFailed.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
    attributes = CancelInitiated.FromString(body.attributes)
    try:
        run = find_run(step, body.run_id)
    except Rejected:
        return _CANCEL_NOT_FOUND
    if run.is_open:
        if attributes.child_workflow_only and not _is_parent(run, body):
            return _CANCEL_NOT_FOUND
        cancel_terminate.request_cancel(
            run,
            identity=SERVER_IDENTITY,
            cause=attributes.reason,
            external=_source(body),
            external_initiated_event_id=body.initiated_event_id,
        )
    return CancelFailed.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_UNSPECIFIED


def _is_parent(run: Run, body: bodies.SignalExternal | bodies.CancelExternal) -> bool:
    return (run.core.parent_workflow_id, run.core.parent_run_id) == (body.from_workflow_id, body.from_run_id)


def _source(body: bodies.SignalExternal | bodies.CancelExternal) -> WorkflowExecution:
    return WorkflowExecution(workflow_id=body.from_workflow_id, run_id=body.from_run_id)


def _answer(step: Step, body: bodies.SignalExternal | bodies.CancelExternal, kind: str, cause: int) -> None:
    _emit_answer(
        step,
        body.from_namespace,
        body.from_workflow_id,
        kind,
        body.from_run_id,
        body.initiated_event_id,
        cause,
    )


# --- the answer ---


@handles_body(bodies.ExternalAnswered)
def answered(step: Step, body: bodies.ExternalAnswered) -> None:
    """The other workflow took the signal or cancel request, or could not."""
    run = step.run(body.run_id)
    kind = EXTERNAL_SIGNAL if body.kind == SIGNAL else EXTERNAL_CANCEL
    pending: External | None = run.entity.get(kind, number_id(body.initiated_event_id))
    if not run.exists or not run.is_open or pending is None:
        return
    if kind == EXTERNAL_SIGNAL:
        _record_signaled(run, pending, body.cause)
    else:
        _record_cancel_requested(run, pending, body.cause)
    workflow_tasks.schedule_if_none(run)


def _record_signaled(run: Run, pending: External, cause: int) -> None:
    initiated = SignalInitiated.FromString(pending.initiated)
    told = _told_again(run, initiated) | {"control": initiated.control}
    if cause:
        failed = SignalExternalWorkflowExecutionFailedEventAttributes(
            cause=SignalFailed.ValueType(cause), initiated_event_id=pending.initiated_event_id, **told
        )
        run.record(EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED, failed)
    else:
        signaled = ExternalWorkflowExecutionSignaledEventAttributes(
            initiated_event_id=pending.initiated_event_id, **told
        )
        run.record(EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED, signaled)


def _record_cancel_requested(run: Run, pending: External, cause: int) -> None:
    told = _told_again(run, CancelInitiated.FromString(pending.initiated))
    if cause:
        failed = RequestCancelExternalWorkflowExecutionFailedEventAttributes(
            cause=CancelFailed.ValueType(cause), initiated_event_id=pending.initiated_event_id, **told
        )
        run.record(EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED, failed)
    else:
        requested = ExternalWorkflowExecutionCancelRequestedEventAttributes(
            initiated_event_id=pending.initiated_event_id, **told
        )
        run.record(EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED, requested)


def _told_again(run: Run, initiated: SignalInitiated | CancelInitiated) -> dict[str, Any]:
    """What the outcome's event repeats of the initiated one: which workflow it was for."""
    return {
        "namespace": initiated.namespace or run.core.namespace,
        "namespace_id": initiated.namespace_id,
        "workflow_execution": initiated.workflow_execution,
    }


@applies(
    EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED,
)
def _signal_ended(run: Run, event: HistoryEvent) -> None:
    attributes = getattr(event, str(event.WhichOneof("attributes")))
    run.put(EXTERNAL_SIGNAL, number_id(attributes.initiated_event_id), None)


@applies(
    EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
)
def _cancel_ended(run: Run, event: HistoryEvent) -> None:
    attributes = getattr(event, str(event.WhichOneof("attributes")))
    run.put(EXTERNAL_CANCEL, number_id(attributes.initiated_event_id), None)
