"""An in-memory log: partitions with clocks of their own, tails that can be lost, readers and their wake-ups.

A record appended is not there yet: it is replicated a moment later, and only then read and acknowledged. Until
then a change of leader loses it, and whoever sent it has to send it again. Every record passes through the Avro
codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from streams import avro
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec, Envelope
from streams.runtime.records import Record

if TYPE_CHECKING:
    from tests.simulation.world import World

CODEC = Codec(BODY_TYPES)


class Sender(Protocol):
    """Whoever appends. It is told once of each append: replicated, or lost."""

    def acknowledged(self, channel: str, records: Sequence[Record]) -> None: ...

    def lost(self, channel: str, records: Sequence[Record]) -> None: ...


def encode(record: Record) -> bytes:
    """The bytes that travel."""
    return avro.encode(CODEC.envelope(record))


class PartitionLog:
    """One partition. Offsets below `start` are deleted; the judge still has them in `records`."""

    def __init__(self, world: World, topic: str, number: int) -> None:
        self.world = world
        self.topic = topic
        self.number = number
        self.name = f"{topic}/{number}"
        self.topic_id = f"{topic}-1"
        self.start = 0
        self.records: list[Record] = []
        self.epochs: list[int] = []
        self.epoch = 1
        self.skew_ms = 0
        self.on_growth: list[Callable[[], None]] = []
        self._tail: list[tuple[Sender | None, list[Record], list[tuple[str, bytes]]]] = []
        self._committing = False

    @property
    def end(self) -> int:
        """The offset that the next replicated record gets."""
        return len(self.records)

    def clock_ms(self) -> int:
        """The leader's wall clock, which can step back."""
        return self.world.now_ms + self.skew_ms

    def leader_epoch(self, offset: int) -> int:
        """The leader epoch that the record at `offset` was appended in."""
        return self.epochs[offset]

    def read(self, offset: int) -> Record:
        """The record at `offset`. Raises IndexError outside the log."""
        if offset < self.start:
            raise IndexError(f"{self.name}: record {offset} is deleted; the log begins at {self.start}")
        return self.records[offset]

    def append(self, sender: Sender | None, records: Sequence[Record], *, twice: bool = False) -> None:
        """Append a batch to the tail; `twice` as an idempotent producer may after a change of epoch."""
        kept = list(records)
        encoded = [(record.key, self.world.judge.encoded(record)) for record in kept]
        self._tail.append((sender, kept, encoded))
        if twice:
            self._tail.append((None, [], encoded))
        if not self._committing:
            self._committing = True
            self.world.at(self.world.faults.replication_ms(), self.replicate)

    def replicate(self) -> None:
        """What is in the tail is there from now on."""
        self._committing = False
        tail, self._tail = self._tail, []
        time_ms = self.clock_ms()
        for _, _, encoded in tail:
            for key, data in encoded:
                value = avro.decode(Envelope, data)
                self.records.append(
                    CODEC.record(self.topic, self.number, len(self.records), time_ms, key, value)
                )
                self.epochs.append(self.epoch)
        for sender, records, _ in tail:
            if sender is not None:
                sender.acknowledged(self.name, records)
        for wake in self.on_growth:
            wake()

    def drop_first_of(self, sender: Sender) -> None:
        """Of what a dying sender has in the tail, the first record does not arrive; what came after it does."""
        for at, (whose, records, encoded) in enumerate(self._tail):
            if whose is sender:
                self._tail[at] = (whose, records[1:], encoded[1:])
                return

    def fail_over(self) -> None:
        """Another leader: what was not replicated is gone."""
        self.epoch += 1
        tail, self._tail = self._tail, []
        lost: dict[int, tuple[Sender, list[Record]]] = {}
        for sender, records, _ in tail:
            if sender is not None:
                lost.setdefault(id(sender), (sender, []))[1].extend(records)
        for sender, records in lost.values():
            sender.lost(self.name, records)
