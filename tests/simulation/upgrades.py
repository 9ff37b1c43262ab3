"""Logic that changes in mid-tail: owners of two releases, markers, and members that have to leave (fold.md rule 9).

The new release folds otherwise from logic version NEW on, and emits a record that the old one does not know.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streams.bodies import Pair
from streams.runtime.context import Context, Processor
from streams.runtime.logic import SUPPORTED_LOGIC_VERSION, LogicMarker, UnsupportedLogicError, marker
from streams.runtime.records import Record, UnknownType
from streams.runtime.tables import TableSpec
from streams.topology import COMMANDS, TASKS, VISIBILITY
from tests.simulation.checked import Violation

if TYPE_CHECKING:
    from tests.simulation.log import PartitionLog
    from tests.simulation.owners import Seat, SimOwner
    from tests.simulation.world import World

OLD, NEW = 1, SUPPORTED_LOGIC_VERSION
"""The newest logic version that each release supports."""

NOTE = Pair("logic", str(NEW))
"""A record of a type that only the new release knows, emitted by its logic."""

RETRY_MS = 40


class Release:
    """A processor as a release has it that supports logic up to `supported`."""

    def __init__(self, processor: Processor, supported: int) -> None:
        self._processor = processor
        self._supported = supported
        self.name = processor.name
        self.input_topic = processor.input_topic
        self.tables: Sequence[TableSpec] = processor.tables

    def fold(self, context: Context, record: Record) -> None:
        """See Processor."""
        if not isinstance(record.body, Pair):
            self._processor.fold(context, record)
        self._note(context, record.key)

    def due(self, context: Context, key: str, payload: int) -> None:
        """See Processor."""
        self._processor.due(context, key, payload)
        self._note(context, key)

    def judged(self, context: Context, record: Record, reason: str) -> None:
        """See Processor."""
        self._processor.judged(context, record, reason)

    def _note(self, context: Context, key: str) -> None:
        """The logic that the new release adds."""
        if self._supported >= NEW and context.logic_version >= NEW:
            if context.offset % 2 == 0:
                context.emit(VISIBILITY, key, NOTE)
            if context.offset % 5 == 0 and self.input_topic == COMMANDS:
                context.emit(TASKS, key, NOTE)


class MemberLog:
    """A log as an owner of a release reads it."""

    def __init__(self, log: PartitionLog, supported: int) -> None:
        self._log = log
        self._supported = supported

    @property
    def topic_id(self) -> str:
        """See takeover.Log."""
        return self._log.topic_id

    @property
    def start(self) -> int:
        """See takeover.Log."""
        return self._log.start

    @property
    def end(self) -> int:
        """See takeover.Log."""
        return self._log.end

    def leader_epoch(self, offset: int) -> int:
        """See takeover.Log."""
        return self._log.leader_epoch(offset)

    def read(self, offset: int) -> Record:
        """See takeover.Log: the old release cannot decode what only the new one knows."""
        record = self._log.read(offset)
        if self._supported < NEW and isinstance(record.body, Pair):
            record = record.copy(offset=record.offset, time_ms=record.time_ms)
            record.body = UnknownType("Pair", "unknown record type 'Pair'", b"")
        return record


class Upgrade:
    """A new release is rolled out, and its logic is made final while some members still run the old one.

    Every second seed has one; of the others, half begin with the new logic, and half have no marker at all. Its choices
    are drawn apart, so that the other seeds are as they were.
    """

    def __init__(self, seed: int) -> None:
        self.on = seed % 2 == 0
        self._begins_new = seed % 4 == 1
        self._rng = random.Random(f"upgrade {seed}")
        self._rolled_out = 0.0

    def begin(self, world: World) -> None:
        """Have the logs begin with the old logic, and the new one come in time; or begin with the new one."""
        self._world = world
        if not self.on:
            if self._begins_new:
                self._begin_with(NEW)
            return
        rng = self._rng
        if rng.random() < 0.7:
            self._begin_with(OLD)
        rolled_out_ms = rng.randint(0, 5_000)
        world.at(rolled_out_ms, self._roll_out)
        span_ms = rng.choice((0, 400, 4_000))
        for seat in world.seats:
            final_ms = rolled_out_ms + rng.randint(0, 2_000) + rng.randint(0, span_ms)
            world.at(final_ms, self._raise, seat.log, NEW)
            if rng.random() < 0.3:
                world.at(final_ms + rng.randint(1, 1_000), self._raise, seat.log, rng.choice((OLD, NEW)))

    def _begin_with(self, version: int) -> None:
        for seat in self._world.seats:
            seat.log.append(None, [self._marker(seat.log, version)])
            seat.log.replicate()

    def _marker(self, log: PartitionLog, version: int) -> Record:
        return marker(log.topic, log.number, version)

    def _roll_out(self) -> None:
        """Members are restarted one by one; some are forgotten."""
        self._rolled_out = self._rng.choice((0.3, 0.7, 0.9))
        for seat in self._world.seats:
            if self._rng.random() < 0.3:
                self._world.at(self._rng.randint(0, 1_000), self._restart, seat, self._rng.random() < 0.3)

    def _restart(self, seat: Seat, zombie: bool) -> None:
        if seat.owner is not None and self._world.faults.on:
            seat.lose_owner(zombie=zombie)

    def _raise(self, log: PartitionLog, version: int) -> None:
        """The operator makes a version final."""
        log.append(self, [self._marker(log, version)], twice=self._rng.random() < 0.2)

    def acknowledged(self, channel: str, records: Sequence[Record]) -> None:
        """See Sender."""

    def lost(self, channel: str, records: Sequence[Record]) -> None:
        """See Sender: the operator tries again."""
        log = self._world.logs[channel]
        for record in records:
            self._world.at(RETRY_MS, self._raise, log, record.body.version)

    # Members

    def member(self) -> int:
        """What the member that takes over next supports."""
        if not self.on or not self._world.faults.on:
            return NEW
        return NEW if self._rng.random() < self._rolled_out else OLD

    def refused(self, supported: int, error: UnsupportedLogicError) -> None:
        """A member could not take over: for the reason there is, or wrongly."""
        if supported >= NEW:
            raise Violation(f"a member of the new release had to leave: {error}")

    def leave(self, member: SimOwner) -> None:
        """A member met what it cannot fold: it leaves at once, or when all it did is in a checkpoint."""
        if not member.alive:
            return
        if member.supported >= NEW:
            raise Violation(f"a member of the new release has to leave: {member.owner.leaving}")
        if member.partition.offset != member.next - 1:
            raise Violation(f"{member.log.name}@{member.next} was folded by a member that has to leave")
        if self._rng.random() < 0.2 or member.owner.may_release:
            member.retire()
            return
        member.owner.cut()
        member.write_checkpoint()
        self._world.at(RETRY_MS, self.leave, member)

    # The end

    def check(self, world: World) -> None:
        """The version in force is the highest of the log's markers."""
        for seat in world.seats:
            versions = [r.body.version for r in seat.log.records if isinstance(r.body, LogicMarker)]
            assert seat.owner is not None
            found = seat.owner.partition.logic.version
            if found != max(versions, default=0):
                raise Violation(f"{seat.log.name}: version {found} is in force after markers {versions}")
            if self.on and found != NEW:
                raise Violation(f"{seat.log.name}: the upgrade never came, markers {versions}")
