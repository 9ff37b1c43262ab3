"""Namespaces as the API shows them."""

from __future__ import annotations

from temporalio.api.enums.v1 import ArchivalState, ReplicationState
from temporalio.api.namespace.v1 import NamespaceConfig as NamespaceConfigMessage
from temporalio.api.namespace.v1 import NamespaceInfo
from temporalio.api.replication.v1 import ClusterReplicationConfig, NamespaceReplicationConfig
from temporalio.api.workflowservice.v1 import UpdateNamespaceResponse

from streams import bodies
from streams.history.values import to_duration

CLUSTER = "active"
"""The name of the one cluster, as the real development server calls it."""


def info(config: bodies.NamespaceConfig) -> NamespaceInfo:
    """Who a namespace is and what it can do."""
    message = NamespaceInfo(
        name=config.name,
        state=config.state,  # type: ignore[arg-type]
        description=config.description,
        owner_email=config.owner_email,
        data={pair.key: pair.value for pair in config.data},
        id=config.id,
    )
    message.capabilities.eager_workflow_start = True
    message.capabilities.sync_update = True
    message.capabilities.async_update = True
    return message


def settings(config: bodies.NamespaceConfig) -> NamespaceConfigMessage:
    """How a namespace is set up."""
    message = NamespaceConfigMessage(
        workflow_execution_retention_ttl=to_duration(config.retention_ms),
        history_archival_state=ArchivalState.ARCHIVAL_STATE_DISABLED,
        visibility_archival_state=ArchivalState.ARCHIVAL_STATE_DISABLED,
    )
    message.bad_binaries.SetInParent()
    return message


def replication() -> NamespaceReplicationConfig:
    """Where a namespace lives."""
    return NamespaceReplicationConfig(
        active_cluster_name=CLUSTER,
        clusters=[ClusterReplicationConfig(cluster_name=CLUSTER)],
        state=ReplicationState.REPLICATION_STATE_NORMAL,
    )


def update_response(config: bodies.NamespaceConfig) -> UpdateNamespaceResponse:
    """The answer to an update."""
    return UpdateNamespaceResponse(
        namespace_info=info(config), config=settings(config), replication_config=replication()
    )
