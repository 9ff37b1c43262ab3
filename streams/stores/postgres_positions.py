"""How far topics were written into PostgreSQL, in the transactions that wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from streams import avro
from streams.runtime.partition import Position
from streams.stores.damage import StoreDamagedError

_SELECT: Final = sa.text("SELECT partition, position FROM positions WHERE topic = :topic")
_MOVE: Final = sa.text(
    "INSERT INTO positions (topic, partition, log_offset, now_ms, position)"
    " VALUES (:topic, :partition, :log_offset, :now_ms, :position)"
    " ON CONFLICT (topic, partition) DO UPDATE SET"
    " log_offset = excluded.log_offset, now_ms = excluded.now_ms, position = excluded.position"
    " WHERE (excluded.log_offset, excluded.now_ms) > (positions.log_offset, positions.now_ms)"
)


def read_positions(connection: Connection, topic: str) -> dict[int, Position]:
    """The position of each partition of a topic that has one. Raises StoreDamagedError."""
    try:
        return {
            partition: avro.decode(Position, data)
            for partition, data in connection.execute(_SELECT, {"topic": topic})
        }
    except avro.DecodeError as error:
        raise StoreDamagedError(f"a position of {topic} in PostgreSQL is damaged: {error}") from error


def move_positions(tx: Connection, topic: str, positions: Mapping[int, Position]) -> None:
    """Move partitions of a topic on, in the transaction of what was written of them; never back."""
    for partition in sorted(positions):
        position = positions[partition]
        tx.execute(
            _MOVE,
            {
                "topic": topic,
                "partition": partition,
                "log_offset": position.offset,
                "now_ms": position.now_ms,
                "position": avro.encode(position),
            },
        )
