"""What a member tells of itself: plain numbers that its thread writes and anybody may read."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["restoring", "owned", "refused", "halted", "leaving"]


class PartitionStatus(msgspec.Struct):
    """One assigned partition. `reason` says why it is not owned, if it is not.

    `position` is the offset folded last, `end_offset` that of the log's next record as last heard of. Counters
    (`*_total`) count from the assignment on. `restore_remaining` are offsets of the changelog still to be read;
    `takeover_seconds` is how long the last takeover took, the restore and all around it.
    """

    processor: str
    partition: int
    state: State = "restoring"
    reason: str = ""
    position: int = -1
    end_offset: int = 0
    folded_total: int = 0
    fold_seconds_total: float = 0.0
    emitted_total: int = 0
    replied_total: int = 0
    dead_letters_total: int = 0
    takeovers_total: int = 0
    restored_total: int = 0
    restore_remaining: int = 0
    restore_seconds: float = 0.0
    takeover_seconds: float = 0.0
    dirty_keys: int = 0
    checkpoint_offset: int = -1
    checkpoint_time_ms: int = 0
    checkpoint_rows: int = 0
    checkpoint_bytes: int = 0
    checkpoint_seconds: float = 0.0
    checkpoints_total: int = 0
    deleted_below: int = 0
    tick_lateness_ms: int = 0

    @property
    def lag(self) -> int:
        """Records that wait to be folded."""
        return max(0, self.end_offset - self.position - 1)


class StandbyStatus(msgspec.Struct):
    """A partition of another member of which a copy is kept. `reason` says why it is not followed, if it is not.

    `next_offset` is how much of the changelog the copy holds, `end_offset` where the changelog ends as last heard of;
    `checkpoint_offset` is that of the last checkpoint read, in the log that the partition folds. `records_total` counts
    from when the copy was opened.
    """

    processor: str
    partition: int
    state: Literal["restoring", "following", "refused"] = "restoring"
    reason: str = ""
    next_offset: int = 0
    end_offset: int = 0
    checkpoint_offset: int = -1
    records_total: int = 0

    @property
    def lag(self) -> int:
        """Offsets of the changelog that are not yet in the copy."""
        return max(0, self.end_offset - self.next_offset)


class MemberStatus(msgspec.Struct):
    """A member: its partitions and its copies of others' by number, and when its thread last went round.

    `folding_since_ms` is when the fold of the present record began, 0 between folds: one that is long ago is stuck.
    """

    role: str
    partitions: dict[int, PartitionStatus] = msgspec.field(default_factory=dict)
    standbys: dict[int, StandbyStatus] = msgspec.field(default_factory=dict)
    loop_time_ms: int = 0
    folding_since_ms: int = 0
    joined: bool = False
    dropped_replies_total: int = 0
    failures_total: int = 0

    @property
    def ready(self) -> bool:
        """Whether it has joined its group and owns all that it is assigned."""
        return self.joined and all(p.state == "owned" for p in list(self.partitions.values()))
