"""Events that came beside replies, kept for a while: newer than what the history store has (fold.md rule 21)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

RUN_BYTES: Final = 1024 * 1024
"""Events of one run kept at most."""
TOTAL_BYTES: Final = 32 * 1024 * 1024
"""Events of all runs kept at most."""
EVENT_BYTES: Final = 100
"""What an event costs beside its bytes: without it, small ones in great number would go uncounted."""


class _Run:
    __slots__ = ("events", "first_id", "size_bytes")

    def __init__(self, first_id: int) -> None:
        self.first_id = first_id
        self.events: list[bytes] = []
        self.size_bytes = 0

    @property
    def next_id(self) -> int:
        return self.first_id + len(self.events)


class InlineEvents:
    """The newest events known of each run, without gaps; runs longest unheard of go first.

    Belongs to one thread.
    """

    def __init__(self, run_bytes: int = RUN_BYTES, total_bytes: int = TOTAL_BYTES) -> None:
        self._run_bytes = run_bytes
        self._total_bytes = total_bytes
        self._runs: dict[str, _Run] = {}
        self.size_bytes = 0

    def add(self, run_id: str, first_id: int, events: Sequence[bytes]) -> None:
        """Keep events of a run, the first of which is `first_id`. What is known already stays."""
        if not events:
            return
        run = self._runs.pop(run_id, None)
        if run is not None and run.next_id < first_id:  # a gap: what is newer is worth more
            self.size_bytes -= run.size_bytes
            run = None
        if run is None or first_id < run.first_id:
            run = self._joined(run, first_id, events)
        else:
            self._append(run, events[run.next_id - first_id :])
        self._runs[run_id] = run
        self._trim(run)
        while self.size_bytes > self._total_bytes:
            oldest = next(iter(self._runs))
            self.size_bytes -= self._runs.pop(oldest).size_bytes

    def _joined(self, run: _Run | None, first_id: int, events: Sequence[bytes]) -> _Run:
        """A run that begins earlier than what was known of it. Replies may overtake each other."""
        joined = _Run(first_id)
        self._append(joined, events)
        if run is not None:
            self.size_bytes -= run.size_bytes
            if run.first_id <= joined.next_id < run.next_id:
                self._append(joined, run.events[joined.next_id - run.first_id :])
            elif run.first_id > joined.next_id:
                self.size_bytes += run.size_bytes - joined.size_bytes
                return run
        return joined

    def _append(self, run: _Run, events: Sequence[bytes]) -> None:
        size = sum(map(len, events)) + EVENT_BYTES * len(events)
        run.events.extend(events)
        run.size_bytes += size
        self.size_bytes += size

    def _trim(self, run: _Run) -> None:
        dropped = 0
        while run.size_bytes > self._run_bytes and dropped < len(run.events) - 1:
            size = len(run.events[dropped]) + EVENT_BYTES
            run.size_bytes -= size
            self.size_bytes -= size
            dropped += 1
        if dropped:
            del run.events[:dropped]
            run.first_id += dropped

    def get(self, run_id: str, first_id: int, last_id: int) -> tuple[int, list[bytes]]:
        """The known events within `first_id`..`last_id`: the id of the first of them, and the events."""
        run = self._runs.get(run_id)
        if run is None or run.first_id > last_id or run.next_id <= first_id:
            return last_id + 1, []
        start = max(first_id, run.first_id)
        return start, run.events[start - run.first_id : last_id - run.first_id + 1]
