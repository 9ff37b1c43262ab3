"""Reading partitions from a given offset on, outside any group, and the log of one partition as a takeover sees it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.kafka import wire
from streams.kafka.offsets import ReadError, high_watermarks, last_stable_offsets, start_offsets
from streams.kafka.settings import KafkaSettings
from streams.runtime.codec import Codec
from streams.runtime.records import Record
from streams.runtime.takeover import TakeoverRefusedError

LOG = logging.getLogger(__name__)

READ_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.2
_BATCH: Final = 5_000
_GATHER_S: Final = 0.02

LASTING: Final = frozenset(
    (
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    )
)
"""Errors of a partition that do not go away by themselves."""


class Reader:
    """A consumer for one thread, which reads one partition at a time. Only what is committed is read.

    `topics` are those it will read: knowing them beforehand saves the first read a wait.
    """

    def __init__(self, settings: KafkaSettings, name: str, admin: AdminClient, topics: Sequence[str]) -> None:
        self._consumer = Consumer(
            {
                **settings.consumer(),
                "fetch.wait.max.ms": 5,  # the end of a partition is told by an empty answer
                "group.id": name,  # required, and never joined
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            },
            logger=LOG,
        )
        self._admin = admin
        for topic in topics:
            self._consumer.list_topics(topic, timeout=READ_TIMEOUT_S)

    def start_offset(self, topic: str, partition: int) -> int:
        """The offset of the first record left. Raises ReadError."""
        return start_offsets(self._admin, topic, [partition])[partition]

    def high_watermark(self, topic: str, partition: int) -> int:
        """The offset below which everything is replicated. Raises ReadError."""
        return high_watermarks(self._admin, topic, [partition])[partition]

    def last_stable_offset(self, topic: str, partition: int) -> int:
        """The offset below which every transaction has ended. Raises ReadError."""
        return last_stable_offsets(self._admin, topic, [partition])[partition]

    def read(
        self, topic: str, partition: int, offset: int, wait_s: float = _GATHER_S
    ) -> Iterator[list[Message]]:
        """Everything committed from `offset` on, up to the end there is, in batches. Raises ReadError.

        A batch that is not full gathers for `wait_s`: who reads much takes the interpreter's lock less often.
        """
        self._consumer.assign([TopicPartition(topic, partition, offset)])
        try:
            deadline_s = time.monotonic() + READ_TIMEOUT_S
            while True:
                batch, at_end = self._batch(topic, partition, wait_s)
                if batch:
                    deadline_s = time.monotonic() + READ_TIMEOUT_S
                yield batch
                if at_end:
                    return
                if time.monotonic() > deadline_s:
                    raise ReadError(f"{topic}/{partition} gave nothing for {READ_TIMEOUT_S:.0f} s")
        finally:
            self._consumer.unassign()

    def _batch(self, topic: str, partition: int, wait_s: float) -> tuple[list[Message], bool]:
        """What is there, and whether the end is reached; empty when nothing is there yet. Raises ReadError."""
        first = self._consumer.poll(_POLL_S)
        if first is None:
            return [], False
        more = self._consumer.consume(_BATCH, wait_s) if first.error() is None else []
        batch, at_end = [], False
        for message in (first, *more):
            error = message.error()
            if error is None:
                batch.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                at_end = True
            elif error.fatal() or error.code() in LASTING:
                raise ReadError(f"{topic}/{partition} cannot be read: {error.str()}")
        return batch, at_end

    def read_one(self, topic: str, partition: int, offset: int) -> Message:
        """The record at `offset`. Raises ReadError."""
        for batch in self.read(topic, partition, offset, 0.0):
            if batch:
                return batch[0]
        raise ReadError(f"{topic}/{partition} has no record {offset}")

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


class PartitionLog:
    """Implements `takeover.Log`: an input partition as it is now. Raises ReadError.

    `name` is the topic's name without prefix.
    """

    def __init__(
        self, reader: Reader, codec: Codec, name: str, topic: str, topic_id: str, partition: int
    ) -> None:
        self._reader = reader
        self._codec = codec
        self._name = name
        self._topic = topic
        self._partition = partition
        self.topic_id = topic_id
        self.start = reader.start_offset(topic, partition)
        self.end = reader.high_watermark(topic, partition)

    def leader_epoch(self, offset: int) -> int:
        """See takeover.Log."""
        return self._at(offset).leader_epoch() or 0

    def read(self, offset: int) -> Record:
        """See takeover.Log."""
        return wire.record_of(self._codec, self._name, self._at(offset))

    def _at(self, offset: int) -> Message:
        message = self._reader.read_one(self._topic, self._partition, offset)
        if message.offset() != offset:
            raise TakeoverRefusedError(
                f"{self._name}/{self._partition}: record {offset} is gone from the log, "
                f"the next one there is {message.offset()}"
            )
        return message
