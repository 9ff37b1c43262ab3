"""Updates: sent, awaited for a stage, and answered with the stage reached when that takes too long."""

from __future__ import annotations

import uuid
from typing import Final

from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage as Stage
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflowservice.v1 import (
    ExecuteMultiOperationRequest,
    ExecuteMultiOperationResponse,
    PollWorkflowExecutionUpdateRequest,
    PollWorkflowExecutionUpdateResponse,
    StartWorkflowExecutionResponse,
    UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
)

from gateway import errors
from gateway.backend import REGISTERED, Backend, Context
from gateway.errors import ApiError
from gateway.starts import complete_start
from gateway.validation import check_execution, check_known_workflow_id, check_run_id, too_long
from streams.bodies import Call, NamespaceConfig
from streams.limits import Limits
from streams.topology import COMMANDS, workflow_key

_ADMITTED: Final = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED
_UNSPECIFIED: Final = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_UNSPECIFIED
_RUNNING: Final = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
_COMPLETED: Final = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED

Update = UpdateWorkflowExecutionRequest


class Updates:
    """Handlers of updates. Behaviour: service/history/api/{updateworkflow,pollupdate,multioperation}."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def update(self, request: Update, data: bytes, context: Context) -> bytes:
        """UpdateWorkflowExecution."""
        namespace = self._backend.namespace(request.namespace)
        complete_update(request, self._backend.limits)
        execution = request.workflow_execution
        try:
            return await self._await_stage(
                "UpdateWorkflowExecution",
                namespace,
                execution.workflow_id,
                execution.run_id,
                request.SerializeToString(),
            )
        except TimeoutError:
            reached = await self._reached(namespace, request)
            return UpdateWorkflowExecutionResponse(
                update_ref=reached.update_ref,
                outcome=reached.outcome if reached.HasField("outcome") else None,
                stage=reached.stage,
            ).SerializeToString()

    async def poll(self, request: PollWorkflowExecutionUpdateRequest, data: bytes, context: Context) -> bytes:
        """PollWorkflowExecutionUpdate."""
        namespace = self._backend.namespace(request.namespace)
        if not request.HasField("update_ref"):
            raise errors.invalid("UpdateRef is not set on request.")
        execution = request.update_ref.workflow_execution
        if not execution.workflow_id:
            raise errors.invalid("Can't load workflow execution.  WorkflowId not set.")
        check_known_workflow_id(execution.workflow_id)
        check_run_id(execution.run_id, "RunId is not valid UUID.")
        try:
            return await self._await_stage(
                "PollWorkflowExecutionUpdate", namespace, execution.workflow_id, execution.run_id, data
            )
        except TimeoutError:
            return await self._look(namespace, request)

    async def execute_multi_operation(
        self, request: ExecuteMultiOperationRequest, data: bytes, context: Context
    ) -> bytes:
        """ExecuteMultiOperation: start a workflow and update it, or update the one that runs."""
        namespace = self._backend.namespace(request.namespace, REGISTERED)
        kinds = [operation.WhichOneof("operation") for operation in request.operations]
        if kinds != ["start_workflow", "update_workflow"]:
            raise errors.invalid("Operations have to be exactly [Start, Update].")
        start = request.operations[0].start_workflow
        update = request.operations[1].update_workflow
        self._complete_operations(request)
        new_run_id = str(uuid.uuid4())
        try:
            return await self._await_stage(
                "ExecuteMultiOperation",
                namespace,
                start.workflow_id,
                "",
                request.SerializeToString(),
                new_run_id,
            )
        except TimeoutError:
            reached = await self._reached(namespace, update)
            run_id = reached.update_ref.workflow_execution.run_id
            response = ExecuteMultiOperationResponse()
            response.responses.add().start_workflow.CopyFrom(
                StartWorkflowExecutionResponse(run_id=run_id, started=run_id == new_run_id, status=_RUNNING)
            )
            answer = response.responses.add().update_workflow
            answer.update_ref.CopyFrom(reached.update_ref)
            answer.stage = reached.stage
            if reached.HasField("outcome"):
                answer.outcome.CopyFrom(reached.outcome)
            return response.SerializeToString()

    def _complete_operations(self, request: ExecuteMultiOperationRequest) -> None:
        start = request.operations[0].start_workflow
        update = request.operations[1].update_workflow
        found: list[ApiError | None] = [None, None]
        try:
            if not start.namespace:
                raise errors.namespace_not_found("")
            namespace = self._backend.namespace(start.namespace)
            complete_start(start, namespace, self._backend.limits)
            if start.cron_schedule:
                raise errors.invalid("CronSchedule is not allowed.")
            if start.request_eager_execution:
                raise errors.invalid("RequestEagerExecution is not supported.")
            if start.workflow_start_delay.seconds or start.workflow_start_delay.nanos:
                raise errors.invalid("WorkflowStartDelay is not supported.")
        except ApiError as error:
            found[0] = error
        try:
            complete_update(update, self._backend.limits)
            if update.first_execution_run_id:
                raise errors.invalid("FirstExecutionRunId is not allowed.")
            if update.workflow_execution.run_id:
                raise errors.invalid("RunId is not allowed.")
            if found[0] is None and update.workflow_execution.workflow_id != start.workflow_id:
                raise errors.invalid("WorkflowId is not consistent with previous operation(s).")
        except ApiError as error:
            found[1] = error
        if any(found):
            raise errors.multi_operation(found)
        start.namespace = update.namespace = request.namespace

    async def _await_stage(
        self,
        method: str,
        namespace: NamespaceConfig,
        workflow_id: str,
        run_id: str,
        request: bytes,
        new_run_id: str = "",
    ) -> bytes:
        """The reply once the stage is reached. Raises TimeoutError when the long poll ends before."""
        backend = self._backend
        poll_ms = backend.limits.history_poll_ms
        body = Call(
            method, namespace.name, workflow_id, run_id, request, new_run_id, backend.now_ms() + poll_ms
        )
        key = workflow_key(namespace.name, workflow_id)
        return (await backend.ask(COMMANDS, key, body, poll_ms / 1000, if_drained=TimeoutError())).body

    async def _reached(
        self, namespace: NamespaceConfig, update: Update
    ) -> PollWorkflowExecutionUpdateResponse:
        """The stage that an update is at."""
        poll = PollWorkflowExecutionUpdateRequest(namespace=namespace.name)
        poll.update_ref.workflow_execution.CopyFrom(update.workflow_execution)
        poll.update_ref.update_id = update.request.meta.update_id
        try:
            return PollWorkflowExecutionUpdateResponse.FromString(await self._look(namespace, poll))
        except ApiError as error:
            if error.code != errors.NOT_FOUND:
                raise
            # What waits to be sent with a task may not be known to polls yet.
            return PollWorkflowExecutionUpdateResponse(stage=_ADMITTED, update_ref=poll.update_ref)

    async def _look(self, namespace: NamespaceConfig, poll: PollWorkflowExecutionUpdateRequest) -> bytes:
        poll.wait_policy.lifecycle_stage = _UNSPECIFIED
        execution = poll.update_ref.workflow_execution
        body = Call(
            "PollWorkflowExecutionUpdate",
            namespace.name,
            execution.workflow_id,
            execution.run_id,
            poll.SerializeToString(),
        )
        key = workflow_key(namespace.name, execution.workflow_id)
        return (await self._backend.ask(COMMANDS, key, body)).body


def complete_update(request: Update, limits: Limits) -> None:
    """Check an UpdateWorkflowExecutionRequest and fill in its defaults. Raises ApiError."""
    check_execution(request.workflow_execution, request.HasField("workflow_execution"))
    if not (request.HasField("request") and request.request.HasField("meta")):
        raise errors.invalid("Update meta is not set on request.")
    meta = request.request.meta
    if too_long(meta.update_id, limits):
        raise errors.invalid("UpdateId length exceeds limit.")
    if not meta.update_id:
        meta.update_id = str(uuid.uuid4())
    if not request.request.HasField("input"):
        raise errors.invalid("Update input is not set on request.")
    if not request.request.input.name:
        raise errors.invalid("Update name is not set on request.")
    stage = request.wait_policy.lifecycle_stage
    if stage == _ADMITTED:
        raise errors.denied(
            "UpdateWorkflowExecution issued asynchronously and waiting on update admitted is not supported."
        )
    if stage not in Stage.values():
        raise errors.invalid(f"unknown update lifecycle stage: {stage}")
    if stage == _UNSPECIFIED:
        request.wait_policy.lifecycle_stage = _COMPLETED
