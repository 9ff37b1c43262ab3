"""Small entities as one row: a changelog with one record for each, a store that finds each with one look.

An entity has a packed row, of kind and id "": all its parts while they are few and small, else empty, with a row for
each part beside it. So no row grows without bound, and a workflow that has ended costs one record, not one a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from streams.runtime import checkpoints
from streams.runtime.checkpoints import Checkpoint
from streams.runtime.tables import Row

PACK_BYTES: Final = 4096
"""What the values of an entity may amount to in one row."""

PACK_PARTS: Final = 32
"""How many parts an entity may have in one row."""

PACKED: Final = ""
"""The kind and the id of a packed row."""

APART: Final = b""
"""The value of the packed row of an entity that has its parts in rows of their own."""

Part = tuple[str, str, bytes]
Parts = dict[tuple[str, str], bytes]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Part]).decode


def pack(checkpoint: Checkpoint, load: Callable[[str, str], tuple[Parts, bool]]) -> Checkpoint:
    """The checkpoint with the rows that are to be written, which its position counts.

    `load(table, key)` gives the parts that an entity had before, and whether they were in rows of their own.
    """
    changed: dict[tuple[str, str], dict[tuple[str, str], bytes | None]] = {}
    for table, key, kind, id, value in checkpoint.rows:
        changed.setdefault((table, key), {})[kind, id] = value
    rows: list[Row] = []
    for (table, key), changes in changed.items():
        before, apart = load(table, key)
        rows.extend((table, key, *row) for row in _rows(before, apart, changes))
    position = msgspec.structs.replace(
        checkpoint.position,
        row_count=len(rows) + len(checkpoint.dues),
        checksum=checkpoints.checksum(rows, checkpoint.dues),
    )
    return Checkpoint(position, tuple(rows), checkpoint.dues)


def _rows(
    before: Parts, apart: bool, changes: Mapping[tuple[str, str], bytes | None]
) -> Iterable[tuple[str, str, bytes | None]]:
    """What is to be written of one entity: kind, id and value of each row."""
    after = dict(before)
    for slot, value in changes.items():
        if value is None:
            after.pop(slot, None)
        else:
            after[slot] = value
    if len(after) <= PACK_PARTS and sum(map(len, after.values())) <= PACK_BYTES:
        yield PACKED, PACKED, packed(after) if after else None
        if apart:
            yield from ((kind, id, None) for kind, id in before)
        return
    if apart:
        yield from ((kind, id, value) for (kind, id), value in changes.items())
        return
    yield PACKED, PACKED, APART
    yield from ((kind, id, value) for (kind, id), value in after.items())


def packed(parts: Parts) -> bytes:
    """The value of a packed row."""
    return _encode([(kind, id, parts[kind, id]) for kind, id in sorted(parts)])


def unpacked(value: bytes) -> list[Part]:
    """The parts in a packed row, in order of (kind, id). Raises ValueError."""
    return _decode(value)
