"""What a changelog says, read in order: what is to be written to a local store, and the last checkpoint in it."""

from __future__ import annotations

import itertools
from collections.abc import Container
from typing import Final

from confluent_kafka import Message

from streams import avro
from streams.kafka import keys
from streams.runtime.partition import Position
from streams.runtime.takeover import Committed, TakeoverRefusedError

CHECKPOINT_HEADER: Final = "checkpoint"
"""The header of every record of a checkpoint, which says which one that is."""


class Restored:
    """What reading a changelog from `begin` on has found so far: the last position and the rows that came with it.

    `name` is the changelog's partition, for people; records at offsets in `passable` that are of no checkpoint are left
    out. `next_offset` is behind what was read, `first` where the checkpoint begins that was read last.
    """

    def __init__(self, name: str, begin: int, passable: Container[int] = ()) -> None:
        self.next_offset = self.first = begin
        self._name = name
        self._passable = passable
        self._checkpoint: bytes | None = None
        self._rows: dict[bytes, bytes | None] = {}
        self._position: Position | None = None
        self._with_position: dict[bytes, bytes | None] = {}

    def take(self, batch: list[Message]) -> list[keys.Change]:
        """Go on with records, and return what they change. Raises TakeoverRefusedError."""
        changed: list[keys.Change] = []
        for headers, group in itertools.groupby(batch, Message.headers):
            changed += self._take_together(_checkpoint_of(headers), list(group))
        return changed

    def _take_together(self, checkpoint: bytes | None, batch: list[Message]) -> list[keys.Change]:
        """Records that follow each other with the same headers: all or a part of a checkpoint, or of none."""
        changed: list[keys.Change] = []
        if checkpoint is not None:
            changed = [(key, message.value()) for message in batch if (key := message.key()) is not None]
        if len(changed) < len(batch):
            self._check_foreign(batch if checkpoint is None else [m for m in batch if m.key() is None])
        if changed:
            if checkpoint != self._checkpoint:
                self._checkpoint, self._rows, self.first = checkpoint, {}, _offset(batch[0])
            self._rows.update(changed)
            if keys.POSITION in self._rows:
                self._take_position(self._rows.pop(keys.POSITION) or b"", _offset(batch[-1]))
        self.next_offset = _offset(batch[-1]) + 1
        return changed

    def _check_foreign(self, batch: list[Message]) -> None:
        """Refuse records that are of no checkpoint, but for those to be left out. Raises TakeoverRefusedError."""
        for offset in map(_offset, batch):
            if offset not in self._passable:
                raise self._refusal(offset, "is not one of a checkpoint: somebody else wrote it")

    def _take_position(self, value: bytes, offset: int) -> None:
        try:
            self._position = avro.decode(Position, value)
        except avro.DecodeError as error:
            raise TakeoverRefusedError(
                f"{self._name}: record {offset} is damaged: {error}. Bring the changelog back from a backup"
            ) from error
        self._with_position = self._rows

    @property
    def position(self) -> Position | None:
        """The last position read."""
        return self._position

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
                raise TakeoverRefusedError(
                    f"{self._name}: {key!r} is damaged: {error}. Bring the changelog back from a backup"
                ) from error
        return Committed(self._position, tuple(rows), tuple(dues))

    def _refusal(self, offset: int, what: str) -> TakeoverRefusedError:
        return TakeoverRefusedError(
            f"{self._name}: record {offset} {what}. Where compaction may have put it in place of a row, bring the "
            f"changelog back from a backup; else have it left out, with {self._name}@{offset} in the setting "
            "`kafka.pass_over`"
        )


def _checkpoint_of(headers: object) -> bytes | None:
    """Which checkpoint a record with these headers is of, None for none."""
    if isinstance(headers, list) and headers and headers[0][0] == CHECKPOINT_HEADER:
        content = headers[0][1]
        return content if isinstance(content, bytes) else None
    return None


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset
