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
from streams.kafka.admin import FoundTopic
from streams.kafka.log import Reader
from streams.kafka.names import Names
from streams.kafka.restoring import CHECKPOINT_HEADER, Restored
from streams.kafka.rocks import Head, PartitionStore, open_store, reason_against
from streams.kafka.settings import KafkaSettings
from streams.kafka.status import PartitionStatus
from streams.kafka.topics import wanted_topic
from streams.runtime import local_store
from streams.runtime.checkpoints import Checkpoint
from streams.runtime.local_store import LocalHead
from streams.runtime.takeover import Committed, HangingTransactionError, TakeoverRefusedError

LOG = logging.getLogger(__name__)

SETTLE_TIMEOUT_S: Final = 10.0
"""How long a former owner's transaction may take to end once it was fenced."""

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

    def begin(self, head: Head | None, start: int) -> int:
        """Where to read on for a store with this head, in a changelog that begins at `start`.

        Raises TakeoverRefusedError where rows are gone that the store has not.
        """
        wanted = 0 if head is None else head.checkpoint_offset
        if wanted < start:
            raise TakeoverRefusedError(
                f"{self.name} begins at {start}: records were deleted from it, where only compaction may take any. "
                "Bring it back from a backup; or have its last owner take it over, whose local store has them"
            )
        if start > 0:
            LOG.error("%s begins at %d: what is missing is in %s alone", self.name, start, self.folder)
        return wanted

    def reason_to_wipe(self, head: LocalHead, committed_end: int) -> str:
        """Why a store on this machine may not be used, empty when it may. See `local_store.reason_to_wipe`."""
        return local_store.reason_to_wipe(
            head,
            lineage=self.topic_id,
            committed_end=committed_end,
            now_ms=_now_ms(),
            delete_retention_ms=self.delete_retention_ms,
        )


def place_of(settings: KafkaSettings, processor: str, partition: int, changelog: FoundTopic) -> Place:
    """The place of a processor's partition, whose changelog is the topic found."""
    return Place(
        processor=processor,
        partition=partition,
        topic=changelog.topic,
        topic_id=changelog.id,
        transactional_id=Names(settings.prefix).transactional_id(processor, partition),
        delete_retention_ms=int(
            wanted_topic(settings, f"{processor}-changelog").configs["delete.retention.ms"]
        ),
        folder=settings.state_directory / settings.prefix / f"{processor}-{partition}",
    )


class PartitionChangelog:
    """Implements `takeover.Changelog`; afterwards `write` takes checkpoints. One thread at a time.

    `wanted` says whether the takeover is still wanted; its progress goes to `status`. `standby` is a store that was
    kept up to now while another member was the owner: it is this one's from here on.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        place: Place,
        reader: Reader,
        status: PartitionStatus,
        wanted: Callable[[], bool],
        settle_timeout_s: float = SETTLE_TIMEOUT_S,
        standby: PartitionStore | None = None,
    ) -> None:
        self._settings = settings
        self._place = place
        self._reader = reader
        self._status = status
        self._wanted = wanted
        self._settle_timeout_s = settle_timeout_s
        self._producer: Producer | None = None
        self._store = standby
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
        # Who does not know the brokers yet asks for the coordinator in vain, and again half a second later; to list one
        # topic is over before they are known (measured: 24 of 42 were late, of those who listed all none).
        self._calling(lambda: self._started.list_topics(timeout=self._timeout_s))
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
        place, began_s, began_ms = self._place, time.monotonic(), _now_ms()
        store = self._store = self._usable_store()
        head = store.head()
        begin = place.begin(head, self._reader.start_offset(place.topic, place.partition))
        since_ms = began_ms if head is None else head.local.time_ms
        status = self._status
        status.restored_total, status.restore_remaining = 0, max(0, self._stable - begin)
        found = Restored(place.name, begin, self._settings.passed_over(place.topic, place.partition))
        if begin < self._stable:
            for batch in self._reader.read(place.topic, place.partition, begin):
                self._check_wanted()
                if batch:
                    changed = found.take(batch)
                    head = self._head(found.next_offset, found.first, since_ms)
                    store.apply(changed, head, logged=False)
                    status.restored_total += len(batch)
                    status.restore_remaining = max(0, self._stable - found.next_offset)
        store.flush()
        store.apply((), self._head(max(found.next_offset, self._stable), found.first, began_ms))
        status.restore_remaining, status.restore_seconds = 0, time.monotonic() - began_s
        LOG.info("%s: restored %d records", place.name, status.restored_total)
        return found.committed()

    def _usable_store(self) -> PartitionStore:
        """The store that was kept up for this takeover, else the best there is on disk."""
        standby, self._store = self._store, None
        if standby is not None:
            reason = reason_against(standby, self._reason_to_wipe)
            if not reason:
                return standby
            LOG.info("the local store %s is wiped: %s", standby.path, reason)
            standby.wipe()
        return open_store(self._place.folder, self._settings.block_cache_bytes, self._reason_to_wipe)

    def _reason_to_wipe(self, head: LocalHead) -> str:
        return self._place.reason_to_wipe(head, self._stable)

    def _head(self, changelog_offset: int, checkpoint_offset: int, time_ms: int) -> Head:
        """What the store is to say of itself: it misses no deletion that the changelog has had since `time_ms`."""
        return Head(LocalHead(self._place.topic_id, changelog_offset, time_ms), checkpoint_offset)

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
        self.store.apply(changed, self._head(self._last + 1, self._first, _now_ms()))
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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
