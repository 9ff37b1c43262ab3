"""Updates: requests that a workflow accepts or rejects, and then completes with an outcome.

An update is admitted durably, sent with the next workflow task (a speculative one is made when none is
pending) and sent again until the worker has said what it does with it. Rejected ones leave nothing behind.

Behaviour: service/history/workflow/update and api/{updateworkflow,pollupdate} of the real server, which keeps
admitted updates in memory only.
"""

from __future__ import annotations

import json
from typing import Final

import msgspec
from temporalio.api.enums.v1 import EventType, ResourceExhaustedCause
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Rejection, Request
from temporalio.api.workflowservice.v1 import (
    PollWorkflowExecutionUpdateRequest,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
    UpdateWorkflowExecutionRequest,
)

from streams import bodies
from streams.history import errors, update_answers, workflow_tasks
from streams.history.calls import handles_call
from streams.history.evolve import applies, emits
from streams.history.lookup import find_run
from streams.history.run import Run
from streams.history.state import SPECULATIVE, UPDATE, Update, WorkflowTask
from streams.history.step import Step
from streams.history.update_answers import ACCEPTED, ADMITTED, COMPLETED, SENT

FAILING_ATTEMPT: Final = 3
"""From this attempt of the workflow task on, the worker is taken for unable to process updates."""

DISCARDED_EVENTS: Final = 10
"""A speculative task that showed a worker more new events than this is kept: they are not sent for ever."""

UNPROCESSED: Final = Failure(
    message="Workflow Update is rejected because it wasn't processed by worker."
    " Probably, Workflow Update is not supported by the worker.",
    source="Server",
    application_failure_info=ApplicationFailureInfo(type="UnprocessedUpdate", non_retryable=True),
)


# --- calls ---


@handles_call("UpdateWorkflowExecution")
def update_call(step: Step, call: bodies.Call) -> None:
    """Send an update to a run; the caller is answered at the stage it asked for."""
    request = UpdateWorkflowExecutionRequest.FromString(call.request)
    run = find_run(step, call.run_id)
    if request.first_execution_run_id and run.core.first_run_id != request.first_execution_run_id:
        raise errors.not_found("workflow execution not found")
    admit(run, request.request)
    update_answers.await_stage(run, request.request.meta.update_id, request.wait_policy.lifecycle_stage, call)


@handles_call("PollWorkflowExecutionUpdate")
def poll_call(step: Step, call: bodies.Call) -> None:
    """Tell what became of an update, once it has reached the stage asked for."""
    request = PollWorkflowExecutionUpdateRequest.FromString(call.request)
    run = find_run(step, call.run_id)
    update_id = request.update_ref.update_id
    if run.entity.get(UPDATE, update_id) is None:
        raise errors.not_found(f"update {json.dumps(update_id, ensure_ascii=False)} not found")
    update_answers.await_stage(run, update_id, request.wait_policy.lifecycle_stage, call)


# --- admission ---


def admit(run: Run, request: Request) -> None:
    """Take an update, unless the run knows its id already, and have a workflow task carry it.

    The caller then waits with `update_answers.await_stage`. Raises Rejected when the run is closed, about to
    close, failing, or at a limit.
    """
    update_id = request.meta.update_id
    known = run.entity.get(UPDATE, update_id) is not None
    if not run.is_open:
        if known:
            return
        raise errors.completed()
    if run.core.task_attempt >= FAILING_ATTEMPT:
        raise errors.not_ready(
            "Unable to perform workflow execution update due to Workflow Task in failed state."
        )
    if run.core.close_attempted and run.task_running:
        raise errors.workflow_closing()
    if known:
        return
    _check_limits(run, request)
    _add(run, update_id, request)
    if run.task is None:
        workflow_tasks.schedule(run, speculative=True)


def _add(run: Run, update_id: str, request: Request) -> Update:
    """Record an admitted update."""
    number = run.core.update_count + 1
    update = Update(
        update_id=update_id,
        stage=ADMITTED,
        request=request.SerializeToString(deterministic=True),
        sequence=number,
    )
    run.change_core(update_count=number)
    run.set_part(UPDATE, update_id, update)
    return update


def resurrect(run: Run, update_id: str, request: Request) -> Update:
    """Admit an update again that a worker still has although it is forgotten here.

    Raises Rejected (FAILED_PRECONDITION) at the limit of all updates.
    """
    _check_total(run)
    return _add(run, update_id, request)


def _check_limits(run: Run, request: Request) -> None:
    """Refuse one more update. Raises Rejected."""
    limits = run.step.limits
    in_flight = [update for _, update in run.entity.items(UPDATE) if update.stage != COMPLETED]
    if 0 < limits.updates_in_flight <= len(in_flight):
        raise errors.exhausted(
            f"limit on number of concurrent in-flight updates has been reached ({limits.updates_in_flight})",
            ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT,
        )
    _check_total(run)
    size_bytes = sum(len(update.update_id) + len(update.request) for update in in_flight) + request.ByteSize()
    if 0 < limits.updates_in_flight_bytes <= size_bytes:
        raise errors.exhausted(
            "limit on total payload size of in-flight updates has been reached"
            f" ({limits.updates_in_flight_bytes} bytes)",
            ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT,
        )


def _check_total(run: Run) -> None:
    total = run.step.limits.updates_total
    if 0 < total <= run.entity.count(UPDATE):
        raise errors.Rejected(
            errors.FAILED_PRECONDITION,
            f"The limit on the total number of distinct updates in this workflow has been reached ({total}). "
            "Make sure any duplicate updates share an Update ID so the server can deduplicate them, and "
            "consider rejecting updates that you aren't going to process. "
            "You can also Continue-as-New to avoid this; we recommend you check Continue-as-New Suggested in "
            "your Workflow.",
        )


# --- on workflow tasks ---


def request_message_id(update_id: str) -> str:
    """The id of the message that brings an update to a worker."""
    return f"{update_id}/request"


def _to_send(run: Run, stages: tuple[str, ...]) -> list[Update]:
    """The updates at one of `stages`, in the order they came."""
    updates = run.entity.group(UPDATE)
    if not updates:
        return []
    found = [update for update in updates.values() if update.stage in stages]
    return sorted(found, key=lambda update: update.sequence)


def any_to_send(run: Run) -> bool:
    """Whether an update waits for a worker to see it."""
    return bool(_to_send(run, (ADMITTED, SENT)))


def send(run: Run, response: PollWorkflowTaskQueueResponse, *, new_only: bool = False) -> None:
    """Put the updates on the workflow task that just started, those of a failed or lost one too.

    `new_only` is for a task that goes on with the one before (a heartbeat): the worker has the others.
    """
    for update in _to_send(run, (ADMITTED,) if new_only else (ADMITTED, SENT)):
        if update.stage == ADMITTED:
            run.set_part(UPDATE, update.update_id, msgspec.structs.replace(update, stage=SENT))
        if update.request:
            message = response.messages.add(
                id=request_message_id(update.update_id),
                protocol_instance_id=update.update_id,
                event_id=response.started_event_id - 1,
            )
            message.body.Pack(Request.FromString(update.request), deterministic=True)


def discards_speculative(run: Run, task: WorkflowTask, request: RespondWorkflowTaskCompletedRequest) -> bool:
    """Whether a completed speculative task leaves no events: nothing came of it but rejections."""
    if task.kind != SPECULATIVE or request.commands or request.force_create_new_workflow_task:
        return False
    core = run.core
    if not core.last_completed_event_id and not core.first_task_due_ms:
        return False
    shown = core.next_event_id - core.last_started_event_id - 2
    allowed = DISCARDED_EVENTS if request.capabilities.discard_speculative_workflow_task_with_events else 0
    return shown <= allowed and all(_is_rejection(message) for message in request.messages)


def _is_rejection(message: Message) -> bool:
    return message.body.Is(Rejection.DESCRIPTOR)


# --- ends ---


def reject(run: Run, update_id: str, failure: Failure) -> None:
    """An update is refused, by the workflow or for it. Nothing of it is kept."""
    run.set_part(UPDATE, update_id, None)
    update_answers.tell_rejected(run, update_id, failure)


def abort(run: Run, update_id: str, error: errors.Rejected) -> None:
    """An update will never be seen by the workflow."""
    run.set_part(UPDATE, update_id, None)
    update_answers.tell_error(run, update_id, error)


def end_accepted(run: Run, request: RespondWorkflowTaskCompletedRequest) -> None:
    """The run is terminated in place of a completed task that accepted updates: they end as accepted ones do."""
    sent = {update.update_id for update in _to_send(run, (SENT,))}
    for message in request.messages:
        if message.body.Is(Acceptance.DESCRIPTOR) and message.protocol_instance_id in sent:
            sent.remove(message.protocol_instance_id)
            reject(run, message.protocol_instance_id, update_answers.UPDATE_WITHOUT_END.failure)


def reject_unprocessed(run: Run) -> None:
    """Reject the updates that the completed task carried and said nothing about."""
    for update in _to_send(run, (SENT,)):
        reject(run, update.update_id, UNPROCESSED)


def abort_sent(run: Run) -> None:
    """The worker's answer to the task was unusable, maybe for its updates: they are not sent again."""
    for update in _to_send(run, (SENT,)):
        abort(
            run,
            update.update_id,
            errors.not_ready(
                "Unable to perform workflow execution update due to unexpected workflow task failure."
            ),
        )


def aborted_by_close() -> errors.Rejected:
    """What callers get whose update a closing run has not accepted."""
    return errors.not_found("workflow update was aborted by closing workflow")


def close(run: Run) -> None:
    """The run has closed: answer those who wait for updates that it never completes.

    Callers of updates not accepted yet may try again on the run that follows, if any.
    """
    for update in _to_send(run, (ADMITTED, SENT)):
        error = errors.workflow_closing() if run.core.next_run_id else aborted_by_close()
        abort(run, update.update_id, error)
    for update in _to_send(run, (ACCEPTED,)):
        update_answers.tell_progress(run, update.update_id)


# --- events ---


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED)
def _admitted(run: Run, event: HistoryEvent) -> None:
    """A reset brought the update along: the worker finds its request in the history, not in a message."""
    request = event.workflow_execution_update_admitted_event_attributes.request
    number = run.core.update_count + 1
    run.set_core(update_count=number)
    run.put(
        UPDATE,
        request.meta.update_id,
        Update(
            update_id=request.meta.update_id,
            stage=ADMITTED,
            request=b"",
            sequence=number,
        ),
    )


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
def _accepted(run: Run, event: HistoryEvent) -> None:
    attributes = event.workflow_execution_update_accepted_event_attributes
    update_id = attributes.protocol_instance_id
    update: Update | None = run.entity.get(UPDATE, update_id)
    if update is None:
        run.set_core(update_count=run.core.update_count + 1)
        update = Update(update_id, ACCEPTED, b"", run.core.update_count)
    run.put(
        UPDATE,
        update_id,
        msgspec.structs.replace(update, stage=ACCEPTED, request=b"", accepted_event_id=event.event_id),
    )


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)
def _completed(run: Run, event: HistoryEvent) -> None:
    attributes = event.workflow_execution_update_completed_event_attributes
    update_id = attributes.meta.update_id
    update: Update = run.entity.get(UPDATE, update_id)
    outcome = attributes.outcome.SerializeToString(deterministic=True)
    run.put(
        UPDATE,
        update_id,
        msgspec.structs.replace(update, stage=COMPLETED, completed_event_id=event.event_id, outcome=outcome),
    )


@emits(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
def _tell_accepted(run: Run, event: HistoryEvent) -> None:
    attributes = event.workflow_execution_update_accepted_event_attributes
    update_answers.tell_progress(run, attributes.protocol_instance_id)


@emits(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)
def _tell_completed(run: Run, event: HistoryEvent) -> None:
    update_answers.tell_progress(
        run, event.workflow_execution_update_completed_event_attributes.meta.update_id
    )
