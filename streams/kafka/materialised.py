"""How far the history store has got with what each partition of `commands` made: what owners may delete below."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from streams import topology
from streams.runtime.partition import Partition, Position
from streams.stores.damage import StoreError

REFRESH_S: Final = 15.0

EVERYTHING: Final = 1 << 62
"""Nothing that was emitted is missing in the store."""

Origin = tuple[int, int]
"""The offset that an emission was made for, and its index there."""


class MaterialisedOffsets:
    """Asks the store now and then; call it from any thread. What it cannot ask has not moved.

    `positions` gives the store's position for each partition of `history`. It may block, and runs on a thread of its
    own, so that no owner waits for a store.
    """

    def __init__(self, positions: Callable[[], Mapping[int, Position]], refresh_s: float = REFRESH_S) -> None:
        self._positions = positions
        self._refresh_s = refresh_s
        self._stored: Mapping[int, Position] = {}
        self._asked_s = -refresh_s
        self._asking = threading.Lock()

    def __call__(self, partition: Partition) -> int:
        """The offset of a partition of `commands` up to which what it emitted is in the store, -1 for none.

        EVERYTHING where nothing is missing.
        """
        if time.monotonic() - self._asked_s >= self._refresh_s and self._asking.acquire(blocking=False):
            self._asked_s = time.monotonic()
            threading.Thread(target=self._ask, name="materialised", daemon=True).start()
        return offset_in_store(partition.source, partition.last_emissions(topology.HISTORY), self._stored)

    def _ask(self) -> None:
        try:
            self._stored = self._positions()
        except StoreError:
            pass
        finally:
            self._asking.release()


def offset_in_store(source: str, emitted: Mapping[int, Origin], stored: Mapping[int, Position]) -> int:
    """The offset of `source` up to which what it emitted is in the store; see MaterialisedOffsets.

    `emitted` is its last emission to each partition of `history`: one that has it holds nobody up, however long ago
    that was. Of the others, what was applied last may not be all that was emitted for its offset.
    """
    offset = EVERYTHING
    for number, last in emitted.items():
        applied = _applied(stored.get(number), source)
        if applied < last:
            offset = min(offset, applied[0] - 1)
    return max(offset, -1)


def _applied(position: Position | None, source: str) -> Origin:
    """The last emission of a source that is in the store. Another topic of that name is another source."""
    for applied in () if position is None else position.applied:
        if applied.source == source:
            return applied.offset, applied.index
    return -1, -1
