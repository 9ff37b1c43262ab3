"""Members that keep a copy of a partition that another owns, and whoever takes over with it (fold.md rule 16)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from streams.runtime import local_store
from streams.runtime.local_store import LocalHead
from tests.simulation.changelog import DELETE_RETENTION_MS, Disk, apply_entry
from tests.support.memory import MemoryStore

if TYPE_CHECKING:
    from tests.simulation.owners import Seat


class Standby:
    """Follows the changelog of one partition by fits and starts, and stops anywhere, in the midst of a checkpoint too.

    Its choices are drawn apart, and what it holds must make no difference: so every seed is as it was without it.
    """

    def __init__(self, seat: Seat, seed: int) -> None:
        self._seat = seat
        self._rng = random.Random(f"standby {seed} {seat.log.name}")
        self._eagerness = self._rng.choice((0.0, 0.02, 0.3))
        self._disk = Disk()

    def follow(self) -> None:
        """Something happens in the partition: read on, or not."""
        if self._rng.random() < self._eagerness:
            self._read_on()

    def disk(self, other: Disk) -> Disk:
        """Where the next owner restores from: the copy, or what it would have taken."""
        return self._disk if self._eagerness and self._rng.random() < 0.7 else other

    def _read_on(self) -> None:
        changelog, disk, now_ms = self._seat.changelog, self._disk, self._seat.world.now_ms
        stable = changelog.last_stable_offset()
        reason = local_store.reason_to_wipe(
            disk.head,
            lineage=changelog.lineage,
            committed_end=stable,
            now_ms=now_ms,
            delete_retention_ms=DELETE_RETENTION_MS,
        )
        if disk.store is None or reason:
            disk.store, disk.head = MemoryStore(), LocalHead(changelog.lineage, 0, now_ms)
        entries = changelog.committed(disk.head.changelog_offset)
        count = self._rng.choice((len(entries), self._rng.randint(0, len(entries))))
        for entry in entries[:count]:
            apply_entry(disk.store, changelog, entry)
        if count == len(entries):
            disk.head = LocalHead(changelog.lineage, stable, now_ms)
        elif count:
            disk.head = LocalHead(changelog.lineage, entries[count - 1].offset + 1, disk.head.time_ms)
