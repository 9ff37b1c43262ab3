"""How replies reach a gateway: by its partition of `replies`, or at once from an owner on the same machine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from confluent_kafka import Message, TopicPartition

from streams import avro
from streams.bodies import ReplyRecord
from streams.kafka.names import REPLIES, Names
from streams.kafka.reply_sockets import ReplySockets
from streams.kafka.settings import KafkaSettings
from streams.kafka.tail import Tail, TailError

Deliver = Callable[[ReplyRecord], None]
"""Takes a reply for one gateway, on any thread."""


class LocalGateways:
    """The gateways of this process, and those that `sockets` reaches.

    A reply to one of them need not go through the topic (fold.md rule 12).
    """

    def __init__(self, sockets: ReplySockets | None = None) -> None:
        self._gateways: dict[str, Deliver] = {}
        self._sockets = sockets

    def add(self, address: str, deliver: Deliver) -> None:
        """From now on the gateway at `address` takes replies."""
        self._gateways[address] = deliver

    def remove(self, address: str) -> None:
        """The gateway takes no more."""
        self._gateways.pop(address, None)

    def deliver(self, reply: ReplyRecord) -> bool:
        """Hand over a reply; False when it has to go by the topic. Thread-safe."""
        deliver = self._gateways.get(reply.gateway)
        if deliver is None:
            return self._sockets is not None and self._sockets.deliver(reply)
        deliver(reply)
        return True


class Batches:
    """Collects what threads bring and hands it to a loop in batches: one wake-up for all that is there."""

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], object], take: Callable[[ReplyRecord], None]
    ) -> None:
        self._call_soon = call_soon
        self._take = take
        self._waiting: deque[ReplyRecord] = deque()
        self._lock = threading.Lock()
        self._called = False

    def put(self, replies: list[ReplyRecord]) -> None:
        """Bring replies. Thread-safe."""
        with self._lock:
            self._waiting.extend(replies)
            if self._called:
                return
            self._called = True
        self._call_soon(self._drain)

    def _drain(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, deque()
            self._called = False
        for reply in taken:
            self._take(reply)


class RepliesReader:
    """Reads the partition of `replies` that one gateway has, alone or with others, from its end on.

    `strangers` counts replies to other gateways, `damaged` what could not be decoded.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        partition_of: Callable[[int], int],
        take: Callable[[list[ReplyRecord]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`partition_of(count)` chooses the partition; `take` and `failed` are called on the reading thread."""
        self._topic = Names(settings.prefix).topic(REPLIES)
        self._partition_of = partition_of
        self._take = take
        self._tail = Tail("replies", settings, self._decode, failed)
        self.partition = -1
        self.address = ""
        self.strangers = 0
        self.damaged = 0

    def resolve(self) -> None:
        """Find the partition and its end; nothing may be appended before. Blocks. Raises TailError."""
        numbers = self._tail.partitions(self._topic)
        self.partition = self._partition_of(len(numbers))
        if self.partition not in numbers:
            raise TailError(f"{self._topic} has no partition {self.partition}")
        self._end = self._tail.next_offset(self._topic, self.partition)

    def start(self, address: str) -> None:
        """Read on from the end found, what is for the gateway at `address`."""
        self.address = address
        self._tail.start([TopicPartition(self._topic, self.partition, self._end)])

    def has_leader(self) -> bool:
        """Whether replies can be written and read now. Blocks."""
        return self._tail.has_leader(self._topic, self.partition)

    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has on the cluster. Blocks. Raises TailError."""
        return len(self._tail.partitions(topic))

    def stop(self) -> None:
        """Read no more."""
        self._tail.stop()

    def _decode(self, messages: list[Message]) -> None:
        mine = []
        key = self.address.encode()
        for message in messages:
            if message.key() not in (key, None, b""):
                self.strangers += 1  # the key tells, and decoding costs more
                continue
            try:
                reply = avro.decode(ReplyRecord, message.value() or b"")
            except avro.DecodeError:
                self.damaged += 1
                continue
            if reply.gateway == self.address:
                mine.append(reply)
            else:
                self.strangers += 1
        if mine:
            self._take(mine)
