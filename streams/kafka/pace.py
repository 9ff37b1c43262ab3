"""How records and calls come: where they come in company, waiting a moment for more of them saves more than it costs.

A burst that is handled together shares requests to the brokers, wake-ups of threads, and what the processor's caches
hold; a single record waits for nothing (decision 0011).
"""

from __future__ import annotations

import time
from typing import Final

WINDOW_S: Final = 0.1
LONG_S: Final = 0.25


class Pace:
    """Belongs to one thread. `busy` tells whether at least so many records a second came of late, and at least
    `company` of them at a time on average. Who waits `gather_s` for more while busy meets more of them at a time by
    that alone, which does not count.
    """

    def __init__(self, busy_per_s: float, company: float = 0.0, gather_s: float = 0.0) -> None:
        self.busy = False
        self._busy_per_s = busy_per_s
        self._company = company
        self._gather_s = gather_s
        self._count = self._times = 0
        self._since_s = time.monotonic()

    def note(self, count: int) -> None:
        """So many records came at a time."""
        self._count += count
        self._times += 1
        now_s = time.monotonic()
        passed_s = now_s - self._since_s
        if passed_s >= WINDOW_S:
            rate_per_s = self._count / passed_s
            company = self._company + (self._gather_s * rate_per_s if self.busy else 0.0)
            self.busy = rate_per_s >= self._busy_per_s and self._count >= company * self._times
            self._count, self._times, self._since_s = 0, 0, now_s


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
