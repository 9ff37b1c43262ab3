"""Errors that a call ends with: gRPC codes, with the API's own details where clients look for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf.message import Message
from temporalio.api.enums.v1 import NamespaceState, ResourceExhaustedCause, ResourceExhaustedScope
from temporalio.api.errordetails.v1 import (
    MultiOperationExecutionFailure,
    NamespaceInvalidStateFailure,
    NamespaceNotFoundFailure,
    NotFoundFailure,
    PermissionDeniedFailure,
    ResourceExhaustedFailure,
)
from temporalio.api.failure.v1 import MultiOperationExecutionAborted

from streams.history.errors import encode_status
from streams.stores.damage import StoreDamagedError, StoreError

CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
ALREADY_EXISTS: Final = 6
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
ABORTED: Final = 10
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
DATA_LOSS: Final = 15

UNEXPECTED: Final = frozenset({2, INTERNAL, UNAVAILABLE, DATA_LOSS})
"""Codes that blame the service, not the client or its limits."""


class ApiError(Exception):
    """A call answered with an error; `status` is an encoded google.rpc.Status with details, or empty."""

    def __init__(self, code: int, message: str, status: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

    @property
    def name(self) -> str:
        """The API's name of the error, such as ``NotFound``."""
        return "".join(part.capitalize() for part in CODES[self.code].name.split("_"))


def detailed(code: int, message: str, detail: Message) -> ApiError:
    """An error with one of the API's error details."""
    return ApiError(code, message, encode_status(code, message, detail))


def invalid(message: str) -> ApiError:
    """INVALID_ARGUMENT."""
    return ApiError(INVALID_ARGUMENT, message)


def no_message() -> ApiError:
    """INVALID_ARGUMENT, for a request that cannot be decoded."""
    return invalid("The request is not a valid message.")


def failed() -> ApiError:
    """INTERNAL, for what was not expected and has been logged."""
    return ApiError(INTERNAL, "The server failed on this request; its log has the reason.")


def denied(message: str) -> ApiError:
    """PERMISSION_DENIED, for what is switched off."""
    return detailed(PERMISSION_DENIED, message, PermissionDeniedFailure())


def unimplemented(message: str) -> ApiError:
    """UNIMPLEMENTED."""
    return ApiError(UNIMPLEMENTED, message)


def unavailable(message: str) -> ApiError:
    """UNAVAILABLE: the client may try again."""
    return ApiError(UNAVAILABLE, message)


def of_store(error: StoreError) -> ApiError:
    """DATA_LOSS where what is stored is damaged, else UNAVAILABLE."""
    if isinstance(error, StoreDamagedError):
        return ApiError(DATA_LOSS, f"Data of this call is damaged: {error}.")
    return unavailable(f"The store cannot be read now: {error}.")


def shutting_down() -> ApiError:
    """UNAVAILABLE: the client finds another server, or this one after its restart."""
    return unavailable("The server is shutting down.")


def not_found(message: str) -> ApiError:
    """NOT_FOUND, with the API's NotFoundFailure."""
    return detailed(NOT_FOUND, message, NotFoundFailure())


def namespace_not_found(name: str) -> ApiError:
    """NOT_FOUND, with NamespaceNotFoundFailure."""
    return detailed(NOT_FOUND, f"Namespace {name} is not found.", NamespaceNotFoundFailure(namespace=name))


def namespace_state(
    name: str, state: NamespaceState.ValueType, allowed: Sequence[NamespaceState.ValueType]
) -> ApiError:
    """FAILED_PRECONDITION: the namespace's state does not allow the call."""
    must = " or ".join(_camel(NamespaceState.Name(one)) for one in allowed)
    return detailed(
        FAILED_PRECONDITION,
        f"Namespace has invalid state: {_camel(NamespaceState.Name(state))}. Must be {must}.",
        NamespaceInvalidStateFailure(namespace=name, state=state, allowed_states=allowed),
    )


def _camel(name: str) -> str:
    return name.removeprefix("NAMESPACE_STATE_").capitalize()


def exhausted(
    message: str, scope: ResourceExhaustedScope.ValueType, cause: ResourceExhaustedCause.ValueType
) -> ApiError:
    """RESOURCE_EXHAUSTED, with its cause and whose limit it is."""
    return detailed(RESOURCE_EXHAUSTED, message, ResourceExhaustedFailure(cause=cause, scope=scope))


def multi_operation(errors: Sequence[ApiError | None]) -> ApiError:
    """An ExecuteMultiOperation whose operations failed, or (None) were aborted because another one failed.

    The whole carries the first code that is an operation's own.
    """
    code = next((error.code for error in errors if error is not None), ABORTED)
    failure = MultiOperationExecutionFailure()
    for error in errors:
        status = failure.statuses.add()
        if error is None:
            status.code, status.message = ABORTED, "Operation was aborted."
            status.details.add().Pack(MultiOperationExecutionAborted())
        else:
            status.MergeFromString(error.status or encode_status(error.code, error.message, None))
    return detailed(code, "Update-with-Start could not be executed.", failure)
