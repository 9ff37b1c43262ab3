"""Calls about one workflow: checked, given to the workflow's owner, answered with what it replies."""

from __future__ import annotations

import uuid
from typing import Final

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DescribeWorkflowExecutionRequest,
    QueryWorkflowRequest,
    RequestCancelWorkflowExecutionRequest,
    ResetStickyTaskQueueRequest,
    ResetWorkflowExecutionRequest,
    SignalWithStartWorkflowExecutionRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
)

from gateway import errors
from gateway.backend import REGISTERED, Backend, Context
from gateway.histories import Histories
from gateway.reset import Resets
from gateway.sizes import check_blob
from gateway.starts import check_signal_name, complete_signal_with_start, complete_start
from gateway.validation import check_execution, check_links, check_request_id
from streams.bodies import Call, CancelQuery
from streams.runtime.records import Correlation
from streams.topology import COMMANDS, workflow_key

QUERY_TIMEOUT_S: Final = 30.0
"""The longest that a query waits for its worker, as in the real server."""
_QUERY_ROOM_S: Final = 0.1
"""How long before its client gives up a query is dropped, so that no worker works on it in vain."""
_TERMINATE_REASON: Final = "terminated by user via frontend"
_TERMINATE_IDENTITY: Final = "frontend-service"


class WorkflowCalls:
    """Handlers of calls that name their workflow."""

    def __init__(self, backend: Backend, histories: Histories) -> None:
        self._backend = backend
        self._histories = histories

    async def start(self, request: StartWorkflowExecutionRequest, data: bytes, context: Context) -> bytes:
        """StartWorkflowExecution."""
        namespace = self._backend.namespace(request.namespace, REGISTERED)
        complete_start(request, namespace, self._backend.limits)
        reply = await self._backend.call(
            "StartWorkflowExecution",
            namespace.name,
            request.workflow_id,
            "",
            request.SerializeToString(),
            context,
            opens_run=True,
        )
        return await self._histories.attach(reply)

    async def signal_with_start(
        self, request: SignalWithStartWorkflowExecutionRequest, data: bytes, context: Context
    ) -> bytes:
        """SignalWithStartWorkflowExecution."""
        namespace = self._backend.namespace(request.namespace, REGISTERED)
        complete_signal_with_start(request, namespace, self._backend.limits)
        reply = await self._backend.call(
            "SignalWithStartWorkflowExecution",
            namespace.name,
            request.workflow_id,
            "",
            request.SerializeToString(),
            context,
            opens_run=True,
        )
        return reply.body

    async def signal(self, request: SignalWorkflowExecutionRequest, data: bytes, context: Context) -> bytes:
        """SignalWorkflowExecution."""
        backend, execution = self._backend, request.workflow_execution
        namespace = backend.namespace(request.namespace)
        check_execution(execution, request.HasField("workflow_execution"))
        check_signal_name(request.signal_name, backend.limits)
        check_request_id(request.request_id, backend.limits)
        check_links(request.links, backend.limits)
        check_blob(request.input, backend.limits, namespace.name, execution.workflow_id)
        if not request.request_id:
            request.request_id = str(uuid.uuid4())
            data = request.SerializeToString()
        return await self._ask("SignalWorkflowExecution", namespace.name, execution, data, context)

    async def request_cancel(
        self, request: RequestCancelWorkflowExecutionRequest, data: bytes, context: Context
    ) -> bytes:
        """RequestCancelWorkflowExecution."""
        backend, execution = self._backend, request.workflow_execution
        namespace = backend.namespace(request.namespace)
        check_execution(execution, request.HasField("workflow_execution"))
        check_links(request.links, backend.limits)
        if not request.request_id:
            request.request_id = str(uuid.uuid4())
            data = request.SerializeToString()
        return await self._ask("RequestCancelWorkflowExecution", namespace.name, execution, data, context)

    async def terminate(
        self, request: TerminateWorkflowExecutionRequest, data: bytes, context: Context
    ) -> bytes:
        """TerminateWorkflowExecution."""
        backend, execution = self._backend, request.workflow_execution
        namespace = backend.namespace(request.namespace)
        check_execution(execution, request.HasField("workflow_execution"))
        check_links(request.links, backend.limits)
        if not (request.reason and request.identity):
            request.reason = request.reason or _TERMINATE_REASON
            request.identity = request.identity or _TERMINATE_IDENTITY
            data = request.SerializeToString()
        return await self._ask("TerminateWorkflowExecution", namespace.name, execution, data, context)

    async def delete(self, request: DeleteWorkflowExecutionRequest, data: bytes, context: Context) -> bytes:
        """DeleteWorkflowExecution."""
        execution = request.workflow_execution
        namespace = self._backend.namespace(request.namespace)
        check_execution(execution, request.HasField("workflow_execution"))
        return await self._ask("DeleteWorkflowExecution", namespace.name, execution, data, context)

    async def describe(
        self, request: DescribeWorkflowExecutionRequest, data: bytes, context: Context
    ) -> bytes:
        """DescribeWorkflowExecution."""
        execution = request.execution
        namespace = self._backend.namespace(request.namespace)
        check_execution(execution, request.HasField("execution"))
        return await self._ask("DescribeWorkflowExecution", namespace.name, execution, data, context)

    async def query(self, request: QueryWorkflowRequest, data: bytes, context: Context) -> bytes:
        """QueryWorkflow: waits for the worker's answer, up to the client's deadline."""
        backend, execution = self._backend, request.execution
        namespace = backend.namespace(request.namespace)
        check_execution(execution, request.HasField("execution"))
        if not request.HasField("query"):
            raise errors.invalid("WorkflowQuery is not set on request.")
        if not request.query.query_type:
            raise errors.invalid("QueryType is not set on request.")
        check_blob(request.query.query_args, backend.limits, namespace.name, execution.workflow_id)
        timeout_s = min(context.time_remaining() or QUERY_TIMEOUT_S, QUERY_TIMEOUT_S)
        body = Call(
            "QueryWorkflow",
            namespace.name,
            execution.workflow_id,
            execution.run_id,
            data,
            deadline_ms=backend.now_ms() + int(max(timeout_s - _QUERY_ROOM_S, 0) * 1000),
        )
        key = workflow_key(namespace.name, execution.workflow_id)

        def cancel(caller: Correlation) -> None:
            canceled = CancelQuery(
                *(namespace.name, execution.workflow_id, execution.run_id),
                *(caller.gateway, caller.epoch, caller.id),
            )
            backend.engine.append(COMMANDS, key, canceled)

        try:
            reply = await backend.ask(
                COMMANDS, key, body, timeout_s, if_drained=errors.shutting_down(), if_left=cancel
            )
        except TimeoutError:
            raise errors.ApiError(
                errors.DEADLINE_EXCEEDED, "query timed out before a worker could process it"
            ) from None
        return reply.body

    async def reset(self, request: ResetWorkflowExecutionRequest, data: bytes, context: Context) -> bytes:
        """ResetWorkflowExecution."""
        return await Resets(self._backend).reset(request, data, context)

    async def reset_sticky(
        self, request: ResetStickyTaskQueueRequest, data: bytes, context: Context
    ) -> bytes:
        """ResetStickyTaskQueue."""
        execution = request.execution
        namespace = self._backend.namespace(request.namespace)
        check_execution(execution, request.HasField("execution"))
        return await self._ask("ResetStickyTaskQueue", namespace.name, execution, data, context)

    async def _ask(
        self, method: str, namespace: str, execution: WorkflowExecution, data: bytes, context: Context
    ) -> bytes:
        """What the owner of a workflow answers to a call about one of its runs."""
        reply = await self._backend.call(
            method, namespace, execution.workflow_id, execution.run_id, data, context
        )
        return reply.body
