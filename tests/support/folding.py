"""One partition driven by hand: its log, what it answers and what it emits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streams import avro
from streams.runtime.context import Processor
from streams.runtime.partition import Outcome, Partition
from streams.runtime.records import Correlation, Record, Reply, Tick
from tests.support.memory import MemoryStore

GATEWAY = "gateway-1"
EPOCH = 1
START_MS = 1_700_000_000_000


class Folding:
    """A partition 0 of `processor` with its log. Records come from one gateway unless they say otherwise.

    Other partitions and topics have one partition each. `cache_parts` is small, so that entities leave memory
    with every checkpoint. `supported_logic` is what the code supports of logic versions, this release's by default.
    """

    def __init__(
        self, processor: Callable[[], Processor], cache_parts: int = 0, supported_logic: int | None = None
    ) -> None:
        self.make = processor
        self.cache_parts = cache_parts
        self.supported_logic = supported_logic
        self.store = MemoryStore()
        self.partition = self._partition(self.store)
        self.log: list[Record] = []
        self.outcomes: list[Outcome] = []
        self.now_ms = START_MS
        self._sequence = 0
        self._checkpoint: tuple[Any, MemoryStore, int] | None = None

    def _partition(self, store: MemoryStore) -> Partition:
        return Partition(
            *(self.make(), 0, store, store, lambda topic, key: 0, lambda topic: 1),
            cache_parts=self.cache_parts,
            supported_logic=self.supported_logic,
        )

    def send(self, body: Any, key: str, call_id: int | None = None, after_ms: int = 0) -> Outcome:
        """Append a record of the gateway `after_ms` later, and fold it."""
        self.now_ms += after_ms
        self._sequence += 1
        return self.append(
            Record(
                self.partition.processor.input_topic,
                0,
                key,
                body,
                source=GATEWAY,
                origin_epoch=EPOCH,
                origin_offset=self._sequence,
                correlation=None if call_id is None else Correlation(GATEWAY, EPOCH, call_id),
            )
        )

    def append(self, record: Record) -> Outcome:
        """Append a record as it is, and fold it."""
        record = record.copy(offset=len(self.log), time_ms=self.now_ms)
        self.log.append(record)
        outcome = self.partition.step(record)
        self.outcomes.append(outcome)
        return outcome

    def tick(self, after_ms: int = 0) -> Outcome:
        """Let time pass, and the owner append a tick."""
        self.now_ms += after_ms
        return self.append(
            Record(
                self.partition.processor.input_topic,
                0,
                "",
                Tick(),
                source=self.partition.name,
                origin_offset=len(self.log),
            )
        )

    def pass_time(self, for_ms: int) -> list[Outcome]:
        """Let time pass as an owner would: with a tick whenever something is due, and one at the end."""
        until_ms = self.now_ms + for_ms
        found = []
        while self.partition.due.next_due_ms() <= until_ms:
            found.append(self.tick(max(0, self.partition.due.next_due_ms() - self.now_ms)))
        found.append(self.tick(until_ms - self.now_ms))
        return found

    def checkpoint(self) -> None:
        """Write a checkpoint and remember it, for `check_refold`."""
        self.store.checkpoint(self.partition)
        self._checkpoint = (self.partition.position(), self.store.copy(), len(self.log))

    def restart(self) -> None:
        """Fold on in a new partition from a checkpoint taken now."""
        self.checkpoint()
        position = self.partition.position()
        self.partition = self._partition(self.store)
        self.partition.restore(position)

    def check_refold(self) -> None:
        """Fold from the start and from the last checkpoint again: same emissions, replies and state."""
        self.store.checkpoint(self.partition)
        starts: list[tuple[Any, MemoryStore, int]] = [(None, MemoryStore(), 0)]
        if self._checkpoint is not None:
            starts.append(self._checkpoint)
        for position, store, length in starts:
            store = store.copy()
            partition = self._partition(store)
            if position is not None:
                partition.restore(position)
            for record, outcome in zip(self.log[length:], self.outcomes[length:], strict=True):
                assert described(partition.step(record)) == described(outcome), record
            store.checkpoint(partition)
            assert store.rows == self.store.rows
            assert store.dues == self.store.dues
            assert avro.encode(partition.position()) == avro.encode(self.partition.position())


def described(outcome: Outcome) -> list[Any]:
    """What a step left, comparable."""
    emissions = [
        (
            *(
                record.topic,
                record.partition,
                record.key,
                type(record.body).__name__,
                avro.encode(record.body),
            ),
            *(
                record.source,
                record.origin_offset,
                record.index,
                record.previous_offset,
                record.previous_index,
            ),
        )
        for record in outcome.emissions
    ]
    return [emissions, outcome.replies, outcome.verdicts]


def emitted(outcome: Outcome) -> list[Any]:
    """The bodies a step emitted."""
    return [record.body for record in outcome.emissions]


def replied(outcome: Outcome) -> list[tuple[int, Reply]]:
    """The replies of a step, by call id."""
    return [(correlation.id, reply) for correlation, reply in outcome.replies]
