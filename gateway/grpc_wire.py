"""gRPC on the wire: messages, deadlines and statuses, as bytes and HTTP headers.

Source: "gRPC over HTTP2" (PROTOCOL-HTTP2.md), "Compression" and "Status codes" of the gRPC documentation. Errors
are in the words of grpc-go, which the real server and its clients are built with.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from gateway import errors
from gateway.errors import ApiError

CONTENT_TYPE: Final = b"application/grpc"
PREFIX_BYTES: Final = 5
"""What stands before a message: whether it is compressed, and its length."""

ACCEPTED_ENCODINGS: Final = b"identity,deflate,gzip"
_WINDOW_BITS: Final[Mapping[bytes, int]] = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_UNIT_S: Final[Mapping[bytes, float]] = {
    b"H": 3600.0,
    b"M": 60.0,
    b"S": 1.0,
    b"m": 1e-3,
    b"u": 1e-6,
    b"n": 1e-9,
}
_TIMEOUT_DIGITS: Final = 8
_OUTER_SPACES: Final = re.compile(r"^ +| +$")
_UNESCAPED: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def is_content_type(value: bytes) -> bool:
    """Whether a request is of gRPC by its content type: not of gRPC-Web, which frames its trailers."""
    rest = value[len(CONTENT_TYPE) :]
    return value[: len(CONTENT_TYPE)].lower() == CONTENT_TYPE and (not rest or rest[:1] in (b"+", b";"))


def frame(message: bytes) -> bytes:
    """A message as it is sent, never compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def timeout_s(value: bytes) -> float:
    """The seconds that a `grpc-timeout` header gives. Raises ApiError for what is none."""
    amount, unit = value[:-1], _UNIT_S.get(value[-1:])
    if unit is None or not amount.isdigit() or len(amount) > _TIMEOUT_DIGITS:
        raise ApiError(errors.INTERNAL, "malformed grpc-timeout")
    return int(amount) * unit


def length_of(data: bytes | bytearray, limit_bytes: int) -> int:
    """The length of the message that `data` begins with. Raises ApiError above the limit."""
    length = int.from_bytes(data[1:PREFIX_BYTES], "big")
    if length > limit_bytes:
        raise _too_large(f"message larger than max ({length} vs. {limit_bytes})")
    return length


def unpack(compressed: int, payload: bytes, encoding: bytes, limit_bytes: int) -> bytes:
    """A message, decompressed if `compressed` says so. Raises ApiError for what it cannot be."""
    if not compressed:
        return payload
    if compressed != 1:
        raise ApiError(errors.INTERNAL, "A message has a flag that gRPC does not know.")
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise ApiError(errors.INTERNAL, "A message is compressed, with no grpc-encoding that says how.")
    unzip = zlib.decompressobj(bits)
    try:
        message = unzip.decompress(payload, limit_bytes + 1)
    except zlib.error:
        message = b""
    if len(message) > limit_bytes:
        raise _too_large(f"message after decompression larger than max {limit_bytes}")
    if not unzip.eof:
        raise ApiError(errors.INTERNAL, "A message could not be decompressed.")
    return message


def check_encoding(encoding: bytes) -> None:
    """Raise ApiError for a `grpc-encoding` that is not supported."""
    if encoding != b"identity" and encoding not in _WINDOW_BITS:
        name = encoding.decode("latin-1")[:100]
        raise errors.unimplemented(f'grpc: Decompressor is not installed for grpc-encoding "{name}"')


def trailers(code: int, message: str, details: bytes) -> list[tuple[bytes, bytes]]:
    """The headers that end a call with an error; `details` is an encoded google.rpc.Status, or empty."""
    ending = [
        (b"grpc-status", b"%d" % code),
        (b"grpc-message", _escaped(message)),
    ]
    if details:
        ending.append((b"grpc-status-details-bin", base64.b64encode(details).rstrip(b"=")))
    return ending


def _escaped(message: str) -> bytes:
    """A message as a header's value, which may hold spaces, but neither begin nor end with one."""
    quoted = quote(message, safe=_UNESCAPED, errors="replace")
    return _OUTER_SPACES.sub(lambda spaces: "%20" * len(spaces[0]), quoted).encode()


def _too_large(what: str) -> ApiError:
    # SDKs know by these words that an answer has to be made smaller.
    return ApiError(errors.RESOURCE_EXHAUSTED, f"grpc: received {what}")
