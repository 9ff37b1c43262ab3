"""Every method of the API's services and the handler that answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from temporalio.api.operatorservice.v1 import service_pb2 as operator_service
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_service

from gateway.backend import Context
from gateway.cluster import Cluster
from gateway.histories import Histories
from gateway.namespaces import Namespaces
from gateway.polls import Polls
from gateway.task_calls import TaskCalls
from gateway.task_queues import TaskQueues
from gateway.updates import Updates
from gateway.visibility import Visibility
from gateway.workflow_calls import WorkflowCalls

Handler = Callable[[Any, bytes, Context], Awaitable[bytes]]
"""Answers a call with an encoded response: handler(request, its encoding, context). Raises ApiError."""

WORKFLOW_SERVICE: Final[ServiceDescriptor] = workflow_service.DESCRIPTOR.services_by_name["WorkflowService"]
OPERATOR_SERVICE: Final[ServiceDescriptor] = operator_service.DESCRIPTOR.services_by_name["OperatorService"]
SERVICES: Final = (WORKFLOW_SERVICE, OPERATOR_SERVICE)

LONG: Final = frozenset(
    {
        "PollWorkflowTaskQueue",
        "PollActivityTaskQueue",
        "PollWorkflowExecutionUpdate",
        "QueryWorkflow",
        "UpdateWorkflowExecution",
        "ExecuteMultiOperation",
        "GetWorkflowExecutionHistory",
    }
)
"""Methods that may wait for long: limited by namespace and method, apart from the others."""


class Handlers(msgspec.Struct):
    """The handlers of a gateway."""

    workflows: WorkflowCalls
    updates: Updates
    histories: Histories
    polls: Polls
    tasks: TaskCalls
    queues: TaskQueues
    visibility: Visibility
    namespaces: Namespaces
    cluster: Cluster


class Method(msgspec.Struct):
    """A method: its path on the wire, the class of its requests, and its handler, None if it has none."""

    path: str
    name: str
    request: type[Any]
    handler: Handler | None


def table(handlers: Handlers) -> list[Method]:
    """All methods, those without a handler included."""
    by_service = {
        WORKFLOW_SERVICE.name: _workflow_service(handlers),
        OPERATOR_SERVICE.name: _operator_service(handlers),
    }
    methods = []
    for service in SERVICES:
        known = by_service[service.name]
        assert known.keys() <= set(service.methods_by_name)
        methods += [
            Method(
                f"/{service.full_name}/{method.name}",
                method.name,
                GetMessageClass(method.input_type),
                known.get(method.name),
            )
            for method in service.methods
        ]
    return methods


def _workflow_service(on: Handlers) -> Mapping[str, Handler]:
    return {
        # Workflows
        "StartWorkflowExecution": on.workflows.start,
        "SignalWorkflowExecution": on.workflows.signal,
        "SignalWithStartWorkflowExecution": on.workflows.signal_with_start,
        "RequestCancelWorkflowExecution": on.workflows.request_cancel,
        "TerminateWorkflowExecution": on.workflows.terminate,
        "DeleteWorkflowExecution": on.workflows.delete,
        "ResetWorkflowExecution": on.workflows.reset,
        "DescribeWorkflowExecution": on.workflows.describe,
        "QueryWorkflow": on.workflows.query,
        "ResetStickyTaskQueue": on.workflows.reset_sticky,
        "UpdateWorkflowExecution": on.updates.update,
        "PollWorkflowExecutionUpdate": on.updates.poll,
        "ExecuteMultiOperation": on.updates.execute_multi_operation,
        "GetWorkflowExecutionHistory": on.histories.get,
        "GetWorkflowExecutionHistoryReverse": on.histories.get_reverse,
        # Workers
        "PollWorkflowTaskQueue": on.polls.workflow_task,
        "PollActivityTaskQueue": on.polls.activity_task,
        "RespondWorkflowTaskCompleted": on.tasks.workflow_task_completed,
        "RespondWorkflowTaskFailed": on.tasks.workflow_task_failed,
        "RespondQueryTaskCompleted": on.tasks.query_task_completed,
        "RecordActivityTaskHeartbeat": on.tasks.heartbeat,
        "RespondActivityTaskCompleted": on.tasks.activity_completed,
        "RespondActivityTaskFailed": on.tasks.activity_failed,
        "RespondActivityTaskCanceled": on.tasks.activity_canceled,
        "RecordActivityTaskHeartbeatById": on.tasks.heartbeat_by_id,
        "RespondActivityTaskCompletedById": on.tasks.activity_completed_by_id,
        "RespondActivityTaskFailedById": on.tasks.activity_failed_by_id,
        "RespondActivityTaskCanceledById": on.tasks.activity_canceled_by_id,
        "RecordWorkerHeartbeat": on.cluster.record_worker_heartbeat,
        "ShutdownWorker": on.queues.shutdown_worker,
        "DescribeTaskQueue": on.queues.describe,
        "ListTaskQueuePartitions": on.queues.list_partitions,
        # Lists
        "ListWorkflowExecutions": on.visibility.list,
        "ScanWorkflowExecutions": on.visibility.scan,
        "ListOpenWorkflowExecutions": on.visibility.list_open,
        "ListClosedWorkflowExecutions": on.visibility.list_closed,
        "CountWorkflowExecutions": on.visibility.count,
        # Namespaces and the server
        "RegisterNamespace": on.namespaces.register,
        "DescribeNamespace": on.namespaces.describe,
        "ListNamespaces": on.namespaces.list,
        "UpdateNamespace": on.namespaces.update,
        "GetSearchAttributes": on.namespaces.get_attributes,
        "GetSystemInfo": on.cluster.get_system_info,
        "GetClusterInfo": on.cluster.get_cluster_info,
    }


def _operator_service(on: Handlers) -> Mapping[str, Handler]:
    return {
        "AddSearchAttributes": on.namespaces.add_attributes,
        "RemoveSearchAttributes": on.namespaces.remove_attributes,
        "ListSearchAttributes": on.namespaces.list_attributes,
        "DeleteNamespace": on.namespaces.delete,
        "ListClusters": on.cluster.list_clusters,
    }
