"""How many records and calls come: where many do, waiting a moment for more of them saves more than it costs.

A burst that is handled together shares requests to the brokers and stores, wake-ups of threads, and what the
processor's caches hold (decision 0011).
"""

from __future__ import annotations

import time
from typing import Final

WINDOW_S: Final = 0.1
LONG_S: Final = 0.25


class Pace:
    """Belongs to one thread. `busy` tells whether at least so many records a second came of late."""

    def __init__(self, busy_per_s: float) -> None:
        self.busy = False
        self._busy_per_s = busy_per_s
        self._count = 0
        self._since_s = time.monotonic()

    def note(self, count: int) -> None:
        """So many records came."""
        self._count += count
        now_s = time.monotonic()
        passed_s = now_s - self._since_s
        if passed_s >= WINDOW_S:
            self.busy = self._count / passed_s >= self._busy_per_s
            self._count, self._since_s = 0, now_s


class Calls:
    """Calls that have waited for their replies for less than LONG_S: longer ones wait for something to happen."""

    def __init__(self) -> None:
        self._since_s: dict[int, float] = {}

    def begin(self, id: int) -> None:
        """A call was made."""
        self._since_s[id] = time.monotonic()

    def end(self, id: int) -> None:
        """Its reply has come."""
        self._since_s.pop(id, None)

    def count(self) -> int:
        """How many there are."""
        long_ago_s = time.monotonic() - LONG_S
        while self._since_s:
            oldest = next(iter(self._since_s))
            if self._since_s[oldest] >= long_ago_s:
                break
            del self._since_s[oldest]
        return len(self._since_s)
