"""What the parts of a run count for in the size of its state.

As the real server counts, about: what a pending thing holds beside what is in the history already. The payloads
of a scheduled activity or an initiated child are bounded with the history; heartbeat details, failures, memos
and request ids are bounded here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from streams.history import state

PART_BYTES: Final = 100
"""Ids in numbers, times and flags of a part."""


def _blob(part: state.Blob) -> int:
    return len(part.data)


def _activity(part: state.Activity) -> int:
    return PART_BYTES + len(part.details) + len(part.failure) + len(part.activity_type)


def _plain(part: object) -> int:
    return PART_BYTES


def _id_only(part: object) -> int:
    return 0


MEASURES: Final[dict[str, Callable[[Any], int]]] = {
    state.MEMO: _blob,
    state.SEARCH: _blob,
    state.METADATA: _blob,
    state.RESET_POINTS: _blob,
    state.BUFFERED: lambda part: len(part.event),
    state.ACTIVITY: _activity,
    state.TIMER: _plain,
    state.CHILD: _plain,
    state.EXTERNAL_SIGNAL: _plain,
    state.EXTERNAL_CANCEL: _plain,
    state.UPDATE: _plain,
    state.SIGNALED: _id_only,
    state.ATTACHED: _id_only,
}
"""The bytes of a part beside its id, by kind. Kinds that are not here do not count."""


class StateSize:
    """The bytes of a run's state, kept true as its parts change."""

    __slots__ = ("_sizes", "at_start_bytes", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = 0
        self.at_start_bytes = 0
        self._sizes: dict[tuple[str, str], int] = {}

    def set(self, kind: str, id: str, part: Any) -> None:
        """Take note of a part, or of its removal (None)."""
        measure = MEASURES.get(kind)
        if measure is None:
            return
        if part is None:
            self.size_bytes -= self._sizes.pop((kind, id), 0)
            return
        size = len(id) + measure(part)
        self.size_bytes += size - self._sizes.get((kind, id), 0)
        self._sizes[kind, id] = size
