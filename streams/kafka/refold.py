"""A partition's whole log folded again from its first record: what its owners have to have kept, and sent.

Owners fold, write checkpoints and give way to each other; what comes of it is a function of the log alone. Here the
same code folds the log once, in one go, and what the changelog restores to is laid beside that, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from confluent_kafka import Message

from streams import avro
from streams.kafka import keys, packing, wire
from streams.kafka.admin import Cluster, FoundTopic
from streams.kafka.changelog import PartitionChangelog, Place
from streams.kafka.log import Reader
from streams.kafka.member import ROLES
from streams.kafka.names import Names
from streams.kafka.partitions import Partitions
from streams.kafka.rocks import Head, PartitionStore
from streams.kafka.settings import KafkaSettings
from streams.kafka.status import PartitionStatus
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.local_store import LocalHead
from streams.runtime.owner import Owner
from streams.runtime.partition import Partition, Position
from streams.runtime.records import Record
from streams.runtime.takeover import check_rows

CHECKPOINT_RECORDS: Final = 5_000
"""Records folded between checkpoints of the refold, which bound its memory."""

Emitted = Callable[[Record], None]
"""Takes what a fold emits, in order."""


class RefoldError(Exception):
    """The log cannot be folded from its beginning; the message says why."""


class Refolder:
    """Folds partitions again, one at a time, in stores below `folder`. Belongs to one thread.

    Raises ClusterError when topics are not as the settings say.
    """

    def __init__(self, settings: KafkaSettings, folder: Path) -> None:
        self.codec = Codec(BODY_TYPES)
        self._settings = settings
        self._folder = folder
        self._names = Names(settings.prefix)
        cluster = Cluster(settings)
        self.topics: Mapping[str, FoundTopic] = cluster.check()
        self._partitions = Partitions({name: topic.partitions for name, topic in self.topics.items()})
        inputs = [self.topics[ROLES[role]().input_topic].topic for role in ROLES]
        self.reader = Reader(
            settings,
            self._names.group("refold"),
            cluster.client,
            [*inputs, *(self._names.changelog(role) for role in ROLES)],
        )

    def restored(self, role: str, number: int) -> PartitionStore:
        """What the changelog of a partition restores to: the last checkpoint. Nobody is fenced.

        Raises HangingTransactionError, TakeoverRefusedError, ReadError, StorageError.
        """
        topic = self.topics[f"{role}-changelog"]
        place = Place(
            processor=role,
            partition=number,
            topic=topic.topic,
            topic_id=topic.id,
            transactional_id="",
            delete_retention_ms=0,
            folder=self._folder / f"{role}-{number}" / "changelog",
        )
        changelog = PartitionChangelog(
            self._settings, place, self.reader, PartitionStatus(role, number), lambda: True
        )
        changelog.last_stable_offset()
        check_rows(place.name, changelog.restore())
        return changelog.store

    def local(self, state_directory: Path, role: str, number: int) -> Iterator[PartitionStore]:
        """The local stores of a partition in a member's directory; the member may not run. Raises StorageError."""
        folder = state_directory / self._settings.prefix / f"{role}-{number}"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield PartitionStore(path, self._settings.block_cache_bytes)

    def source(self, role: str, number: int) -> str:
        """What emissions of a partition name as their source."""
        name = ROLES[role]().input_topic
        return f"{name}/{number}@{self.topics[name].id}"

    def refolded(self, role: str, number: int, until: int, emitted: Emitted) -> PartitionStore:
        """What folding a partition up to the offset `until` gives. `emitted` gets all that the fold sends.

        Raises RefoldError, ReadError, StorageError, PartitionHaltedError and UnsupportedLogicError.
        """
        processor = ROLES[role]()
        topic = self.topics[processor.input_topic]
        start = self.reader.start_offset(topic.topic, number)
        if start > 0 and until >= 0:
            raise RefoldError(
                f"{topic.topic}/{number} begins at offset {start}: its owners have deleted what came before, which "
                "only kafka.delete_records=false from the beginning prevents"
            )
        store = PartitionStore(self._folder / f"{role}-{number}" / "refold", self._settings.block_cache_bytes)
        partition = Partition(
            processor,
            number,
            store,
            store,
            self._partitions.of,
            self._partitions.count,
            self._settings.cache_parts,
            source=self.source(role, number),
        )
        fold = _Fold(Owner(partition, topic.id, self.codec), store, emitted)
        for message in self._messages(topic.topic, number, until):
            record = wire.record_of(self.codec, processor.input_topic, message)
            fold.take(record, message.leader_epoch() or 0)
        fold.checkpoint()
        return store

    def _messages(self, topic: str, number: int, until: int) -> Iterator[Message]:
        """The records of a partition from the first to the one at `until`."""
        if until < 0:
            return
        for batch in self.reader.read(topic, number, 0):
            for message in batch:
                offset = message.offset()
                assert offset is not None
                if offset <= until:
                    yield message
                if offset >= until:
                    return
        raise RefoldError(f"{topic}/{number} ends before offset {until}, which its checkpoint is at")

    def close(self) -> None:
        """Leave."""
        self.reader.close()


class _Fold:
    """One owner without anybody to wait for: what it sends arrives, what it writes is committed."""

    def __init__(self, owner: Owner, store: PartitionStore, emitted: Emitted) -> None:
        self._owner = owner
        self._store = store
        self._emitted = emitted
        self._folded = 0

    def take(self, record: Record, leader_epoch: int) -> None:
        """Fold a record."""
        self._owner.fold(record, leader_epoch)
        if self._owner.leaving is not None:
            raise self._owner.leaving
        self._send()
        self._folded += 1
        if self._owner.must_checkpoint or self._folded >= CHECKPOINT_RECORDS:
            self.checkpoint()

    def _send(self) -> None:
        owner = self._owner
        while owner.emissions:
            record = owner.emissions.popleft()
            self._emitted(record)
            owner.acknowledge(record.origin_offset)
        while owner.replies:
            owner.acknowledge(owner.replies.popleft()[0])
        while owner.letters:
            owner.letter_acknowledged(owner.letters.popleft())
        owner.warnings.clear()

    def checkpoint(self) -> None:
        """Write what has changed."""
        self._folded = 0
        owner = self._owner
        if not owner.cut():
            return
        cut = owner.writable()
        assert cut is not None, "everything was acknowledged"
        packed = packing.pack(cut, self._store.parts)
        changed = [*keys.changes(packed), (keys.POSITION, avro.encode(packed.position))]
        self._store.apply(changed, Head(LocalHead("", 0, 0), 0))
        owner.written()
        self._send()


def differences(kept: PartitionStore, wanted: PartitionStore) -> Iterator[str]:
    """What a store of checkpoints has otherwise than another one, byte for byte: a sentence for each row.

    Positions are compared but for what depends on how the log was cut into checkpoints: rows written with the last
    one, and dead letters that it says may not have left yet.
    """
    if (position := _position(kept)) != (refolded := _position(wanted)):
        yield f"the position is {position}, and has to be {refolded}"
    left, right = kept.rows(), wanted.rows()
    have, want = next(left, None), next(right, None)
    while have is not None or want is not None:
        if want is None or (have is not None and have[0] < want[0]):
            assert have is not None
            yield f"{_name(have[0])} is there and has not to be"
            have = next(left, None)
        elif have is None or want[0] < have[0]:
            yield f"{_name(want[0])} is missing"
            want = next(right, None)
        else:
            if have[1] != want[1]:
                yield f"{_name(have[0])} is {have[1]!r}, and has to be {want[1]!r}"
            have, want = next(left, None), next(right, None)


def _position(store: PartitionStore) -> Position | None:
    position = store.position()
    if position is None:
        return None
    return msgspec.structs.replace(position, row_count=0, checksum=0, letters=())


def _name(key: bytes) -> str:
    return " ".join(("due row" if key.startswith(keys.DUE) else "row", *map(repr, keys.parts(key))))
