"""The changelog of one partition: checkpoints written as transactions, restored into the local store.

A checkpoint's records carry its offset as a header, so that a restore can tell which rows came with the last
position whatever compaction left of others (fold.md rules 13 to 16).
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams import avro
from streams.kafka import keys, packing
from streams.kafka.log import Reader
from streams.kafka.rocks import Head, PartitionStore, open_store
from streams.kafka.settings import KafkaSettings
from streams.kafka.status import PartitionStatus
from streams.runtime import local_store
from streams.runtime.checkpoints import Checkpoint
from streams.runtime.local_store import LocalHead
from streams.runtime.partition import Position
from streams.runtime.takeover import Committed, HangingTransactionError, TakeoverRefusedError

LOG = logging.getLogger(__name__)

SETTLE_TIMEOUT_S: Final = 10.0
"""How long a former owner's transaction may take to end once it was fenced."""

CHECKPOINT_HEADER: Final = "checkpoint"
_OFFSET: Final = struct.Struct(">q")
_SETTLE_POLL_S: Final = 0.02
_FENCED: Final = frozenset(
    (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
)


class OwnershipLostError(Exception):
    """The ownership is over: the checkpoint may or may not have been written. Take the partition over again."""


class FencedError(OwnershipLostError):
    """Another owner has taken the partition over."""


class TakeoverCancelledError(Exception):
    """The partition is no longer wanted."""


class Place(msgspec.Struct, frozen=True):
    """A partition of a processor and its changelog: the topic's name on the cluster and its id."""

    processor: str
    partition: int
    topic: str
    topic_id: str
    transactional_id: str
    delete_retention_ms: int
    folder: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.topic}/{self.partition}"


class PartitionChangelog:
    """Implements `takeover.Changelog`; afterwards `write` takes checkpoints. One thread at a time.

    `wanted` says whether the takeover is still wanted; its progress goes to `status`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        place: Place,
        reader: Reader,
        status: PartitionStatus,
        wanted: Callable[[], bool],
        settle_timeout_s: float = SETTLE_TIMEOUT_S,
    ) -> None:
        self._settings = settings
        self._place = place
        self._reader = reader
        self._status = status
        self._wanted = wanted
        self._settle_timeout_s = settle_timeout_s
        self._producer: Producer | None = None
        self._store: PartitionStore | None = None
        self._stable = 0
        self._end = 0
        self._first = self._last = -1
        self._delivery_error: KafkaError | None = None

    @property
    def store(self) -> PartitionStore:
        """What was restored, and is kept up with every checkpoint."""
        assert self._store is not None, "not yet restored"
        return self._store

    # Taking over

    def fence(self) -> None:
        """See takeover.Changelog. Raises OwnershipLostError when the cluster does not let it."""
        self._producer = Producer(
            {
                **self._settings.producer(),
                "transactional.id": self._place.transactional_id,
                "transaction.timeout.ms": self._settings.transaction_timeout_ms,
                "message.timeout.ms": 0,
                "linger.ms": 5,
                # The end of a transaction is soon there: waiting longer to look again costs more than it saves.
                "retry.backoff.ms": 1,
                "retry.backoff.max.ms": 5,
            },
            logger=LOG,
        )
        # Without a connection the first try would fail, and the next be half a second later.
        self._calling(lambda: self._started.list_topics(self._place.topic, self._timeout_s))
        self._calling(lambda: self._started.init_transactions(self._timeout_s))

    def last_stable_offset(self) -> int:
        """See takeover.Changelog. Raises HangingTransactionError, ReadError, TakeoverCancelledError."""
        topic, partition = self._place.topic, self._place.partition
        deadline_s = time.monotonic() + self._settle_timeout_s
        while True:
            self._stable = self._reader.last_stable_offset(topic, partition)
            self._end = self._reader.high_watermark(topic, partition)
            if self._stable >= self._end:
                return self._stable
            if time.monotonic() > deadline_s:
                raise HangingTransactionError(
                    f"{self._place.name}: a transaction hangs since offset {self._stable} (high watermark "
                    f"{self._end}); abort it with: kafka-transactions.sh --bootstrap-server "
                    f"{self._settings.brokers} abort --topic {topic} --partition {partition} "
                    f"--start-offset {self._stable}"
                )
            self._check_wanted()
            time.sleep(_SETTLE_POLL_S)

    def high_watermark(self) -> int:
        """See takeover.Changelog."""
        return self._end

    def restore(self) -> Committed:
        """See takeover.Changelog. Raises ReadError, StorageError, TakeoverCancelledError."""
        place, began_s = self._place, time.monotonic()
        self._store = open_store(place.folder, self._settings.block_cache_bytes, self._reason_to_wipe)
        head = self._store.head()
        begin = self._reader.start_offset(place.topic, place.partition)
        if head is not None:
            begin = max(begin, head.checkpoint_offset)
        status = self._status
        status.restored_total, status.restore_remaining = 0, max(0, self._stable - begin)
        found = _Restored(place, begin)
        if begin < self._stable:
            for batch in self._reader.read(place.topic, place.partition, begin):
                self._check_wanted()
                if batch:
                    self._store.apply(found.take(batch), self._head(found.next_offset, found.first))
                    status.restored_total += len(batch)
                    status.restore_remaining = max(0, self._stable - found.next_offset)
        self._store.apply((), self._head(max(found.next_offset, self._stable), found.first))
        status.restore_remaining, status.restore_seconds = 0, time.monotonic() - began_s
        LOG.info("%s: restored %d records", place.name, status.restored_total)
        return found.committed()

    def _reason_to_wipe(self, head: LocalHead) -> str:
        return local_store.reason_to_wipe(
            head,
            lineage=self._place.topic_id,
            committed_end=self._stable,
            now_ms=_now_ms(),
            delete_retention_ms=self._place.delete_retention_ms,
        )

    def _head(self, changelog_offset: int, checkpoint_offset: int) -> Head:
        return Head(LocalHead(self._place.topic_id, changelog_offset, _now_ms()), checkpoint_offset)

    def _check_wanted(self) -> None:
        if not self._wanted():
            raise TakeoverCancelledError(self._place.name)

    # Checkpoints

    def write(self, checkpoint: Checkpoint) -> int:
        """Commit a checkpoint and bring the local store up to it. Returns its size in bytes.

        Raises OwnershipLostError, after which only `close` may be called, and StorageError.
        """
        place, producer = self._place, self._started
        checkpoint = packing.pack(checkpoint, self.store.parts)
        changed = keys.changes(checkpoint)
        changed.append((keys.POSITION, avro.encode(checkpoint.position)))
        tag: list[tuple[str, str | bytes | None]] = [
            (CHECKPOINT_HEADER, _OFFSET.pack(checkpoint.position.offset))
        ]
        self._first = self._last = -1
        self._delivery_error = None
        self._calling(producer.begin_transaction)
        for key, value in changed:
            self._produce(place, key, value, tag)
        producer.flush(self._timeout_s)
        if self._delivery_error is not None:
            raise self._lost(self._delivery_error)
        self._calling(lambda: producer.commit_transaction(self._timeout_s))
        self.store.apply(changed, self._head(self._last + 1, self._first))
        return sum(len(key) + len(value or b"") for key, value in changed)

    def _produce(self, place: Place, key: bytes, value: bytes | None, tag: Any) -> None:
        producer = self._started
        while True:
            try:
                producer.produce(place.topic, value, key, place.partition, self._delivered, headers=tag)
                return
            except BufferError:
                producer.poll(0.1)
            except KafkaException as error:
                raise self._lost(error.args[0]) from error

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._delivery_error = self._delivery_error or error
            return
        offset = message.offset()
        assert offset is not None
        if self._first < 0:
            self._first = offset
        self._last = offset

    def close(self) -> None:
        """Let go of the transactional id and of the local store. A transaction under way is left to the next owner."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None
        if self._store is not None:
            self._store.close()

    # Calls to the cluster

    @property
    def _started(self) -> Producer:
        assert self._producer is not None, "not yet fenced"
        return self._producer

    @property
    def _timeout_s(self) -> float:
        return self._settings.transaction_timeout_ms / 1000

    def _calling(self, call: Callable[[], object]) -> None:
        """Make a transactional call, again where that is what it takes. Raises OwnershipLostError."""
        deadline_s = time.monotonic() + 2 * self._timeout_s
        while True:
            try:
                call()
                return
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if not reason.retriable() or time.monotonic() > deadline_s:
                    raise self._lost(reason) from error

    def _lost(self, error: KafkaError) -> OwnershipLostError:
        kind = FencedError if error.code() in _FENCED else OwnershipLostError
        return kind(f"{self._place.name}: {error.str()}")


class _Restored:
    """What reading a changelog has found so far: the last position and the rows that came with it."""

    def __init__(self, place: Place, begin: int) -> None:
        self.next_offset = self.first = begin
        self._place = place
        self._checkpoint: bytes | None = None
        self._rows: dict[bytes, bytes | None] = {}
        self._position: Position | None = None
        self._with_position: dict[bytes, bytes | None] = {}

    def take(self, batch: list[Message]) -> list[keys.Change]:
        """Go on with records, and return what they change. Raises TakeoverRefusedError."""
        changed: list[keys.Change] = []
        for message in batch:
            key, value, headers = message.key(), message.value(), message.headers()
            offset = message.offset()
            if key is None or offset is None or not isinstance(headers, list) or not headers:
                raise TakeoverRefusedError(f"{self._place.name}: record {offset} is not one of a checkpoint")
            checkpoint = headers[0][1]
            assert isinstance(checkpoint, bytes)
            if checkpoint != self._checkpoint:
                self._checkpoint, self._rows, self.first = checkpoint, {}, offset
            changed.append((key, value))
            if key == keys.POSITION:
                self._take_position(value or b"", offset)
            else:
                self._rows[key] = value
            self.next_offset = offset + 1
        return changed

    def _take_position(self, value: bytes, offset: int) -> None:
        try:
            self._position = avro.decode(Position, value)
        except avro.DecodeError as error:
            raise TakeoverRefusedError(f"{self._place.name}: record {offset} is damaged: {error}") from error
        self._with_position = self._rows

    def committed(self) -> Committed:
        """All that it comes to. Raises TakeoverRefusedError."""
        rows, dues = [], []
        for key, value in self._with_position.items():
            try:
                if key.startswith(keys.DUE):
                    dues.append(keys.due_row(key, value))
                else:
                    rows.append(keys.row(key, value))
            except ValueError as error:
                raise TakeoverRefusedError(f"{self._place.name}: {key!r} is damaged: {error}") from error
        return Committed(self._position, tuple(rows), tuple(dues))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
