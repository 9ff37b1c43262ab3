"""Owners of partitions: they fold, emit, tick and checkpoint, and die at any moment."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from streams.runtime import takeover
from streams.runtime.local_store import LocalHead
from streams.runtime.logic import UnsupportedLogicError
from streams.runtime.owner import Owner
from streams.runtime.records import Record, Tick
from streams.runtime.takeover import TakeoverRefusedError
from tests.simulation.changelog import Changelog, Disk, FencedError, Restoring, Transaction, apply_entry
from tests.simulation.checked import CheckedPartition, Violation, is_poison, processor
from tests.simulation.log import CODEC, PartitionLog
from tests.simulation.standbys import Standby
from tests.simulation.upgrades import MemberLog, Release

if TYPE_CHECKING:
    from tests.simulation.world import World

RETRY_MS = 30


class Seat:
    """A partition and whoever owns it, now and formerly."""

    def __init__(self, world: World, log: PartitionLog) -> None:
        self.world = world
        self.log = log
        self.changelog = Changelog(log.name, log.number)
        self.disks = [Disk(), Disk()]
        self.standby = Standby(self, world.seed)
        self.owner: SimOwner | None = None
        self.zombies: list[SimOwner] = []
        log.on_growth.append(self.wake)

    def wake(self) -> None:
        """The log has grown."""
        self.standby.follow()
        if self.owner is not None:
            self.owner.wake()
        for zombie in self.zombies:
            zombie.wake()

    def take(self) -> None:
        """Have a new owner; one that is refused tries again once the trouble is mended."""
        if self.owner is not None:
            return
        world = self.world
        tampered = world.faults.tamper(self)
        kind, mend = tampered or ("", lambda: None)
        supported = world.upgrade.member()
        try:
            owner = SimOwner(self, world.faults.fixed, supported)
        except TakeoverRefusedError as error:
            mend()
            world.faults.refused(self, kind, error)
            world.at(200, self.take)
            return
        except UnsupportedLogicError as error:
            world.upgrade.refused(supported, error)
            world.at(200, self.take)
            return
        if kind:
            raise Violation(f"{self.log.name}: {kind}, and the takeover was not refused")
        self.owner = owner
        self.owner.wake()
        self.owner.watch_time()

    def lose_owner(self, *, zombie: bool) -> None:
        """The owner dies, or only no longer owns; another takes over."""
        owner, self.owner = self.owner, None
        if owner is not None:
            if zombie:
                self.zombies.append(owner)
            else:
                owner.die()
        self.world.at(self.world.faults.takeover_ms(), self.take)


class SimOwner:
    """One owner. A Sender of what it emits."""

    def __init__(self, seat: Seat, fixed: bool, supported: int) -> None:
        self.seat = seat
        self.world = seat.world
        self.log = seat.log
        self.fixed = fixed
        self.supported = supported
        self._read = MemberLog(seat.log, supported)
        self.alive = True
        world = self.world
        disk = seat.standby.disk(world.rng.choice(seat.disks))
        restoring = Restoring(seat.changelog, disk, world.now_ms)

        def partition() -> CheckedPartition:
            made = CheckedPartition(
                Release(
                    processor(
                        seat.log.topic, lambda record: world.faults.poison and not fixed and is_poison(record)
                    ),
                    supported,
                ),
                seat.log.number,
                restoring.store,
                restoring.store,
                world.partition_of,
                world.partition_count,
                cache_parts=world.faults.cache_parts,
                supported_logic=supported,
            )
            made.judge = world.judge
            return made

        self.owner: Owner = takeover.take_over(seat.log.name, restoring, self._read, CODEC, partition)
        self.store = restoring.store
        self.disk = disk
        self.epoch = restoring.epoch
        self.next = self.owner.partition.offset + 1
        self.out: dict[str, deque[Record]] = {}
        self._flushing: set[str] = set()
        self._awake = False
        self._ticking_at_ms = -1
        self._transaction: Transaction | None = None
        self._position = -1
        self.head = restoring.head

    @property
    def partition(self) -> CheckedPartition:
        """The fold."""
        partition = self.owner.partition
        assert isinstance(partition, CheckedPartition)
        return partition

    # Folding

    def wake(self) -> None:
        """Have it run soon."""
        if self.alive and not self._awake:
            self._awake = True
            self.world.at(self.world.faults.run_delay_ms(), self.run)

    def run(self) -> None:
        """Fold some records and let go what they leave."""
        self._awake = False
        if not self.alive or self.owner.leaving is not None:
            return
        owner = self.owner
        budget = self.world.rng.randint(1, 12)
        if self.next < self.log.start and self in self.seat.zombies:
            # Too far behind: out of range is an error, and an error ends the ownership.
            self.retire()
            return
        while budget and self.next < self.log.end and not owner.must_checkpoint:
            budget -= 1
            record = self._read.read(self.next)
            owner.fold(record, self.log.leader_epoch(self.next))
            if owner.leaving is not None:
                self.world.upgrade.leave(self)
                break
            self.next += 1
        self.drain()
        self.watch_time()
        if owner.must_checkpoint or self.world.faults.checkpoints():
            owner.cut()
        self.write_checkpoint()
        if self.next < self.log.end and not owner.must_checkpoint:
            self.wake()

    def drain(self) -> None:
        """Send off what is released."""
        owner, world = self.owner, self.world
        while owner.emissions:
            record = owner.emissions.popleft()
            channel = record.channel
            self.out.setdefault(channel, deque()).append(record)
            if channel not in self._flushing:
                self._flushing.add(channel)
                world.at(world.faults.flush_delay_ms(), self.flush, channel)
        while owner.replies:
            offset, correlation, reply = owner.replies.popleft()
            world.at(world.faults.flush_delay_ms(), self.send_reply, offset, correlation, reply)
        while owner.letters:
            letter = owner.letters.popleft()
            world.at(world.faults.flush_delay_ms(), self.send_letter, letter)

    def flush(self, channel: str) -> None:
        """Append a batch of one channel; several may be in flight."""
        self._flushing.discard(channel)
        if not self.alive:
            return
        waiting = self.out[channel]
        size = min(len(waiting), self.world.rng.randint(1, 6))
        batch = [waiting.popleft() for _ in range(size)]
        if batch:
            self.world.logs[channel].append(self, batch, twice=self.world.faults.twice())
        if self.seat.owner is self and self.world.faults.dies_in_flight(len(batch)):
            self.seat.lose_owner(zombie=False)
            return
        if waiting:
            self._flushing.add(channel)
            self.world.at(self.world.faults.flush_delay_ms(), self.flush, channel)

    def acknowledged(self, channel: str, records: Sequence[Record]) -> None:
        """See Sender."""
        if self.alive:
            for record in records:
                self.owner.acknowledge(record.origin_offset)
            self.write_checkpoint()

    def lost(self, channel: str, records: Sequence[Record]) -> None:
        """See Sender."""
        if self.alive:
            self.out[channel].extendleft(reversed(records))
            if channel not in self._flushing:
                self._flushing.add(channel)
                self.world.at(self.world.faults.flush_delay_ms(), self.flush, channel)

    def send_reply(self, offset: int, correlation: Any, reply: Any) -> None:
        """A reply leaves, unless its owner is dead by now."""
        if self.alive:
            self.world.deliver(correlation, reply)
            self.owner.acknowledge(offset)
            self.write_checkpoint()

    def send_letter(self, letter: Any) -> None:
        """A dead letter leaves."""
        if self.alive:
            self.world.judge.lettered(letter)
            self.owner.letter_acknowledged(letter)

    # Time

    def watch_time(self) -> None:
        """Append a tick when something falls due."""
        if not self.alive:
            return
        due_ms = self.partition.due.next_due_ms()
        delay_ms = max(due_ms - self.log.clock_ms(), 0)
        at_ms = self.world.now_ms + delay_ms
        if self._ticking_at_ms < 0 or at_ms < self._ticking_at_ms:
            self._ticking_at_ms = at_ms
            self.world.at(delay_ms, self.tick, at_ms)

    def tick(self, at_ms: int) -> None:
        """Something may be due by now."""
        if self._ticking_at_ms == at_ms:
            self._ticking_at_ms = -1
        if not self.alive or self._ticking_at_ms >= 0:
            return
        if self.partition.due.next_due_ms() <= self.log.clock_ms():
            record = Record(
                self.log.topic, self.log.number, "", Tick(), source=self.log.name, origin_offset=self.next
            )
            self.log.append(None, [record])
            # It may be lost with its leader: look again.
            self._ticking_at_ms = self.world.now_ms + RETRY_MS
            self.world.at(RETRY_MS, self.tick, self._ticking_at_ms)
        else:
            self.watch_time()

    # Checkpoints

    def write_checkpoint(self) -> None:
        """Write the checkpoint that may be written, if any."""
        checkpoint = self.owner.writable()
        if checkpoint is None or self._transaction is not None or not self.alive:
            return
        try:
            self._transaction = self.seat.changelog.write(self.epoch, checkpoint, self.world.now_ms)
            self._position = checkpoint.position.offset
        except FencedError:
            self.fenced()
            return
        self.world.at(self.world.faults.commit_ms(), self.commit, self._transaction)

    def commit(self, transaction: Transaction) -> None:
        """End the transaction: well, with an error, or without knowing how."""
        if not self.alive:
            return
        changelog, world = self.seat.changelog, self.world
        self._transaction = None
        outcome = world.faults.commit_outcome()
        if outcome == "failed":
            if transaction in changelog.open:
                changelog.abort(transaction)
            world.at(RETRY_MS, self.write_checkpoint)
            return
        try:
            changelog.commit(transaction)
        except FencedError:
            self.fenced()
            return
        world.judge.covered(self.partition, self._position)
        if outcome == "unclear":
            world.at(RETRY_MS, self.write_checkpoint)
            return
        for entry in changelog.entries:
            if entry.txn is transaction:
                apply_entry(self.store, changelog, entry)
        self.head = LocalHead(changelog.lineage, changelog.last_stable_offset(), world.now_ms)
        self.owner.written()
        self.drain()
        if world.faults.deletes_records():
            below = self.owner.deletable_below(1 << 60, world.rng.randint(0, 5))
            self.log.start = max(self.log.start, min(below, self.log.end))
        if world.faults.compacts():
            changelog.compact(world.now_ms)
        self.wake()

    def fenced(self) -> None:
        """Another owner has taken over: this one ends."""
        seat = self.seat
        if seat.owner is self:
            raise AssertionError(f"{self.log.name}: the owner in place was fenced")
        self.retire()

    def retire(self) -> None:
        """End, and leave the partition to another."""
        if self.seat.owner is self:
            self.seat.lose_owner(zombie=False)
        elif self in self.seat.zombies:
            self.seat.zombies.remove(self)
            self.die()

    def die(self) -> None:
        """End at once: of what is under way some arrives, some does not, and some out of order."""
        self.alive = False
        rng = self.world.rng
        for channel in sorted(self.out):
            if self.world.faults.gap():
                self.world.logs[channel].drop_first_of(self)
            waiting = list(self.out[channel])
            arrives = waiting[: rng.randint(0, len(waiting))]
            behind = waiting[len(arrives) + 1 :]
            if behind and self.world.faults.gap():
                arrives += behind[: rng.randint(1, len(behind))]
            if arrives:
                self.world.logs[channel].append(None, arrives, twice=self.world.faults.twice())
        if self._transaction is not None and self.world.faults.hangs(self.seat):
            self._transaction.hanging = True
        self.world.faults.spoil_disk(self)
