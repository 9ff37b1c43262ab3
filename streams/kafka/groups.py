"""How consumers join a group: by the protocol of KIP-848 where the brokers have it, else by the classic one."""

from __future__ import annotations

from typing import Any

from streams.kafka.admin import Cluster
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings


def group_config(settings: KafkaSettings, cluster: Cluster, role: str) -> dict[str, Any]:
    """The configuration of a consumer in the group of a role, cooperative either way. Blocks. Raises ClusterError."""
    protocol = settings.group_protocol
    if protocol == "auto":
        protocol = "consumer" if cluster.offers_new_groups() else "classic"
    config: dict[str, Any] = {
        **settings.consumer(),
        "group.id": Names(settings.prefix).group(role),
        "group.protocol": protocol,
        "isolation.level": "read_uncommitted",
    }
    if protocol == "classic":
        config["partition.assignment.strategy"] = "cooperative-sticky"
        config["session.timeout.ms"] = settings.session_timeout_ms
        config["heartbeat.interval.ms"] = max(1, settings.session_timeout_ms // 3)
    return config
