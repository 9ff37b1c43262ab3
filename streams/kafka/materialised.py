"""How far the history store has got with what each partition of `commands` made: what owners may delete below."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from streams import topology
from streams.runtime.partition import Position
from streams.stores.damage import StoreError

REFRESH_S: Final = 15.0


class MaterialisedOffsets:
    """Asks the store now and then; call it from any thread. What it cannot ask has not moved.

    `positions` gives the store's position for each partition of `history`. It may block, and runs on a thread of its
    own, so that no owner waits for a store.
    """

    def __init__(self, positions: Callable[[], Mapping[int, Position]], refresh_s: float = REFRESH_S) -> None:
        self._positions = positions
        self._refresh_s = refresh_s
        self._offsets: dict[int, int] = {}
        self._asked_s = -refresh_s
        self._asking = threading.Lock()

    def __call__(self, partition: int) -> int:
        """The offset of `commands/<partition>` up to which everything is in the store, -1 for none."""
        if time.monotonic() - self._asked_s >= self._refresh_s and self._asking.acquire(blocking=False):
            self._asked_s = time.monotonic()
            threading.Thread(target=self._ask, name="materialised", daemon=True).start()
        return self._offsets.get(partition, -1)

    def _ask(self) -> None:
        try:
            self._offsets = offsets(self._positions())
        except StoreError:
            pass
        finally:
            self._asking.release()


def offsets(positions: Mapping[int, Position]) -> dict[int, int]:
    """By partition of `commands`, the last offset whose events are all in the store.

    A workflow's events are in one partition of `history`, but those of a partition of `commands` may be in several:
    where one of these has something parked, what was applied there is not all.
    """
    found: dict[int, int] = {}
    for position in positions.values():
        for applied in position.applied:
            number = _partition_of(applied.source)
            if number is not None:
                found[number] = min(found.get(number, applied.offset), applied.offset)
    return found


def _partition_of(source: str) -> int | None:
    """The partition of `commands` in a source such as ``commands/3@<topic id>``."""
    topic, _, number = source.partition("@")[0].partition("/")
    return int(number) if topic == topology.COMMANDS and number.isdecimal() else None
