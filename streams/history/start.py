"""Calls that start workflows: start, signal-with-start; and what an existing run means to them.

Behaviour: startworkflow, signalwithstartworkflow and workflow id policies of the real server
(service/history/api).
"""

from __future__ import annotations

import msgspec
from temporalio.api.common.v1 import Link, Payload, Payloads
from temporalio.api.enums.v1 import (
    EventType,
    WorkflowExecutionStatus,
    WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy,
)
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionOptionsUpdatedEventAttributes,
    WorkflowExecutionStartedEventAttributes,
)
from temporalio.api.workflowservice.v1 import (
    SignalWithStartWorkflowExecutionRequest,
    SignalWithStartWorkflowExecutionResponse,
    StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
)

from streams import bodies
from streams.history import closing, cron, errors, responses, signals, state, task_events, workflow_tasks
from streams.history.calls import handles_call
from streams.history.evolve import applies
from streams.history.failure_depth import cut_causes
from streams.history.opening import Opening, begin_delayed, open_run
from streams.history.run import Run
from streams.history.step import CURRENT, REQUEST, Step, current_key
from streams.history.values import copy_fields, to_duration

REUSE = WorkflowIdReusePolicy
CONFLICT = WorkflowIdConflictPolicy
STATUS = WorkflowExecutionStatus

StartRequest = StartWorkflowExecutionRequest | SignalWithStartWorkflowExecutionRequest

_FIRST_STARTED = 3
"""The id of the event that tells of the first workflow task's start, when nothing came before it."""

_SUCCEEDED = frozenset(
    (STATUS.WORKFLOW_EXECUTION_STATUS_COMPLETED, STATUS.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW)
)


_COPIED = (
    "input",
    "header",
    "memo",
    "search_attributes",
    "priority",
    "retry_policy",
    "workflow_execution_timeout",
    "workflow_run_timeout",
)
"""Fields of a request that its start event has as they are."""


class Existing(msgspec.Struct):
    """What a workflow id already has that decides a start: `use` says to go on with that run instead."""

    current: state.Current
    use: bool


def policies(request: StartRequest, default: CONFLICT.ValueType) -> tuple[int, int]:
    """The reuse and conflict policy in force, the deprecated terminate-if-running translated."""
    reuse = request.workflow_id_reuse_policy or REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
    conflict = request.workflow_id_conflict_policy or default
    if reuse == REUSE.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING:
        return (
            REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
            CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
        )
    return reuse, conflict


def resolve(step: Step, reuse: int, conflict: int, new_run_id: str) -> Existing | None:
    """Decide what the current run means for a start; one to be replaced is terminated here.

    Returns it when it is to be used, None when a new run may open. Raises Rejected (ALREADY_EXISTS).
    """
    current = step.current
    if current is None:
        return None
    if current.close_ms == 0:
        return _resolve_running(step, current, conflict, new_run_id)
    if reuse == REUSE.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE:
        raise _already(
            step, current, "finished", "", " Workflow Id reuse policy: reject duplicate workflow Id."
        )
    if reuse == REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY and current.status in _SUCCEEDED:
        raise _already(
            step,
            current,
            "finished",
            " successfully",
            " Workflow Id reuse policy: allow duplicate workflow Id if last run failed.",
        )
    return None


def _resolve_running(step: Step, current: state.Current, conflict: int, new_run_id: str) -> Existing | None:
    if conflict == CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING:
        return Existing(current, True)
    if conflict == CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING:
        closing.terminate(
            step.run(current.run_id),
            "TerminateIfRunning WorkflowIdReusePolicy",
            "history-service",
            Payloads(
                payloads=[
                    Payload(
                        metadata={"encoding": b"json/plain"},
                        data=f'"terminated by new runID: {new_run_id}"'.encode(),
                    )
                ]
            ),
        )
        return None
    message = (
        f"Workflow execution is already running. WorkflowId: {step.workflow_id}, RunId: {current.run_id}."
    )
    raise errors.already_started(message, current.request_id, current.run_id)


def _already(step: Step, current: state.Current, what: str, how: str, policy: str) -> errors.Rejected:
    ids = f"WorkflowId: {step.workflow_id}, RunId: {current.run_id}."
    return errors.already_started(
        f"Workflow execution already {what}{how}. {ids}{policy}", current.request_id, current.run_id
    )


def start_attributes(step: Step, request: StartRequest) -> WorkflowExecutionStartedEventAttributes:
    """The first event of a run that a client starts."""
    attributes = WorkflowExecutionStartedEventAttributes(
        workflow_type=request.workflow_type,
        task_queue=task_events.task_queue_message(request.task_queue.name, False, ""),
        identity=request.identity,
        cron_schedule=request.cron_schedule,
        attempt=1,
    )
    copy_fields(request, attributes, *_COPIED)
    attributes.workflow_task_timeout.CopyFrom(request.workflow_task_timeout)
    if isinstance(request, StartWorkflowExecutionRequest):
        cut_causes(request.continued_failure)
        copy_fields(request, attributes, "continued_failure", "last_completion_result")
    try:
        backoff_ms = cron.first_backoff_ms(request, step.now_ms)
    except cron.InvalidScheduleError:
        raise errors.invalid("invalid CronSchedule.") from None
    if request.cron_schedule:
        attributes.initiator = cron.CRON_INITIATOR
    attributes.first_workflow_task_backoff.CopyFrom(to_duration(backoff_ms))
    return attributes


def open_from_request(
    step: Step, request: StartRequest, new_run_id: str, *, schedule_task: bool = True
) -> Run:
    """Open the run that a client's request asks for."""
    attributes = start_attributes(step, request)
    if isinstance(request, StartWorkflowExecutionRequest) and request.request_eager_execution:
        attributes.eager_execution_accepted = not attributes.first_workflow_task_backoff.ByteSize()
    return open_run(
        step,
        Opening(
            run_id=new_run_id,
            attributes=attributes,
            request_id=request.request_id,
            user_metadata=request.user_metadata if request.HasField("user_metadata") else None,
            links=tuple(request.links),
            schedule_task=schedule_task and not attributes.eager_execution_accepted,
        ),
    )


def started_response(
    step: Step, run_id: str, *, started: bool, status: int
) -> StartWorkflowExecutionResponse:
    """The answer to a start. Its link is to the run's first event, also when a request was attached to a run.

    The real server refers to the attached request only with history.enableRequestIdRefLinks, off by default.
    """
    response = StartWorkflowExecutionResponse(run_id=run_id, started=started, status=status)  # type: ignore[arg-type]
    event = Link.WorkflowEvent(namespace=step.namespace, workflow_id=step.workflow_id, run_id=run_id)
    event.event_ref.event_id = 1
    event.event_ref.event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    response.link.workflow_event.CopyFrom(event)
    return response


def retried(step: Step, request_id: str) -> StartWorkflowExecutionResponse | None:
    """The answer to a start that was already applied, recognised by its request id."""
    current = step.current
    if current is None:
        return None
    if current.request_id == request_id:
        return started_response(step, current.run_id, started=True, status=current.status)
    table = step.context.table(CURRENT).entity(current_key(step.namespace, step.workflow_id))
    attached: state.AttachedRequest | None = table.get(REQUEST, request_id)
    if attached is not None and attached.run_id == current.run_id:
        return started_response(step, current.run_id, started=False, status=current.status)
    return None


@handles_call("StartWorkflowExecution")
def start_workflow(step: Step, call: bodies.Call) -> None:
    """Start a workflow, or answer with the run that the policies say."""
    request = StartWorkflowExecutionRequest.FromString(call.request)
    response, run = start(step, request, call.new_run_id)
    if request.request_eager_execution:
        if run is None:
            run = step.run(response.run_id)
        elif run.task is None and not run.core.first_task_due_ms:
            workflow_tasks.schedule(run, dispatch=False)
            workflow_tasks.start(run, request_id=request.request_id, identity=request.identity)
        if _starter_has_task(run, request):
            _hand_over(run, response)
            return
    step.reply(response)


def start(
    step: Step, request: StartWorkflowExecutionRequest, new_run_id: str
) -> tuple[StartWorkflowExecutionResponse, Run | None]:
    """Start a workflow as its policies say: the answer, and the run if one was opened. Raises Rejected."""
    again = retried(step, request.request_id)
    if again is not None:
        return again, None
    reuse, conflict = policies(request, CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_FAIL)
    existing = resolve(step, reuse, conflict, new_run_id)
    if existing is not None:
        return _use_existing(step, request, existing.current), None
    run = open_from_request(step, request, new_run_id)
    response = started_response(
        step, new_run_id, started=True, status=STATUS.WORKFLOW_EXECUTION_STATUS_RUNNING
    )
    return response, run


def _use_existing(
    step: Step, request: StartWorkflowExecutionRequest, current: state.Current
) -> StartWorkflowExecutionResponse:
    if request.HasField("on_conflict_options"):
        options = request.on_conflict_options
        run = step.run(current.run_id)
        attributes = WorkflowExecutionOptionsUpdatedEventAttributes()
        extra: dict[str, object] = {"worker_may_ignore": True}
        if options.attach_request_id:
            attached = request.request_id
            attributes.attached_request_id = attached
            table = step.context.table(CURRENT).entity(current_key(step.namespace, step.workflow_id))
            table.put(REQUEST, attached, state.AttachedRequest(current.run_id))
        if options.attach_completion_callbacks and request.completion_callbacks:
            raise errors.invalid("completion callbacks are not supported")
        if options.attach_links:
            extra["links"] = request.links
        run.record(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED, attributes, **extra)
    return started_response(
        step, current.run_id, started=False, status=STATUS.WORKFLOW_EXECUTION_STATUS_RUNNING
    )


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED)
def _options_updated(run: Run, event: HistoryEvent) -> None:
    attached = event.workflow_execution_options_updated_event_attributes.attached_request_id
    if attached:
        run.put(state.ATTACHED, attached, state.Signaled(event.event_id))


def _starter_has_task(run: Run, request: StartWorkflowExecutionRequest) -> bool:
    """Whether the first workflow task was started for this request, also when its answer got lost."""
    task = run.task
    return task is not None and (_FIRST_STARTED, request.request_id) == (
        task.started_event_id,
        task.request_id,
    )


def _hand_over(run: Run, response: StartWorkflowExecutionResponse) -> None:
    """Answer with the first workflow task: the starter runs a worker too."""
    nested, first, last = responses.workflow_task(run, sticky=False)
    response.eager_workflow_task.CopyFrom(nested)
    responses.reply_with_events(run, "started", response, first, last)


@handles_call("SignalWithStartWorkflowExecution")
def signal_with_start(step: Step, call: bodies.Call) -> None:
    """Signal the running workflow, or start one with the signal in its history before its first task."""
    request = SignalWithStartWorkflowExecutionRequest.FromString(call.request)
    reuse, conflict = policies(request, CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING)
    current = step.current
    if current is not None and not current.close_ms and current.request_id == request.request_id:
        step.reply(SignalWithStartWorkflowExecutionResponse(run_id=current.run_id, started=False))
        return
    existing = resolve(step, reuse, conflict, call.new_run_id)
    if existing is not None:
        run = step.run(existing.current.run_id)
        signals.record_signal(
            run,
            name=request.signal_name,
            input=request.signal_input if request.HasField("signal_input") else None,
            identity=request.identity,
            header=request.header if request.HasField("header") else None,
            request_id=request.request_id,
            links=request.links,
        )
        begin_delayed(run)
        step.reply(SignalWithStartWorkflowExecutionResponse(run_id=run.core.run_id, started=False))
        return
    run = open_from_request(step, request, call.new_run_id, schedule_task=False)
    signals.record_signal(
        run,
        name=request.signal_name,
        input=request.signal_input if request.HasField("signal_input") else None,
        identity=request.identity,
        header=request.header if request.HasField("header") else None,
        request_id=request.request_id,
        links=request.links,
        skip_task=True,
    )
    if not run.core.first_task_due_ms:
        workflow_tasks.schedule(run)
    step.reply(SignalWithStartWorkflowExecutionResponse(run_id=run.core.run_id, started=True))
