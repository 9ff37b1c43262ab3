"""Where a partition's last checkpoint is, from the end of its changelog alone."""

from __future__ import annotations

from typing import Final

from streams import avro
from streams.kafka import keys
from streams.kafka.log import Reader
from streams.runtime.partition import Position

_TAIL: Final = 64
"""How much of the changelog's end is read first: a position is the last record of its checkpoint."""


def last_position(reader: Reader, topic: str, partition: int) -> Position | None:
    """The position of the last checkpoint in a changelog, by its name on the cluster. Blocks.

    Raises ReadError, DecodeError.
    """
    start, stable = reader.start_offset(topic, partition), reader.last_stable_offset(topic, partition)
    span = _TAIL
    while True:
        begin = max(start, stable - span)
        value: bytes | None = None
        if begin < stable:
            for batch in reader.read(topic, partition, begin):
                value = next((m.value() for m in reversed(batch) if m.key() == keys.POSITION), value)
        if value is not None:
            return avro.decode(Position, value)
        if begin == start:
            return None
        span *= 16
