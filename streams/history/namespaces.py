"""Namespaces and their search attributes: decided in one partition, broadcast to all, folded everywhere.

Behaviour: the real server's RegisterNamespace, UpdateNamespace, DeleteNamespace and search attribute operations.
"""

from __future__ import annotations

import msgspec
from google.protobuf.message import Message
from temporalio.api.enums.v1 import IndexedValueType, NamespaceState
from temporalio.api.errordetails.v1 import NamespaceAlreadyExistsFailure, NamespaceNotFoundFailure
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    AddSearchAttributesResponse,
    DeleteNamespaceRequest,
    DeleteNamespaceResponse,
    RemoveSearchAttributesRequest,
    RemoveSearchAttributesResponse,
)
from temporalio.api.workflowservice.v1 import (
    RegisterNamespaceRequest,
    RegisterNamespaceResponse,
    UpdateNamespaceRequest,
    UpdateNamespaceResponse,
)

from streams import bodies, topology
from streams.history import arming
from streams.history.deletion import tell_deleted
from streams.history.errors import ALREADY_EXISTS, INVALID_ARGUMENT, NOT_FOUND, Rejected
from streams.history.namespace_views import update_response
from streams.history.step import CURRENT, EXECUTIONS, REGISTRY_TABLE, SEPARATOR
from streams.history.values import duration_ms
from streams.limits import Limits, limits_from_numbers
from streams.runtime.context import Context
from streams.runtime.records import Reply
from streams.stores.search_attributes import PREDEFINED_ATTRIBUTES, SYSTEM_ATTRIBUTES

NAMESPACES = "namespaces"
DAY_MS = 86_400_000
DEFAULT_RETENTION_MS = 3 * DAY_MS
REGISTERED = NamespaceState.NAMESPACE_STATE_REGISTERED


class RegistryView:
    """The limits in force, decoded once for each change of them."""

    def __init__(self) -> None:
        self._values: bodies.LimitsChanged | None = None
        self._limits = Limits()

    def limits(self, context: Context) -> Limits:
        """The limits as of this record."""
        values = context.table(REGISTRY_TABLE).peek(NAMESPACES).get("limits")
        if values is not self._values:
            self._values = values
            numbers = {} if values is None else {pair.key: pair.value for pair in values.values}
            self._limits = limits_from_numbers(numbers)
        return self._limits


REGISTRY_BODIES = frozenset(
    (bodies.NamespaceCall, bodies.NamespaceChanged, bodies.NamespaceRemoved, bodies.LimitsChanged)
)
"""What `fold_registry` folds."""


def fold_registry(context: Context, body: object) -> None:
    """Fold a record about namespaces or limits."""
    if isinstance(body, bodies.NamespaceCall):
        _decide(context, body)
    elif isinstance(body, bodies.NamespaceChanged):
        context.table(REGISTRY_TABLE).entity(NAMESPACES).put("namespace", body.config.name, body.config)
    elif isinstance(body, bodies.NamespaceRemoved):
        _remove(context, body)
    elif isinstance(body, bodies.LimitsChanged):
        context.table(REGISTRY_TABLE).entity(NAMESPACES).put("limits", "", body)


def _decide(context: Context, call: bodies.NamespaceCall) -> None:
    correlation = context.record.correlation if context.record else None
    try:
        response = _METHODS[call.method](context, call)
    except Rejected as error:
        context.revert()
        context.reply(correlation, Reply(error.code, error.message, error.status_bytes()))
    else:
        context.reply(correlation, Reply(body=response.SerializeToString(deterministic=True)))


def _find(context: Context, name: str) -> bodies.NamespaceConfig | None:
    """The namespace as this partition decided last: its own broadcast may still be on the way."""
    config: bodies.NamespaceConfig | None = (
        context.table(REGISTRY_TABLE).entity("decided").get("namespace", name)
    )
    return config


def _require(context: Context, name: str) -> bodies.NamespaceConfig:
    config = _find(context, name)
    if config is None:
        raise Rejected(NOT_FOUND, f"Namespace {name} is not found.", NamespaceNotFoundFailure(namespace=name))
    return config


def _publish(context: Context, config: bodies.NamespaceConfig) -> None:
    context.table(REGISTRY_TABLE).entity("decided").put("namespace", config.name, config)
    changed = bodies.NamespaceChanged(config)
    context.broadcast(topology.COMMANDS, topology.REGISTRY_KEY, changed)
    context.emit(topology.REGISTRY, f"namespace/{config.name}", changed)


def _register(context: Context, call: bodies.NamespaceCall) -> Message:
    request = RegisterNamespaceRequest.FromString(call.request)
    if _find(context, request.namespace) is not None:
        message = f'Namespace "{request.namespace}" already exists'
        raise Rejected(ALREADY_EXISTS, message, NamespaceAlreadyExistsFailure())
    retention = request.workflow_execution_retention_period
    _publish(
        context,
        bodies.NamespaceConfig(
            name=request.namespace,
            id=call.new_id,
            state=REGISTERED,
            retention_ms=duration_ms(retention) or DEFAULT_RETENTION_MS,
            description=request.description,
            owner_email=request.owner_email,
            data=tuple(bodies.Pair(key, request.data[key]) for key in sorted(request.data)),
            created_ms=context.now_ms,
        ),
    )
    return RegisterNamespaceResponse()


def _update(context: Context, call: bodies.NamespaceCall) -> Message:
    request = UpdateNamespaceRequest.FromString(call.request)
    config = _require(context, request.namespace)
    info = request.update_info
    data = {pair.key: pair.value for pair in config.data} | dict(info.data)
    retention = request.config.workflow_execution_retention_ttl
    config = msgspec.structs.replace(
        config,
        description=info.description or config.description,
        owner_email=info.owner_email or config.owner_email,
        data=tuple(bodies.Pair(key, data[key]) for key in sorted(data)),
        retention_ms=duration_ms(retention) or config.retention_ms,
    )
    _publish(context, config)
    response: UpdateNamespaceResponse = update_response(config)
    return response


def _delete(context: Context, call: bodies.NamespaceCall) -> Message:
    request = DeleteNamespaceRequest.FromString(call.request)
    config = _require(context, call.namespace)
    del request
    context.table(REGISTRY_TABLE).entity("decided").drop("namespace", config.name)
    removed = bodies.NamespaceRemoved(config.name, config.id)
    context.broadcast(topology.COMMANDS, topology.REGISTRY_KEY, removed)
    context.emit(topology.REGISTRY, f"namespace/{config.name}", removed)
    return DeleteNamespaceResponse(deleted_namespace=f"{config.name}-deleted-{config.id[:5]}")


def _remove(context: Context, body: bodies.NamespaceRemoved) -> None:
    """The namespace is gone, and every run in it with its history."""
    context.table(REGISTRY_TABLE).entity(NAMESPACES).drop("namespace", body.name)
    prefix = f"{body.name}{SEPARATOR}"
    executions = context.table(EXECUTIONS)
    for key in executions.keys(prefix):
        executions.entity(key).clear()
        arming.disarm_near(context, key)
        _, workflow_id, run_id = key.split(SEPARATOR)
        workflow = topology.workflow_key(body.name, workflow_id)
        tell_deleted(context, body.name, workflow_id, run_id)
        context.emit(topology.TIMERS, workflow, bodies.SetTimer(body.name, workflow_id, run_id, 0, 0))
    current = context.table(CURRENT)
    for key in current.keys(prefix):
        current.entity(key).clear()


def _add_attributes(context: Context, call: bodies.NamespaceCall) -> Message:
    request = AddSearchAttributesRequest.FromString(call.request)
    config = _require(context, call.namespace)
    known = {pair.key: pair.value for pair in config.attributes}
    for name in sorted(request.search_attributes):
        type_ = request.search_attributes[name]
        if name in SYSTEM_ATTRIBUTES or name in PREDEFINED_ATTRIBUTES:
            raise Rejected(INVALID_ARGUMENT, f"Search attribute {name} is reserved by system.")
        if type_ not in IndexedValueType.values() or not type_:
            raise Rejected(INVALID_ARGUMENT, f"Unknown search attribute type: {type_}.")
        known.setdefault(name, type_)
    _set_attributes(context, config, known)
    return AddSearchAttributesResponse()


def _remove_attributes(context: Context, call: bodies.NamespaceCall) -> Message:
    request = RemoveSearchAttributesRequest.FromString(call.request)
    config = _require(context, call.namespace)
    known = {pair.key: pair.value for pair in config.attributes}
    for name in request.search_attributes:
        if name in SYSTEM_ATTRIBUTES or name in PREDEFINED_ATTRIBUTES:
            raise Rejected(INVALID_ARGUMENT, f"Unable to remove non-custom search attributes: {name}.")
        known.pop(name, None)
    _set_attributes(context, config, known)
    return RemoveSearchAttributesResponse()


def _set_attributes(context: Context, config: bodies.NamespaceConfig, known: dict[str, int]) -> None:
    pairs = tuple(bodies.NumberPair(name, known[name]) for name in sorted(known))
    _publish(context, msgspec.structs.replace(config, attributes=pairs))


_METHODS = {
    "RegisterNamespace": _register,
    "UpdateNamespace": _update,
    "DeleteNamespace": _delete,
    "AddSearchAttributes": _add_attributes,
    "RemoveSearchAttributes": _remove_attributes,
}
