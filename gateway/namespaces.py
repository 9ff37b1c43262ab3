"""Namespaces and their search attributes: changed by the registry's owner, described from what it decided."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Final

from google.protobuf.message import Message
from temporalio.api.enums.v1 import IndexedValueType, NamespaceState
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    DeleteNamespaceRequest,
    ListSearchAttributesRequest,
    ListSearchAttributesResponse,
    RemoveSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeNamespaceResponse,
    GetSearchAttributesRequest,
    GetSearchAttributesResponse,
    ListNamespacesRequest,
    ListNamespacesResponse,
    RegisterNamespaceRequest,
    UpdateNamespaceRequest,
)

from gateway import errors, page_tokens
from gateway.backend import ALL, CALL_TIMEOUT_S, Backend, Context
from gateway.page_tokens import ListPage
from gateway.validation import too_long
from streams.bodies import NamespaceCall, NamespaceConfig
from streams.history import namespace_views
from streams.history.command_checks import cap_duration
from streams.history.step import SEPARATOR
from streams.stores.search_attributes import PREDEFINED_ATTRIBUTES, SYSTEM_ATTRIBUTES
from streams.topology import COMMANDS, REGISTRY_KEY

_PAGE_SIZE: Final = 100
_MIN_RETENTION_S: Final = 3600
_RESERVED_ATTRIBUTES: Final = frozenset({"NamespaceId", "MemoEncoding", "Memo", "VisibilityTaskKey"})
_RESERVED_PREFIX: Final = "Temporal"
_BUILT_IN: Final[Mapping[str, int]] = {**SYSTEM_ATTRIBUTES, **PREDEFINED_ATTRIBUTES}


class Namespaces:
    """Handlers of namespace and search attribute methods."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    # Changes

    async def register(self, request: RegisterNamespaceRequest, data: bytes, context: Context) -> bytes:
        """RegisterNamespace."""
        name = request.namespace
        if not name:
            raise errors.invalid("Namespace not set on request.")
        if too_long(name, self._backend.limits):
            raise errors.invalid("Namespace length exceeds limit.")
        if SEPARATOR in name or "/" in name:
            raise errors.invalid("Namespace contains a character that names cannot have (a slash or U+001F).")
        if request.is_global_namespace:
            raise errors.invalid("Cannot register global namespace when not enabled")
        wrong = cap_duration(request.workflow_execution_retention_period)
        if wrong or request.workflow_execution_retention_period.seconds < _MIN_RETENTION_S:
            raise errors.invalid("A valid retention period is not set on request.")
        return await self._change("RegisterNamespace", name, request)

    async def update(self, request: UpdateNamespaceRequest, data: bytes, context: Context) -> bytes:
        """UpdateNamespace: answered with the namespace as it is then."""
        if not request.namespace:
            raise errors.invalid("Namespace not set on request.")
        namespace = self._backend.namespace(request.namespace)
        if request.delete_bad_binary:
            raise errors.invalid(f"Bad binary checksum {request.delete_bad_binary} doesn't exists.")
        if request.config.bad_binaries.binaries:
            raise errors.unimplemented("This server does not keep checksums of bad binaries.")
        if request.HasField("config") and request.config.HasField("workflow_execution_retention_ttl"):
            retention = request.config.workflow_execution_retention_ttl
            if cap_duration(retention) or retention.seconds < _MIN_RETENTION_S:
                raise errors.invalid("A valid retention period is not set on request.")
        if request.promote_namespace:
            raise errors.invalid(
                "global namespace is not enabled on this cluster, cannot update global namespace or promote "
                f"local namespace: {namespace.name}"
            )
        return await self._change("UpdateNamespace", namespace.name, request)

    async def delete(self, request: DeleteNamespaceRequest, data: bytes, context: Context) -> bytes:
        """DeleteNamespace, by name or by id."""
        if not (request.namespace or request.namespace_id):
            raise errors.invalid("Namespace not set on request.")
        if request.namespace and request.namespace_id:
            raise errors.invalid("Only one of namespace name or Id should be set on request.")
        name = request.namespace or self._by_id(request.namespace_id).name
        self._backend.namespace(name, ALL)
        return await self._change("DeleteNamespace", name, request)

    async def add_attributes(
        self, request: AddSearchAttributesRequest, data: bytes, context: Context
    ) -> bytes:
        """AddSearchAttributes."""
        if not request.search_attributes:
            raise errors.invalid("SearchAttributes are not set on request.")
        for name, type_ in request.search_attributes.items():
            if _is_reserved(name):
                raise errors.invalid(f"Search attribute {name} is reserved by system.")
            if type_ not in IndexedValueType.values() or not type_:
                raise errors.invalid(f"Unknown search attribute type: {type_}.")
            if not name or not name.isprintable() or '"' in name or "\\" in name:
                raise errors.invalid(f"Search attribute name {name!r} has quotes or control characters.")
        namespace = self._attributes_of(request.namespace)
        return await self._change("AddSearchAttributes", namespace.name, request)

    async def remove_attributes(
        self, request: RemoveSearchAttributesRequest, data: bytes, context: Context
    ) -> bytes:
        """RemoveSearchAttributes."""
        if not request.search_attributes:
            raise errors.invalid("SearchAttributes are not set on request.")
        namespace = self._attributes_of(request.namespace)
        custom = {pair.key for pair in namespace.attributes}
        for name in request.search_attributes:
            if name in _BUILT_IN and name not in custom:
                raise errors.invalid(f"Unable to remove non-custom search attributes: {name}.")
        return await self._change("RemoveSearchAttributes", namespace.name, request)

    async def _change(self, method: str, namespace: str, request: Message) -> bytes:
        body = NamespaceCall(method, namespace, request.SerializeToString(), str(uuid.uuid4()))
        try:
            return (await self._backend.ask(COMMANDS, REGISTRY_KEY, body, CALL_TIMEOUT_S)).body
        except TimeoutError:
            raise errors.unavailable("The owner of the namespaces did not answer in time.") from None

    # Reads

    async def describe(self, request: DescribeNamespaceRequest, data: bytes, context: Context) -> bytes:
        """DescribeNamespace, by name or by id."""
        if not (request.namespace or request.id):
            raise errors.invalid("Namespace not set on request.")
        if request.namespace:
            return describe(self._backend.namespace(request.namespace, ALL)).SerializeToString()
        return describe(self._by_id(request.id)).SerializeToString()

    async def list(self, request: ListNamespacesRequest, data: bytes, context: Context) -> bytes:
        """ListNamespaces, by name."""
        size = request.page_size if request.page_size > 0 else _PAGE_SIZE
        after = page_tokens.decode(ListPage, request.next_page_token).after if request.next_page_token else ""
        deleted = NamespaceState.NAMESPACE_STATE_DELETED
        configs = [
            config
            for name, config in sorted(self._backend.engine.namespaces.items())
            if name > after and (config.state != deleted or request.namespace_filter.include_deleted)
        ]
        response = ListNamespacesResponse(namespaces=map(describe, configs[:size]))
        if len(configs) > size:
            response.next_page_token = page_tokens.encode(ListPage(configs[size - 1].name))
        return response.SerializeToString()

    async def get_attributes(
        self, request: GetSearchAttributesRequest, data: bytes, context: Context
    ) -> bytes:
        """GetSearchAttributes: of all namespaces together, as the request names none."""
        keys = {
            pair.key: IndexedValueType.ValueType(pair.value)
            for config in self._backend.engine.namespaces.values()
            for pair in config.attributes
        }
        keys.update(_system())
        return GetSearchAttributesResponse(keys=keys).SerializeToString()

    async def list_attributes(
        self, request: ListSearchAttributesRequest, data: bytes, context: Context
    ) -> bytes:
        """ListSearchAttributes."""
        namespace = self._attributes_of(request.namespace)
        return ListSearchAttributesResponse(
            custom_attributes={
                pair.key: IndexedValueType.ValueType(pair.value) for pair in namespace.attributes
            },
            system_attributes=_system(),
        ).SerializeToString()

    def _attributes_of(self, name: str) -> NamespaceConfig:
        if not name:
            raise errors.invalid("Namespace is not set on request.")
        return self._backend.namespace(name)

    def _by_id(self, id: str) -> NamespaceConfig:
        for config in self._backend.engine.namespaces.values():
            if config.id == id:
                return config
        raise errors.namespace_not_found(id)


def _system() -> dict[str, IndexedValueType.ValueType]:
    return {name: IndexedValueType.ValueType(type_) for name, type_ in _BUILT_IN.items()}


def _is_reserved(name: str) -> bool:
    return name in _BUILT_IN or name in _RESERVED_ATTRIBUTES or name.startswith(_RESERVED_PREFIX)


def describe(config: NamespaceConfig) -> DescribeNamespaceResponse:
    """A namespace as the API describes it."""
    return DescribeNamespaceResponse(
        namespace_info=namespace_views.info(config),
        config=namespace_views.settings(config),
        replication_config=namespace_views.replication(),
    )
