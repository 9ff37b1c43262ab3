"""The deadlines of a run, in order. Derived from its parts, never stored."""

from __future__ import annotations

import heapq


class Deadlines:
    """Slots (kind, id) with a due time each, and the earliest of them."""

    __slots__ = ("_due", "_heap")

    def __init__(self) -> None:
        self._due: dict[tuple[str, str], int] = {}
        self._heap: list[tuple[int, str, str]] = []

    def set(self, kind: str, id: str, due_ms: int) -> None:
        """Make a slot due at `due_ms`; 0 clears it."""
        slot = (kind, id)
        if due_ms:
            if self._due.get(slot) != due_ms:
                self._due[slot] = due_ms
                heapq.heappush(self._heap, (due_ms, kind, id))
        else:
            self._due.pop(slot, None)

    def first(self) -> tuple[int, str, str] | None:
        """The earliest (due_ms, kind, id), or None."""
        while self._heap:
            due_ms, kind, id = self._heap[0]
            if self._due.get((kind, id)) == due_ms:
                return self._heap[0]
            heapq.heappop(self._heap)
        return None

    def due(self, now_ms: int) -> list[tuple[str, str]]:
        """The slots due at or before `now_ms`, in (due, kind, id) order. They stay until their part changes."""
        taken: list[tuple[int, str, str]] = []
        while (first := self.first()) is not None and first[0] <= now_ms:
            taken.append(heapq.heappop(self._heap))
            while self._heap and self._heap[0] == taken[-1]:
                heapq.heappop(self._heap)
        for entry in taken:
            heapq.heappush(self._heap, entry)
        return [(kind, id) for _, kind, id in taken]
