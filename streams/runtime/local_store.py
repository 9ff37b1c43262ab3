"""Whether what a disk holds of a partition may be used, or is to be wiped (fold.md rule 16)."""

from __future__ import annotations

import msgspec


class LocalHead(msgspec.Struct, frozen=True):
    """What a local store says of itself, written in one batch with the rows of a committed checkpoint.

    `lineage` names the changelog (its topic id); `changelog_offset` is how much of it the store holds;
    `time_ms` when that was committed.
    """

    lineage: str
    changelog_offset: int
    time_ms: int


def reason_to_wipe(
    head: LocalHead, *, lineage: str, committed_end: int, now_ms: int, delete_retention_ms: int
) -> str:
    """Why the store may not be used, empty when it may.

    `committed_end` is the changelog's end; `delete_retention_ms` how long it keeps tombstones: a store older
    than half of that may miss deletions.
    """
    if head.lineage != lineage:
        return f"it is of changelog {head.lineage}, not {lineage}"
    if head.changelog_offset > committed_end:
        return f"it holds the changelog up to {head.changelog_offset}, which ends at {committed_end}"
    age_ms = now_ms - head.time_ms
    if age_ms > delete_retention_ms // 2:
        return f"it is {age_ms} ms old, and deletions are kept for {delete_retention_ms} ms"
    return ""
