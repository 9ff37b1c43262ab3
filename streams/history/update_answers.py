"""What the callers of updates are told: the stage that an update has reached, or why it never will."""

from __future__ import annotations

from temporalio.api.common.v1 import Link
from temporalio.api.enums.v1 import EventType, UpdateWorkflowExecutionLifecycleStage, WorkflowExecutionStatus
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.update.v1 import Outcome, UpdateRef
from temporalio.api.workflowservice.v1 import (
    ExecuteMultiOperationResponse,
    PollWorkflowExecutionUpdateResponse,
    StartWorkflowExecutionResponse,
    UpdateWorkflowExecutionResponse,
)

from streams import bodies
from streams.history import errors, waiters
from streams.history.errors import ABORTED, NOT_FOUND, OPERATION_ABORTED, Rejected
from streams.history.run import Run
from streams.history.state import UPDATE, WAITER, Update, Waiter

Stage = UpdateWorkflowExecutionLifecycleStage
STAGE_ADMITTED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED
STAGE_ACCEPTED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
STAGE_COMPLETED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED

ADMITTED = "admitted"
SENT = "sent"
ACCEPTED = "accepted"
COMPLETED = "completed"

KIND = "update"
"""The kind of Waiter that waits for an update."""

UPDATE_CALL = "UpdateWorkflowExecution"
POLL_CALL = "PollWorkflowExecutionUpdate"
MULTI_OPERATION_CALL = "ExecuteMultiOperation"

UPDATE_WITHOUT_END = Outcome(
    failure=Failure(
        message="Workflow Update failed because the Workflow completed before the Update completed.",
        source="Server",
        application_failure_info=ApplicationFailureInfo(
            type="AcceptedUpdateCompletedWorkflow", non_retryable=True
        ),
    )
)
"""The outcome of an accepted update whose run closed before completing it."""


def status(run: Run, update: Update) -> tuple[Stage.ValueType, Outcome | None]:
    """The stage that an update has reached, and its outcome once there is one."""
    if update.stage == COMPLETED:
        return STAGE_COMPLETED, Outcome.FromString(update.outcome)
    if update.stage == ACCEPTED:
        return (STAGE_ACCEPTED, None) if run.is_open else (STAGE_COMPLETED, UPDATE_WITHOUT_END)
    return STAGE_ADMITTED, None


def await_stage(run: Run, update_id: str, stage: int, call: bodies.Call, *, started: bool = False) -> None:
    """Answer the call of this step once the update has reached `stage`; at once when it has.

    `started` tells whether an update-with-start also started the run.
    """
    where = run.step.correlation
    assert where is not None
    waiter = Waiter(
        kind=KIND,
        gateway=where.gateway,
        epoch=where.epoch,
        call_id=where.id,
        deadline_ms=call.deadline_ms,
        update_id=update_id,
        stage=stage,
        method=call.method,
        started=started,
    )
    reached, outcome = status(run, run.entity.get(UPDATE, update_id))
    if reached >= stage:
        _tell(run, waiter, reached, outcome)
    else:
        waiters.add(run, waiter)


def _waiting(run: Run, update_id: str) -> list[tuple[str, Waiter]]:
    return [
        (id, waiter)
        for id, waiter in run.entity.items(WAITER)
        if waiter.kind == KIND and waiter.update_id == update_id
    ]


def tell_progress(run: Run, update_id: str) -> None:
    """An update has come further: answer those who waited for that."""
    reached, outcome = status(run, run.entity.get(UPDATE, update_id))
    for id, waiter in _waiting(run, update_id):
        if reached >= waiter.stage:
            _tell(run, waiter, reached, outcome)
            run.set_part(WAITER, id, None)


def tell_rejected(run: Run, update_id: str, failure: Failure) -> None:
    """An update was rejected: that is its outcome, of which nothing is kept."""
    for id, waiter in _waiting(run, update_id):
        _tell(run, waiter, STAGE_COMPLETED, Outcome(failure=failure))
        run.set_part(WAITER, id, None)


def tell_error(run: Run, update_id: str, error: Rejected) -> None:
    """An update will never be accepted: its callers get an error."""
    for id, waiter in _waiting(run, update_id):
        run.step.reply_error(_as_called(waiter, error), waiters.correlation(waiter))
        run.set_part(WAITER, id, None)


def _as_called(waiter: Waiter, error: Rejected) -> Rejected:
    """The error as the waiting method words it. Update-with-start may try again what a closing run aborts."""
    if waiter.method != MULTI_OPERATION_CALL:
        return error
    if waiter.started:
        return errors.multi_operation(None, error)
    if error.code == NOT_FOUND:
        error = Rejected(ABORTED, error.message)
    return errors.multi_operation(OPERATION_ABORTED, error)


def _tell(run: Run, waiter: Waiter, stage: Stage.ValueType, outcome: Outcome | None) -> None:
    core = run.core
    ref = UpdateRef(update_id=waiter.update_id)
    ref.workflow_execution.workflow_id = core.workflow_id
    ref.workflow_execution.run_id = core.run_id
    if waiter.method == POLL_CALL:
        answer = PollWorkflowExecutionUpdateResponse(update_ref=ref, stage=stage, outcome=outcome)
        run.step.reply(answer, waiters.correlation(waiter))
        return
    response = UpdateWorkflowExecutionResponse(update_ref=ref, stage=stage, outcome=outcome)
    if waiter.method != MULTI_OPERATION_CALL:
        run.step.reply(response, waiters.correlation(waiter))
        return
    both = ExecuteMultiOperationResponse()
    both.responses.add().start_workflow.CopyFrom(_start_response(run, waiter.started))
    both.responses.add().update_workflow.CopyFrom(response)
    run.step.reply(both, waiters.correlation(waiter))


def _start_response(run: Run, started: bool) -> StartWorkflowExecutionResponse:
    """The start's half of an update-with-start. Its link names the namespace only when it started the run."""
    core = run.core
    event = Link.WorkflowEvent(workflow_id=core.workflow_id, run_id=core.run_id)
    if started:
        event.namespace = core.namespace
    event.event_ref.event_id = 1
    event.event_ref.event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    return StartWorkflowExecutionResponse(
        run_id=core.run_id,
        started=started,
        status=WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING,
        link=Link(workflow_event=event),
    )


def completed_multi_operation(run: Run, update: Update) -> ExecuteMultiOperationResponse:
    """The answer to an update-with-start whose update a run, open or closed, has already completed."""
    reached, outcome = status(run, update)
    both = ExecuteMultiOperationResponse()
    start = both.responses.add().start_workflow
    start.run_id, start.status = run.core.run_id, run.core.status  # type: ignore[assignment]
    answer = both.responses.add().update_workflow
    answer.update_ref.update_id = update.update_id
    answer.update_ref.workflow_execution.workflow_id = run.core.workflow_id
    answer.update_ref.workflow_execution.run_id = run.core.run_id
    answer.stage = reached
    if outcome is not None:
        answer.outcome.CopyFrom(outcome)
    return both
