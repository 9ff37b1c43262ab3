"""The gateway: Temporal's gRPC API in front of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from google.protobuf.message import DecodeError
from h2corn import LogFormat
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure

from gateway import client_versions, errors
from gateway.admission import CallsUnderWay, Gate, LongCalls, ShortCalls
from gateway.backend import Backend
from gateway.cluster import Cluster
from gateway.engine import Engine
from gateway.errors import ApiError
from gateway.grpc_calls import Call, Calls, Unary
from gateway.grpc_server import GrpcServer
from gateway.histories import Histories
from gateway.infrastructure import Infrastructure
from gateway.methods import LONG, SERVICES, Handlers, Method, table
from gateway.namespaces import Namespaces
from gateway.polls import Polls
from gateway.service_metrics import Operation, ServiceMetrics
from gateway.task_calls import TaskCalls
from gateway.task_queues import TaskQueues
from gateway.updates import Updates
from gateway.visibility import Visibility
from gateway.workflow_calls import WorkflowCalls
from streams.limits import Limits
from streams.runtime.failures import EngineFailedError
from streams.stores.visibility import VisibilityReader

_STOP_GRACE_S: Final = 5.0

_log = structlog.get_logger(__name__)


class Gateway:
    """Serves WorkflowService, OperatorService, health and reflection.

    `limits` bound requests, `metrics` count them; `name` tells this gateway from others of the same engine.
    `shares_port` lets other processes listen at the same address, else a port that is taken is an error.
    `log_format` is for what its HTTP/2 server writes to standard error; `on_failure` is told when that ends by itself.
    """

    def __init__(
        self,
        engine: Engine,
        visibility_store: VisibilityReader,
        limits: Limits,
        metrics: ServiceMetrics,
        name: str = "gateway-0",
        *,
        shares_port: bool = False,
        log_format: LogFormat = "text",
        on_failure: Callable[[BaseException], None] = lambda reason: None,
    ) -> None:
        self._backend = backend = Backend(engine, limits, name)
        self._metrics = metrics
        self._under_way = CallsUnderWay()
        self._short_calls = ShortCalls(limits)
        self._long_calls = ShortCalls(limits)
        histories = Histories(backend)
        self._polls = Polls(backend, histories, metrics)
        self._cluster = Cluster(backend)
        self._handlers = Handlers(
            workflows=WorkflowCalls(backend, histories),
            updates=Updates(backend),
            histories=histories,
            polls=self._polls,
            tasks=TaskCalls(backend, histories, self._polls),
            queues=TaskQueues(backend),
            visibility=Visibility(backend, visibility_store),
            namespaces=Namespaces(backend),
            cluster=self._cluster,
        )
        self._infrastructure = Infrastructure([service.full_name for service in SERVICES])
        unary = {method.path: self._serve(method) for method in table(self._handlers)}
        calls = Calls({**unary, **self._infrastructure.unary}, self._infrastructure.streams)
        self._server = GrpcServer(
            calls, shares_port=shares_port, log_format=log_format, on_failure=on_failure
        )

    async def start(self, address: str) -> int:
        """Take calls at `address` (host:port, port 0 for a free one). Returns the port.

        Raises OSError when the address cannot be used.
        """
        self._backend.begin()
        await self._infrastructure.begin()
        port = await self._server.start(address)
        self._cluster.address = f"{address.rpartition(':')[0]}:{port}"
        await self._infrastructure.serve()
        return port

    @property
    def calls_in_flight(self) -> int:
        """Calls that wait for the engine's reply, polls among them."""
        return len(self._backend.replies) + self._polls.waiting

    @property
    def replies_not_awaited(self) -> int:
        """Replies that came when nobody awaited them any more."""
        return self._backend.replies.not_awaited_total

    @property
    def waiting_polls(self) -> int:
        """Workers' polls that wait for a task."""
        return self._polls.waiting

    async def drain(self) -> None:
        """End what waits: polls without a task, long polls with what there is, queries with an error."""
        await self._infrastructure.drain()
        self._polls.drain()
        self._backend.drain()
        await self._polls.end_offers()

    async def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Refuse new calls, give those in flight `grace_s` seconds, and stop."""
        await self._under_way.end(grace_s)
        await self._server.stop()

    def _serve(self, method: Method) -> Unary:
        """The coroutine function that answers a method's calls, from bytes to bytes."""
        if method.handler is None:
            return self._serve_unimplemented(method)
        handler, parse, name = method.handler, method.request.FromString, method.name
        has_namespace = "namespace" in method.request.DESCRIPTOR.fields_by_name
        waits_if_asked = name == "GetWorkflowExecutionHistory"
        short: Gate = self._short_calls
        long: Gate = LongCalls(self._backend.limits, self._long_calls) if name in LONG else short
        under_way = self._under_way
        operations: dict[str, Operation] = {}

        async def serve(data: bytes, context: Call) -> bytes:
            try:
                request = parse(data)
            except DecodeError:
                request = None
            namespace = request.namespace if has_namespace and request is not None else ""
            operation = operations.get(namespace) or self._operation(name, namespace, operations)
            started = operation.begin()
            try:
                if request is None:
                    raise errors.no_message()
                client_versions.check(context.headers)
                gate = short if waits_if_asked and not request.wait_new_event else long
                under_way.enter()
                try:
                    gate.enter(namespace)
                    try:
                        return await handler(request, data, context)
                    finally:
                        gate.leave(namespace)
                finally:
                    under_way.leave()
            except ApiError as error:
                failure = error
            except EngineFailedError:  # whose reason the process ends with
                failure = errors.shutting_down()
            except Exception:
                _log.exception("a call failed", method=name)
                failure = errors.failed()
            finally:
                operation.end(started)
            raise _failed(operation, failure)

        return serve

    def _operation(self, name: str, namespace: str, known: dict[str, Operation]) -> Operation:
        """The metrics of a method in a namespace; what clients make up shares one."""
        if namespace not in self._backend.engine.namespaces:
            return self._metrics.operation(name, "")
        operation = known[namespace] = self._metrics.operation(name, namespace)
        return operation

    def _serve_unimplemented(self, method: Method) -> Unary:
        async def serve(data: bytes, context: Call) -> bytes:
            operation = self._metrics.operation(method.name, "")
            operation.end(operation.begin())
            # A new one each time: an error that was raised holds on to all it went through.
            raise _failed(operation, errors.unimplemented(f"This server does not support {method.name}."))

        return serve


def _failed(operation: Operation, failure: ApiError) -> ApiError:
    """The error that a call ends with, counted."""
    operation.fail(failure.name, expected=failure.code not in errors.UNEXPECTED)
    if failure.code == errors.RESOURCE_EXHAUSTED:
        operation.exhausted(*_cause(failure))
    if failure.status and not GrpcStatus.FromString(failure.status).details:
        return ApiError(failure.code, failure.message)
    return failure


def _cause(failure: ApiError) -> tuple[str, str]:
    """What was exhausted, and whose limit it was, by name."""
    detail = ResourceExhaustedFailure()
    for packed in GrpcStatus.FromString(failure.status).details:
        packed.Unpack(detail)
    cause, scope = ResourceExhaustedCause.Name(detail.cause), ResourceExhaustedScope.Name(detail.scope)
    return _camel(cause, "RESOURCE_EXHAUSTED_CAUSE_"), _camel(scope, "RESOURCE_EXHAUSTED_SCOPE_")


def _camel(name: str, prefix: str) -> str:
    return "".join(part.capitalize() for part in name.removeprefix(prefix).split("_"))
