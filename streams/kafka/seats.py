"""A partition that a member is assigned, owned or on the way there."""

from __future__ import annotations

import threading
from typing import Final

from streams.kafka.checkpoint_writer import CheckpointWriter
from streams.kafka.ownership import Ownership
from streams.kafka.rocks import PartitionStore
from streams.kafka.status import PartitionStatus, State

RETRY_MS: Final = 200
RETRY_LIMIT_MS: Final = 30_000


class Seat:
    """One assigned partition. `generation` tells results for the present attempt from those for former ones.

    `closed` is set once whatever held the local store in this process has let go of it. `standby` is the copy that was
    kept up here, for the first takeover.
    """

    def __init__(
        self,
        processor: str,
        number: int,
        closed: threading.Event | None,
        standby: PartitionStore | None = None,
    ) -> None:
        self.number = number
        self.status = PartitionStatus(processor, number)
        self.generation = 0
        self.ownership: Ownership | None = None
        self.seek_to: int | None = None
        """Where the consumer still has to be sent."""
        self.retry_at_ms = 0
        """When to try a takeover again, 0 for no need."""
        self.failures = 0
        """Ownerships in a row that ended, or did not begin, without a checkpoint."""
        self.closed = closed
        self.standby = standby
        self.requested_ms = 0
        """When the takeover under way was asked for."""
        self.held = False
        """Whether no more of it is fetched, because too much waits already."""
        self._committed = -1

    def drop(self, writer: CheckpointWriter, state: State, reason: str) -> None:
        """Throw the ownership away, if there is one; whatever is under way for it is of no more interest."""
        self.generation += 1
        self.seek_to = None
        self.held = False
        self.retry_at_ms = 0
        self.status.state, self.status.reason = state, reason
        if self.ownership is not None:
            self.closed = writer.close_changelog(self.ownership.changelog)
            self.ownership = None

    def wait_again(self, state: State, reason: str, now_ms: int) -> None:
        """Have a takeover tried again, later each time."""
        self.status.state, self.status.reason = state, reason
        self.retry_at_ms = now_ms + min(RETRY_LIMIT_MS, RETRY_MS << min(self.failures, 10))
        self.failures += 1

    def note_commit(self) -> bool:
        """Whether its offset is to be committed for display: it has changed since this was last asked."""
        changed = self.status.checkpoint_offset > self._committed
        self._committed = self.status.checkpoint_offset
        return changed
