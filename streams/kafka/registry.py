"""The namespaces, from the registry topic: read whole, then followed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from confluent_kafka import Message, TopicPartition

from streams import topology
from streams.bodies import NamespaceChanged, NamespaceConfig, NamespaceRemoved
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings
from streams.kafka.tail import Tail, TailError
from streams.kafka.wire import DAMAGED, record_of
from streams.runtime.codec import Codec
from streams.runtime.logic import UnsupportedLogicError
from streams.runtime.records import Record, Undecodable, UnknownType

LOG = logging.getLogger(__name__)


class RegistryFollower:
    """The namespaces that exist, as of the newest record read. Thread-safe.

    `failed(error)` is called once, on a thread of its own, when the topic cannot be read on.
    """

    def __init__(self, settings: KafkaSettings, codec: Codec, failed: Callable[[Exception], None]) -> None:
        self._settings = settings
        self._codec = codec
        self._topic = Names(settings.prefix).topic(topology.REGISTRY)
        self._tail = Tail("registry", settings, self._take, failed, self._at_end)
        self._namespaces: dict[str, NamespaceConfig] = {}
        self._applied: dict[str, tuple[int, int, int]] = {}
        self._changes: dict[str, int] = {}
        self._read_to: dict[int, int] = {}
        self._unread: set[int] = set()
        self._moved = threading.Condition()
        self._whole = threading.Event()
        self.damaged = 0
        """Records that were left out."""
        self.listeners: list[Callable[[], None]] = []
        """Called on the reading thread after every change."""

    def start(self) -> None:
        """Begin to read. Blocks for the metadata. Raises TailError."""
        places = []
        for partition in self._tail.partitions(self._topic):
            first = self._tail.first_offset(self._topic, partition)
            self._unread.add(partition)
            self._read_to[partition] = first
            places.append(TopicPartition(self._topic, partition, first))
        self._tail.start(places)

    def stop(self) -> None:
        """Read no more."""
        self._tail.stop()

    @property
    def is_whole(self) -> bool:
        """Whether it was read to its end once."""
        return self._whole.is_set()

    def wait_whole(self, timeout_s: float) -> bool:
        """Wait until it was read to its end; False if that takes longer."""
        return self._whole.wait(timeout_s)

    @property
    def namespaces(self) -> Mapping[str, NamespaceConfig]:
        """The namespaces by name; what is returned does not change."""
        return MappingProxyType(self._namespaces)

    def changes_of(self, namespace: str) -> int:
        """How many changes of a namespace have been read."""
        return self._changes.get(namespace, 0)

    def types_of(self, namespace: str) -> Mapping[str, int]:
        """Custom search attributes of a namespace, by name."""
        config = self._namespaces.get(namespace)
        return {} if config is None else {pair.key: pair.value for pair in config.attributes}

    def catch_up(self, timeout_s: float) -> bool:
        """Wait until everything is read that is in the topic now; False if that cannot be had in time. Blocks."""
        until_s = time.monotonic() + timeout_s
        try:
            ends = {number: self._tail.next_offset(self._topic, number) for number in list(self._read_to)}
        except TailError as error:
            LOG.warning("%s", error)
            return False
        with self._moved:
            while any(self._read_to[partition] < end for partition, end in ends.items()):
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not self._moved.wait(left_s):
                    return False
        return self.is_whole

    def _take(self, messages: list[Message]) -> None:
        changed = dict(self._namespaces)
        for message in messages:
            record = record_of(self._codec, topology.REGISTRY, message)
            if self._is_new(record):
                self._apply(changed, record)
        self._namespaces = changed
        with self._moved:
            for message in messages:
                partition, offset = message.partition(), message.offset()
                assert partition is not None and offset is not None
                self._read_to[partition] = offset + 1
            self._moved.notify_all()
        for listener in self.listeners:
            listener()

    def _is_new(self, record: Record) -> bool:
        """Whether it was not applied before. Compaction takes links out of chains, so gaps mean nothing here."""
        origin = (record.origin_epoch, record.origin_offset, record.index)
        if origin <= self._applied.get(record.source, (-1, -1, -1)):
            return False
        self._applied[record.source] = origin
        return True

    def _apply(self, namespaces: dict[str, NamespaceConfig], record: Record) -> None:
        body = record.body
        if isinstance(body, NamespaceChanged):
            name = body.config.name
            namespaces[name] = body.config
        elif isinstance(body, NamespaceRemoved):
            name = body.name
            namespaces.pop(name, None)
        else:
            self._leave_out(record)
            return
        self._changes[name] = self._changes.get(name, 0) + 1

    def _leave_out(self, record: Record) -> None:
        """Go on past what is foreign. Raises UnsupportedLogicError, and TailError for what is ours and damaged."""
        where, body = f"{self._topic}/{record.partition}", record.body
        if isinstance(body, UnknownType):
            raise UnsupportedLogicError(
                f"{where}: record {record.offset} is of type {body.type!r}, which this release does not know: "
                "start a newer release"
            )
        passable = self._settings.passed_over(self._topic, record.partition)
        if record.source != DAMAGED and isinstance(body, Undecodable) and record.offset not in passable:
            raise TailError(
                f"{where}: record {record.offset} of {record.source} ({body.type}, key {record.key!r}) is damaged "
                f"({body.reason}), and without it a namespace would be wrong. Bring the topic back from a backup; or "
                f"have the change made again and the record left out, with {where}@{record.offset} in the setting "
                "`kafka.pass_over`"
            )
        self.damaged += 1
        LOG.error("%s: record %d is left out, it is no change of a namespace", where, record.offset)

    def _at_end(self, partition: int, offset: int) -> None:
        with self._moved:
            self._read_to[partition] = max(offset, self._read_to.get(partition, 0))
            self._moved.notify_all()
        self._unread.discard(partition)
        if not self._unread and not self._whole.is_set():
            self._whole.set()
            for listener in self.listeners:
                listener()
