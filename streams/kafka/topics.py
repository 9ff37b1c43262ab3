"""The topics as they are wanted: partitions, replicas and configs of each, from the settings alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from streams import topology
from streams.kafka.names import ALL_TOPICS, CHANGELOGS, PROCESSORS, REPLIES, Names
from streams.kafka.settings import RECORD_MAX_BYTES, KafkaSettings

_BATCH_OVERHEAD_BYTES: Final = 64 * 1024
_DAY_MS: Final = 24 * 3600 * 1000
_BY_OWNER: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_CHANGELOG: Final = {
    "cleanup.policy": "compact",
    # A local store older than half of this is wiped (fold.md rule 16).
    "delete.retention.ms": str(7 * _DAY_MS),
    # What is compacted is the closed segments: small ones keep restores short.
    "segment.bytes": str(128 * 1024 * 1024),
    "message.timestamp.type": "CreateTime",
}
_VISIBILITY: Final = {
    "cleanup.policy": "compact",
    # How far behind a reader may be that is to hear of deleted runs.
    "delete.retention.ms": str(7 * _DAY_MS),
}
_REPLIES: Final = {"cleanup.policy": "delete", "retention.ms": "600000", "segment.ms": "600000"}
_DEAD_LETTERS: Final = {"cleanup.policy": "delete", "retention.ms": str(90 * _DAY_MS)}


class WantedTopic(msgspec.Struct, frozen=True):
    """A topic as it is to be; `topic` is its name on the cluster, `name` that without prefix."""

    name: str
    topic: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


def wanted_topic(settings: KafkaSettings, name: str) -> WantedTopic:
    """The topic called `name` without prefix."""
    replication = settings.replication_of(name)
    own = settings.topics.get(name)
    configs = {
        "max.message.bytes": str(RECORD_MAX_BYTES + _BATCH_OVERHEAD_BYTES),
        "min.insync.replicas": str(2 if replication > 2 else 1),
        "unclean.leader.election.enable": "false",
        **_configs(name),
        **({} if own is None else own.configs),
    }
    return WantedTopic(
        name, Names(settings.prefix).topic(name), settings.partitions_of(name), replication, configs
    )


def wanted_topics(settings: KafkaSettings) -> list[WantedTopic]:
    """Every topic of the engine."""
    return [wanted_topic(settings, name) for name in ALL_TOPICS]


def _configs(name: str) -> Mapping[str, str]:
    if name in PROCESSORS.values():
        # Time is what the log's broker says it is (fold.md rule 2).
        return {**_BY_OWNER, "message.timestamp.type": "LogAppendTime"}
    if name in CHANGELOGS:
        return _CHANGELOG
    return {
        topology.HISTORY: _BY_OWNER,
        topology.VISIBILITY: _VISIBILITY,
        topology.REGISTRY: {"cleanup.policy": "compact"},
        topology.DEAD_LETTERS: _DEAD_LETTERS,
        REPLIES: _REPLIES,
    }[name]
