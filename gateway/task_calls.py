"""Workers' answers to their tasks, routed by the task's token, or by workflow and activity id."""

from __future__ import annotations

from typing import Final, Protocol

from google.protobuf.message import Message
from temporalio.api.enums.v1 import QueryResultType
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import (
    RecordActivityTaskHeartbeatByIdRequest,
    RecordActivityTaskHeartbeatRequest,
    RecordActivityTaskHeartbeatResponse,
    RespondActivityTaskCanceledByIdRequest,
    RespondActivityTaskCanceledRequest,
    RespondActivityTaskCompletedByIdRequest,
    RespondActivityTaskCompletedRequest,
    RespondActivityTaskFailedByIdRequest,
    RespondActivityTaskFailedRequest,
    RespondActivityTaskFailedResponse,
    RespondQueryTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskFailedRequest,
)

from gateway import errors, oversize, sizes
from gateway.backend import Backend, Context
from gateway.histories import Histories
from gateway.polls import Polls
from gateway.validation import (
    check_identity,
    check_known_workflow_id,
    check_run_id,
    check_versioning,
)
from streams.avro import DecodeError
from streams.bodies import ACTIVITY_TASK, QUERY_TASK, WORKFLOW_TASK
from streams.history.command_checks import cap_duration
from streams.history.commands import CLOSING
from streams.history.retries import truncate
from streams.runtime.records import Reply
from streams.task_token import TaskToken

Failed = RespondActivityTaskFailedRequest
FailedById = RespondActivityTaskFailedByIdRequest
ById = (
    RecordActivityTaskHeartbeatByIdRequest
    | RespondActivityTaskCompletedByIdRequest
    | FailedById
    | RespondActivityTaskCanceledByIdRequest
)
_CANCEL_REQUESTED: Final = RecordActivityTaskHeartbeatResponse(cancel_requested=True).SerializeToString()


class TokenRequest(Protocol):
    """What every request with a task token has."""

    @property
    def task_token(self) -> bytes: ...
    @property
    def namespace(self) -> str: ...


class Workflow(Protocol):
    """What names the workflow that an answer is for: a task's token, or the request itself."""

    @property
    def namespace(self) -> str: ...
    @property
    def workflow_id(self) -> str: ...


class TaskCalls:
    """Handlers of answers to workflow, query and activity tasks."""

    def __init__(self, backend: Backend, histories: Histories, polls: Polls) -> None:
        self._backend = backend
        self._polls = polls
        self._histories = histories

    # Workflow and query tasks

    async def workflow_task_completed(
        self, request: RespondWorkflowTaskCompletedRequest, data: bytes, context: Context
    ) -> bytes:
        """RespondWorkflowTaskCompleted. The answer may carry the next task, with its events."""
        token = self._token(request, WORKFLOW_TASK)
        check_identity(request.identity, self._backend.limits)
        check_versioning(request.worker_version_stamp, self._backend.limits)
        sticky_timeout = request.sticky_attributes.schedule_to_start_timeout
        asked_s = sticky_timeout.seconds
        if wrong := cap_duration(sticky_timeout):
            raise errors.invalid(f"An invalid sticky timeout is set on request. cause: {wrong}")
        if sticky_timeout.seconds != asked_s:
            data = request.SerializeToString()
        if request.intermediate_page:
            raise errors.unimplemented("Paginated completion of workflow tasks is not supported.")
        return await self._histories.attach(await self._complete(token, request, data, context))

    async def _complete(
        self, token: TaskToken, request: RespondWorkflowTaskCompletedRequest, data: bytes, context: Context
    ) -> Reply:
        """Complete a workflow task; unless that ends its run, the worker may offer to take the next one."""
        sticky_queue = request.sticky_attributes.worker_task_queue.name
        closes = any(command.command_type in CLOSING for command in request.commands)
        offer = None if closes else self._polls.offer(token.namespace, sticky_queue)
        try:
            reply = await self._backend.call(
                "RespondWorkflowTaskCompleted",
                token.namespace,
                token.workflow_id,
                token.run_id,
                data,
                context,
                opens_run=True,
                offer_id=offer.id if offer else 0,
                offer_deadline_ms=offer.deadline_ms if offer else 0,
            )
        except errors.ApiError:
            if offer:
                self._polls.withdraw(offer)
            raise
        if offer and reply.kind == "completed":  # It brings the next task.
            self._polls.withdraw(offer)
        return reply

    async def workflow_task_failed(
        self, request: RespondWorkflowTaskFailedRequest, data: bytes, context: Context
    ) -> bytes:
        """RespondWorkflowTaskFailed."""
        token = self._token(request, WORKFLOW_TASK)
        limits = self._backend.limits
        check_identity(request.identity, limits)
        if self._is_over(request.failure, token):
            cause = truncate(request.failure, limits.blob_size_warn_bytes)
            request.failure.CopyFrom(oversize.server_failure(oversize.FAILURE, cause))
            data = request.SerializeToString()
        return await self._respond("RespondWorkflowTaskFailed", token, data, context)

    async def query_task_completed(
        self, request: RespondQueryTaskCompletedRequest, data: bytes, context: Context
    ) -> bytes:
        """RespondQueryTaskCompleted."""
        token = self._token(request, QUERY_TASK)
        if self._is_over(request.query_result, token):
            request.ClearField("query_result")
            request.completed_type = QueryResultType.QUERY_RESULT_TYPE_FAILED
            request.error_message = "Blob data size exceeds limit."
            data = request.SerializeToString()
        return await self._respond("RespondQueryTaskCompleted", token, data, context)

    # Activity tasks by token

    async def heartbeat(
        self, request: RecordActivityTaskHeartbeatRequest, data: bytes, context: Context
    ) -> bytes:
        """RecordActivityTaskHeartbeat."""
        token = self._token(request, ACTIVITY_TASK)
        if self._is_over(request.details, token):
            await self._fail(token, request.task_token, request.identity, oversize.HEARTBEAT, context)
            return _CANCEL_REQUESTED
        return await self._respond("RecordActivityTaskHeartbeat", token, data, context)

    async def activity_completed(
        self, request: RespondActivityTaskCompletedRequest, data: bytes, context: Context
    ) -> bytes:
        """RespondActivityTaskCompleted."""
        token = self._token(request, ACTIVITY_TASK)
        check_identity(request.identity, self._backend.limits)
        if self._is_over(request.result, token):
            return await self._fail(token, request.task_token, request.identity, oversize.RESULT, context)
        return await self._respond("RespondActivityTaskCompleted", token, data, context)

    async def activity_failed(self, request: Failed, data: bytes, context: Context) -> bytes:
        """RespondActivityTaskFailed."""
        token = self._token(request, ACTIVITY_TASK)
        if request.HasField("failure") and not request.failure.HasField("application_failure_info"):
            raise errors.invalid("Failure must have ApplicationFailureInfo.")
        check_identity(request.identity, self._backend.limits)
        cut = self._cut(request, token)
        if cut:
            data = request.SerializeToString()
        reply = await self._respond("RespondActivityTaskFailed", token, data, context)
        return RespondActivityTaskFailedResponse(failures=cut).SerializeToString() if cut else reply

    async def activity_canceled(
        self, request: RespondActivityTaskCanceledRequest, data: bytes, context: Context
    ) -> bytes:
        """RespondActivityTaskCanceled."""
        token = self._token(request, ACTIVITY_TASK)
        check_identity(request.identity, self._backend.limits)
        if self._is_over(request.details, token):
            return await self._fail(
                token, request.task_token, request.identity, oversize.CANCEL_DETAILS, context
            )
        return await self._respond("RespondActivityTaskCanceled", token, data, context)

    # Activity tasks by id

    async def heartbeat_by_id(
        self, request: RecordActivityTaskHeartbeatByIdRequest, data: bytes, context: Context
    ) -> bytes:
        """RecordActivityTaskHeartbeatById."""
        self._check_ids(request)
        if self._is_over(request.details, request):
            await self._fail_by_id(request, oversize.HEARTBEAT, context)
            return _CANCEL_REQUESTED
        return await self._respond_by_id("RecordActivityTaskHeartbeatById", request, data, context)

    async def activity_completed_by_id(
        self, request: RespondActivityTaskCompletedByIdRequest, data: bytes, context: Context
    ) -> bytes:
        """RespondActivityTaskCompletedById."""
        self._check_ids(request)
        if self._is_over(request.result, request):
            return await self._fail_by_id(request, oversize.RESULT, context)
        return await self._respond_by_id("RespondActivityTaskCompletedById", request, data, context)

    async def activity_failed_by_id(self, request: FailedById, data: bytes, context: Context) -> bytes:
        """RespondActivityTaskFailedById."""
        self._check_ids(request)
        cut = self._cut(request, request)
        if cut:
            data = request.SerializeToString()
        reply = await self._respond_by_id("RespondActivityTaskFailedById", request, data, context)
        return RespondActivityTaskFailedResponse(failures=cut).SerializeToString() if cut else reply

    async def activity_canceled_by_id(
        self, request: RespondActivityTaskCanceledByIdRequest, data: bytes, context: Context
    ) -> bytes:
        """RespondActivityTaskCanceledById."""
        self._check_ids(request)
        if self._is_over(request.details, request):
            return await self._fail_by_id(request, oversize.CANCEL_DETAILS, context)
        return await self._respond_by_id("RespondActivityTaskCanceledById", request, data, context)

    # Shared

    def _token(self, request: TokenRequest, task_kind: str) -> TaskToken:
        """The token of a request, whose namespace exists. Raises ApiError."""
        if request.namespace and request.namespace not in self._backend.engine.namespaces:
            raise errors.namespace_not_found(request.namespace)
        if not request.task_token:
            raise errors.invalid("Task token not set on request.")
        try:
            token = TaskToken.decode(request.task_token)
        except DecodeError:
            raise errors.invalid("Error deserializing task token.") from None
        if token.task_kind != task_kind:
            raise errors.invalid("Invalid TaskToken.")
        self._backend.namespace(token.namespace)
        if request.namespace not in ("", token.namespace):
            raise errors.invalid("Operation requested with a token from a different namespace.")
        check_known_workflow_id(token.workflow_id)
        return token

    async def _respond(self, method: str, token: TaskToken, data: bytes, context: Context) -> bytes:
        reply = await self._backend.call(
            method, token.namespace, token.workflow_id, token.run_id, data, context
        )
        return reply.body

    async def _fail(
        self, token: TaskToken, task_token: bytes, identity: str, reason: str, context: Context
    ) -> bytes:
        """Fail the activity in place of an answer that is too large. Returns the empty response."""
        failed = Failed(
            task_token=task_token,
            namespace=token.namespace,
            failure=oversize.server_failure(reason),
            identity=identity,
        )
        await self._respond("RespondActivityTaskFailed", token, failed.SerializeToString(), context)
        return b""

    async def _respond_by_id(self, method: str, request: ById, data: bytes, context: Context) -> bytes:
        reply = await self._backend.call(
            method, request.namespace, request.workflow_id, request.run_id, data, context
        )
        return reply.body

    async def _fail_by_id(self, request: ById, reason: str, context: Context) -> bytes:
        failed = FailedById(
            namespace=request.namespace,
            workflow_id=request.workflow_id,
            run_id=request.run_id,
            activity_id=request.activity_id,
            failure=oversize.server_failure(reason),
            identity=request.identity,
        )
        await self._respond_by_id(
            "RespondActivityTaskFailedById", request, failed.SerializeToString(), context
        )
        return b""

    def _check_ids(self, request: ById) -> None:
        self._backend.namespace(request.namespace)
        check_known_workflow_id(request.workflow_id)
        if not request.activity_id:
            raise errors.invalid("ActivityId is not set on request.")
        check_run_id(request.run_id, "RunId is not valid UUID.")
        check_identity(request.identity, self._backend.limits)

    def _is_over(self, payload: Message, workflow: Workflow) -> bool:
        limits = self._backend.limits
        return sizes.is_over(payload.ByteSize(), limits, workflow.namespace, workflow.workflow_id)

    def _cut(self, request: Failed | FailedById, workflow: Workflow) -> list[Failure]:
        """Cut what is too large out of a failed activity's request. Returns what the worker is told of it."""
        told = []
        if self._is_over(request.last_heartbeat_details, workflow):
            told.append(oversize.server_failure(oversize.HEARTBEAT))
            request.ClearField("last_heartbeat_details")
        if self._is_over(request.failure, workflow):
            cause = truncate(request.failure, self._backend.limits.blob_size_warn_bytes)
            request.failure.CopyFrom(oversize.server_failure(oversize.FAILURE, cause))
            told.append(request.failure)
        return told
