"""The newest events of runs, beside the fold: what answers need before the history store has it (decision 0004)."""

from __future__ import annotations

from typing import Final

from streams.bodies import HistoryBatch

RUN_BYTES: Final = 1024 * 1024
"""Events kept of one run."""

TOTAL_BYTES: Final = 32 * 1024 * 1024
"""Events kept of all runs of a partition."""


class _Run:
    """Contiguous events from `first_id` on."""

    __slots__ = ("events", "first_id", "size_bytes")

    def __init__(self, first_id: int) -> None:
        self.first_id = first_id
        self.events: list[bytes] = []
        self.size_bytes = 0


class RecentEvents:
    """The newest events of the runs touched last, as far as the limits go."""

    def __init__(self, run_bytes: int = RUN_BYTES, total_bytes: int = TOTAL_BYTES) -> None:
        self._run_bytes = run_bytes
        self._total_bytes = total_bytes
        self._runs: dict[str, _Run] = {}  # the one touched last is last
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What is kept."""
        return self._size_bytes

    def add(self, batch: HistoryBatch) -> None:
        """Keep the events of a batch. Those that a refold emits again take the place of what was kept from there on."""
        run = self._runs.pop(batch.run_id, None)
        if run is not None and not run.first_id <= batch.first_event_id <= run.first_id + len(run.events):
            self._size_bytes -= run.size_bytes
            run = None
        if run is None:
            run = _Run(batch.first_event_id)
        self._runs[batch.run_id] = run
        self._size_bytes -= run.size_bytes
        kept = run.events[: batch.first_event_id - run.first_id]
        if len(kept) < len(run.events):
            run.size_bytes = sum(map(len, kept))
            run.events = kept
        run.events.extend(batch.events)
        run.size_bytes += sum(map(len, batch.events))
        self._trim(run)
        self._size_bytes += run.size_bytes
        while self._size_bytes > self._total_bytes:
            self.forget(next(iter(self._runs)))

    def _trim(self, run: _Run) -> None:
        dropped = 0
        while run.size_bytes > self._run_bytes:
            run.size_bytes -= len(run.events[dropped])
            dropped += 1
        if dropped:
            del run.events[:dropped]
            run.first_id += dropped

    def forget(self, run_id: str) -> None:
        """Keep nothing of a run any more."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            self._size_bytes -= run.size_bytes

    def newest(self, run_id: str, first_id: int, last_id: int) -> tuple[int, tuple[bytes, ...]]:
        """The id of the first and the events that are kept at the end of `first_id`..`last_id`; (0, ()) for none."""
        run = self._runs.get(run_id)
        if run is None or not run.first_id <= last_id < run.first_id + len(run.events):
            return 0, ()
        start = max(first_id, run.first_id)
        return start, tuple(run.events[start - run.first_id : last_id - run.first_id + 1])
