"""What falls due when: the durable index behind `Context.wake`.

Every entry is a row of the checkpoint. In memory are only the entries that fall due before a horizon, and
those not yet checkpointed; the horizon moves on as time does, so a million timers of next month cost no
memory.
"""

from __future__ import annotations

import heapq
from typing import Protocol

DueRow = tuple[str, int | None, int]
"""A row of a checkpoint: key, due time in ms (None for a deletion), payload."""


class DueStore(Protocol):
    """Where checkpoints keep due rows."""

    def load_due(self, partition_name: str, after_ms: int, until_ms: int) -> list[tuple[str, int, int]]:
        """Stored (key, due_ms, payload) with after_ms < due_ms <= until_ms. Raises StorageError."""

    def due_row(self, partition_name: str, key: str) -> tuple[int, int] | None:
        """The stored (due_ms, payload) of one key. Raises StorageError."""


class DueIndex:
    """Keys with a due time and a payload, popped in (due, key) order."""

    def __init__(self, partition_name: str, store: DueStore, window_ms: int = 600_000) -> None:
        self._name = partition_name
        self._store = store
        self._window_ms = window_ms
        self._horizon_ms = -1
        self._heap: list[tuple[int, str]] = []
        self._live: dict[str, tuple[int, int]] = {}
        self._dirty: dict[str, tuple[int, int] | None] = {}
        self._writing: dict[str, tuple[int, int] | None] = {}

    def set(self, key: str, due_ms: int, payload: int) -> None:
        """Make `key` due at `due_ms`, in place of what it was."""
        self._dirty[key] = (due_ms, payload)
        if due_ms <= self._horizon_ms:
            self._live[key] = (due_ms, payload)
            heapq.heappush(self._heap, (due_ms, key))
        else:
            self._live.pop(key, None)

    def cancel(self, key: str) -> None:
        """Make `key` due never."""
        self._dirty[key] = None
        self._live.pop(key, None)

    def get(self, key: str) -> tuple[int, int] | None:
        """(due_ms, payload) of `key`, or None. Raises StorageError."""
        for pool in (self._dirty, self._writing):
            if key in pool:
                return pool[key]
        return self._live.get(key) or self._store.due_row(self._name, key)

    def pop_due(self, now_ms: int, limit: int) -> list[tuple[str, int, int]]:
        """Take the entries due by `now_ms` in (due, key) order, at most `limit`. Raises StorageError."""
        self._extend(now_ms)
        taken: list[tuple[str, int, int]] = []
        while self._heap and self._heap[0][0] <= now_ms and len(taken) < limit:
            due_ms, key = heapq.heappop(self._heap)
            entry = self._live.get(key)
            if entry is None or entry[0] != due_ms:
                continue
            del self._live[key]
            self._dirty[key] = None
            taken.append((key, due_ms, entry[1]))
        return taken

    def next_due_ms(self) -> int:
        """When to look next: the earliest due time in memory, else just past the horizon."""
        while self._heap:
            due_ms, key = self._heap[0]
            entry = self._live.get(key)
            if entry is not None and entry[0] == due_ms:
                return due_ms
            heapq.heappop(self._heap)
        return self._horizon_ms + 1

    def _extend(self, now_ms: int) -> None:
        if now_ms <= self._horizon_ms:
            return
        after_ms, self._horizon_ms = self._horizon_ms, now_ms + self._window_ms
        for key, due_ms, payload in self._store.load_due(self._name, after_ms, self._horizon_ms):
            if key not in self._dirty and key not in self._writing:
                self._enter(key, due_ms, payload)
        for key, entry in (*self._writing.items(), *self._dirty.items()):
            # An entry still being written may have been replaced since: the newer one decides.
            if entry is not None and after_ms < entry[0] <= self._horizon_ms and self._newest(key) is entry:
                self._enter(key, *entry)

    def _newest(self, key: str) -> tuple[int, int] | None:
        return self._dirty[key] if key in self._dirty else self._writing[key]

    def _enter(self, key: str, due_ms: int, payload: int) -> None:
        self._live[key] = (due_ms, payload)
        heapq.heappush(self._heap, (due_ms, key))

    @property
    def dirty_count(self) -> int:
        """Entries changed since the last freeze."""
        return len(self._dirty)

    def freeze(self) -> list[DueRow]:
        """The rows that changed since the last freeze, in order of key. Raises StorageError.

        What came and went between two freezes leaves none.
        """
        rows: list[DueRow] = []
        for key in sorted(self._dirty):
            entry = self._dirty[key]
            if entry is not None:
                rows.append((key, *entry))
            elif self._store.due_row(self._name, key) is not None:
                rows.append((key, None, 0))
        self._writing, self._dirty = self._dirty, {}
        return rows

    def written(self) -> None:
        """The rows of the last freeze are committed."""
        self._writing = {}
