"""How fast records come: where they come fast, waiting a moment for more of them saves more than it costs.

A burst that is handled together shares requests to the brokers, wake-ups of threads, and what the processor's caches
hold; a single record waits for nothing (decision 0012).
"""

from __future__ import annotations

import time
from typing import Final

WINDOW_S: Final = 0.1


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
            self.busy = self._count >= self._busy_per_s * passed_s
            self._count, self._since_s = 0, now_s
