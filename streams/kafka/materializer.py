"""What carries a topic into a store: history to the history store, visibility to the visibility store.

Where to go on is written with the data, so a store never misses a record and forgets none (fold.md rule 22). A store
that is down is waited for; the log keeps what is not there yet.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.bodies import RunDeleted
from streams.kafka.admin import Cluster, ClusterError
from streams.kafka.carried import Carried, Chained, Compacted
from streams.kafka.dead_letters import DeadLetters, LetterError, original_headers
from streams.kafka.feed_deletion import FeedDeletion
from streams.kafka.groups import group_config
from streams.kafka.log import LASTING
from streams.kafka.names import Names
from streams.kafka.pace import Pace
from streams.kafka.settings import KafkaSettings
from streams.kafka.wire import record_of
from streams.runtime.codec import Codec
from streams.runtime.partition import PartitionHaltedError, Position
from streams.runtime.takeover import TakeoverRefusedError
from streams.stores.damage import StoreError
from streams.topology import DEAD_LETTERS, HISTORY, VISIBILITY, partition_of

LOG = logging.getLogger(__name__)

BATCH: Final = 2_000
"""Records written together at most."""
GATHER_S: Final = 0.02
"""How long records are gathered before they are written: readers get the newest events beside replies."""
BUSY_PER_S: Final = 40
BUSY_GATHER_S: Final = 0.25
"""From so many records a second on, they are gathered for so long: most of a short run is one write then."""
FETCHES: Final = {"fetch.min.bytes": 100_000, "fetch.wait.max.ms": 100}
"""The broker answers a fetch when so much is there, or after so long: not for each record."""
POLL_S: Final = 0.2
IDLE_S: Final = 600.0
"""How often an idle partition is moved on in time: stores forget what they keep for a time by that."""
RETRY_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
OPEN_RETRY_S: Final = 1.0
"""When a partition is looked at again whose log could not be asked."""
HALTED_RETRY_S: Final = 30.0
"""When one is looked at again that must not go on: somebody may have mended it."""
OPENING_POLL_S: Final = 0.02
BOUNDS_TIMEOUT_S: Final = 10.0

_GONE: Final = LASTING | {KafkaError._LOG_TRUNCATION}
"""Errors of a partition after which its log is looked at anew."""
_UNDER_WAY: Final = (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS)
"""Errors of a partition whose assignment has only just begun."""


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
        halted_retry_s: float = HALTED_RETRY_S,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.topic = topic
        self._settings = settings
        self._kafka_topic = Names(settings.prefix).topic(topic)
        self._sink = sink
        self._deletions = deletions
        self._prepare = prepare
        self._halted_retry_s = halted_retry_s
        self._codec = codec
        self._failed = failed
        self._deletion = FeedDeletion(settings, self._kafka_topic) if topic == HISTORY else None
        self._clock_ms = clock_ms
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"materializer-{topic}", daemon=True)
        self._letters = DeadLetters(
            settings, lambda key: partition_of(key, settings.partitions_of(DEAD_LETTERS))
        )
        self._bodies: list[Any] = []
        self._pace = Pace(BUSY_PER_S)
        self._moved: set[int] = set()
        self._closed: dict[int, float] = {}
        self._idle_s = time.monotonic()
        self.partitions: dict[int, Carried] = {}
        """Those that it reads, by number."""
        self.halted: dict[int, str] = {}
        """Why partitions that it has must not go on, by number."""
        self.records = 0
        self.damaged = 0
        """Records that were set aside."""
        self.store_error = ""
        """Why the store cannot be written now, empty when it can."""
        self.beat_s = time.monotonic()
        """When it last was seen to work, of the monotonic clock; a store that is waited for counts as work."""

    def start(self) -> None:
        """Join the group. Blocks for the cluster. Raises ClusterError."""
        role = f"materializer-{self.topic}"
        self._cluster = Cluster(self._settings)
        self._consumer = Consumer(group_config(self._settings, self._cluster, role, defaults=FETCHES))
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
        except (StoreError, LetterError):
            LOG.warning("%s ends before its store is back; what is not in it is read again", self.topic)
        except Exception as error:
            self._failed(error)
        finally:
            self._consumer.close()
            self._letters.close()
            self._sink.close()
            if self._deletions is not None:
                self._deletions.close()

    def _step(self) -> None:
        if self._closed:
            self._open_closed()
        if self._deletion is not None:
            self._deletion.delete(self._consumer, self.partitions.values(), self._clock_ms())
        first = self._consumer.poll(OPENING_POLL_S if self._is_opening else POLL_S)
        if first is None:
            if time.monotonic() > self._idle_s + IDLE_S:
                self._move_idle()
            return
        messages = [first, *self._consumer.consume(BATCH, 0)]
        gather_s = BUSY_GATHER_S if self._pace.busy else GATHER_S
        if len(messages) < BATCH and not self._stopping.wait(gather_s):
            messages += self._consumer.consume(BATCH, 0)
        self._pace.note(len(messages))
        for message in messages:
            self._take(message)
        self._write()

    def _take(self, message: Message) -> None:
        error, number = message.error(), message.partition()
        if error is not None and error.fatal():
            raise KafkaException(error)
        carried = self.partitions.get(-1 if number is None else number)
        if carried is None:
            return  # revoked since, or closed
        if error is not None:
            self._trouble(carried, error)
            return
        record = record_of(self._codec, self.topic, message)
        try:
            letters = carried.take(record, message.leader_epoch() or 0)
        except (TakeoverRefusedError, PartitionHaltedError) as refusal:
            self._halt(carried.number, refusal)
            return
        self.records += 1
        self._moved.add(carried.number)
        for letter in letters:
            self.damaged += 1
            LOG.error("record %d of %s is set aside: %s", record.offset, carried.where, letter.reason)
            self._persist(lambda letter=letter: self._letters.send(letter, original_headers(message)))  # type: ignore[misc]

    def _trouble(self, carried: Carried, error: KafkaError) -> None:
        if error.code() in _GONE:
            LOG.warning("%s cannot be read on: %s", carried.where, error.str())
            self._close_partition(carried.number, 0)
        else:
            LOG.warning("%s cannot be read now: %s", carried.where, error.str())

    # Writing

    def _write(self) -> None:
        """Write what was read since the last time, however long the store takes to be there."""
        if not self._moved and not self._bodies:
            return
        taken, self._bodies = self._bodies, []
        positions = {n: self.partitions[n].position() for n in self._moved if n in self.partitions}
        self._moved = set()
        if self._prepare is not None:
            self._prepare(taken)
        self._persist(self._letters_arrived)
        self._persist(lambda: self._write_once(taken, positions))
        for number, position in positions.items():
            carried = self.partitions[number]
            carried.written(position)
            carried.end = max(carried.end, self._end(number), carried.offset + 1)

    def _letters_arrived(self) -> None:
        while not self._letters.flush():
            self.beat_s = time.monotonic()
            if self._stopping.is_set():
                raise LetterError("dead letters have not arrived")

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
        """Do something outside until it succeeds. The group's coordinator hears of this member meanwhile.

        Gives up when it is to stop: what is not written is read again by the next member.
        """
        tries = 0
        while True:
            try:
                action()
            except (StoreError, LetterError) as error:
                if not self.store_error:
                    LOG.warning("%s waits: %s", self.topic, error)
                self.store_error = str(error)
                self.beat_s = time.monotonic()
                if self._stopping.wait(RETRY_S[min(tries, len(RETRY_S) - 1)]):
                    raise
                tries += 1
            else:
                if self.store_error:
                    LOG.warning("%s goes on", self.topic)
                    self.store_error = ""
                return

    def _end(self, number: int) -> int:
        """Where the log ends, as far as it is known without asking."""
        _, high = self._consumer.get_watermark_offsets(TopicPartition(self._kafka_topic, number), cached=True)
        return max(high, 0)

    # Partitions: closed until they are found to be what the store was written from

    @property
    def _is_opening(self) -> bool:
        return len(self._closed) > len(self.halted)

    def _open_closed(self) -> None:
        """Look at partitions that are not read, where it is time for that."""
        now_s = time.monotonic()
        due = [number for number, at_s in self._closed.items() if at_s <= now_s]
        if not due:
            return
        stored: dict[int, Position] = {}
        try:
            topic_id = self._cluster.check()[self.topic].id
        except ClusterError as error:
            for number in due:
                self._halt(number, error, OPEN_RETRY_S)
            return
        self._persist(lambda: stored.update(self._sink.positions(self.topic)))
        for number in due:
            try:
                self._open(number, topic_id, stored.get(number))
            except TakeoverRefusedError as refusal:
                self._halt(number, refusal)
            except KafkaException as error:
                if error.args[0].code() not in _UNDER_WAY:
                    self._halt(number, error, OPEN_RETRY_S)

    def _open(self, number: int, topic_id: str, position: Position | None) -> None:
        """Have a partition delivered from where the store is. Raises TakeoverRefusedError, KafkaException."""
        place = TopicPartition(self._kafka_topic, number)
        low, end = self._consumer.get_watermark_offsets(place, timeout=BOUNDS_TIMEOUT_S)
        kind = Compacted if self.topic == VISIBILITY else Chained
        passable = self._settings.passed_over(self._kafka_topic, number)
        carried = kind(self._kafka_topic, number, topic_id, position, self._add, passable)
        place.offset = carried.begin(low, end)
        self._consumer.seek(place)
        self._consumer.resume([place])
        self.partitions[number] = carried
        self.halted.pop(number, None)
        del self._closed[number]

    def _add(self, body: Any) -> None:
        self._bodies.append(body)

    def _halt(self, number: int, reason: Exception, retry_s: float | None = None) -> None:
        """Read a partition no further. What was read is written, and read again once it may go on."""
        if self.halted.get(number) != str(reason):
            LOG.error("%s/%d is halted: %s", self._kafka_topic, number, reason)
        self.halted[number] = str(reason)
        self._close_partition(number, self._halted_retry_s if retry_s is None else retry_s)

    def _close_partition(self, number: int, retry_s: float) -> None:
        self.partitions.pop(number, None)
        self._moved.discard(number)
        self._closed[number] = time.monotonic() + retry_s
        with contextlib.suppress(KafkaException):  # it may just have been taken from us
            self._consumer.pause([TopicPartition(self._kafka_topic, number)])

    # The group

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = [TopicPartition(place.topic, place.partition, OFFSET_END) for place in partitions]
        consumer.incremental_assign(places)
        if places:
            consumer.pause(places)
        self._closed.update(dict.fromkeys((place.partition for place in places), 0.0))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._write()
        self._lost(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            self.partitions.pop(place.partition, None)
            self.halted.pop(place.partition, None)
            self._closed.pop(place.partition, None)
            self._moved.discard(place.partition)
        consumer.incremental_unassign(partitions)
