"""The gateway as clients meet it: every method answers, limits hold, and nothing a client sends breaks it."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from temporalio.api.common.v1 import GrpcStatus, Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope
from temporalio.api.errordetails.v1 import (
    MultiOperationExecutionFailure,
    NamespaceNotFoundFailure,
    ResourceExhaustedFailure,
)
from temporalio.api.operatorservice.v1 import DeleteNamespaceRequest, ListClustersRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    DescribeNamespaceRequest,
    ExecuteMultiOperationRequest,
    GetClusterInfoRequest,
    GetSystemInfoRequest,
    ListNamespacesRequest,
    ListOpenWorkflowExecutionsRequest,
    ListWorkflowExecutionsRequest,
    PollActivityTaskQueueRequest,
    RegisterNamespaceRequest,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
)

from gateway.errors import ApiError
from gateway.grpc_calls import Call
from gateway.methods import SERVICES, table
from gateway.metrics import Registry
from gateway.server import Gateway
from gateway.service_metrics import ServiceMetrics
from tests.unit.gateway.conftest import NAMESPACE, Serve, Served, refusal

METHODS = [method for service in SERVICES for method in service.methods]
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def raw(served: Served, method: MethodDescriptor) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    return served.channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")


def detail_of(error: grpc.aio.AioRpcError, detail: object) -> None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            GrpcStatus.FromString(value).details[0].Unpack(detail)  # type: ignore[arg-type]
            return
    pytest.fail("no details")


@pytest.mark.timeout(120)
async def test_every_method_answers_an_empty_request(served: Served) -> None:
    for method in METHODS:
        try:
            await raw(served, method)(b"", timeout=10)
        except grpc.aio.AioRpcError as error:
            code, message = error.code(), error.details()
            assert code in (INVALID, grpc.StatusCode.UNIMPLEMENTED), (method.name, code, message)
            assert message


async def test_method_without_a_handler_says_so(served: Served) -> None:
    method = SERVICES[0].methods_by_name["CreateSchedule"]
    assert await refusal(raw(served, method)(b"")) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "This server does not support CreateSchedule.",
    )


async def test_refusals_of_methods_without_a_handler_hold_on_to_nothing(served: Served) -> None:
    method = next(m for m in table(served.gateway._handlers) if m.name == "CreateSchedule")
    serve, raised = served.gateway._serve(method), []
    for _ in range(2):
        with pytest.raises(ApiError) as error:
            await serve(b"request", Call({}))
        raised.append(error.value)
    assert raised[0] is not raised[1]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_bytes_that_are_no_message_are_refused(served: Served, method: MethodDescriptor) -> None:
    code, _ = await refusal(raw(served, method)(b"\xff\xff\xff", timeout=10))
    assert code in (INVALID, grpc.StatusCode.UNIMPLEMENTED)


async def test_namespace_that_is_missing_is_named_in_the_details(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await served.workflows.DescribeNamespace(DescribeNamespaceRequest(namespace="nope"))
    detail = NamespaceNotFoundFailure()
    detail_of(error.value, detail)
    assert detail.namespace == "nope"
    assert error.value.details() == "Namespace nope is not found."


async def test_too_many_polls_are_refused_by_namespace_and_method(serve: Serve) -> None:
    served = await serve(long_polls_per_method=1)
    request = PollActivityTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name="q"))
    waiting = served.workflows.PollActivityTaskQueue(request, timeout=60)
    await served.start()  # by its end the poll has arrived
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await served.workflows.PollActivityTaskQueue(request, timeout=60)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    detail = ResourceExhaustedFailure()
    detail_of(error.value, detail)
    assert detail.cause == ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT
    assert detail.scope == ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
    assert "service_errors_resource_exhausted" in served.registry.render()
    waiting.cancel()


async def test_too_many_requests_are_refused(serve: Serve) -> None:
    served = await serve(requests_in_flight=1)
    answers = await asyncio.gather(
        *(served.start(f"w{number}") for number in range(20)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert refused
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    await served.start("again")


async def test_payload_over_the_limit_is_refused(serve: Serve) -> None:
    served = await serve(blob_size_error_bytes=100)
    request = StartWorkflowExecutionRequest(
        namespace=NAMESPACE,
        workflow_id="w",
        workflow_type=WorkflowType(name="type"),
        task_queue=TaskQueue(name="q"),
        input=Payloads(payloads=[Payload(data=b"x" * 100)]),
    )
    assert await refusal(served.workflows.StartWorkflowExecution(request)) == (
        INVALID,
        "Blob data size exceeds limit.",
    )


async def test_start_gets_a_request_id(served: Served) -> None:
    first = await served.start()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await served.start()
    assert error.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert first


async def test_multi_operation_names_the_operation_at_fault(served: Served) -> None:
    request = ExecuteMultiOperationRequest(namespace=NAMESPACE)
    start = request.operations.add().start_workflow
    start.namespace = NAMESPACE
    start.workflow_id, start.workflow_type.name, start.task_queue.name = "w", "type", "q"
    request.operations.add().update_workflow.workflow_execution.workflow_id = "w"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await served.workflows.ExecuteMultiOperation(request)
    failure = MultiOperationExecutionFailure()
    detail_of(error.value, failure)
    assert error.value.code() == INVALID
    assert [(status.code, status.message) for status in failure.statuses] == [
        (10, "Operation was aborted."),
        (3, "Update meta is not set on request."),
    ]


async def test_namespaces_are_registered_listed_and_deleted(served: Served) -> None:
    for name in ("b", "a"):
        new = RegisterNamespaceRequest(namespace=name, description=f"of {name}", data={"k": name})
        new.workflow_execution_retention_period.seconds = 86_400
        await served.workflows.RegisterNamespace(new)
    names, token = [], b""
    while True:
        page = await served.workflows.ListNamespaces(
            ListNamespacesRequest(page_size=2, next_page_token=token)
        )
        names += [namespace.namespace_info.name for namespace in page.namespaces]
        token = page.next_page_token
        if not token:
            break
    assert names == ["a", "b", "default"]
    described = await served.workflows.DescribeNamespace(DescribeNamespaceRequest(namespace="a"))
    assert described.namespace_info.description == "of a"
    by_id = DescribeNamespaceRequest(id=described.namespace_info.id)
    assert await served.workflows.DescribeNamespace(by_id) == described
    await served.operator.DeleteNamespace(DeleteNamespaceRequest(namespace="a"))
    code, _ = await refusal(served.workflows.DescribeNamespace(DescribeNamespaceRequest(namespace="a")))
    assert code == grpc.StatusCode.NOT_FOUND


async def test_lists_show_what_their_caller_did(served: Served) -> None:
    for number in range(3):
        await served.start(f"w{number}")
    await served.workflows.TerminateWorkflowExecution(
        TerminateWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=WorkflowExecution(workflow_id="w1")
        )
    )
    listed = await served.workflows.ListWorkflowExecutions(
        ListWorkflowExecutionsRequest(namespace=NAMESPACE, query="ExecutionStatus = 'Running'")
    )
    assert {info.execution.workflow_id for info in listed.executions} == {"w0", "w2"}
    request = ListOpenWorkflowExecutionsRequest(namespace=NAMESPACE)
    request.execution_filter.workflow_id = "w2"
    opened = await served.workflows.ListOpenWorkflowExecutions(request)
    assert [info.execution.workflow_id for info in opened.executions] == ["w2"]
    counted = await served.workflows.CountWorkflowExecutions(
        CountWorkflowExecutionsRequest(namespace=NAMESPACE, query="GROUP BY ExecutionStatus")
    )
    groups = {group.group_values[0].data: group.count for group in counted.groups}
    assert counted.count == 3
    assert groups == {b'"Running"': 2, b'"Terminated"': 1}


async def test_filter_that_is_wrong_is_refused(served: Served) -> None:
    request = ListWorkflowExecutionsRequest(namespace=NAMESPACE, query="Nope = 1")
    code, message = await refusal(served.workflows.ListWorkflowExecutions(request))
    assert code == INVALID
    assert "'Nope' is not a valid search attribute" in message


async def test_capabilities_tell_the_truth(served: Served) -> None:
    info = await served.workflows.GetSystemInfo(GetSystemInfoRequest())
    capabilities = info.capabilities
    assert capabilities.signal_and_query_header
    assert capabilities.count_group_by_execution_status
    assert not capabilities.supports_schedules
    assert not capabilities.nexus
    assert capabilities.build_id_based_versioning  # lest SDKs leave versioning out without a word
    cluster = await served.workflows.GetClusterInfo(GetClusterInfoRequest())
    clusters = await served.operator.ListClusters(ListClustersRequest())
    assert [one.cluster_id for one in clusters.clusters] == [cluster.cluster_id]


async def test_unsupported_client_is_refused(served: Served) -> None:
    call = served.workflows.GetSystemInfo(
        GetSystemInfoRequest(), metadata=(("client-name", "temporal-go"), ("client-version", "2.0.0"))
    )
    code, _ = await refusal(call)
    assert code == grpc.StatusCode.FAILED_PRECONDITION


async def test_port_that_is_taken_is_an_error(serve: Serve) -> None:
    served = await serve()
    backend = served.gateway._backend
    info = await served.operator.ListClusters(ListClustersRequest())
    second = Gateway(
        backend.engine,
        served.gateway._handlers.visibility._store,
        backend.limits,
        ServiceMetrics(Registry(), "0"),
        "gateway-1",
    )
    with pytest.raises(OSError, match="cannot listen at"):
        await second.start(info.clusters[0].address)
