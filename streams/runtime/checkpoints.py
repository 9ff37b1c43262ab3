"""What one checkpoint writes, and how a restore knows that it has all of it (fold.md rules 13 and 14)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import msgspec

from streams.runtime.codec import LoggedRecord
from streams.runtime.due import DueRow
from streams.runtime.partition import DeadLetter, Partition, Position
from streams.runtime.tables import Row


class Checkpoint(msgspec.Struct, frozen=True):
    """The encoded rows that changed up to a position. Written in one transaction, the position last."""

    position: Position
    rows: tuple[Row, ...]
    dues: tuple[DueRow, ...]


def cut(
    partition: Partition,
    *,
    topic_id: str,
    leader_epoch: int,
    letters: tuple[DeadLetter, ...],
    outbox: tuple[LoggedRecord, ...],
) -> Checkpoint:
    """Freeze what changed since the last cut; the fold may go on while it is written.

    Once the checkpoint is committed, `release` has to be called, and not before another is cut.
    """
    rows = tuple(row for name in sorted(partition.tables) for row in partition.tables[name].freeze())
    dues = tuple(partition.due.freeze())
    position = msgspec.structs.replace(
        partition.position(len(rows) + len(dues), checksum(rows, dues)),
        topic_id=topic_id,
        leader_epoch=leader_epoch,
        letters=letters,
        outbox=outbox,
    )
    return Checkpoint(position, rows, dues)


def release(partition: Partition) -> None:
    """The checkpoint cut last is committed: what it holds may leave memory."""
    for table in partition.tables.values():
        table.written()
    partition.due.written()


def checksum(rows: Iterable[Row], dues: Iterable[DueRow]) -> int:
    """A checksum of rows that does not depend on their order, which a changelog's reader need not know."""
    total = 0
    for table, key, kind, id, value in rows:
        name = "\x00".join(("row", table, key, kind, id, "-" if value is None else "+")).encode()
        total += zlib.crc32(value or b"", zlib.crc32(name))
    for key, due_ms, payload in dues:
        total += zlib.crc32(f"due\x00{key}\x00{due_ms}\x00{payload}".encode())
    return total & 0x7FFF_FFFF_FFFF_FFFF
