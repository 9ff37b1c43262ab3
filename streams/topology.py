"""Every topic, its key and who folds or reads it, in one place."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

COMMANDS = "commands"
TASKS = "tasks"
TIMERS = "timers"
HISTORY = "history"
VISIBILITY = "visibility"
REGISTRY = "registry"
DEAD_LETTERS = "dead-letters"

REGISTRY_KEY = "registry/namespaces"
"""The key under which changes to namespaces are decided: one partition of `commands` owns them."""


class Topic(msgspec.Struct, frozen=True):
    """A topic: what its key is, and whether a processor folds it (else it is read by stores and consumers)."""

    name: str
    key: str
    folded: bool


TOPICS: Mapping[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic(COMMANDS, "namespace/workflow_id", True),
        Topic(TASKS, "namespace/queue/kind/n", True),
        Topic(TIMERS, "namespace/workflow_id", True),
        Topic(HISTORY, "namespace/workflow_id", False),
        Topic(VISIBILITY, "namespace/workflow_id/run_id", False),
        Topic(REGISTRY, "kind/name", False),
        Topic(DEAD_LETTERS, "original key", False),
    )
}


def workflow_key(namespace: str, workflow_id: str) -> str:
    """The key of everything about one workflow id."""
    return f"{namespace}/{workflow_id}"


def run_key(namespace: str, workflow_id: str, run_id: str) -> str:
    """The key of what lists show of one run: by it `visibility` is compacted."""
    return f"{namespace}/{workflow_id}/{run_id}"


def queue_key(namespace: str, queue: str, task_kind: str, number: int = 0) -> str:
    """The key of one partition of a task queue; query tasks live with workflow tasks."""
    kind = "activity" if task_kind == "activity" else "workflow"
    return f"{namespace}/{queue}/{kind}/{number}"


def partition_of(key: str, count: int) -> int:
    """The partition a key belongs to, as the Java client computes it (murmur2 of the UTF-8 bytes)."""
    return 0 if count == 1 else (murmur2(key.encode()) & 0x7FFFFFFF) % count


def murmur2(data: bytes) -> int:
    """Kafka's murmur2, 32 bits, unsigned.

    Source: the default partitioner of Kafka's Java client (org.apache.kafka.common.utils.Utils.murmur2).
    """
    length = len(data)
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ length) & mask
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
