"""Partitions read from given offsets on, outside any group: replies and the registry."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from streams.kafka.log import LASTING
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings

LOG = logging.getLogger(__name__)

BATCH: Final = 1_000
POLL_S: Final = 0.5
RETRY_S: Final = 0.2
_METADATA_TIMEOUT_S: Final = 5.0

Take = Callable[[list[Message]], None]


class TailError(Exception):
    """A partition cannot be read on; the message says which and why."""


class Tail:
    """A consumer of fixed partitions on a thread of its own.

    `take(messages)` gets them on that thread, in batches, in order within each partition; `failed(error)` is called
    on it once when reading cannot go on, whatever the reason. `at_end(partition, offset)`, where given, is called on
    it whenever everything below the offset has been taken and nothing more is there.
    """

    def __init__(
        self,
        name: str,
        settings: KafkaSettings,
        take: Take,
        failed: Callable[[Exception], None],
        at_end: Callable[[int, int], None] | None = None,
    ) -> None:
        self._name = name
        self._consumer = Consumer(
            {
                # Which partitions it reads never changes, so that nothing waits for a fetch to return; the end does.
                **settings.consumer({"fetch.wait.max.ms": 500} if at_end is None else None),
                # Required, and never used: neither subscribed nor committed. Its coordinator is asked for all the same.
                "group.id": Names(settings.prefix).group(name),
                "isolation.level": "read_uncommitted",
                "enable.partition.eof": at_end is not None,
            }
        )
        self._admin = AdminClient({**settings.client(), "log_level": 3})
        self._take = take
        self._failed = failed
        self._at_end = at_end
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic. Blocks. Raises TailError unless the topic is there.

        One that has just been created takes a moment to be known to every broker.
        """
        until_s = time.monotonic() + _METADATA_TIMEOUT_S
        while True:
            try:
                found = self._admin.list_topics(topic, timeout=_METADATA_TIMEOUT_S).topics.get(topic)
            except KafkaException as error:
                raise TailError(f"the cluster did not answer: {error.args[0].str()}") from error
            if found is not None and found.error is None and found.partitions:
                return sorted(found.partitions)
            if time.monotonic() > until_s:
                raise TailError(f"there is no topic {topic}: create it with `odradek topics apply`")
            self._stopping.wait(RETRY_S)

    def has_leader(self, topic: str, partition: int) -> bool:
        """Whether a partition can be written and read now. Blocks."""
        try:
            found = self._admin.list_topics(topic, timeout=_METADATA_TIMEOUT_S).topics.get(topic)
        except KafkaException:
            return False
        place = found.partitions.get(partition) if found is not None else None
        return place is not None and place.leader >= 0

    def first_offset(self, topic: str, partition: int) -> int:
        """The offset of a partition's first record. Blocks. Raises TailError."""
        return self._offset(topic, partition, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def next_offset(self, topic: str, partition: int) -> int:
        """The offset that a partition's next record gets. Blocks. Raises TailError."""
        return self._offset(topic, partition, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def _offset(self, topic: str, partition: int, spec: OffsetSpec) -> int:
        until_s = time.monotonic() + _METADATA_TIMEOUT_S
        while True:
            asked = {TopicPartition(topic, partition): spec}
            futures = self._admin.list_offsets(asked, request_timeout=_METADATA_TIMEOUT_S)
            future: Future[ListOffsetsResultInfo] = next(iter(futures.values()))
            try:
                return future.result().offset
            except KafkaException as error:
                # A leader that was just elected takes a moment to know that it is.
                if time.monotonic() > until_s:
                    where = f"{topic}/{partition}"
                    raise TailError(f"{where} cannot be read now: {error.args[0].str()}") from error
            self._stopping.wait(RETRY_S)

    def start(self, places: list[TopicPartition]) -> None:
        """Read on from these offsets."""
        self._consumer.assign(places)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and leave."""
        self._stopping.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                first = self._consumer.poll(POLL_S)
                if first is None:
                    continue
                messages = [first, *self._consumer.consume(BATCH, 0)]
                taken = [message for message in messages if message.error() is None]
                if taken:
                    self._take(taken)
                for message in messages:
                    self._look_at(message.error(), message)
        except Exception as error:
            if not self._stopping.is_set():
                self._failed(error)

    def _look_at(self, error: KafkaError | None, message: Message) -> None:
        """Deal with what is no record. Raises TailError for an error that stays."""
        if error is None:
            return
        if error.code() == KafkaError._PARTITION_EOF:
            partition, offset = message.partition(), message.offset()
            if self._at_end is not None and partition is not None and offset is not None:
                self._at_end(partition, offset)
            return
        where = f"{message.topic()}/{message.partition()}"
        if error.code() in LASTING or error.fatal():
            raise TailError(f"{where} cannot be read on: {error.str()}")
        LOG.warning("%s cannot be read now: %s", where, error.str())
        self._stopping.wait(RETRY_S)
