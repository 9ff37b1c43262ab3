"""What carries a topic into a store: history to the history store, visibility to the visibility store.

Where to go on is written with the data, so a store never misses a record and forgets none (fold.md rule 22). A store
that is down is waited for; the log keeps what is not there yet.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from streams.bodies import RunDeleted
from streams.kafka.admin import Cluster
from streams.kafka.groups import group_config
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings
from streams.kafka.wire import record_of
from streams.runtime.codec import Codec
from streams.runtime.context import Context
from streams.runtime.logic import UnsupportedLogicError
from streams.runtime.partition import Partition, Position
from streams.runtime.records import Record, Undecodable, UnknownType
from streams.runtime.tables import TableSpec
from streams.runtime.takeover import TakeoverRefusedError
from streams.stores.damage import StoreError
from streams.topology import VISIBILITY

LOG = logging.getLogger(__name__)

BATCH: Final = 2_000
"""Records written together at most."""
GATHER_S: Final = 0.02
"""How long records are gathered before they are written: readers get the newest events beside replies."""
POLL_S: Final = 0.2
IDLE_S: Final = 600.0
"""How often an idle partition is moved on in time: stores forget what they keep for a time by that."""
RETRY_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
BOUNDS_TIMEOUT_S: Final = 10.0


class StoreSink(Protocol):
    """A store with how far it got: a position for each partition of each topic that is written into it.

    Belongs to one thread. What is written again changes nothing.
    """

    def positions(self, topic: str) -> Mapping[int, Position]:
        """The position of every partition of a topic, by number, that has one. Raises StoreError."""

    def write(self, topic: str, bodies: Sequence[Any], positions: Mapping[int, Position]) -> None:
        """Write bodies, in order, and then that this is where the partitions are. Raises StoreError."""

    def close(self) -> None:
        """Leave the store."""


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
        """What cannot be decoded is left out; it is counted where the verdict is seen."""


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


class Carried:
    """One partition on its way into the store. Its numbers may be read from any thread."""

    def __init__(self, number: int, position: Position | None) -> None:
        self.number = number
        self.stored = position
        self.offset = -1 if position is None else position.offset
        """The last record read."""
        self.written_offset = self.offset
        """The last record in the store."""
        self.end = 0
        """Where the log ended when it was last looked."""
        self.time_ms = 0
        """When the last record read was appended."""

    @property
    def first(self) -> int:
        """The offset to read from."""
        return self.offset + 1

    def take(self, record: Record) -> int:
        """Read a record; returns how many verdicts there were. Raises UnsupportedLogicError."""
        raise NotImplementedError

    def position(self) -> Position:
        """What is written with everything read so far."""
        raise NotImplementedError


class Chained(Carried):
    """A partition of a topic that keeps every record: each is taken once, in its source's order (rule 10)."""

    def __init__(
        self, topic: str, number: int, position: Position | None, take: Callable[[Any], None]
    ) -> None:
        super().__init__(number, position)
        rows = _NoRows()
        self._partition = Partition(
            _Reader(topic, take), number, rows, rows, lambda topic, key: 0, lambda topic: 1
        )
        self._parked: list[Record] = []
        self._restored = position is None

    @property
    def first(self) -> int:
        """That after the position, or of the first record that waits behind a gap."""
        return self.offset + 1 if self.stored is None else min((self.offset + 1, *self.stored.parked))

    def take(self, record: Record) -> int:
        """See Carried. Raises PartitionHaltedError too."""
        if self.stored is not None and record.offset <= self.stored.offset:
            if record.offset in self.stored.parked:
                self._parked.append(record)
            return 0
        if self.stored is not None and not self._restored:
            self._partition.restore(self.stored, self._parked)
            self._restored = True
        outcome = self._partition.step(record)
        self.offset, self.time_ms = record.offset, record.time_ms
        return len(outcome.verdicts)

    def position(self) -> Position:
        """See Carried."""
        if self._restored or self.stored is None:
            return self._partition.position()
        return self.stored


class Compacted(Carried):
    """A partition of a compacted topic: links of chains are missing there, and versions in the rows decide."""

    def __init__(self, number: int, position: Position | None, take: Callable[[Any], None]) -> None:
        super().__init__(number, position)
        self._take = take

    def take(self, record: Record) -> int:
        """See Carried."""
        body = record.body
        if isinstance(body, UnknownType):
            raise UnsupportedLogicError(
                f"record {record.offset} of {record.topic}/{self.number} is of type {body.type!r}, which this "
                "release does not know: start a newer release"
            )
        self.offset, self.time_ms = record.offset, record.time_ms
        if isinstance(body, Undecodable):
            return 1
        self._take(body)
        return 0

    def position(self) -> Position:
        """See Carried."""
        return Position(self.offset, self.time_ms)


class Materializer:
    """Carries the partitions of `topic` that its group gives it into `sink`, on a thread of its own.

    `deletions`, where given, is the sink of another store that has to know of deleted runs, unless it hears of them
    by a topic of its own, as since logic version 2; `failed(error)` is called
    once when it cannot go on; `prepare(bodies)`, where given, sees to what writing them takes.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        sink: StoreSink,
        codec: Codec,
        failed: Callable[[Exception], None],
        *,
        deletions: StoreSink | None = None,
        prepare: Callable[[Sequence[Any]], None] | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.topic = topic
        self._settings = settings
        self._kafka_topic = Names(settings.prefix).topic(topic)
        self._sink = sink
        self._deletions = deletions
        self._prepare = prepare
        self._codec = codec
        self._failed = failed
        self._clock_ms = clock_ms
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"materializer-{topic}", daemon=True)
        self._bodies: list[Any] = []
        self._moved: set[int] = set()
        self._idle_s = time.monotonic()
        self.partitions: dict[int, Carried] = {}
        """Those it has, by number."""
        self.records = 0
        self.damaged = 0
        """Records that were left out."""
        self.store_error = ""
        """Why the store cannot be written now, empty when it can."""
        self.beat_s = time.monotonic()
        """When it last was seen to work, of the monotonic clock; a store that is waited for counts as work."""

    def start(self) -> None:
        """Join the group. Blocks for the cluster. Raises ClusterError."""
        role = f"materializer-{self.topic}"
        self._consumer = Consumer(group_config(self._settings, Cluster(self._settings), role))
        self._consumer.subscribe(
            [self._kafka_topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        self._thread.start()

    def stop(self) -> None:
        """Write what was read, leave the group and the store."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def lag_ms(self, carried: Carried) -> int:
        """How long the oldest record that is not in the store may have waited, in ms."""
        behind = carried.end > carried.written_offset + 1
        return max(0, self._clock_ms() - carried.time_ms) if behind and carried.time_ms else 0

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self.beat_s = time.monotonic()
                self._step()
            self._write()
        except StoreError:
            LOG.warning("%s ends before its store is back; what is not in it is read again", self.topic)
        except Exception as error:
            self._failed(error)
        finally:
            self._consumer.close()
            self._sink.close()
            if self._deletions is not None:
                self._deletions.close()

    def _step(self) -> None:
        first = self._consumer.poll(POLL_S)
        if first is None:
            if time.monotonic() > self._idle_s + IDLE_S:
                self._move_idle()
            return
        messages = [first, *self._consumer.consume(BATCH, 0)]
        if len(messages) < BATCH and not self._stopping.wait(GATHER_S):
            messages += self._consumer.consume(BATCH, 0)
        for message in messages:
            self._take(message)
        self._write()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self._trouble(error)
            return
        partition = message.partition()
        carried = self.partitions.get(-1 if partition is None else partition)
        if carried is None:
            return  # revoked since
        record = record_of(self._codec, self.topic, message)
        verdicts = carried.take(record)
        self.records += 1
        self._moved.add(carried.number)
        if verdicts:
            self.damaged += verdicts
            LOG.error("record %d of %s/%d is left out", record.offset, self._kafka_topic, carried.number)

    def _trouble(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE) or error.fatal():
            raise TakeoverRefusedError(
                f"{self._kafka_topic} cannot be read on from where the store is: {error.str()}"
            )
        LOG.warning("%s cannot be read now: %s", self._kafka_topic, error.str())

    # Writing

    def _write(self) -> None:
        """Write what was read since the last time, however long the store takes to be there."""
        if not self._moved:
            return
        taken, self._bodies = self._bodies, []
        positions = {n: self.partitions[n].position() for n in self._moved if n in self.partitions}
        self._moved = set()
        if self._prepare is not None:
            self._prepare(taken)
        self._persist(lambda: self._write_once(taken, positions))
        for number in positions:
            carried = self.partitions[number]
            carried.written_offset = carried.offset
            carried.end = max(carried.end, self._end(number), carried.offset + 1)

    def _write_once(self, bodies: Sequence[Any], positions: Mapping[int, Position]) -> None:
        if self._deletions is not None:
            deleted = [body for body in bodies if type(body) is RunDeleted]
            if deleted:
                self._deletions.write(self.topic, deleted, {})
        self._sink.write(self.topic, bodies, positions)

    def _move_idle(self) -> None:
        """Tell the store that partitions that gave nothing are where they were, and when that was."""
        self._idle_s = time.monotonic()
        now_ms = self._clock_ms()
        positions = {
            number: msgspec.structs.replace(carried.position(), now_ms=now_ms)
            for number, carried in self.partitions.items()
            if carried.offset >= 0 and carried.offset + 1 >= self._end(number)
        }
        if positions:
            self._persist(lambda: self._sink.write(self.topic, (), positions))

    def _persist(self, action: Callable[[], None]) -> None:
        """Do something with the store until it succeeds. The group's coordinator hears of this member meanwhile.

        Gives up when it is to stop: what is not written is read again by the next member.
        """
        tries = 0
        while True:
            try:
                action()
            except StoreError as error:
                if not self.store_error:
                    LOG.warning("%s waits for its store: %s", self.topic, error)
                self.store_error = str(error)
                self.beat_s = time.monotonic()
                if self._stopping.wait(RETRY_S[min(tries, len(RETRY_S) - 1)]):
                    raise
                tries += 1
            else:
                if self.store_error:
                    LOG.warning("%s goes on, its store is back", self.topic)
                    self.store_error = ""
                return

    def _end(self, number: int) -> int:
        """Where the log ends, as far as it is known without asking."""
        _, high = self._consumer.get_watermark_offsets(TopicPartition(self._kafka_topic, number), cached=True)
        return max(high, 0)

    # The group

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        stored: dict[int, Position] = {}
        self._persist(lambda: stored.update(self._sink.positions(self.topic)))
        places = []
        for place in partitions:
            carried = self._carried(place.partition, stored.get(place.partition))
            low, carried.end = consumer.get_watermark_offsets(place, timeout=BOUNDS_TIMEOUT_S)
            self._check(carried, low)
            self.partitions[place.partition] = carried
            places.append(TopicPartition(place.topic, place.partition, carried.first or OFFSET_BEGINNING))
        consumer.incremental_assign(places)

    def _check(self, carried: Carried, low: int) -> None:
        """Refuse a log that is not the one the store was written from. Raises TakeoverRefusedError."""
        where = f"{self._kafka_topic}/{carried.number}"
        if carried.first > carried.end:
            raise TakeoverRefusedError(
                f"{where} ends at {carried.end}, before the store's position {carried.offset}: it is another log"
            )
        if carried.first < low and self.topic != VISIBILITY:
            raise TakeoverRefusedError(
                f"{where} begins at {low}: records {carried.first} to {low - 1} are gone and not in the store; "
                "put back a backup of the store that is not as old"
            )

    def _carried(self, number: int, position: Position | None) -> Carried:
        if self.topic == VISIBILITY:
            return Compacted(number, position, self._bodies_add)
        return Chained(self.topic, number, position, self._bodies_add)

    def _bodies_add(self, body: Any) -> None:
        self._bodies.append(body)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._write()
        self._lost(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            self.partitions.pop(place.partition, None)
            self._moved.discard(place.partition)
        consumer.incremental_unassign(partitions)
