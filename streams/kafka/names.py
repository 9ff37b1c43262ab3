"""What things are called on a cluster: topics, groups, transactional ids, and the address of a gateway."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

from streams import topology

REPLIES: Final = "replies"
"""Answers to gateways, each in the partition that its correlation names."""

PROCESSORS: Final[Mapping[str, str]] = {
    "history": topology.COMMANDS,
    "matching": topology.TASKS,
    "timer": topology.TIMERS,
}
"""The input topic of each processor, by the processor's name."""

CHANGELOGS: Final[Mapping[str, str]] = {f"{name}-changelog": topic for name, topic in PROCESSORS.items()}
"""The input topic that each changelog has its partitions of, by the changelog's name."""

GROUPS: Final = (
    *PROCESSORS,
    *(f"materializer-{topic}" for topic in (topology.HISTORY, topology.VISIBILITY)),
    "gateway",
)
"""The roles that have groups: every process of the engine is in one of them at least."""

ALL_TOPICS: Final = (*topology.TOPICS, REPLIES, *CHANGELOGS)
"""Every topic of the engine, by its name without prefix."""


class Names:
    """Names under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}."
        self._group_prefix = prefix

    def topic(self, name: str) -> str:
        """The topic on the cluster of a name such as `commands`."""
        return self._prefix + name

    def name(self, topic: str) -> str:
        """The name of a topic on the cluster. Raises ValueError for one of another prefix."""
        if not topic.startswith(self._prefix):
            raise ValueError(f"topic {topic} is not one of {self._prefix}*")
        return topic[len(self._prefix) :]

    def changelog(self, processor: str) -> str:
        """The changelog topic of a processor's tables."""
        return self.topic(f"{processor}-changelog")

    def group(self, role: str) -> str:
        """The consumer group of a role."""
        return f"{self._group_prefix}-{role}"

    def transactional_id(self, processor: str, partition: int) -> str:
        """Under which id the checkpoints of a partition are written: who initialises it is the owner."""
        return f"{self._group_prefix}-{processor}-{partition}"


def gateway_address(gateway: str, reply_partition: int) -> str:
    """What `Correlation.gateway` is on Kafka: the gateway's id and the partition of `replies` that it reads."""
    return f"{gateway}@{reply_partition}"


@functools.lru_cache(maxsize=4096)
def reply_partition(address: str) -> int:
    """The partition of `replies` in an address. Raises ValueError when it names none."""
    _, at, number = address.rpartition("@")
    if not at or not number.isdecimal():
        raise ValueError(f"{address!r} names no partition of {REPLIES}")
    return int(number)
