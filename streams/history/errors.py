"""Answers that refuse a call. Raised by deciders; the step is undone and the caller told.

Codes are gRPC's; details are the API's own messages of `temporal.api.errordetails.v1`.
"""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope, WorkflowTaskFailedCause
from temporalio.api.errordetails.v1 import (
    MultiOperationExecutionFailure,
    NamespaceNotFoundFailure,
    NotFoundFailure,
    QueryFailedFailure,
    ResourceExhaustedFailure,
    WorkflowExecutionAlreadyStartedFailure,
    WorkflowNotReadyFailure,
)
from temporalio.api.failure.v1 import Failure, MultiOperationExecutionAborted

INVALID_ARGUMENT = 3
NOT_FOUND = 5
ALREADY_EXISTS = 6
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
ABORTED = 10
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14

COMPLETED = "workflow execution already completed"


class Rejected(Exception):
    """A call that changes nothing and is answered with an error."""

    def __init__(self, code: int, message: str, detail: Message | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    def status_bytes(self) -> bytes:
        """The encoded google.rpc.Status with the detail, for `grpc-status-details-bin`."""
        return encode_status(self.code, self.message, self.detail)


class BadCommand(Exception):
    """A command that cannot be carried out: the task fails with `cause`, and nothing of it happens.

    `terminate` ends the workflow as well (a history that cannot grow further).
    """

    def __init__(
        self, cause: WorkflowTaskFailedCause.ValueType, message: str, *, terminate: bool = False
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.terminate = terminate

    @property
    def text(self) -> str:
        """The cause by name and the message, as the real server words it."""
        name = WorkflowTaskFailedCause.Name(self.cause).removeprefix("WORKFLOW_TASK_FAILED_CAUSE_")
        camel = "".join(part.capitalize() for part in name.split("_"))
        return f"{camel}: {self.message}" if self.message else camel


def encode_status(code: int, message: str, detail: Message | None) -> bytes:
    """An encoded google.rpc.Status (the API's GrpcStatus has the same fields)."""
    status = GrpcStatus(code=code, message=message)
    if detail is not None:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status.SerializeToString(deterministic=True)


def invalid(message: str) -> Rejected:
    """INVALID_ARGUMENT."""
    return Rejected(INVALID_ARGUMENT, message)


def not_found(message: str = "workflow not found for ID") -> Rejected:
    """NOT_FOUND, with the API's NotFoundFailure."""
    return Rejected(NOT_FOUND, message, NotFoundFailure())


def namespace_missing(name: str) -> Rejected:
    """NOT_FOUND, with the API's NamespaceNotFoundFailure."""
    return Rejected(NOT_FOUND, f"Namespace {name} is not found.", NamespaceNotFoundFailure(namespace=name))


def workflow_missing(workflow_id: str) -> Rejected:
    """NOT_FOUND for a workflow id that has no run."""
    return not_found(f"workflow not found for ID: {workflow_id}")


def run_missing(workflow_id: str, run_id: str) -> Rejected:
    """NOT_FOUND for a workflow id that does not have the run asked for."""
    return not_found(f'workflow execution not found for workflow ID "{workflow_id}" and run ID "{run_id}"')


def completed() -> Rejected:
    """NOT_FOUND for a call that only an open run can take."""
    return not_found(COMPLETED)


def already_started(message: str, request_id: str, run_id: str) -> Rejected:
    """ALREADY_EXISTS, with the run that exists."""
    detail = WorkflowExecutionAlreadyStartedFailure(start_request_id=request_id, run_id=run_id)
    return Rejected(ALREADY_EXISTS, message, detail)


def not_ready(message: str) -> Rejected:
    """FAILED_PRECONDITION with WorkflowNotReadyFailure."""
    return Rejected(FAILED_PRECONDITION, message, WorkflowNotReadyFailure())


def exhausted(message: str, cause: ResourceExhaustedCause.ValueType) -> Rejected:
    """RESOURCE_EXHAUSTED of the namespace, with its cause."""
    scope = ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
    return Rejected(RESOURCE_EXHAUSTED, message, ResourceExhaustedFailure(cause=cause, scope=scope))


def workflow_closing() -> Rejected:
    """RESOURCE_EXHAUSTED: the run is about to close or to continue in another, which may take the call."""
    return exhausted(
        "workflow operation can not be applied because workflow is closing",
        ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW,
    )


def query_failed(message: str, failure: Failure | None) -> Rejected:
    """INVALID_ARGUMENT with QueryFailedFailure: the worker could not answer."""
    return Rejected(INVALID_ARGUMENT, message, QueryFailedFailure(failure=failure))


OPERATION_ABORTED = Rejected(ABORTED, "Operation was aborted.", MultiOperationExecutionAborted())
"""What an operation of a multi-operation ends with because another one failed."""


def multi_operation(start: Rejected | None, update: Rejected | None) -> Rejected:
    """The error of an update-with-start: what each operation ended with, None for well.

    The whole carries the first code that is an operation's own.
    """
    both = (start, update)
    failed = [error for error in both if error is not None and error is not OPERATION_ABORTED]
    detail = MultiOperationExecutionFailure()
    for error in both:
        status = detail.statuses.add()
        if error is not None:
            status.MergeFromString(error.status_bytes())
    code = failed[0].code if failed else ABORTED
    return Rejected(code, "Update-with-Start could not be executed.", detail)
