"""Protobuf made of parts that are encoded already.

Encodings of one message written one after another decode as their merge: repeated fields follow one another,
of a singular field the last occurrence holds, and occurrences of a sub-message merge in turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_EVENT_TAG: Final = b"\x0a"  # History.events = 1


def varint(number: int) -> bytes:
    """A non-negative integer as a base 128 varint."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field: a message, string or bytes."""
    return b"".join((varint(number << 3 | 2), varint(len(content)), content))


def history(number: int, events: Iterable[bytes]) -> bytes:
    """A field that holds a History of encoded events."""
    parts: list[bytes] = []
    for event in events:
        parts += (_EVENT_TAG, varint(len(event)), event)
    return field(number, b"".join(parts))
