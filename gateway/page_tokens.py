"""Page tokens of histories and namespace lists: opaque to clients, checked when they come back."""

from __future__ import annotations

from typing import Final, TypeVar
from uuid import UUID

import msgspec

from gateway import errors


class HistoryPage(msgspec.Struct, frozen=True, array_like=True, tag="h"):
    """Where a history goes on.

    `next_event_id` comes next and `last_event_id` ends what is being read. `open` tells that the run went on
    when that was determined. `fixed` readers (workers of one task) get nothing beyond it but, if `pending`,
    the events of the workflow task that are not in the history yet.
    """

    run_id: str
    next_event_id: int
    last_event_id: int
    open: bool
    fixed: bool = False
    pending: bool = False


class ReversePage(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """Where a history that is read backwards goes on: at `next_event_id`, downwards."""

    run_id: str
    next_event_id: int


class ListPage(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """Where a list of names goes on: after `after`."""

    after: str


Token = TypeVar("Token", HistoryPage, ReversePage, ListPage)

_MAX_EVENT_ID: Final = 2**53


def encode(token: msgspec.Struct) -> bytes:
    """The token for the wire."""
    return msgspec.msgpack.encode(token)


def decode(kind: type[Token], data: bytes) -> Token:
    """The token in `data`. Raises ApiError unless it is a sound one of its kind."""
    try:
        token = msgspec.msgpack.decode(data, type=kind)
        if isinstance(token, HistoryPage | ReversePage):
            UUID(token.run_id)
            ids = (token.next_event_id, getattr(token, "last_event_id", 0))
            if not all(0 <= id <= _MAX_EVENT_ID for id in ids) or ids[0] < 1:
                raise ValueError
    except (ValueError, msgspec.MsgspecError):
        raise errors.invalid("Invalid NextPageToken.") from None
    return token
