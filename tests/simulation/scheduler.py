"""Virtual time: what happens next is drawn from a seed, what happens at the same moment is shuffled."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any


class Scheduler:
    """Events in order of time. `now_ms` is true time; logs have clocks of their own."""

    def __init__(self, rng: random.Random, now_ms: int) -> None:
        self.rng = rng
        self.now_ms = now_ms
        self.events = 0
        self._heap: list[tuple[int, float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, delay_ms: int, function: Callable[..., Any], *args: Any) -> None:
        """Have `function` called `delay_ms` from now."""
        self._sequence += 1
        heapq.heappush(
            self._heap, (self.now_ms + delay_ms, self.rng.random(), self._sequence, function, args)
        )

    def run(self, until: Callable[[], bool], limit_ms: int, limit_events: int) -> bool:
        """Go on until `until` holds; False when a limit came first or nothing is left to happen."""
        end_ms, end_events = self.now_ms + limit_ms, self.events + limit_events
        while not until():
            if not self._heap or self.events >= end_events or self._heap[0][0] > end_ms:
                return False
            time_ms, _, _, function, args = heapq.heappop(self._heap)
            self.now_ms = max(self.now_ms, time_ms)
            self.events += 1
            function(*args)
        return True
