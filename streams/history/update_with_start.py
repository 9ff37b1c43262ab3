"""Update-with-start: update the run that a workflow id has, or start one and update it, in one step.

Behaviour: service/history/api/multioperation of the real server.
"""

from __future__ import annotations

from temporalio.api.enums.v1 import WorkflowIdConflictPolicy
from temporalio.api.workflowservice.v1 import (
    ExecuteMultiOperationRequest,
    StartWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
)

from streams import bodies
from streams.history import errors, start, update_answers, updates
from streams.history.calls import handles_call
from streams.history.errors import OPERATION_ABORTED, Rejected
from streams.history.run import Run
from streams.history.state import UPDATE, Update
from streams.history.step import Step


@handles_call(update_answers.MULTI_OPERATION_CALL)
def update_with_start(step: Step, call: bodies.Call) -> None:
    """Start and update; the caller is answered once the update has reached the stage asked for."""
    request = ExecuteMultiOperationRequest.FromString(call.request)
    start_request = request.operations[0].start_workflow
    update_request = request.operations[1].update_workflow
    current = step.current
    if current is not None:
        run = step.run(current.run_id)
        update: Update | None = run.entity.get(UPDATE, update_request.request.meta.update_id)
        if update is not None and update.stage == update_answers.COMPLETED:
            step.reply(update_answers.completed_multi_operation(run, update))
            return
        if run.is_open and (update is not None or _may_use(run, start_request)):
            _update(run, update_request, call, started=False)
            return
    _update(_start(step, start_request, call.new_run_id), update_request, call, started=True)


def _may_use(run: Run, request: StartWorkflowExecutionRequest) -> bool:
    """Whether an open run is what the start asks for: made by the same request, or wanted by policy."""
    use_existing = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
    return (
        request.request_id == run.core.create_request_id
        or request.workflow_id_conflict_policy == use_existing
    )


def _start(step: Step, request: StartWorkflowExecutionRequest, new_run_id: str) -> Run:
    try:
        _, run = start.start(step, request, new_run_id)
    except Rejected as error:
        raise errors.multi_operation(error, OPERATION_ABORTED) from error
    if run is None:
        done_before = Rejected(errors.UNAVAILABLE, "Workflow was not started: its request was applied before")
        raise errors.multi_operation(done_before, OPERATION_ABORTED)
    return run


def _update(run: Run, request: UpdateWorkflowExecutionRequest, call: bodies.Call, *, started: bool) -> None:
    try:
        updates.admit(run, request.request)
    except Rejected as error:
        raise errors.multi_operation(OPERATION_ABORTED, error) from error
    stage = request.wait_policy.lifecycle_stage
    update_answers.await_stage(run, request.request.meta.update_id, stage, call, started=started)
