"""How a partition gets its next owner: fence, wait, restore, verify, fold on (fold.md rules 3, 15 and 16)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from streams.runtime import checkpoints
from streams.runtime.codec import Codec
from streams.runtime.due import DueRow
from streams.runtime.owner import Owner
from streams.runtime.partition import Partition, Position
from streams.runtime.records import Record
from streams.runtime.tables import Row


class TakeoverRefusedError(Exception):
    """What was found does not fit together: the message says what, and an operator has to decide."""


class HangingTransactionError(TakeoverRefusedError):
    """A transaction that nobody can end any more hides what was committed after it began."""


class Log(Protocol):
    """The input partition. `end` is the offset its next record gets, `start` that of its first one left."""

    topic_id: str
    start: int
    end: int

    def leader_epoch(self, offset: int) -> int:
        """The leader epoch that the record at `offset` was appended in."""

    def read(self, offset: int) -> Record:
        """The record at `offset`."""


class Committed(msgspec.Struct, frozen=True):
    """What restoring a changelog found: the last position, and the rows that came with it, as read."""

    position: Position | None
    rows: tuple[Row, ...]
    dues: tuple[DueRow, ...]


class Changelog(Protocol):
    """The changelog of one partition's tables, written in transactions under one transactional id."""

    def fence(self) -> None:
        """Initialise the transactional id: transactions of former owners end, and they can begin no more."""

    def last_stable_offset(self) -> int:
        """The offset below which every transaction has ended."""

    def high_watermark(self) -> int:
        """The offset below which everything is replicated."""

    def restore(self) -> Committed:
        """Bring the local store up to what is committed."""


def take_over(
    name: str, changelog: Changelog, log: Log, codec: Codec, partition: Callable[[], Partition]
) -> Owner:
    """The owner of partition `name` from now on; `partition` builds its fold over the restored store.

    Fold on from `Owner.partition.offset + 1`. Raises TakeoverRefusedError, and UnsupportedLogicError when this
    member has to leave the partition to one of another release.
    """
    changelog.fence()
    stable, end = changelog.last_stable_offset(), changelog.high_watermark()
    if stable < end:
        raise HangingTransactionError(
            f"{name}: a transaction on its changelog has hung since offset {stable} (high watermark {end}); "
            f"abort it with: kafka-transactions.sh abort --start-offset {stable}"
        )
    committed = changelog.restore()
    check_rows(name, committed)
    check_log(name, committed.position, log)
    owner = Owner(partition(), log.topic_id, codec)
    position = committed.position
    if position is not None:
        owner.resume(position, [log.read(offset) for offset in position.parked])
    return owner


def check_rows(name: str, committed: Committed) -> None:
    """Refuse a torn checkpoint. Raises TakeoverRefusedError."""
    position = committed.position
    if position is None:
        return
    count = len(committed.rows) + len(committed.dues)
    found = checkpoints.checksum(committed.rows, committed.dues)
    if count != position.row_count or found != position.checksum:
        raise TakeoverRefusedError(
            f"{name}: the checkpoint at offset {position.offset} is torn: "
            f"it was written with {position.row_count} rows, {count} were found. Bring the changelog back from a backup"
        )


def check_log(name: str, position: Position | None, log: Log) -> None:
    """Refuse a log that is not the one the checkpoint was taken of. Raises TakeoverRefusedError."""
    if position is None:
        if log.start > 0:
            raise TakeoverRefusedError(
                f"{name}: no checkpoint, but the log begins at offset {log.start}: the changelog was lost, and what it "
                "stood for cannot be folded again. Bring the changelog back from a backup"
            )
        return
    offset = position.offset
    if position.topic_id != log.topic_id:
        raise TakeoverRefusedError(
            f"{name}: the checkpoint is of topic {position.topic_id}, the log is topic {log.topic_id}: it was made "
            "anew. Bring the former one back with its records; or, if they are lost for good, begin anew under another "
            "prefix, with empty stores"
        )
    first = min((offset + 1, *position.parked))
    if first < log.start:
        raise TakeoverRefusedError(
            f"{name}: records {first} to {log.start - 1} are gone from the log; the checkpoint is at {offset}. "
            "Bring them back with a backup of the log: what they asked for was accepted and is not in the tables"
        )
    if offset >= log.end:
        raise TakeoverRefusedError(
            f"{name}: the checkpoint is at offset {offset}, beyond the end of the log at {log.end}: the log was cut "
            f"off. Bring back a replica or a backup that has record {offset}"
        )
    if offset >= log.start and log.leader_epoch(offset) != position.leader_epoch:
        raise TakeoverRefusedError(
            f"{name}: record {offset} was of leader epoch {position.leader_epoch}, the log has it in "
            f"{log.leader_epoch(offset)}: the log was cut off and went on otherwise. Bring back a replica or a backup "
            "in which it is as it was"
        )
