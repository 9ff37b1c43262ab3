"""gRPC on the wire, as its specification has it."""

from __future__ import annotations

import gzip
import zlib

import pytest

from gateway import errors, grpc_wire
from gateway.errors import ApiError

LIMIT = 1000


def refused(error: pytest.ExceptionInfo[ApiError]) -> tuple[int, str]:
    return error.value.code, error.value.message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"2H", 7200),
        (b"3M", 180),
        (b"10S", 10),
        (b"1500m", 1.5),
        (b"250000u", 0.25),
        (b"99999999n", 0.099999999),
        (b"0S", 0),
    ],
)
def test_deadlines_have_a_unit(value: bytes, seconds: float) -> None:
    assert grpc_wire.timeout_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"5", b"5s", b"-1S", b"1.5S", b"100000000S", b"\xb2S"])
def test_deadlines_that_are_none_are_refused(value: bytes) -> None:
    with pytest.raises(ApiError) as error:
        grpc_wire.timeout_s(value)
    assert refused(error) == (errors.INTERNAL, "malformed grpc-timeout")


@pytest.mark.parametrize(
    "value", [b"application/grpc", b"application/grpc+proto", b"Application/gRPC;charset=utf-8"]
)
def test_requests_of_grpc_are_known_by_their_content_type(value: bytes) -> None:
    assert grpc_wire.is_content_type(value)


def test_message_is_framed() -> None:
    framed = grpc_wire.frame(b"x" * 258)
    assert framed[:5] == b"\0\0\0\1\2"
    assert grpc_wire.length_of(framed, LIMIT) == 258


def test_message_over_the_limit_is_refused_in_words_that_sdks_know() -> None:
    with pytest.raises(ApiError) as error:
        grpc_wire.length_of(b"\0\0\0\4\0", LIMIT)
    message = "grpc: received message larger than max (1024 vs. 1000)"
    assert refused(error) == (errors.RESOURCE_EXHAUSTED, message)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [(b"gzip", gzip.compress(b"y" * LIMIT)), (b"deflate", zlib.compress(b"y" * LIMIT))],
)
def test_messages_are_decompressed(encoding: bytes, packed: bytes) -> None:
    assert grpc_wire.unpack(1, packed, encoding, LIMIT) == b"y" * LIMIT
    assert grpc_wire.unpack(0, packed, encoding, LIMIT) == packed


def test_message_that_is_too_large_once_decompressed_is_refused() -> None:
    with pytest.raises(ApiError) as error:
        grpc_wire.unpack(1, gzip.compress(bytes(10_000_000)), b"gzip", LIMIT)
    message = "grpc: received message after decompression larger than max 1000"
    assert refused(error) == (errors.RESOURCE_EXHAUSTED, message)


@pytest.mark.parametrize(
    ("flag", "payload", "encoding"),
    [
        (1, b"not compressed", b"gzip"),
        (1, gzip.compress(b"cut short")[:-3], b"gzip"),
        (1, b"", b"gzip"),
        (1, gzip.compress(b"no encoding was named"), b"identity"),
        (2, b"no such flag", b"gzip"),
    ],
)
def test_message_that_cannot_be_decompressed_is_refused(flag: int, payload: bytes, encoding: bytes) -> None:
    with pytest.raises(ApiError) as error:
        grpc_wire.unpack(flag, payload, encoding, LIMIT)
    assert error.value.code == errors.INTERNAL


def test_compression_that_is_not_supported_is_refused() -> None:
    grpc_wire.check_encoding(b"identity")
    grpc_wire.check_encoding(b"gzip")
    with pytest.raises(ApiError) as error:
        grpc_wire.check_encoding(b"br\xff")
    message = 'grpc: Decompressor is not installed for grpc-encoding "br\xff"'
    assert refused(error) == (errors.UNIMPLEMENTED, message)


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("Namespace a is not found.", b"Namespace a is not found."),
        ("", b""),
        ("100%", b"100%25"),
        ("é", b"%C3%A9"),
        ("two\nlines\t\x7f\0", b"two%0Alines%09%7F%00"),
        ("  spaces within it ", b"%20%20spaces within it%20"),
        ("   ", b"%20%20%20"),
        ("\ud800", b"?"),
    ],
)
def test_status_has_a_message_that_headers_can_hold(message: str, value: bytes) -> None:
    assert grpc_wire.trailers(5, message, b"") == [(b"grpc-status", b"5"), (b"grpc-message", value)]


def test_status_has_details() -> None:
    assert grpc_wire.trailers(5, "no", b"\xff")[-1] == (b"grpc-status-details-bin", b"/w")
