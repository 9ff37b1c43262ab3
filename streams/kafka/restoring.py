"""What a changelog says, read in order: what is to be written to a local store, and the last checkpoint in it."""

from __future__ import annotations

from confluent_kafka import Message

from streams import avro
from streams.kafka import keys
from streams.runtime.partition import Position
from streams.runtime.takeover import Committed, TakeoverRefusedError


class Restored:
    """What reading a changelog from `begin` on has found so far: the last position and the rows that came with it.

    `name` is the changelog's partition, for people. `next_offset` is behind what was read, `first` where the
    checkpoint begins that was read last.
    """

    def __init__(self, name: str, begin: int) -> None:
        self.next_offset = self.first = begin
        self._name = name
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
                raise TakeoverRefusedError(f"{self._name}: record {offset} is not one of a checkpoint")
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
            raise TakeoverRefusedError(f"{self._name}: record {offset} is damaged: {error}") from error
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
                raise TakeoverRefusedError(f"{self._name}: {key!r} is damaged: {error}") from error
        return Committed(self._position, tuple(rows), tuple(dues))
