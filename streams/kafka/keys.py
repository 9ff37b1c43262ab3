"""Keys of what a partition keeps, the same in its changelog and in its local store, and the values of due rows.

A key is a letter and parts of text, each with an end that no text contains, so that keys are in the order of their
parts and all rows of an entity share a prefix that no other row has.
"""

from __future__ import annotations

import struct
from typing import Final

from streams.runtime.checkpoints import Checkpoint
from streams.runtime.due import DueRow
from streams.runtime.tables import Row

ROW: Final = b"r"
DUE: Final = b"d"
POSITION: Final = b"p"
"""The whole key of the position."""

_ZERO, _ESCAPED, _END = b"\0", b"\0\xff", b"\0\1"
_DUE_VALUE: Final = struct.Struct(">qq")

Change = tuple[bytes, bytes | None]
"""A key and its new value, None for a deletion."""


def part(text: str) -> bytes:
    """A part of a key."""
    return open_part(text) + _END


def open_part(text: str) -> bytes:
    """How all parts begin that begin with `text`."""
    data = text.encode()
    return data.replace(_ZERO, _ESCAPED) if _ZERO in data else data


def parts(key: bytes) -> list[str]:
    """The parts of a key, without its letter."""
    body = key[1 : -len(_END)]
    if _ESCAPED not in body:
        return body.decode().split("\0\1")
    return [piece.replace(_ESCAPED, _ZERO).decode() for piece in body.split(_END)]


def entity_prefix(table: str, key: str) -> bytes:
    """What the keys of all rows of an entity begin with."""
    return ROW + part(table) + part(key)


def behind(prefix: bytes) -> bytes:
    """What is greater than every key with a prefix that ends a part, and not than any other that is."""
    return prefix[:-1] + b"\2"


def row_key(table: str, key: str, kind: str, id: str) -> bytes:
    """The key of a row."""
    return b"".join((ROW, part(table), part(key), part(kind), part(id)))


def due_key(key: str) -> bytes:
    """The key of a due row."""
    return DUE + part(key)


def due_value(due_ms: int, payload: int) -> bytes:
    """The value of a due row."""
    return _DUE_VALUE.pack(due_ms, payload)


def due_entry(value: bytes) -> tuple[int, int]:
    """(due_ms, payload) of such a value. Raises ValueError."""
    try:
        due_ms, payload = _DUE_VALUE.unpack(value)
    except struct.error as error:
        raise ValueError(f"not a due row: {error}") from error
    return due_ms, payload


def changes(checkpoint: Checkpoint) -> list[Change]:
    """What a checkpoint changes, without its position."""
    found: list[Change] = [(row_key(t, k, kind, id), value) for t, k, kind, id, value in checkpoint.rows]
    found.extend(
        (due_key(key), None if due_ms is None else due_value(due_ms, payload))
        for key, due_ms, payload in checkpoint.dues
    )
    return found


def row(key: bytes, value: bytes | None) -> Row:
    """The row of a change. Raises ValueError."""
    table, entity, kind, id = parts(key)
    return table, entity, kind, id, value


def due_row(key: bytes, value: bytes | None) -> DueRow:
    """The due row of a change. Raises ValueError."""
    (entity,) = parts(key)
    return (entity, None, 0) if value is None else (entity, *due_entry(value))
