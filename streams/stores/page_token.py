"""Page tokens of lists: opaque to clients, good only for the filter and namespace they were made for."""

import hashlib

import msgspec

from streams.stores.filter_model import PageTokenError

_FORMAT = 1

SortKey = str | int | float | None
"""A value that rows are sorted by, as the database returns it."""


class PageToken(msgspec.Struct, array_like=True, frozen=True):
    """Where a list goes on.

    `frozen_order` is the `close_order` at which the first page froze the order. `keys` are the sort keys of
    the last row shown: (start time, run id) among runs open by then, (close order) among the others, and
    the filter's own keys followed by the run id where it has an ORDER BY.
    """

    format: int
    filter_hash: bytes
    frozen_order: int
    keys: tuple[SortKey, ...]


_decoder = msgspec.msgpack.Decoder(PageToken)


def encode_token(namespace_id: str, query: str, frozen_order: int, keys: tuple[SortKey, ...]) -> bytes:
    """Make the token of a list in a namespace."""
    return msgspec.msgpack.encode(PageToken(_FORMAT, _hash(namespace_id, query), frozen_order, keys))


def decode_token(token: bytes, namespace_id: str, query: str) -> PageToken:
    """Read a token back; raises `PageTokenError` unless it was made for this filter and namespace."""
    try:
        decoded = _decoder.decode(token)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PageTokenError("invalid page token") from error
    if decoded.format != _FORMAT or not all(map(_is_storable, (decoded.frozen_order, *decoded.keys))):
        raise PageTokenError("invalid page token")
    if decoded.filter_hash != _hash(namespace_id, query):
        raise PageTokenError("page token was made for another query")
    return decoded


def _is_storable(key: SortKey) -> bool:
    return not isinstance(key, int) or -(2**63) <= key < 2**63


def _hash(namespace_id: str, query: str) -> bytes:
    digest = hashlib.blake2b(namespace_id.encode(errors="surrogatepass"), digest_size=12)
    digest.update(b"\0" + query.strip().encode(errors="surrogatepass"))
    return digest.digest()
