"""Events of one run packed into one blob that is itself valid wire format.

A blob is the concatenation of the entries of ``temporal.api.history.v1.History.events``: for each event
the tag of field 1, its length and its bytes. Concatenated blobs are a valid ``History`` message, so that a
response can be spliced from stored batches without decoding one event.
"""

from collections.abc import Iterable

EVENTS_FIELD_TAG = 0x0A
"""Field 1, wire type 2 (length-delimited)."""

_MAX_VARINT_BYTES = 10
_ONE_BYTE_HEADERS = tuple(bytes((EVENTS_FIELD_TAG, size)) for size in range(0x80))


def _header(size: int) -> bytes:
    if size < 0x80:
        return _ONE_BYTE_HEADERS[size]
    if size < 0x4000:
        return bytes((EVENTS_FIELD_TAG, size & 0x7F | 0x80, size >> 7))
    header = bytearray((EVENTS_FIELD_TAG,))
    while size >= 0x80:
        header.append(size & 0x7F | 0x80)
        size >>= 7
    header.append(size)
    return bytes(header)


def join_events(events: Iterable[bytes]) -> bytes:
    """Pack encoded events, in order, into a blob that parses as a ``History`` message."""
    parts: list[bytes] = []
    for event in events:
        parts.append(_header(len(event)))
        parts.append(event)
    return b"".join(parts)


def split_events(blob: bytes) -> list[bytes]:
    """Unpack a blob made by `join_events`.

    Raises `ValueError` when the blob is not a sequence of length-delimited entries of field 1.
    """
    events: list[bytes] = []
    at = 0
    end = len(blob)
    while at < end:
        if blob[at] != EVENTS_FIELD_TAG:
            raise ValueError(f"event blob: unexpected tag {blob[at]:#x} at byte {at}")
        size, start = _read_varint(blob, at + 1)
        at = start + size
        if at > end:
            raise ValueError(f"event blob: entry at byte {start} needs {size} bytes, {end - start} are left")
        events.append(blob[start:at])
    return events


def _read_varint(blob: bytes, at: int) -> tuple[int, int]:
    size = shift = 0
    for index in range(at, min(at + _MAX_VARINT_BYTES, len(blob))):
        byte = blob[index]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return size, index + 1
        shift += 7
    raise ValueError(f"event blob: broken length at byte {at}")
