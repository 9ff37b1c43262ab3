"""The thread that writes checkpoints: never on the fold's path (fold.md rule 14)."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any, Final

import msgspec

from streams.kafka.changelog import PartitionChangelog
from streams.runtime.checkpoints import Checkpoint

LOG = logging.getLogger(__name__)

SHARE: Final = 20
"""Checkpoints get so rare that writing them takes at most one part in so many of the time (fold.md rule 14)."""

RARITY: Final = 10
"""But at most so many times as rare as they are wanted: one that had to wait for a broker says nothing of the next."""


def next_age_ms(wanted_ms: int, spent_s: float) -> int:
    """At which age the next checkpoints are due, the last ones of all partitions having taken so long together."""
    return min(max(wanted_ms, int(spent_s * 1000 * SHARE)), wanted_ms * RARITY)


class Written(msgspec.Struct, frozen=True):
    """How a checkpoint fared. `token` is what it was submitted with; `error` is None when it is committed."""

    token: Any
    checkpoint: Checkpoint
    size_bytes: int
    seconds: float
    error: Exception | None


class CheckpointWriter:
    """Writes checkpoints of many partitions one after another; results come in `results`."""

    def __init__(self, name: str) -> None:
        self.results: queue.SimpleQueue[Written] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[
            tuple[Any, PartitionChangelog, Checkpoint | None, threading.Event | None] | None
        ] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, token: Any, changelog: PartitionChangelog, checkpoint: Checkpoint) -> None:
        """Write a checkpoint."""
        self._jobs.put((token, changelog, checkpoint, None))

    def close_changelog(self, changelog: PartitionChangelog) -> threading.Event:
        """Let go of a partition once what was submitted for it is dealt with; the event says when."""
        closed = threading.Event()
        self._jobs.put((None, changelog, None, closed))
        return closed

    def stop(self) -> None:
        """Finish what was submitted and end."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            token, changelog, checkpoint, closed = job
            if checkpoint is None:
                self._close(changelog, closed)
            else:
                self.results.put(self._write(token, changelog, checkpoint))

    @staticmethod
    def _write(token: Any, changelog: PartitionChangelog, checkpoint: Checkpoint) -> Written:
        began_s, size_bytes, failure = time.monotonic(), 0, None
        try:
            size_bytes = changelog.write(checkpoint)
        except Exception as error:
            failure = error
        return Written(token, checkpoint, size_bytes, time.monotonic() - began_s, failure)

    @staticmethod
    def _close(changelog: PartitionChangelog, closed: threading.Event | None) -> None:
        try:
            changelog.close()
        except Exception:
            LOG.exception("a changelog could not be closed")
        if closed is not None:
            closed.set()
