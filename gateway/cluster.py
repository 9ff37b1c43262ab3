"""What this server is: its version, capabilities and cluster."""

from __future__ import annotations

import uuid
from importlib.metadata import version
from typing import Final

from temporalio.api.operatorservice.v1 import ClusterMetadata, ListClustersRequest, ListClustersResponse
from temporalio.api.workflowservice.v1 import (
    GetClusterInfoRequest,
    GetClusterInfoResponse,
    GetSystemInfoRequest,
    GetSystemInfoResponse,
    RecordWorkerHeartbeatRequest,
    RecordWorkerHeartbeatResponse,
)

from gateway.backend import Backend, Context
from gateway.client_versions import SERVER_VERSION, SUPPORTED_CLIENTS
from streams.history.namespace_views import CLUSTER

_STORE: Final = "sqlite"
_VERSION: Final = f"{SERVER_VERSION}+odradek.{version('odradek-server')}"
_CAPABILITIES: Final = GetSystemInfoResponse.Capabilities(
    signal_and_query_header=True,
    internal_error_differentiation=True,
    activity_failure_include_heartbeat=True,
    encoded_failure_attributes=True,
    upsert_memo=True,
    eager_workflow_start=True,
    sdk_metadata=True,
    count_group_by_execution_status=True,
    # SDKs that miss it run versioned workers as unversioned ones; told so, they ask, and are refused clearly.
    build_id_based_versioning=True,
)


class Cluster:
    """Handlers of methods about the server itself."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.address = ""
        self._system_info = GetSystemInfoResponse(
            server_version=_VERSION, capabilities=_CAPABILITIES
        ).SerializeToString()

    async def get_system_info(self, request: GetSystemInfoRequest, data: bytes, context: Context) -> bytes:
        """GetSystemInfo: what clients may use."""
        return self._system_info

    async def get_cluster_info(self, request: GetClusterInfoRequest, data: bytes, context: Context) -> bytes:
        """GetClusterInfo."""
        return GetClusterInfoResponse(
            supported_clients=SUPPORTED_CLIENTS,
            server_version=_VERSION,
            cluster_id=self._id(),
            cluster_name=CLUSTER,
            history_shard_count=1,
            persistence_store=_STORE,
            visibility_store=_STORE,
            initial_failover_version=1,
            failover_version_increment=10,
        ).SerializeToString()

    async def list_clusters(self, request: ListClustersRequest, data: bytes, context: Context) -> bytes:
        """ListClusters: there is one."""
        return ListClustersResponse(
            clusters=[
                ClusterMetadata(
                    cluster_name=CLUSTER,
                    cluster_id=self._id(),
                    address=self.address,
                    initial_failover_version=1,
                    history_shard_count=1,
                    is_connection_enabled=True,
                )
            ]
        ).SerializeToString()

    async def record_worker_heartbeat(
        self, request: RecordWorkerHeartbeatRequest, data: bytes, context: Context
    ) -> bytes:
        """RecordWorkerHeartbeat: accepted, though nothing is shown of it."""
        self._backend.namespace(request.namespace)
        return RecordWorkerHeartbeatResponse().SerializeToString()

    def _id(self) -> str:
        """The cluster's id: it follows from the oldest namespace, so that it survives restarts."""
        oldest = min(
            self._backend.engine.namespaces.values(),
            key=lambda config: (config.created_ms, config.id),
            default=None,
        )
        return str(uuid.uuid5(uuid.NAMESPACE_OID, oldest.id if oldest else self._backend.name))
