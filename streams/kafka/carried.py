"""A partition of a topic on its way into a store: what is taken, what is refused, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import msgspec

from streams.kafka.wire import DAMAGED
from streams.runtime.context import Context
from streams.runtime.logic import UnsupportedLogicError
from streams.runtime.partition import DeadLetter, Partition, PartitionHaltedError, Position, dead_letter
from streams.runtime.records import Record, Undecodable, UnknownType
from streams.runtime.tables import TableSpec
from streams.runtime.takeover import TakeoverRefusedError


class Carried:
    """One partition. Its numbers may be read from any thread.

    `topic` is its topic's name on the cluster, `topic_id` tells that from another one of the name; `take` gets what is
    to be written. Damaged records at offsets in `passable` are left out, though something is missing then.
    """

    def __init__(
        self,
        topic: str,
        number: int,
        topic_id: str,
        position: Position | None,
        take: Callable[[Any], None],
        passable: Container[int] = (),
    ) -> None:
        self.number = number
        self.where = f"{topic}/{number}"
        self.stored = position
        self.offset = -1 if position is None else position.offset
        """The last record read."""
        self.written_offset = self.offset
        """The last record in the store."""
        self.kept_from = self.needed
        """The first offset that is read again after a restart."""
        self.end = 0
        """Where the log ended when it was last looked."""
        self.time_ms = 0
        """When the last record read was appended."""
        self._topic_id = topic_id
        self._passable = passable
        self._source = f"{topic}/{number}@{topic_id}"
        self._give = take
        self._leader_epoch = 0 if position is None else position.leader_epoch

    @property
    def needed(self) -> int:
        """The first offset that the log must still have."""
        return self.offset + 1

    def written(self, position: Position) -> None:
        """The store holds everything up to a position."""
        self.written_offset = position.offset
        self.kept_from = min((position.offset + 1, *position.parked))

    def begin(self, low: int, end: int) -> int:
        """The offset to read from in a log that begins at `low` and ends at `end`.

        That is the last one read, where it is still there: it shows whether the log is the same. Raises
        TakeoverRefusedError for one that is not (fold.md rule 3).
        """
        stored = self.stored
        if stored is not None and stored.topic_id and stored.topic_id != self._topic_id:
            raise TakeoverRefusedError(
                f"{self.where} is topic {self._topic_id}, the store was written from {stored.topic_id}: the topic was "
                "made anew. Bring the former one back with its records; or, if they are lost for good, begin with "
                "empty stores"
            )
        if self.offset >= end:
            raise TakeoverRefusedError(
                f"{self.where} ends at {end}, and the store has record {self.offset}: the log was cut off, or is "
                "another one. Bring back the log that the store was written from"
            )
        self._check_start(low)
        self.end = end
        return max(low, 0 if stored is None else min(self.needed, self.offset))

    def _check_start(self, low: int) -> None:
        """Refuse a log that lacks what is not in the store. Raises TakeoverRefusedError."""

    def take(self, record: Record, leader_epoch: int) -> list[DeadLetter]:
        """Read a record; returns what was left out for what it is.

        Raises TakeoverRefusedError and PartitionHaltedError where it must not go on, and UnsupportedLogicError where
        another release has to.
        """
        stored = self.stored
        if stored is not None and record.offset <= stored.offset:
            if record.offset == stored.offset and stored.topic_id and leader_epoch != stored.leader_epoch:
                raise TakeoverRefusedError(
                    f"{self.where}: record {record.offset} was of leader epoch {stored.leader_epoch}, the log has it "
                    f"in {leader_epoch}: the log was cut off and went on otherwise. Bring back the log that the store "
                    "was written from; or put back a backup of the store that is older than the cut"
                )
            self._take_again(record)
            return []
        letters = self._take(record)
        self.offset, self.time_ms, self._leader_epoch = record.offset, record.time_ms, leader_epoch
        return letters

    def _take_again(self, record: Record) -> None:
        """A record that the position stands for."""

    def _take(self, record: Record) -> list[DeadLetter]:
        raise NotImplementedError

    def position(self) -> Position:
        """What is written with everything read so far."""
        return msgspec.structs.replace(
            self._position(), topic_id=self._topic_id, leader_epoch=self._leader_epoch
        )

    def _position(self) -> Position:
        raise NotImplementedError

    def _damage(self, record: Record, body: Undecodable) -> None:
        """Refuse to pass over what was ours. Raises PartitionHaltedError."""
        if record.source != DAMAGED and record.offset not in self._passable:
            raise PartitionHaltedError(
                f"{self.where}: record {record.offset} of {record.source} ({body.type}, key {record.key!r}) is damaged "
                f"({body.reason}), and without it the store would be wrong. Bring back an undamaged copy of the log; "
                f"or let it be missing, with {self.where}@{record.offset} in the setting `kafka.pass_over`"
            )


class Chained(Carried):
    """A partition of a topic that keeps every record: each is taken once, in its source's order (rule 10)."""

    def __init__(
        self,
        topic: str,
        number: int,
        topic_id: str,
        position: Position | None,
        take: Callable[[Any], None],
        passable: Container[int] = (),
    ) -> None:
        super().__init__(topic, number, topic_id, position, take, passable)
        rows = _NoRows()
        self._partition = Partition(
            *(_Reader(topic, take), number, rows, rows, lambda topic, key: 0, lambda topic: 1),
            source=self._source,
        )
        self._parked: list[Record] = []
        self._restored = position is None

    @property
    def needed(self) -> int:
        """That after the position, or of the first record that waits behind a gap."""
        return self.offset + 1 if self.stored is None else min((self.offset + 1, *self.stored.parked))

    def _check_start(self, low: int) -> None:
        if self.needed < low:
            raise TakeoverRefusedError(
                f"{self.where} begins at {low}: records {self.needed} to {low - 1} are gone and not in the store. "
                "Bring them back with a backup of the log; or put back a backup of the store that has them"
            )

    def _take_again(self, record: Record) -> None:
        assert self.stored is not None
        if record.offset in self.stored.parked:
            self._parked.append(record)

    def _take(self, record: Record) -> list[DeadLetter]:
        if self.stored is not None and not self._restored:
            self._partition.restore(self.stored, self._parked)
            self._restored = True
        if isinstance(record.body, Undecodable) and not isinstance(record.body, UnknownType):
            self._damage(record, record.body)
        return self._partition.step(record).verdicts

    def _position(self) -> Position:
        if self._restored or self.stored is None:
            return self._partition.position()
        return self.stored


class Compacted(Carried):
    """A partition of a compacted topic: links of chains are missing there, and versions in the rows decide."""

    def _take(self, record: Record) -> list[DeadLetter]:
        body = record.body
        if isinstance(body, UnknownType):
            raise UnsupportedLogicError(
                f"{self.where}: record {record.offset} is of type {body.type!r}, which this release does not know: "
                "start a newer release"
            )
        if isinstance(body, Undecodable):
            self._damage(record, body)
            return [dead_letter(self._source, record, body.reason)]
        self._give(body)
        return []

    def _position(self) -> Position:
        return Position(self.offset, self.time_ms)


class _Reader:
    """A processor that passes on what comes next: duplicates and what is behind a gap are the partition's concern."""

    name = "materializer"
    tables: tuple[TableSpec, ...] = ()

    def __init__(self, topic: str, take: Callable[[Any], None]) -> None:
        self.input_topic = topic
        self._take = take

    def fold(self, context: Context, record: Record) -> None:
        """See Processor."""
        self._take(record.body)

    def due(self, context: Context, key: str, payload: int) -> None:
        """Nothing falls due here."""
        raise NotImplementedError(key)

    def judged(self, context: Context, record: Record, reason: str) -> None:
        """What cannot be decoded is left out."""


class _NoRows:
    """The rows of a partition that has no tables."""

    def load(self, table: str, partition: int, key: str) -> list[tuple[str, str, bytes]]:
        return []

    def keys(self, table: str, partition: int, prefix: str) -> list[str]:
        return []

    def load_due(self, partition_name: str, after_ms: int, until_ms: int) -> list[tuple[str, int, int]]:
        return []

    def due_row(self, partition_name: str, key: str) -> tuple[int, int] | None:
        return None
