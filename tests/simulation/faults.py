"""What goes wrong, and how often: drawn once for a simulation, and again at every turn."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from streams.runtime.partition import Position
from streams.runtime.takeover import HangingTransactionError, TakeoverRefusedError
from tests.simulation.changelog import POSITION, Changelog
from tests.simulation.checked import Violation
from tests.support.memory import MemoryStore

if TYPE_CHECKING:
    from tests.simulation.owners import Seat, SimOwner
    from tests.simulation.world import World


class Faults:
    """The trouble of one simulation. `heal` ends it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.on = True
        self.poison = rng.random() < 0.4
        self.fixed = False
        self.cache_parts = rng.choice((0, 30, 20_000))
        self._slow = rng.choice((0.0, 0.02, 0.1))
        self._twice = rng.choice((0.0, 0.05, 0.3))
        self._gap = rng.choice((0.0, 0.8))
        self._checkpoint = rng.choice((0.03, 0.15, 0.6))
        self._commit_trouble = rng.choice((0.0, 0.2))
        self._delete = rng.choice((0.0, 0.5))
        self._tamper = rng.choice((0.0, 0.25))
        self.reply_loss = rng.choice((0.0, 0.0, 0.05))
        self.interval_ms = rng.choice((150, 400, 1_500))
        self.skew_ms = rng.choice((0, 40, 1_500))

    def _happens(self, share: float) -> bool:
        return self.on and self._rng.random() < share

    # Delays

    def replication_ms(self) -> int:
        """How long a record is in the tail only."""
        return self._rng.randint(20, 800) if self._happens(self._slow) else self._rng.randint(0, 3)

    def run_delay_ms(self) -> int:
        """How long until an owner looks at the log."""
        return self._rng.randint(20, 2_000) if self._happens(self._slow / 4) else self._rng.randint(0, 2)

    def flush_delay_ms(self) -> int:
        """How long until what a step left goes out."""
        return self._rng.randint(20, 500) if self._happens(self._slow / 2) else self._rng.randint(0, 2)

    def takeover_ms(self) -> int:
        """How long a partition has no owner."""
        return self._rng.randint(0, 400)

    def lag_ms(self) -> int:
        """How long the stores fall behind."""
        return self._rng.randint(20, 800) if self._happens(self._slow / 10) else 0

    def commit_ms(self) -> int:
        """How long a transaction is open."""
        return self._rng.randint(50, 2_000) if self._happens(self._slow) else self._rng.randint(0, 10)

    # Choices

    def twice(self) -> bool:
        """Whether a batch is appended twice."""
        return self._happens(self._twice)

    def gap(self) -> bool:
        """Whether a later record of a dying owner arrives without an earlier one."""
        return self._happens(self._gap)

    def dies_in_flight(self, records: int) -> bool:
        """Whether an owner dies with the batch it just appended: the longer the likelier."""
        return records > 1 and self._happens(self._gap * 0.03 * records)

    def checkpoints(self) -> bool:
        """Whether an owner cuts a checkpoint now."""
        return self._rng.random() < self._checkpoint

    def commit_outcome(self) -> str:
        """How a commit ends: "done", "failed", or "unclear": done, without the owner knowing."""
        if self._happens(self._commit_trouble):
            return self._rng.choice(("failed", "unclear"))
        return "done"

    def deletes_records(self) -> bool:
        """Whether the owner deletes what it may from its log."""
        return self._happens(self._delete)

    def compacts(self) -> bool:
        """Whether the changelog is compacted now."""
        return self._happens(0.2)

    def hangs(self, seat: Seat) -> bool:
        """Whether the open transaction of a dying owner outlives its fencing."""
        return self._happens(self._tamper)

    # Takeovers

    def tamper(self, seat: Seat) -> tuple[str, Callable[[], None]] | None:
        """Break something that a takeover has to refuse; returns what, and how to mend it."""
        if any(transaction.hanging for transaction in seat.changelog.open):
            return "hanging", lambda: None
        if not self._happens(self._tamper):
            return None
        position = last_position(seat.changelog)
        if position is None:
            return None
        kind = self._rng.choice(("torn", "truncated", "beyond", "recreated", "epoch"))
        log = seat.log
        if kind == "torn":
            return (kind, seat.changelog.mend) if seat.changelog.tear() else None
        if kind == "truncated":
            start, log.start = log.start, position.offset + 2
            return kind, lambda: setattr(log, "start", start)
        if kind == "beyond":
            records = log.records
            log.records = records[: position.offset]
            return kind, lambda: setattr(log, "records", records)
        if kind == "recreated":
            topic_id, log.topic_id = log.topic_id, f"{log.topic}-2"
            return kind, lambda: setattr(log, "topic_id", topic_id)
        if position.offset < log.start:
            return None
        log.epochs[position.offset] += 1

        def mend() -> None:
            log.epochs[position.offset] -= 1

        return kind, mend

    def refused(self, seat: Seat, kind: str, error: TakeoverRefusedError) -> None:
        """A takeover was refused: for the reason there is, or wrongly."""
        if not kind:
            raise Violation(f"{seat.log.name}: a takeover was refused without cause: {error}")
        if isinstance(error, HangingTransactionError) != (kind == "hanging"):
            raise Violation(f"{seat.log.name}: {kind}, but refused because {error}")
        for transaction in list(seat.changelog.open):
            if transaction.hanging:
                seat.changelog.abort(transaction)

    def spoil_disk(self, owner: SimOwner) -> None:
        """What is left on the disk of an owner that ended: its store, or something that may not be used."""
        disk, seat = owner.disk, owner.seat
        disk.store, disk.head = owner.store, owner.head
        if self._happens(0.3):
            kind = self._rng.choice(("other", "leading"))
            disk.store = garbled(owner.store)
            lineage = "another" if kind == "other" else seat.changelog.lineage
            end = disk.head.changelog_offset if kind == "other" else 1 << 40
            disk.head = type(disk.head)(lineage, end, disk.head.time_ms)

    # Trouble

    def begin(self, world: World) -> None:
        """Have trouble come up from time to time."""
        self._world = world
        world.at(self._rng.randint(0, self.interval_ms), self._strike)

    def _strike(self) -> None:
        if not self.on:
            return
        world, rng = self._world, self._rng
        world.at(rng.randint(1, 2 * self.interval_ms), self._strike)
        kind = rng.random()
        if kind < 0.33:
            rng.choice(world.seats).lose_owner(zombie=False)
        elif kind < 0.56:
            rng.choice(world.seats).lose_owner(zombie=True)
        elif kind < 0.66:
            rng.choice(world.all_logs).fail_over()
        elif kind < 0.72:
            world.history.crash(wiped=rng.random() < 0.2)
        elif kind < 0.84:
            rng.choice(world.seats).log.skew_ms = rng.randint(-self.skew_ms, self.skew_ms)
        elif kind < 0.90:
            rng.choice(world.gateways).crash()
        elif kind < 0.95:
            rng.choice(world.gateways).abandon_polls()
        elif kind < 0.975:
            self.fixed = True
            rng.choice(world.seats).lose_owner(zombie=rng.random() < 0.5)
        else:
            rng.choice(world.gateways).pause(rng.randint(2_000, 15_000))

    def heal(self) -> None:
        """No more trouble from here on; zombies end."""
        self.on = False
        self.poison = False
        for seat in self._world.seats:
            for zombie in list(seat.zombies):
                seat.zombies.remove(zombie)
                zombie.die()


def last_position(changelog: Changelog) -> Position | None:
    """The position of the newest committed checkpoint."""
    found: Position | None = None
    for entry in changelog.committed():
        if entry.key == POSITION:
            found = entry.value
    return found


def garbled(store: MemoryStore) -> MemoryStore:
    """A store with rows missing."""
    copy = MemoryStore()
    copy.rows = dict(list(store.rows.items())[::2])
    return copy
