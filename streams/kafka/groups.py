"""Consumer groups: how members join them, what each tells of itself there, and who is in one.

Members join by the protocol of KIP-848 where the brokers have it, else by the classic one. The client id names a member
and the newest logic version that its code has, so that everybody who may describe the group knows what it can do.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from confluent_kafka import ConsumerGroupState, ConsumerGroupType, KafkaException
from confluent_kafka.admin import AdminClient

from streams.kafka.admin import REQUEST_TIMEOUT_S, Cluster, ClusterError
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings
from streams.runtime.logic import SUPPORTED_LOGIC_VERSION

_CLIENT_ID: Final = re.compile(r"(?:^|\.)logic-(\d+)\.(.+)$")


class GroupMember(msgspec.Struct, frozen=True):
    """A live member of a group. `supported_logic` is None when it does not say which logic versions its code has.

    `name` is what its process is called, start after start; `id` is the broker's for this stay.
    """

    group: str
    id: str
    name: str
    host: str
    supported_logic: int | None
    partitions: frozenset[tuple[str, int]]


class Group(msgspec.Struct, frozen=True):
    """A group as its coordinator has it. `stable`: every member has what it is to have, and nothing is moving."""

    name: str
    protocol: str
    stable: bool
    members: tuple[GroupMember, ...]


def group_config(
    settings: KafkaSettings,
    cluster: Cluster,
    role: str,
    supported_logic: int | None = None,
    defaults: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The configuration of a consumer in the group of a role, cooperative either way. Blocks. Raises ClusterError.

    `supported_logic` is the newest logic version of the member's code, that of this release unless given;
    `defaults` are those of this consumer.
    """
    protocol = settings.group_protocol
    if protocol == "auto":
        protocol = "consumer" if cluster.offers_new_groups() else "classic"
    common = settings.consumer(defaults)
    config: dict[str, Any] = {
        **common,
        "client.id": client_id(settings, common.get("client.id"), supported_logic),
        "group.id": Names(settings.prefix).group(role),
        "group.protocol": protocol,
        "isolation.level": "read_uncommitted",
    }
    if protocol == "classic":
        config["partition.assignment.strategy"] = "cooperative-sticky"
        config["session.timeout.ms"] = settings.session_timeout_ms
        config["heartbeat.interval.ms"] = settings.heartbeat_interval_ms
    return config


def client_id(settings: KafkaSettings, given: Any, supported_logic: int | None) -> str:
    """The client id of a group's member: what the settings give, with what the member has to tell behind it."""
    supported = SUPPORTED_LOGIC_VERSION if supported_logic is None else supported_logic
    name = settings.member_name or f"{socket.gethostname()}-{os.getpid()}"
    return f"{given or settings.prefix}.logic-{supported}.{name}"


def describe(client: AdminClient, groups: list[str]) -> dict[str, Group]:
    """Groups by name; one that nobody is in has no members. Blocks. Raises ClusterError."""
    found = {}
    try:
        futures = client.describe_consumer_groups(groups, request_timeout=REQUEST_TIMEOUT_S)
        for name, future in futures.items():
            found[name] = _group(name, future.result())
    except KafkaException as error:
        raise ClusterError(f"the groups cannot be described: {error.args[0].str()}") from error
    return found


def _group(name: str, described: Any) -> Group:
    return Group(
        name,
        "consumer" if described.type == ConsumerGroupType.CONSUMER else "classic",
        described.state == ConsumerGroupState.STABLE,
        tuple(_member(name, member) for member in described.members),
    )


def _member(group: str, described: Any) -> GroupMember:
    told = _CLIENT_ID.search(described.client_id)
    return GroupMember(
        group,
        described.member_id,
        described.client_id if told is None else told[2],
        described.host.lstrip("/"),
        None if told is None else int(told[1]),
        frozenset((place.topic, place.partition) for place in described.assignment.topic_partitions),
    )
