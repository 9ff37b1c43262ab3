"""Offsets of partitions as their leaders tell them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

TIMEOUT_S: Final = 30.0
RETRY_FOR_S: Final = 5.0
"""How long a leader that was just elected may take to know that it is."""
RETRY_S: Final = 0.1
_PASSING: Final = frozenset(
    (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    )
)


class ReadError(Exception):
    """A partition could not be read now; trying again may help."""


def start_offsets(client: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """By partition, the offset of the first record left. Blocks. Raises ReadError."""
    spec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    return _offsets(client, topic, partitions, spec, IsolationLevel.READ_UNCOMMITTED)


def high_watermarks(
    client: AdminClient, topic: str, partitions: Iterable[int], timeout_s: float = TIMEOUT_S
) -> dict[int, int]:
    """By partition, the offset below which everything is replicated. Blocks. Raises ReadError."""
    spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    return _offsets(client, topic, partitions, spec, IsolationLevel.READ_UNCOMMITTED, timeout_s)


def last_stable_offsets(client: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """By partition, the offset below which every transaction has ended. Blocks. Raises ReadError."""
    spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    return _offsets(client, topic, partitions, spec, IsolationLevel.READ_COMMITTED)


def _offsets(
    client: AdminClient,
    topic: str,
    partitions: Iterable[int],
    spec: OffsetSpec,
    isolation: IsolationLevel,
    timeout_s: float = TIMEOUT_S,
) -> dict[int, int]:
    left = list(partitions)
    found: dict[int, int] = {}
    deadline_s = time.monotonic() + RETRY_FOR_S
    while left:
        wanted = {TopicPartition(topic, number): spec for number in left}
        futures = client.list_offsets(wanted, isolation_level=isolation, request_timeout=timeout_s)
        for place, future in futures.items():
            try:
                found[place.partition] = future.result().offset
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.code() not in _PASSING or time.monotonic() > deadline_s:
                    raise ReadError(
                        f"{topic}/{place.partition} cannot be read now: {reason.str()}"
                    ) from error
        left = [number for number in left if number not in found]
        if left:
            time.sleep(RETRY_S)
    return found
