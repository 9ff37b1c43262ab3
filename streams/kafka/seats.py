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

STALLED_LOOKS: Final = 3
"""After how many looks without a record folded, though there are some, they are asked for again."""
GAP_LIMIT: Final = 3
"""How often the same records are asked for that are left out, before they count as gone."""


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
        self._stalled_at = self._gap_at = -1
        self._stalled = self._gaps = 0

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

    def note_gap(self, offset: int) -> bool:
        """Have the consumer sent back to `offset`, before which it went on; whether that is still worth a try."""
        self._gaps = self._gaps + 1 if offset == self._gap_at else 1
        self._gap_at = self.seek_to = offset
        return self._gaps <= GAP_LIMIT

    def note_end(self, offset: int, end: int) -> None:
        """The record at `offset` is the next to fold, the log ends before `end`; that is looked at now and then.

        Records that are there and do not come are asked for again: a seek may be overtaken by an earlier one.
        """
        waits = offset < end and not self.held
        self._stalled = self._stalled + 1 if waits and offset == self._stalled_at else 0
        self._stalled_at = offset
        if self._stalled >= STALLED_LOOKS:
            self._stalled = 0
            self.seek_to = offset

    @property
    def is_taken_over(self) -> bool:
        """Whether a takeover is under way."""
        return self.ownership is None and not self.retry_at_ms

    def note_commit(self) -> bool:
        """Whether its offset is to be committed for display: it has changed since this was last asked."""
        changed = self.status.checkpoint_offset > self._committed
        self._committed = self.status.checkpoint_offset
        return changed
