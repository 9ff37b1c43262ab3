"""Offsets of partitions as their leaders tell them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

TIMEOUT_S: Final = 30.0


class ReadError(Exception):
    """A partition could not be read now; trying again may help."""


def start_offsets(client: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """By partition, the offset of the first record left. Blocks. Raises ReadError."""
    spec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    return _offsets(client, topic, partitions, spec, IsolationLevel.READ_UNCOMMITTED)


def high_watermarks(client: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """By partition, the offset below which everything is replicated. Blocks. Raises ReadError."""
    spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    return _offsets(client, topic, partitions, spec, IsolationLevel.READ_UNCOMMITTED)


def last_stable_offsets(client: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """By partition, the offset below which every transaction has ended. Blocks. Raises ReadError."""
    spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    return _offsets(client, topic, partitions, spec, IsolationLevel.READ_COMMITTED)


def _offsets(
    client: AdminClient, topic: str, partitions: Iterable[int], spec: OffsetSpec, isolation: IsolationLevel
) -> dict[int, int]:
    wanted = {TopicPartition(topic, number): spec for number in partitions}
    if not wanted:
        return {}
    futures = client.list_offsets(wanted, isolation_level=isolation, request_timeout=TIMEOUT_S)
    found = {}
    for place, future in futures.items():
        try:
            found[place.partition] = future.result().offset
        except KafkaException as error:
            raise ReadError(f"{topic}/{place.partition} cannot be read now: {error.args[0].str()}") from error
    return found
